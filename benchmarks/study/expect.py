"""What to expect of configs/small: what lengths of the study's MIRL came to, and what steps cost.

The tables of docs/small-data.md.
"""

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from benchmarks.markdown import markdown

from .compare import CURVES, spread
from .grid import METHODS, RATE, UNTRAINED

COST, REFERENCE = 'small_cpu', 'mirl_24-blocks_64px'
COMMAND = f'python -m benchmarks.small --out benchmarks/results/{COST}.json'


def tables(rows: Mapping[str, dict], results: Path) -> dict[str, str]:
    """In Markdown, by name; the costs are those of a file in ``results``."""
    file = results / f'{COST}.json'
    found = json.loads(file.read_text()) if file.is_file() else None
    return dict(small_expect=expect(list(rows.values())), small_cost=cost(found))


def expect(found: Sequence[dict]) -> str:
    """A line for every depth and length of MIRL that has a row: hours, error, probes of the last
    block; means, and the range over the seeds.
    """
    lines = []
    for (depth, epochs), group in lengths(found).items():
        seconds = [row['cpu_seconds']['train'] for row in group if row.get('cpu_seconds')]
        hours = [each / 3600 for each in seconds] if epochs else [0.0]
        images = max(row['steps'] * row['batch'] for row in group)
        probed = [spread([row[key][-1] for row in group if key in row]) for key in CURVES]
        error = spread([row['held_out_error'] for row in group], 4)
        length = [f'{images:,}', epochs, len(group), spread(hours, 2)]
        lines.append([depth, *length, error, *probed])
    head = ['blocks', 'images seen', 'epochs', 'seeds', 'hours of one CPU thread', 'held-out error']
    return markdown([*head, *(f'{name}, %' for name in CURVES.values())], lines)


def lengths(found: Sequence[dict]) -> dict[tuple[int, int], list[dict]]:
    """Rows of MIRL as it is at the chosen rate, and untrained, by depth and epochs; one a seed.

    One epoch of the least depth was run for the search and again for the ablation: the later row is
    the one that counts, and the run is the same.
    """
    chosen = dict.fromkeys([(METHODS[0], RATE), (UNTRAINED, 0.0)])
    runs = {
        (row['depth'], row['epochs'], row['seed']): row
        for row in sorted(found, key=itemgetter('grid'), reverse=True)  # tiny, then ablation
        if row['grid'] != 'camvid' and (row['method'], row['rate']) in chosen
        and not row.get('change')
    }  # fmt: skip
    groups: dict[tuple[int, int], list[dict]] = {}
    for depth, epochs, seed in sorted(runs):
        groups.setdefault((depth, epochs), []).append(runs[depth, epochs, seed])
    return groups


def cost(found: Mapping | None) -> str:
    """What an image costs, against the reference too, and what a config's own length comes to."""
    if found is None:
        return f'`{COST}`: **not run**. `{COMMAND}`'
    an_image = {name: run['median'] / run['batch'] for name, run in found['runs'].items()}
    lines = [
        [
            f'[{name}](../configs/small/{name}.py)',
            f'{run["parameters"] / 1e6:.1f} M',
            run['batch'],
            f'{1 / an_image[name]:.1f}',
            f'{an_image[name] / an_image[REFERENCE]:.1f}',
            f'{run["images"]:,}',
            f'{run["images"] * an_image[name] / 3600:.1f}',
        ]
        for name, run in found['runs'].items()
    ]
    head = ['config', 'parameters', 'images of an iteration', 'images/s, one CPU thread',
            f'an image, of {REFERENCE}', 'images seen', 'hours']  # fmt: skip
    text = (
        f'[{COST}.json](../benchmarks/results/{COST}.json), {found["date"]}, one thread of an '
        f'{found["hardware"]}, CPU time, torch {found["versions"]["torch"]}; made by `{COMMAND}`.'
    )
    return f'{markdown(head, lines)}\n\n{text}'
