"""Markdown out of results: tables, ratios, and pages whose tables stand between marks."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence


def ratio(found: Mapping | None) -> str:
    """Median and range; 1 for a thing against itself."""
    return listed(found['all']) if found else '1'


def inverse(found: Mapping | None) -> str:
    """The same for the other way round."""
    return listed([1 / each for each in found['all']]) if found else ''


def listed(values: Sequence[float]) -> str:
    return f'{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})'


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with its tables made anew, each between ``<!-- table NAME -->`` and ``<!-- end -->``.

    Raises:
        ValueError: the page has other tables than were made.
    """
    pattern = re.compile(r'(<!-- table (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
    names = [match[1] for match in pattern.findall(text)]
    if sorted(names) != sorted(made):
        raise ValueError(f'the page has tables {names}; made were {list(made)}')
    return pattern.sub(lambda match: f'{match[1]}\n{made[match[2]]}\n\n{match[3]}', text)
