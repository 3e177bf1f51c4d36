"""Rows: kept whole, and refused where they are of another grid."""

import json
import threading

import pytest

from benchmarks.study import rows
from benchmarks.study.grid import RUNS
from benchmarks.study.stages import what

NAMES = ['tiny-mae-12-10e-s0', 'tiny-mae-12-10e-s1']
WHAT, OTHER = (what(RUNS[name]) for name in NAMES)


def test_rows_are_kept_and_replaced(tmp_path):
    file = tmp_path / 'results/rows.jsonl'
    assert rows.read(file) == {}
    rows.add(rows.form(WHAT, dict(steps=3, ridge=[1.0])), file)
    rows.add(rows.form(OTHER, {}), file)
    rows.add(rows.form(WHAT, dict(steps=4, ridge=[2.0])), file)
    found = rows.read(file)
    assert list(found) == NAMES
    row = found[NAMES[0]]
    assert (row['study'], row['steps'], row['ridge'], row['held_out_error']) == (1, 4, [2.0], None)
    assert {'torch', 'mmpretrain'} <= row['versions'].keys() and row['date'] and row['device']


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(study=0), 'a row of version 0 of the grid; this is version 1'),
        (dict(run='tiny-mae-7-10e-s0'), 'the grid has no run tiny-mae-7-10e-s0'),
        (dict(rate=0.5), 'the run tiny-mae-12-10e-s0 had rate 0.5, the grid has 0.002'),
        (dict(width=32), 'the run tiny-mae-12-10e-s0 had width 32, the grid has 64'),
        (dict(run=NAMES[1]), 'the run tiny-mae-12-10e-s1 had seed 0, the grid has 1'),
    ],
)
def test_rows_of_another_grid(tmp_path, change, words):
    file = tmp_path / 'rows.jsonl'
    good = rows.form(WHAT, {})
    file.write_text(f'{json.dumps(good)}\n{json.dumps(good | change)}\n')
    with pytest.raises(ValueError, match=f'{file}, line 2: {words}'):
        rows.read(file)


@pytest.mark.parametrize('line', ['{"study": 1', '[]', '{"study": 1}', ''])
def test_lines_that_are_no_rows(tmp_path, line):
    file = tmp_path / 'rows.jsonl'
    file.write_text(f'{line}\n')
    with pytest.raises(ValueError, match='line 1 is no row of the study'):
        rows.read(file)


def test_a_camvid_row_of_another_length(tmp_path):
    row = rows.form(what(RUNS['camvid-scratch-12-s0']), {})
    row['transfer']['iterations'] = 60
    (tmp_path / 'rows.jsonl').write_text(json.dumps(row))
    with pytest.raises(
        ValueError, match=r"had transfer .*'iterations': 60}, the grid has .*: 600}"
    ):
        rows.read(tmp_path / 'rows.jsonl')


def test_two_writers_lose_nothing(tmp_path):
    """Each waits for the other between reading and writing."""
    file, found = tmp_path / 'rows.jsonl', []
    with rows.locked(tmp_path):
        other = threading.Thread(target=lambda: found.append(rows.add(rows.form(OTHER, {}), file)))
        other.start()
        other.join(0.3)
        assert other.is_alive() and not file.exists()
    other.join(10)
    rows.add(rows.form(WHAT, {}), file)
    assert sorted(rows.read(file)) == NAMES
