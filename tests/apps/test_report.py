"""The report of fabricated logs: what it reads, keeps, and leaves out."""

import json
import math
import re
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mirl_mm.apps.report import facts, write_report
from mirl_mm.apps.report.runs import best, distinct_names, read_run, read_runs, read_scalars
from mirl_mm.errors import one_line
from mirl_mm.pictures.charts import charts_of, natural
from tests.apps.runs import add_start, report_tool, train_rows


@pytest.fixture
def run(tmp_path):
    """A run of 100 iterations in 2 epochs, resumed once at 60."""
    add_start(tmp_path / 'run', '20260101_100000', train_rows(0, 80), finished=False)
    add_start(tmp_path / 'run', '20260102_100000', train_rows(60, 100, loss=2.0), first=60)
    return tmp_path / 'run'


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def charts_by_title(runs) -> dict[str, dict]:
    return {chart['title']: chart for chart in charts_of(runs)}


def test_a_resumed_run_is_one_run(run):
    found = read_run(run)
    assert [row['iter'] for row in found.training] == list(range(10, 101, 10))
    assert [row['loss'] for row in found.training] == [1.0] * 6 + [2.0] * 4
    assert [row['iter'] for row in found.evaluations] == [50, 100]
    assert len(found.records) == 2
    assert list(found.panels) == [0, 40, 80, 100]  # 80 of the second start
    assert '20260102' in str(found.panels[80])
    assert "model = dict(type='MIRL')" in found.config


def test_logs_from_before_there_were_records(tmp_path):
    add_start(tmp_path, '20260101_100000', train_rows(0, 80), record=False)
    add_start(tmp_path, '20260102_100000', train_rows(60, 100, loss=2.0), record=False)
    found = read_run(tmp_path)
    assert [row['loss'] for row in found.training if row['iter'] in (60, 70)] == [1.0, 2.0]
    assert [row['iter'] for row in found.evaluations] == [50, 100]  # behind what was trained
    assert found.record == {}
    assert '100 iterations logged' in write_report(tmp_path, tmp_path / 'r.html').read_text()


def test_a_run_that_started_anew_replaces_the_former(tmp_path):
    add_start(tmp_path, '20260101_100000', train_rows(0, 100))
    add_start(tmp_path, '20260102_100000', train_rows(0, 30, loss=3.0), finished=False)
    found = read_run(tmp_path)
    assert [row['loss'] for row in found.training] == [3.0] * 3
    page = write_report(tmp_path, tmp_path / 'r.html').read_text()
    assert '30 of 100 iterations logged (30%), not finished' in page


def test_broken_lines_and_values_that_are_not_finite(tmp_path):
    rows = train_rows(0, 50)
    rows[2]['loss'] = math.nan
    rows[3]['grad/segment_0'] = math.inf
    log = add_start(tmp_path, '20260101_100000', rows)
    with (log / 'vis_data/scalars.json').open('a') as file:
        file.write('\n[1, 2]\n{"loss": 1.0, "iter": 60, "st')
    found = read_run(tmp_path)
    assert found.unreadable == 2
    assert len(found.training) == 5
    page = write_report(tmp_path, tmp_path / 'r.html').read_text()
    loss = next(c for c in data_of(page)['charts'] if c['title'] == 'Loss')['series'][0]
    assert loss['y'] == [1.0, 1.0, None, 1.0, 1.0]
    assert '2 unreadable lines' in page
    assert 'the loss is not finite at iteration 30' in page


def test_an_empty_log_and_an_unreadable_record(tmp_path):
    log = add_start(tmp_path, '20260101_100000', [])
    page = write_report(tmp_path, tmp_path / 'r.html').read_text()
    assert 'has not logged an iteration yet' in page
    (log / 'run.json').write_text('{"kind": "tra')
    (log / 'vis_data/scalars.json').write_text(json.dumps(train_rows(0, 10)[0]) + '\n')
    assert 'progress' in write_report(tmp_path, tmp_path / 'r.html').read_text()


