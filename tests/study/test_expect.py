"""What docs/small-data.md expects, out of rows and of costs."""

import json

from benchmarks.study.expect import cost, expect, tables
from tests.study.test_tables import row, rows_of


def trained(name: str, seed: int, error: float, **found) -> dict:
    seconds = dict(train=3600.0 * (seed + 1), probe=1.0, measure=1.0)
    made = dict(steps=5460, batch=64, held_out_error=error, cpu_seconds=seconds)
    return row(f'{name}-s{seed}', **made | found)


ROWS = rows_of(
    trained('tiny-mirl-24-10e', 0, 0.6, last=7.0),
    trained('tiny-mirl-24-10e', 1, 0.7, last=9.0),
    trained('tiny-mirl-12-1e', 0, 0.8, steps=546, last=3.0),
    trained('ablation-mirl-12-1e', 0, 0.8, steps=546, last=4.0),
    trained('ablation-mirl-12-1e-no-context', 0, 0.75, steps=546, last=1.0),
    trained('tiny-mirl-12-1e-lr0.004', 0, 0.78, steps=546, last=1.0),
    trained('tiny-mae-12-10e', 0, 0.5, last=1.0),
    row('tiny-untrained-12-s0', last=2.0, steps=0, batch=64),
)


def test_a_line_for_every_depth_and_length_of_mirl_as_it_is():
    _, _, *lines = expect(list(ROWS.values())).splitlines()
    assert lines == [
        '| 12 | 0 | 0 | 1 | 0.00 | - | 2.0 | 3.0 | 4.0 |',
        '| 12 | 34,944 | 1 | 1 | 1.00 | 0.8000 | 4.0 | 5.0 | 6.0 |',
        '| 24 | 349,440 | 10 | 2 | 1.50 (1.00 to 2.00) | 0.6500 (0.6000 to 0.7000) | '
        '8.0 (7.0 to 9.0) | 9.0 (8.0 to 10.0) | 10.0 (9.0 to 11.0) |',
    ]


def test_a_row_without_its_time_still_says_what_it_learned():
    one = trained('tiny-mirl-12-10e', 0, 0.6)
    del one['cpu_seconds']
    assert '| 12 | 349,440 | 10 | 1 | - | 0.6000 |' in expect([one])


def test_costs_by_hand(tmp_path):
    run = dict(batch=8, images=32_000, parameters=1_250_000, seconds=[4.0, 0.5, 1.0], median=1.0)
    first = run | dict(batch=64, median=2.0)
    made = dict(date='2026-01-02', hardware='x86_64 CPU', versions=dict(torch='2.0'))
    runs = {'mirl_24-blocks_64px': first, 'upernet_24-blocks_128px': run}
    found = made | dict(runs=runs)
    assert '| 1.2 M | 64 | 32.0 | 1.0 | 32,000 | 0.3 |' in cost(found)
    assert '| 1.2 M | 8 | 8.0 | 4.0 | 32,000 | 1.1 |' in cost(found)
    assert cost(None).startswith('`small_cpu`: **not run**. `python -m benchmarks.small --out')
    (tmp_path / 'small_cpu.json').write_text(json.dumps(found))
    assert tables(ROWS, tmp_path)['small_cost'] == cost(found)
