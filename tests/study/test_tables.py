"""What rows say: means, ranges, what is beyond the spread, and how partial it is."""

import pytest

from benchmarks.study import ablation, plots, tables
from benchmarks.study.grid import CHANGES, RUNS

from .made_up import CHANGED, SOME, changed, row, rows_of, trained


def test_means_and_ranges():
    text = tables.all_tables(SOME)['study_tiny']
    assert text.startswith('11 of 27 runs so far; `python -m benchmarks.study run')
    assert (
        '| 12 | MIRL | 10 | 3 | 0.7000 (0.6000 to 0.8000) | 9.0 (9.0 to 9.0) | 6.0 (5.0 to 7.0) | '
        '9.0 (9.0 to 9.0) | 7.0 (6.0 to 8.0) | 9.0 (9.0 to 9.0) | 8.0 (7.0 to 9.0) |'
    ) in text
    assert '| 24 | MAE | 10 | 1 | 0.6000 | 9.0 | 3.0 | 9.0 | 4.0 | 9.0 | 5.0 |' in text
    assert '| 12 | untrained | 0 | 1 | - | 9.0 | 2.0 |' in text
    assert '| 48 |' not in text


def test_length_search_and_cost():
    more = SOME | rows_of(
        row('tiny-mae-12-4e-s0', last=3.0),
        row('tiny-mae-12-1e-lr0.004-s0', last=2.0, last_loss=0.9, held_out_error=0.8),
    )
    made = tables.all_tables(more)
    assert made['study_length'].startswith('11 of 54 runs so far')
    line = '| MAE | 12 | 3.0 / 4.0 | 5.0 (4.0 to 6.0) / 6.0 (5.0 to 7.0) | - / - |'
    assert line in made['study_length']
    assert '| 0.004 | - | 0.9000, 0.8000, 2.0, 3.0 |' in made['study_search']
    assert '| 0.002 (chosen) | - | - |' in made['study_search']
    # 350,000 images in 3,494.4 s; left are 10 epochs of two seeds, 4 and 16 of three
    left, cost = (10 * 2 + (4 + 16) * 3) / 10 * 3494.4, made['study_cost']
    assert f'| 24 blocks, MAE | 100 | 2 | 1 | 8 | {(left + 8 * 120) / 3600:.1f} |' in cost
    assert '| 12 blocks, MIRL | 200 (100 to 300) | 2 (2 to 2) | 3 | 10 |' in cost
    assert '| 48 blocks, MIRL | - | - | 0 | 9 | - |' in cost
    assert '| 12 blocks, untrained | - | - | 0 | 2 | - |' in cost
    assert '; the rest needs at least ' in cost
    assert cost.endswith('Rows without CPU times: 3.')  # untrained, another length, a try


def test_length_within_a_method():
    more = SOME | rows_of(row('tiny-mirl-12-4e-s1', last=1.0))
    made = tables.length(list(more.values()))
    assert (
        '* 20-NN, last block: MIRL with 12 blocks 4 to 10 epochs +5.0 (1 of 3 seeds, says nothing '
        'yet); MIRL against MAE with 12 blocks, 10 epochs +1.0 (within the spread); '
    ) in made
    said = (
        'MIRL against MAE with 12 blocks, 10 epochs +1.0 (within the spread); MIRL against MAE with'
    )
    assert any(said in line for line in made.splitlines() if line.startswith('* ridge, last block'))
    assert '85.3 and 86.2 with 48' in made and '"Beyond the spread" is said where' in made


SCRATCH = {'all': 600.0, 'all-test': 60.0, 'few': 300.0, 'few-test': 60.0}


def test_camvid():
    def runs(method: str, last: float, cpu: dict) -> list[dict]:
        return [
            row(f'camvid-{method}-s{seed}', miou=dict(all=last + seed, few=15.0), cpu_seconds=cpu)
            for seed in (0, 1, 2)
        ]

    found = runs('scratch-12', 20.0, SCRATCH)
    found += runs('mirl-12-300e-camvid', 25.0, dict(pretrain=1200.0, **SCRATCH))[:2]
    text = tables.camvid(found)
    assert text.startswith('5 of 12 runs so far')
    assert (
        '| from scratch, as many iterations | 3 | 21.0 (20.0 to 22.0) | 15.0 (15.0 to 15.0) | '
        '10 (10 to 10) | 5 (5 to 5) |'
    ) in text
    assert (
        '| MIRL on camvid | 2 | 25.5 (25.0 to 26.0) | 15.0 (15.0 to 15.0) | 30 (30 to 30) |' in text
    )
    assert '| MIRL on camvid+tiny | 0 | - | - | - | - |' in text
    said = (
        '* 367 labels: MIRL on camvid against from scratch, as many iterations +5.0 (2 of 3 seeds'
    )
    assert said in text and 'not available to us' in text
    assert '| CamVid, from scratch, as many iterations | - | 17 (17 to 17) | 3 | 0 | 0.0 |' in (
        tables.cost(found)
    )


def test_rows_whose_times_are_not_all_known():
    """A driver that was killed may have left them so."""
    some = dict(probe=1.0, measure=1.0)
    found = rows_of(
        trained('mirl', 12, 0, 5.0) | dict(cpu_seconds=some),
        row('camvid-scratch-12-s0', miou=dict(all=1.0, few=1.0), cpu_seconds=some),
    )
    made = tables.all_tables(found)
    assert '| 12 blocks, MIRL | - | - | 0 | 12 | - |' in made['study_cost']
    assert '| from scratch, as many iterations | 1 | 1.0 | 1.0 | - | - |' in made['study_camvid']