def test_folders_without_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no such work dir: .*nowhere'):
        write_report(tmp_path / 'nowhere', tmp_path / 'r.html')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'empty holds no run: neither .*scalars\.json'):
        write_report(tmp_path / 'empty', tmp_path / 'r.html')
    with pytest.raises(ValueError, match='no work dir is given'):
        write_report([], tmp_path / 'r.html')
    add_start(tmp_path / 'below', '20260101_100000', train_rows(0, 10))
    with pytest.raises(ValueError, match='there are runs in its folders below'):
        write_report(tmp_path, tmp_path / 'r.html')
    assert not (tmp_path / 'r.html').exists()


def test_test_results_and_probes(tmp_path):
    add_start(tmp_path, '20260101_100000', train_rows(0, 10))
    tested = tmp_path / '20260103_100000'
    tested.mkdir()
    record = dict(kind='test', checkpoint='/somewhere/epoch_2.pth')
    (tested / 'run.json').write_text(json.dumps(record))
    (tested / '20260103_100000.json').write_text('{"accuracy/top1": 71.5, "time": 0.1}')
    rows = [
        dict(label='mirl', block=block, pool=pool, knn=40 + block, linear=50.0, knn_error=0.5)
        for block in (6, 12)
        for pool in ('avg', 'cls')
    ]
    (tmp_path / 'depth.json').write_text(
        json.dumps(dict(rows=rows, summary=[dict(sentence='a < b')]))
    )
    found = read_run(tmp_path)
    assert found.record['kind'] == 'train'
    assert found.tests == [
        {'accuracy/top1': 71.5, 'time': 0.1, 'checkpoint': '/somewhere/epoch_2.pth'}
    ]
    depth = charts_by_title([found])['k-NN accuracy (%), by depth']
    assert depth['x'] == 'block'
    assert [(s['x'], s['y'], s['dash']) for s in depth['series']] == [
        ([6, 12], [46.0, 52.0], False),
        ([6, 12], [46.0, 52.0], True),
    ]
    assert [s['spread'] for s in depth['series']] == [[0.5, 0.5]] * 2
    page = write_report(tmp_path, tmp_path / 'r.html').read_text()
    assert '<ul><li>a &lt; b</li></ul>' in page
    assert 'test: accuracy/top1' in page and '71.5 <small>epoch_2.pth</small>' in page


def test_a_folder_with_probes_alone(tmp_path):
    (tmp_path / 'depth.json').write_text('{"rows": [{"label": "a", "block": 1, "knn": 5.0}]}')
    assert 'by depth' in write_report(tmp_path, tmp_path / 'r.html').read_text()


def test_charts_of_two_runs(run, tmp_path):
    add_start(tmp_path / 'other', '20260101_100000', train_rows(0, 100))
    charts = charts_by_title(read_runs([run, tmp_path / 'other']))
    assert [line['name'] for line in charts['Loss']['series']] == [
        'run',
        'run, held out',
        'other',
        'other, held out',
    ]
    held_out = charts['Loss']['series'][1]
    assert (held_out['x'], held_out['y']) == ([50, 100], [1.2, 2.2])
    pairs = {
        line['name']: line['y'] for line in charts['Loss of each pair of segments (run)']['series']
    }
    assert pairs == {
        'pair_0_3': [1.1] * 6 + [2.1] * 4,
        'pair_1_2': [0.9] * 6 + [1.9] * 4,
    }
    of_encoder = charts['Gradient norm by segment of the encoder (other)']
    names = [line['name'] for line in of_encoder['series']]
    assert names == ['stem', 'segment_0', 'segment_1', 'segment_10']
    assert of_encoder['log'] and of_encoder['section'] == 'Health'
    names = [line['name'] for line in charts['Gradient norm of decoders and heads (run)']['series']]
    assert names == ['decoder_0', 'neck']
    (share,) = {
        y
        for line in charts['Share of time waiting for data (%)']['series']
        for y in line['y']
    }  # fmt: skip
    assert share == 25
    assert 'Loss scale' not in charts  # nobody has one


