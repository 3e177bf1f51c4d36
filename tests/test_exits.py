"""Short jobs of two processes, beside a busy one, end with 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_finished_jobs_end_with_0(tmp_path):
    arguments = ['--jobs', 12, '--busy', 1, '--out', tmp_path / 'exits.json']
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.exits', *map(str, arguments)],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / 'exits.json').read_text())['exits']
    counts = {row['kind']: (row['jobs'], row['exits_of_0']) for row in rows}
    assert counts == {'MIRL': (9, 9), 'Mask R-CNN': (3, 3)}
