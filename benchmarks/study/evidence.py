"""What the rows say to the paper's claim, in sentences that follow them.

Three probes of grid ``tiny`` at its first length, behind the last block where nothing else is said.
"Level" is what lies within the spread of the seeds.
"""

import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import fill

from benchmarks.markdown import markdown

from . import ablation
from .compare import (
    BEYOND,
    FEW,
    GAIN,
    NAMES,
    Comparison,
    Groups,
    against,
    by,
    by_seed,
    compare,
    comparisons,
    curves_of,
    deeper,
    grouped,
    place,
    spread,
)
from .demo import headline, verdict
from .grid import DEPTHS, EPOCHS, METHODS, RUNS, SEEDS, UNTRAINED
from .tables import by_kind, of_kind, timed

ERROR = 'held-out error'  # of which less is better
WIDTH = 120  # of a page's lines
MIRL, MAE = METHODS
OF_THE_README = (
    'At toy size: three probes of the last block after 10 epochs of Tiny-ImageNet-100 with '
    'blocks of 64; "beyond the spread" is the worst of three seeds above the best of three others, '
    'else level ([evidence](docs/evidence.md)).'
)


def all_evidence(found: Mapping[str, dict]) -> dict[str, str]:
    """Of docs/evidence.md, in Markdown, by name."""
    rows = list(found.values())
    _, groups = by_kind(rows)
    made = dict(
        demo=wrapped(verdict(rows)),
        answer=answer(groups),
        last=last_block(groups),
        seeds='\n\n'.join(map(wrapped, grouped(comparisons(groups), few=False))) or 'No run yet.',
        blocks=blocks(groups),
        contrary=against_the_paper(groups, rows),
        left=left(found),
    )
    return {f'evidence_{name}': text for name, text in made.items()}


def short_evidence(found: Mapping[str, dict]) -> dict[str, str]:
    """Of the project's README."""
    rows = list(found.values())
    _, groups = by_kind(rows)
    depth = f'{OF_THE_README} {of_depth(groups, most=2)}'
    return dict(evidence=wrapped(depth), demo=wrapped(headline(rows)))


def answer(groups: Groups) -> str:
    """What becomes of the claim, whether pre-training pays, and what is missing."""
    paid = outcome(probes(groups), *(against(method, UNTRAINED) for method in METHODS))
    parts = [of_depth(groups), f'Against the untrained encoder, both are {paid}.']
    lacking = missing(groups)
    return wrapped(' '.join([*parts, f'{lacking}.'] if lacking else parts))


def of_depth(groups: Groups, most: int | None = None) -> str:
    """Whether depth pays under MIRL and more than under MAE, and who leads.

    With ``most``, more comparisons than so many are counted and not named.
    """
    found, so_far = probes(groups), ' so far' if missing(groups) else ''
    mirl, mae, gain, ahead = (
        outcome(found, what, most=most)
        for what in (deeper(MIRL), deeper(MAE), GAIN, against(MIRL, MAE))
    )
    return (
        f'That depth pays under MIRL, and more than under MAE, {shows(found)} here{so_far}: of '
        f'comparisons with {len(SEEDS)} seeds, more blocks leave MIRL {mirl}; MAE {mae}; '
        f"MIRL's gain against MAE's {gain}. MIRL against MAE is {ahead}."
    )


def probes(groups: Groups) -> list[Comparison]:
    return [each for each in comparisons(groups) if each.measure != ERROR]


def outcome(found: Sequence[Comparison], *what: str, most: int | None = None) -> str:
    """Better, worse or level, in how many comparisons, and which those beyond the spread are."""
    whole = [each for each in those(found, *what) if each.found.verdict != FEW]
    if not whole:
        return f'not yet told by {len(SEEDS)} seeds'
    better, worse = sides(whole)
    parts = []
    for some, word in ((better, 'better'), (worse, 'worse')):
        if len(some) == len(whole):
            return f'{word} beyond the spread in all {len(whole)}'
        if some:
            names = f' ({named(some)})' if most is None or len(some) <= most else ''
            parts.append(f'{word} beyond the spread in {len(some)} of {len(whole)}{names}')
    level = len(whole) - len(better) - len(worse)
    if not parts:
        return f'level in all {level}'
    return ', '.join([*parts, f'level in {level}'] if level else parts)