def test_charts_of_decoders_that_paint_alone(tmp_path):
    """Each has its curve of losses; held out, they stand in the table alone."""
    rows = [dict(row, pair_0=1.5, pair_11=2.5) for row in train_rows(0, 100)]
    rows = [{k: x for k, x in row.items() if k not in ('pair_0_3', 'pair_1_2')} for row in rows]
    rows = [dict(row, **{'recon/pair_0': 1.0}) if 'recon/error' in row else row for row in rows]
    add_start(tmp_path / 'alone', '20260101_100000', rows)
    charts = charts_by_title(read_runs([tmp_path / 'alone']))
    found = charts['Loss of each pair of segments']['series']
    assert {line['name']: line['y'] for line in found} == dict(
        pair_0=[1.5] * 10, pair_11=[2.5] * 10
    )
    assert 'recon/pair_0' not in charts
    page = write_report(tmp_path / 'alone', tmp_path / 'r.html').read_text()
    assert 'pair_11' in page


def test_losses_of_other_tasks_have_their_own_chart(run, tmp_path):
    add_start(tmp_path / 'other', '20260101_100000', train_rows(0, 100), model='MaskRCNN')
    charts = charts_by_title(read_runs([run, tmp_path / 'other']))
    assert len(charts['Loss (MIRL)']['series']) == len(charts['Loss (MaskRCNN)']['series']) == 2


@pytest.mark.parametrize(
    ('more', 'shown'),
    [
        ({}, 1e-4),  # one group
        (dict(base_lr=1e-3), 1e-3),  # layer decay, as stock MMEngine logs it
        (dict(base_lr=1e-3, max_lr=1e-2), 1e-2),  # a head of ten times the rate
        (dict(base_lr=1e-3, max_lr=5e-4), 5e-4),  # nothing has the base rate
    ],
)
def test_the_largest_learning_rate_is_drawn(tmp_path, more, shown):
    rows = [dict(row, lr=1e-4, **more) for row in train_rows(0, 30) if 'iter' in row]
    add_start(tmp_path / 'run', '20260101_100000', rows)
    (line,) = charts_by_title(read_runs([tmp_path / 'run']))['Largest learning rate']['series']
    assert (line['x'], line['y']) == ([10, 20, 30], [shown] * 3)


def cells(run: Path) -> dict[str, str]:
    return {name: lines[0][0] for name, lines in facts(read_run(run)).items()}


def test_starts_are_those_of_training(run, tmp_path):
    found = cells(run)
    assert found['started'] == '2026-01-01 10:00, resumed once'
    assert found['training time'] == '1:01:40 in 1 finished of 2 starts'
    tested = run / '20260103_100000'
    tested.mkdir()
    (tested / 'run.json').write_text(json.dumps(dict(kind='test', checkpoint='epoch_2.pth')))
    assert cells(run) == found
    add_start(run, '20260104_100000', train_rows(80, 100), first=80)
    assert cells(run)['started'] == '2026-01-01 10:00, resumed 2 times'
    assert cells(run)['training time'] == '2:03:20 in 2 finished of 3 starts'
    add_start(run, '20260105_100000', train_rows(0, 100))  # anew
    assert cells(run)['started'] == '2026-01-05 10:00'
    assert cells(run)['training time'] == '1:01:40'


def test_the_newest_log_alone(tmp_path):
    for day, loss in ((1, 1.0), (2, 2.0)):
        add_start(tmp_path, f'2026010{day}_000000', [dict(loss=loss, step=1)])
    assert read_scalars(tmp_path) == [dict(loss=2.0, step=1)]
    with pytest.raises(FileNotFoundError, match='not a work dir of a run that has logged'):
        read_scalars(tmp_path / 'elsewhere')


def test_names_and_directions(tmp_path):
    folders = [tmp_path / 'a/demo', tmp_path / 'b/demo', tmp_path / 'c']
    assert distinct_names(folders)[:2] == ['a/demo', 'b/demo']
    assert distinct_names([tmp_path / 'x', tmp_path / 'y']) == ['x', 'y']
    both = [{'recon/pair_0_5': value, 'coco/bbox_mAP': value, 'iter': value} for value in (1, 2)]
    assert best(both, 'recon/pair_0_5')['iter'] == 1 and best(both, 'coco/bbox_mAP')['iter'] == 2
    rows = [dict(iter=1, e=2.0), dict(iter=2, e=math.nan), dict(iter=3, e=1.0), dict(iter=4, e=1.0)]
    assert best([dict(row, error=row['e']) for row in rows], 'error')['iter'] == 3
    assert best(rows, 'e')['iter'] == 1
    assert best(rows, 'missing') is None
    keys = ['grad/stem', 'grad/segment_9', 'grad/segment_10']
    assert sorted(reversed(keys), key=natural) == keys


