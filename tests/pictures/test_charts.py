import math

import pytest
from PIL import Image

from mirl_mm.pictures.charts import LIGHT, POINTS, chart, curve, depth_charts, draw_charts, thinned


@pytest.fixture
def drawn(monkeypatch) -> dict[str, tuple]:
    """What matplotlib is asked to draw: by the name of the curve, its points and style."""
    from matplotlib.axes import Axes

    found, plot = {}, Axes.plot

    def record(self, x, y, **kwargs):
        found[kwargs['label']] = (list(x), list(y), kwargs['color'], kwargs['linestyle'])
        return plot(self, x, y, **kwargs)

    monkeypatch.setattr(Axes, 'plot', record)
    return found


def test_every_curve_is_drawn(drawn, tmp_path):
    series = [
        *curve([(1, 2.0), (2, math.nan), (3, 1.0)], 'run', 'run-0'),
        *curve([(2, 0.5)], 'run, held out', 'run-0', dash=True),
        *curve([], 'nothing', 'run-1'),
    ]
    deep = curve([(1, 1.0)], 'pair_0_1', 'depth-5')
    charts = [chart('Training', 'Loss', series), chart('Training', 'Pairs', deep, log=True)]
    draw_charts(charts, tmp_path / 'loss.png')
    assert drawn == {
        'run': ([1, 2, 3], [2.0, None, 1.0], LIGHT['run'][0], '-'),
        'run, held out': ([2], [0.5], LIGHT['run'][0], '--'),
        'pair_0_1': ([1], [1.0], LIGHT['depth'][5], '-'),
    }
    picture = Image.open(tmp_path / 'loss.png')
    assert (picture.size, picture.mode, picture.format) == ((1430, 546), 'RGB', 'PNG')
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    assert [path.name for path in tmp_path.iterdir()] == ['loss.png']


def test_probes_by_depth(drawn, tmp_path):
    rows = [
        dict(label=label, block=block, pool=pool, knn=n + block, linear=50.0)
        for n, label in enumerate(('mirl', 'mae'))
        for block in (6, 12)
        for pool in ('avg', 'cls')
    ]
    charts = depth_charts(rows, k=20)
    assert [(c['title'], c['x']) for c in charts] == [
        ('20-NN accuracy (%), by depth', 'block'),
        ('accuracy of ridge (%), by depth', 'block'),
    ]
    draw_charts(charts[:1], tmp_path / 'depth.png')
    assert drawn == {
        'mirl, avg': ([6, 12], [6, 12], LIGHT['run'][0], '-'),
        'mirl, cls': ([6, 12], [6, 12], LIGHT['run'][0], '--'),
        'mae, avg': ([6, 12], [7, 13], LIGHT['run'][1], '-'),
        'mae, cls': ([6, 12], [7, 13], LIGHT['run'][1], '--'),
    }
    alone = depth_charts([row for row in rows if row['pool'] == 'avg'])[0]['series']
    assert [line['name'] for line in alone] == ['mirl', 'mae']
    twice = depth_charts([dict(rows[0], run=run) for run in (0, 1)])[0]['series']
    assert [(line['x'], line['colour']) for line in twice] == [([6], 'run-0'), ([6], 'run-1')]


def test_a_chart_for_each_measure_and_number_of_shots_three_in_a_row(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    bars, errorbar = [], Axes.errorbar

    def record(self, x, y, spread, **kwargs):
        bars.append((x, y, spread, kwargs['ecolor']))
        return errorbar(self, x, y, spread, **kwargs)

    monkeypatch.setattr(Axes, 'errorbar', record)
    rows = [
        dict(label='a', task='classify', block=1, pool='avg', knn=1.0, knn_error=0.2, linear=2.0),
        dict(label='a', task='classify', block=1, pool='avg', shots=5, knn=0.5, knn_error=0.1),
        dict(label='a', task='segment', block=1, miou=9.0, miou_error=1.0),
    ]
    charts = depth_charts(rows, 20)
    assert [(c['title'], c['series'][0]['name'], c['series'][0]['y']) for c in charts] == [
        ('20-NN accuracy (%), by depth', 'a', [1.0]),
        ('accuracy of ridge (%), by depth', 'a', [2.0]),
        ('mIoU (%), by depth', 'a', [9.0]),
        ('20-NN accuracy (%), 5-shot, by depth', 'a', [0.5]),
    ]
    draw_charts(charts, tmp_path / 'depth.png')
    assert Image.open(tmp_path / 'depth.png').size == (2145, 1092)  # two rows
    colour = LIGHT['run'][0]
    assert bars == [([1], [c['series'][0]['y'][0]], [s], colour) for c, s in zip(charts, (0.2, 0, 1, 0.1), strict=True)]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ('blocks', 'marked'),
    [
        ([2, 4, 6], [2, 4, 6]),
        ([1, 4, 8, 12], [1, 4, 8, 12]),
        (range(1, 49), range(4, 49, 4)),
        (range(1, 55), range(4, 55, 5)),
    ],
)
def test_ticks_are_at_probed_blocks(blocks, marked, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    found, set_xticks = [], Axes.set_xticks
    monkeypatch.setattr(
        Axes, 'set_xticks', lambda self, x: found.append(sorted(x)) or set_xticks(self, x)
    )
    rows = [dict(label='a', block=block, pool='avg', knn=1.0, linear=2.0) for block in blocks]
    draw_charts(depth_charts(rows), tmp_path / 'depth.png')
    assert found == [list(marked)] * 2


def test_many_points_are_thinned_without_losing_extremes():
    points = [(i, math.sin(i / 50)) for i in range(20_000)]
    points[777] = (777, 9.0)
    points[5000] = (5000, math.nan)
    kept = thinned(points, POINTS)
    assert len(kept) < 1.1 * POINTS
    assert points[777] in kept and points[5000] in kept and points[-1] in kept
    assert [p[0] for p in kept] == sorted(p[0] for p in kept)