def test_nothing_yet():
    made = tables.all_tables({})
    assert made['study_tiny'].startswith('0 of 27 runs so far')
    assert '| 12 blocks, MIRL | - | - | 0 | 13 | - |' in made['study_cost']


def test_all_there():
    first = [n for n, r in RUNS.items() if r.grid == 'tiny' and r.epochs in (0, 10)]
    rows = rows_of(*(row(name) for name in first))
    assert tables.tiny(list(rows.values())).startswith('All 27 runs.')


@pytest.mark.parametrize('rows', [{}, SOME], ids=['none', 'some'])
def test_pictures_of_what_is_there(rows, tmp_path):
    files = list(plots.draw(rows, tmp_path / 'made'))
    names = ['depth', 'blocks', 'length', 'ablation']
    assert [file.name for file in files] == [f'{name}.png' for name in names]
    assert all(file.stat().st_size > 5000 for file in files)


def test_the_picture_s_lines_are_the_rows():
    figure = plots.by_depth(list(SOME.values()))
    knn = figure.axes[0]
    lines = {each.get_label(): each for each in knn.containers}
    assert set(lines) == {'MIRL (3/3)', 'MAE (3/1)', 'untrained (1)'}
    mirl = lines['MIRL (3/3)'].lines[0]
    assert mirl.get_xdata().tolist() == [12, 24] and mirl.get_ydata().tolist() == [6.0, 9.0]
    bars = lines['MIRL (3/3)'].lines[2][0].get_segments()
    assert bars[0][:, 1].tolist() == [5.0, 7.0]
    blocks = plots.by_block(list(SOME.values())).axes[0]
    assert blocks.lines[0].get_ydata().tolist() == [1.0] * 10 + [9.0, 6.0]


def test_one_setting_changed():
    text = tables.all_tables(SOME | CHANGED)['study_ablation']
    assert text.startswith('11 of 30 runs so far; `python -m benchmarks.study run')
    assert '| setting | seeds | held-out error | 20-NN, best block | 20-NN, last | ridge' in text
    line = '| no pairs | 3 | 0.9000 (0.9000 to 0.9000) * | 10.0 (9.0 to 11.0) | 10.0 (9.0 to'
    assert line in text
    line = '| 2 segments | 3 | 0.6100 (0.6000 to 0.6200) | 9.0 (9.0 to 9.0) | 5.0 (4.0 to 6.0) |'
    assert line in text and '| 2.0 (1.0 to 3.0) |\n' in text  # CPU minutes
    assert '| 90 % masked | 2 | 0.9500 (0.9500 to 0.9500) * |' in text
    assert '| no context |' not in text and 'is not available to us' in text


def test_errors_of_another_task_are_not_compared():
    made = tables.ablation([*CHANGED.values()])
    assert made.partition('Against the method:\n\n')[2].partition('\n\nDifferences')[0] == (
        '**Beyond the spread** of 3 seeds, 4 of 7 comparisons (of equal things about a tenth would '
        'be):\n\n'
        '* no pairs: 20-NN +4.0, ridge +4.0, segment +4.0.\n'
        '* 2 segments: held-out error -0.1000.\n\n'
        '**Within the spread** of 3 seeds, 3 of 7:\n\n'
        '* 2 segments: 20-NN -1.0, ridge -1.0, segment -1.0.\n\n'
        '**Fewer than 3 seeds**, which says nothing yet, 3 comparisons:\n\n'
        '* 90 % masked: (2 of 3 seeds) 20-NN -4.5, ridge -4.5, segment -4.5.'
    )


def test_nothing_beyond_the_spread_is_said_too():
    some = [changed('', s, 5.0 + s, 0.7) for s in (0, 1, 2)]
    made = tables.ablation([*some, *(changed('no-context', s, 4.0 + s, 0.7) for s in (0, 1, 2))])
    assert '**Beyond the spread** of 3 seeds, 0 of 4 comparisons (of equal things' in made
    assert 'tenth would be).\n' in made


def test_a_setting_alone_is_compared_with_nothing():
    text = tables.ablation([changed('decoders-4', 0, 5.0, 0.7)])
    assert '| decoders of 4 blocks | 1 | 0.7000 | 9.0 | 5.0 |' in text
    assert 'Against the method' not in text and 'spread' not in text


def test_every_change_has_a_name():
    assert ablation.NAMES.keys() == CHANGES.keys() and '' in CHANGES
    comparable = {change for change in CHANGES if ablation.comparable(change)}
    same = {'', 'no-context', 'segments-2', 'segments-4', 'decoders-2', 'decoders-4'}
    assert comparable == same


def test_the_cost_of_the_ablations():
    found = [*CHANGED.values()]
    line = '| 12 blocks, one epoch, a setting changed | - | 4 (3 to 5) | 11 | 19 |'
    assert line in tables.cost(found)


def test_the_settings_as_a_picture():
    figure = plots.by_setting([*SOME.values(), *CHANGED.values()])
    error, knn = figure.axes[:2]
    names = [label.get_text() for label in error.get_yticklabels()]
    assert names[-1] == 'the method' and names[::-1][2] == 'no pairs' and len(names) == 10
    dots = {line.get_ydata()[0]: sorted(line.get_xdata()) for line in knn.lines
            if line.get_marker() == 'o'}  # fmt: skip
    assert dots == {9: [5, 6, 7], 7: [9, 10, 11], 5: [4, 5, 6], 0: [1, 1]}
    assert {line.get_ydata()[0] for line in error.lines} == {9, 5}  # of the method's task alone
    band = knn.patches[0].get_extents().transformed(knn.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((5, 7))