class Page(HTMLParser):
    """Collects tags that are open at the end, addresses and texts."""

    VOID = ('meta', 'link', 'br', 'img', 'input')

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for n, v in attributes if n in ('src', 'href', 'action', 'srcset')]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_the_page_is_whole_and_loads_nothing(run, tmp_path):
    Image.new('RGB', (2000, 100), 'red').save(run / 'predictions.png')
    page = write_report([run], tmp_path / 'out/r.html').read_text()
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.addresses) > 5
    assert all(address.startswith(('#', 'data:')) for address in parsed.addresses)
    assert not re.search(
        r'@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)', page
    )
    data = data_of(page)
    assert [panel['step'] for panel in data['panels'][0]] == [0, 40, 80, 100]
    assert data['runs'] == [dict(name='run', images_per_iteration=64)]
    assert 'predictions.png' in page
    for fact in (
        'abcdef012345 on main, 1 file changed',
        '64 = batch 32 x processes 2 x accumulation 1',
    ):
        assert fact in page


def test_text_of_others_is_escaped(tmp_path):
    evil = '</script><script>alert(1)</script><img src=x onerror=alert(1)>'
    rows = train_rows(0, 100)
    for row in rows:
        row[evil + 'loss'] = 1.0
    log = add_start(tmp_path / 'run {{data}} & <b>', '20260101_100000', rows, model=evil)
    (log / 'vis_data/config.py').write_text(f'x = "{evil}" # {{{{script}}}}')
    page = write_report(log.parent, tmp_path / 'r.html').read_text()
    assert '<script>alert' not in page and '<img src=x' not in page and '<b>' not in page
    assert page.count('</script>') == 2
    assert 'run {{data}} &amp; &lt;b&gt;' in page and '{{script}}' in page
    assert any(evil in s['name'] for c in data_of(page)['charts'] for s in c['series'])


def test_the_tool(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['report.py', str(run)])
    report_tool().main()
    assert capsys.readouterr().out == f'report: {run.resolve()}/report.html\n'
    (tmp_path / 'empty').mkdir()
    monkeypatch.setattr(sys, 'argv', ['report.py', str(tmp_path / 'empty')])
    with pytest.raises(SystemExit, match=r'error: .*empty holds no run'):
        one_line(report_tool().main)
    assert not Path(tmp_path / 'empty/report.html').exists()


def test_no_path_of_the_machine_stands_on_the_page(tmp_path, monkeypatch):
    work_dir, elsewhere = tmp_path / 'work/run', tmp_path.parent / 'elsewhere'
    log = add_start(work_dir, '20260101_100000', train_rows(0, 10))
    record = json.loads((log / 'run.json').read_text())
    record['config'] = f'{elsewhere}/configs/vit.py'
    record['command'] = (
        f'python {tmp_path}/code/tools/train.py {elsewhere}/configs/vit.py --work-dir={work_dir} '
        f'--cfg-options a={sys.executable},b="{Path.home()}/my data/train"'
    )
    (log / 'run.json').write_text(json.dumps(record))
    (log / 'vis_data/config.py').write_text(
        f"data_root = '{Path.home()}/my data/imagenet/train'\n"
        f"load_from = '{work_dir}/epoch_2.pth'\nwork_dir = '{work_dir}'\n"
        "url = 'https://host.org/a/b/c.pth'\nratio = 1 / 2\nname = 'images/s'\n"
    )
    (tmp_path / 'code').mkdir()
    monkeypatch.chdir(tmp_path / 'code')
    page = write_report(work_dir, tmp_path / 'r.html').read_text()
    text = unescape(re.sub(r'base64,[^"]*', '', page))
    for place in (tmp_path.parent, tmp_path, work_dir.parent, Path(sys.executable).parent):
        assert str(place) not in text
    assert f'{Path.home()}/' not in text
    assert 'python tools/train.py …/configs/vit.py --work-dir=run --cfg-options' in text
    assert "data_root = '…/imagenet/train'\nload_from = 'run/epoch_2.pth'\nwork_dir = 'run'" in text
    assert "url = 'https://host.org/a/b/c.pth'\nratio = 1 / 2\nname = 'images/s'" in text