def those(found: Sequence[Comparison], *what: str) -> list[Comparison]:
    return [each for each in found if each.what in what]


def sides(found: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """Those beyond the spread upwards, and downwards."""
    far = [each for each in found if each.found.verdict == BEYOND]
    return [each for each in far if each.found.mean > 0], [e for e in far if e.found.mean < 0]


def named(found: Sequence[Comparison]) -> str:
    return ', '.join(' '.join(filter(None, [e.measure, e.where, e.said])) for e in found)


def shows(found: Sequence[Comparison]) -> str:
    """Whether MIRL gains by depth, and more than MAE.

    It shows where both are beyond the spread in half of the comparisons or more, and in none the
    other way: a single one may be by chance.
    """
    clear, some = [], []
    for what in (deeper(MIRL), GAIN):
        whole = [each for each in those(found, what) if each.found.verdict != FEW]
        better, worse = sides(whole)
        clear.append(bool(better) and not worse and 2 * len(better) >= len(whole))
        some.append(bool(better))
    return 'shows' if all(clear) else 'shows in part' if any(some) else 'does **not** show'


def missing(groups: Groups) -> str:
    """How many seeds there are where some are missing, by depth; empty where none is."""
    words = []
    for depth in DEPTHS:
        counts = {method: len(groups.get((depth, method), [])) for method in (*METHODS, UNTRAINED)}
        if min(counts.values()) < len(SEEDS):
            few = [f'{n} of {NAMES[method]}' for method, n in counts.items() if n < len(SEEDS)]
            words.append(f'{depth} blocks {", ".join(few)}')
    return f'Of {len(SEEDS)} seeds there are with {"; with ".join(words)}' if words else ''


def last_block(groups: Groups) -> str:
    """A line for every depth and method: the last block, and the error of the painting."""
    if not groups:
        return 'No run yet.'
    curves = curves_of(groups)
    lines = [
        [
            depth,
            NAMES[method],
            len(group),
            *(spread(list(by_seed(group, key).values())) for key in curves),
            spread([row['held_out_error'] for row in group], 3),
        ]
        for (depth, method), group in groups.items()
    ]
    return markdown(['blocks', 'method', 'seeds', *curves.values(), ERROR], lines)


def blocks(groups: Groups) -> str:
    """Where the best block is, and whether MAE loses more than MIRL behind it."""
    if not groups:
        return 'No run yet.'
    curves = curves_of(groups)
    where = [
        f'{NAMES[method]} with {depth} blocks {", ".join(mean_best(group, key) for key in curves)}'
        for (depth, method), group in groups.items()
        if method != UNTRAINED
    ]
    said = f'The best block, mean of the seeds ({", ".join(curves.values())}): {"; ".join(where)}.'
    found = losses(groups, curves)
    if found:
        more, less = sides(found)
        whole = sum(each.found.verdict != FEW for each in found)
        said += f' Of {whole} comparisons with {len(SEEDS)} seeds, MAE loses more than MIRL beyond '
        said += (
            f'the spread in {count(more)}, and less in {count(less)}. The points that MAE loses '
        )
        said += f'more: {"; ".join(map(place, by(found, "where")))}.'
    return wrapped(said)


def mean_best(group: Sequence[dict], key: str) -> str:
    return f'{statistics.mean(best(row[key]) for row in group):.0f}'


def losses(groups: Groups, curves: Mapping[str, str]) -> list[Comparison]:
    """What MAE loses from its best block to the last, less what MIRL loses."""
    found = []
    for depth, (key, name) in product(DEPTHS, curves.items()):
        falls = [{row['seed']: fall(row[key]) for row in groups.get((depth, method), [])}
                 for method in (MAE, MIRL)]  # fmt: skip
        found += compare("MAE's loss less MIRL's", f'with {depth} blocks', name, *falls)
    return found


def count(found: Sequence[Comparison]) -> str:
    return f'{len(found)} ({named(found)})' if found else '0'


def best(curve: Sequence[float]) -> int:
    return curve.index(max(curve)) + 1


def fall(curve: Sequence[float]) -> float:
    return max(curve) - curve[-1]


def against_the_paper(groups: Groups, rows: Sequence[dict]) -> str:
    """Each expectation, and how many comparisons of three seeds go its way and the other one."""
    found = comparisons(groups)
    behind = [each for each in found if each.measure != ERROR]
    errors = [each for each in found if each.measure == ERROR]
    changes = ablation.against_the_method(ablation.by_change(rows))
    settings = [each for each in changes if each.measure != ERROR]
    pairs = [ablation.NAMES[change] for change in ('neighbours', 'unpaired')]
    claims = {
        'MIRL gains with more blocks': (those(behind, deeper(MIRL)), 1),
        'MIRL paints better with more blocks': (those(errors, deeper(MIRL)), -1),
        'MIRL gains more than MAE': (those(behind, GAIN), 1),
        'MIRL is ahead of MAE': (those(behind, against(MIRL, MAE)), 1),
        'MAE gets worse with more blocks': (those(behind, deeper(MAE)), -1),
        'without mirrored pairs MIRL is worse': (those(settings, *pairs), -1),
        'without context MIRL is worse': (those(settings, ablation.NAMES['no-context']), -1),
    }
    lines, far = [], []
    for claim, (of_claim, sign) in claims.items():
        lines.append([claim, *expected(of_claim, sign)])
        other = sides(of_claim)[sign > 0]
        far += [f'* against "{claim}": {others(other)}.'] if other else []
    head = ['expected', 'so it is', 'the other way', 'what goes the other way']
    said = f'The other way and beyond the spread{":" if far else ": none."}'
    bullets = [wrapped('\n'.join(far))] if far else []
    return '\n\n'.join([markdown(head, lines), said, *bullets])


def expected(found: Sequence[Comparison], sign: int) -> list[str]:
    """How many comparisons go the way of a claim, in brackets beyond the spread; the others."""
    whole = [each for each in found if each.found.verdict != FEW]
    if not whole:
        return ['-', '-', f'no comparison has {len(SEEDS)} seeds yet']
    other = [each for each in whole if each.found.mean * sign <= 0]
    here = [each for each in whole if each not in other]
    counts = [f'{len(some)} ({sum(each.found.verdict == BEYOND for each in some)})'
              for some in (here, other)]  # fmt: skip
    return [*counts, others(other) or '-']


def others(found: Sequence[Comparison]) -> str:
    """Named by the setting too, where one is changed."""
    return ', '.join(named([e]) if e.where else f'{e.what} {named([e])}' for e in found)


def left(found: Mapping[str, dict]) -> str:
    """The runs of grid ``tiny`` at its first length that have no row, and the hours they take.

    By the CPU time of rows of the same kind.
    """
    lengths = (EPOCHS[0], 0)  # the untrained have none
    first = [run for run in RUNS.values() if run.grid == 'tiny' and run.epochs in lengths]
    lacking = [run for run in first if run.name not in found]
    if not lacking:
        return f'All {len(first)} runs of {EPOCHS[0]} epochs are there.'
    hours, unknown = 0.0, []
    for run in lacking:
        kind = dict(grid='tiny', method=run.method, depth=run.depth, epochs=run.epochs)
        used = [sum(t.values()) for row in of_kind(list(found.values()), kind) if (t := timed(row))]
        if used:
            hours += statistics.mean(used) / 3600
        else:
            unknown.append(run.name)
    names = ', '.join(f'`{run.name}`' for run in lacking)
    words = f'{len(lacking)} of {len(first)} runs of {EPOCHS[0]} epochs have no row: {names}. '
    words += f'{len(lacking) - len(unknown)} of them take {hours:.1f} hours of one thread, by the '
    words += 'CPU time of their like'
    words += f'; of the like of {len(unknown)} none was timed.' if unknown else '.'
    return wrapped(words)


def wrapped(text: str) -> str:
    """Its lines as long as a page's; what hangs below a bullet is indented."""
    return '\n'.join(
        fill(line, WIDTH, subsequent_indent='  ' if line.startswith('* ') else '',
             break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )  # fmt: skip
