"""The table of README.md, from the results as data.

python -m benchmarks.faults.table
"""

import json
import re
from pathlib import Path

from benchmarks.tables import markdown

README = Path(__file__).with_name('README.md')
RESULTS = README.parents[1] / 'results/faults.json'
COUNTS = ('injected', 'survived', 'lost')
BETWEEN = re.compile(r'(?<=<!-- table of table.py -->\n).*(?=<!-- end of table -->)', re.S)


def table(path: Path = RESULTS) -> str:
    """What was measured with, and a row for every kind of fault, in Markdown.

    Raises:
        OSError: there are no results.
    """
    results = json.loads(path.read_text())
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    faults = results['faults']
    rows = [
        [
            row['fault'],
            *(row[key] for key in COUNTS),
            '' if row.get('noticed') is None else row['noticed'],
            '; '.join(row['notes']),
        ]
        for row in faults
    ]
    sums = [f'**{sum(row[key] for row in faults)}**' for key in COUNTS]
    rows.append(['**all**', *sums, '', ''])
    minutes = sum(row['seconds'] for row in faults) / 60
    return (
        f'{results["date"]}, {results["hardware"]}, {versions}; {minutes:.0f} minutes.\n\n'
        + markdown(['fault', *COUNTS, 'seconds to notice', ''], rows)
        + '\n'
    )


if __name__ == '__main__':
    text = README.read_text()
    README.write_text(BETWEEN.sub(lambda _: f'\n{table()}\n', text))
