"""The short version of benchmarks/faults: real kills, on one and two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.scenarios import Outcome, write_table
from benchmarks.faults.table import BETWEEN, README, RESULTS, table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group('faults')


@pytest.mark.long
def test_a_short_version_loses_nothing(tmp_path):
    environ = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.faults', '--short'],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if re.search(r'  \d+ +\d+ +\d+$', line)]
    assert len(rows) == 7
    assert re.fullmatch(r'all +7 +7 +0', rows[-1])


def test_what_is_lost_is_counted_and_told():
    outcomes = [Outcome('kill'), Outcome('cut')]
    outcomes[0].count('', 3)
    outcomes[0].count('job1 differs in state_dict.x', 2)
    outcomes[1].count('')
    assert write_table(outcomes).splitlines() == [
        'fault  injected  survived  lost',
        'kill          5         3     2',
        '    job1 differs in state_dict.x',
        'cut           1         1     0',
        'all           6         4     2',
    ]


def test_the_page_shows_the_results():
    results = json.loads(RESULTS.read_text())
    assert sum(row['injected'] for row in results['faults']) >= 30
    assert BETWEEN.search(README.read_text())[0].strip() == table().strip()
