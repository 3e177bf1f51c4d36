"""The table of README.md, from the results as data.

python -m benchmarks.faults.table
"""

import json
import re
from pathlib import Path

README = Path(__file__).with_name('README.md')
RESULTS = README.parents[1] / 'results/faults.json'
BETWEEN = re.compile(r'(?<=<!-- table of table.py -->\n).*(?=<!-- end of table -->)', re.S)


def table(path: Path = RESULTS) -> str:
    """What was measured with, and a row for every kind of fault, in Markdown.

    Raises:
        OSError: there are no results.
    """
    results = json.loads(path.read_text())
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    rows = ['| fault | injected | survived | lost | |', '| --- | --- | --- | --- | --- |']
    for row in results['faults']:
        counts = ' | '.join(str(row[key]) for key in ('injected', 'survived', 'lost'))
        rows.append(f'| {row["fault"]} | {counts} | {"; ".join(row["notes"])} |')
    sums = (sum(row[key] for row in results['faults']) for key in ('injected', 'survived', 'lost'))
    rows.append(f'| **all** | {" | ".join(f"**{number}**" for number in sums)} | |')
    minutes = sum(row['seconds'] for row in results['faults']) / 60
    return (
        f'{results["date"]}, {results["hardware"]}, {versions}; {minutes:.0f} minutes.\n\n'
        + '\n'.join(rows)
        + '\n'
    )


if __name__ == '__main__':
    text = README.read_text()
    README.write_text(BETWEEN.sub(lambda _: f'\n{table()}\n', text))
