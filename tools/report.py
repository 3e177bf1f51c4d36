"""One HTML page about one or several runs: ``python tools/report.py WORK_DIR [WORK_DIR2 ...]``."""

import argparse
from pathlib import Path

from mirl_mm.apps.report import write_report
from mirl_mm.errors import one_line, visible


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write one self-contained HTML page: what was run, results, curves, panels, '
        'throughput; several runs side by side.'
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folder of a run')
    parser.add_argument(
        '--out', metavar='FILE', help='page to write; by default report.html in the first WORK_DIR'
    )
    args = parser.parse_args()
    out = write_report(args.work_dirs, args.out or Path(args.work_dirs[0]) / 'report.html')
    print(visible(f'report: {out.resolve()}'))


if __name__ == '__main__':
    one_line(main)
