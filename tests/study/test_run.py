"""The driver: in pieces, in time, alone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.processes import ROOT
from benchmarks.study import begun, rows, run, stages
from benchmarks.study.begun import NOTES
from benchmarks.study.grid import RUNS, SEEDS
from benchmarks.study.stages import Place, Stage

NAMES = [f'tiny-mirl-12-10e-s{seed}' for seed in SEEDS]
SAVES = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    (folder / 'saved').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
(folder / 'begun').touch()
time.sleep(0 if (folder / 'saved').exists() else 60)
(folder / 'two').touch()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """No data, and what the last stage's script has written as results."""
    monkeypatch.setattr(run, 'FILES', {})
    monkeypatch.setattr(run, 'row_of', lambda each, place: rows.form(
        stages.what(each), json.loads((place.of(each) / 'two').read_text() or '{}')))  # fmt: skip
    return Place(tmp_path / 'work', tmp_path / 'data')


def of_scripts(monkeypatch, one: str, two: str) -> None:
    """Two stages for every run, which get the run's folder."""

    def made(each, place: Place) -> list[Stage]:
        folder = str(place.of(each))
        return [
            Stage(name, ['-c', code, folder], name) for name, code in dict(one=one, two=two).items()
        ]

    monkeypatch.setattr(stages, 'stages', made)


def write(text: str) -> str:
    return f'import os, sys, pathlib; {text}'


def test_runs_go_through_their_stages(place, monkeypatch, tmp_path, capsys):
    looks = """
import json, os, pathlib, sys, time
time.sleep(1)
group = pathlib.Path('/proc/self/autogroup')
found = dict(nice=os.nice(0), threads=os.environ['OMP_NUM_THREADS'])
found['group'] = group.read_text().split()[-1] if group.exists() else '19'
pathlib.Path(sys.argv[1], 'two').write_text(json.dumps(found))
"""
    of_scripts(monkeypatch, write("pathlib.Path(sys.argv[1], 'one').touch()"), looks)
    file = tmp_path / 'rows.jsonl'
    chosen = [RUNS[name] for name in NAMES]
    assert run.work(chosen, place, 60 + run.STOPPING, jobs=2, file=file) == []
    found = rows.read(file)
    assert sorted(found) == NAMES
    seen = {(row['nice'], row['group'], row['threads']) for row in found.values()}
    assert seen == {(19, '19', '1')}
    said = capsys.readouterr().out
    assert all(f'{name}: {word}\n' in said for name in NAMES for word in ('one', 'two', 'done'))
    assert not any(place.of(each).exists() for each in chosen)  # nothing to mistake for results
    before = file.read_text()
    assert run.work(chosen, place, 60 + run.STOPPING, file=file) == []  # nothing is left
    assert file.read_text() == before


def test_a_failure_stops_no_other(place, monkeypatch, tmp_path, capsys):
    fails = f"sys.exit('no') if {NAMES[0]!r} in sys.argv[1] else "
    of_scripts(
        monkeypatch,
        write(fails + "pathlib.Path(sys.argv[1], 'one').touch()"),
        write("pathlib.Path(sys.argv[1], 'two').touch()"),
    )
    file = tmp_path / 'rows.jsonl'
    failed = run.work([RUNS[name] for name in NAMES[:2]], place, 60 + run.STOPPING, file=file)
    assert failed == NAMES[:1] and list(rows.read(file)) == NAMES[1:2]
    log = place.of(RUNS[NAMES[0]]) / 'one.log'
    assert f'{NAMES[0]}: one ended before it was done, see {log}' in capsys.readouterr().out
    assert log.read_text() == 'no\n'


def test_it_stops_in_time_and_goes_on(place, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, 'STOPPING', 5.0)
    of_scripts(monkeypatch, write("pathlib.Path(sys.argv[1], 'one').touch()"), SAVES)
    file, folder = tmp_path / 'rows.jsonl', place.of(RUNS[NAMES[0]])
    began = time.monotonic()
    assert run.work([RUNS[NAMES[0]]], place, 5 + 5, file=file) == []
    assert time.monotonic() - began < 10
    assert (folder / 'saved').exists() and not (folder / 'two').exists() and not rows.read(file)
    assert f'{NAMES[0]}: stopped in two, goes on with the next call' in capsys.readouterr().out
    assert run.work([RUNS[NAMES[0]]], place, 60, file=file) == []
    assert list(rows.read(file)) == NAMES[:1]


def test_what_does_not_stop_is_killed(place, monkeypatch, tmp_path):
    monkeypatch.setattr(run, 'STOPPING', 1.0)
    deaf = write('import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)')
    told = "pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid())); time.sleep(60)"
    of_scripts(monkeypatch, f'{deaf}; {told}', '')
    began = time.monotonic()
    run.work([RUNS[NAMES[0]]], place, 5, file=tmp_path / 'rows.jsonl')
    assert time.monotonic() - began < 10
    process = int((place.of(RUNS[NAMES[0]]) / 'pid').read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_second_driver_is_refused(tmp_path):
    with run.alone(tmp_path) as lock:
        words = f'{tmp_path} is in use by another driver, process {os.getpid()} '
        with pytest.raises(run.Busy, match=words), run.alone(tmp_path):
            pass
        left = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE,
                                pass_fds=[lock])  # fmt: skip
    with pytest.raises(run.Busy), run.alone(tmp_path):  # what a killed driver has left
        pass
    left.communicate(b'\n')
    with run.alone(tmp_path):
        pass


def test_data_that_are_not_all_unpacked(monkeypatch, tmp_path):
    tiny, camvid = RUNS['tiny-mae-12-10e-s0'], RUNS['camvid-scratch-12-s0']
    both = RUNS['camvid-mirl-12-300e-camvid+tiny-s0']
    scenes, images = 'camvid/annotations/test', 'tiny_imagenet_100/train'
    monkeypatch.setattr(run, 'FILES', {images: 2, scenes: 2})
    words = f'no files of 2 at {tmp_path}/{scenes}: unpack them to {tmp_path}/camvid, or'
    with pytest.raises(FileNotFoundError, match=words):
        run.check_data([camvid], tmp_path)
    (tmp_path / scenes).mkdir(parents=True)
    for name in 'ab':
        (tmp_path / scenes / name).touch()
    run.check_data([camvid], tmp_path)
    (tmp_path / images / 'class').mkdir(parents=True)
    (tmp_path / images / 'class/a').touch()
    for needs in (tiny, both):
        with pytest.raises(FileNotFoundError, match=f'1 files of 2 at {tmp_path}/{images}: unpack'):
            run.check_data([needs], tmp_path)


def test_every_folder_of_the_data_is_looked_at(monkeypatch, tmp_path):
    assert set(run.FILES) == {
        *(f'tiny_imagenet_100/{split}' for split in ('train', 'val')),
        *(f'camvid/{kind}/{split}' for kind in ('images', 'annotations')
          for split in ('training', 'test')),
        *(f'scenes/images/{split}' for split in ('unlabelled', 'train', 'val')),
    }  # fmt: skip
    monkeypatch.setattr(run, 'FILES', dict.fromkeys(run.FILES, 1))
    needs = [RUNS['camvid-mirl-12-300e-camvid+tiny-s0'], RUNS['demo-scratch-12-s0']]
    for name in run.FILES:
        with pytest.raises(FileNotFoundError, match=f'no files of 1 at {tmp_path}/{name}: unpack'):
            run.check_data(needs, tmp_path)
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / 'a').touch()
    run.check_data(needs, tmp_path)


@pytest.mark.parametrize('name', ['a b', 'a,b', '[a]', 'a)'])
def test_folders_that_options_cannot_hold(place, name, tmp_path):
    for option, there in (('--data', place._replace(data=tmp_path / name)),
                          ('--work-dir', place._replace(work=tmp_path / name))):  # fmt: skip
        with pytest.raises(ValueError, match=f'a space, a comma or .*: give another {option}'):
            run.work([RUNS[NAMES[0]]], there, 60 + run.STOPPING, file=tmp_path / 'rows')


def test_a_folder_that_was_begun_as_something_else(place, monkeypatch, tmp_path):
    of_scripts(monkeypatch, 'raise SystemExit(1)', '')
    each, file = RUNS[NAMES[0]], tmp_path / 'rows.jsonl'
    for _ in range(2):  # the second time the folder is there, and fits
        assert run.work([each], place, 60 + run.STOPPING, file=file) == NAMES[:1]
    notes = place.of(each) / NOTES
    found = json.loads(notes.read_text())
    assert found['spec']['options']['optim_wrapper.optimizer.lr'] == found['spec']['rate'] == 0.002
    found['spec']['rate'] = 0.1
    for text, words in {
        json.dumps(found): 'was begun with rate 0.1, the grid has 0.002: remove it',
        '{"spec"': f'{notes} is not what the driver writes .*: remove {place.of(each)}, or',
        '[]': 'is not what the driver writes',
        '{"spec": [3], "cpu_seconds": {}, "code": []}': 'is not what the driver writes',
    }.items():
        notes.write_text(text)
        with pytest.raises(ValueError, match=words):
            run.work([each], place, 60 + run.STOPPING, file=file)


def test_notes_say_which_code_ran(place, monkeypatch):
    each = RUNS[NAMES[0]]
    folder = place.of(each)
    for changed in ([], ['benchmarks/results/study/rows.jsonl'], ['mirl_mm/a.py'], []):
        state = dict(commit='abc', changed=changed)
        monkeypatch.setattr('mirl_mm.engine.run_facts.git_state', lambda _, s=state: s)
        begun.note_code(each, folder)
    assert json.loads((folder / NOTES).read_text())['code'] == ['abc', 'abc, changed']


def test_a_row_that_cannot_be_added_leaves_the_run(place, monkeypatch, tmp_path):
    file, each = tmp_path / 'rows.jsonl', RUNS[NAMES[0]]
    of_scripts(
        monkeypatch,
        write(f"pathlib.Path({str(file)!r}).write_text('<<<<'); "
              "pathlib.Path(sys.argv[1], 'one').touch()"),
        write("pathlib.Path(sys.argv[1], 'two').touch()"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f'{file}, line 1 is no row of the study'):
        run.work([each], place, 60 + run.STOPPING, file=file)
    assert (place.of(each) / 'two').exists()
    file.unlink()
    of_scripts(monkeypatch, 'raise SystemExit(1)', 'raise SystemExit(1)')
    assert run.work([each], place, 60 + run.STOPPING, file=file) == []
    assert list(rows.read(file)) == NAMES[:1]


def test_rows_that_cannot_be_written(place, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=f'cannot write to {tmp_path}/file'):
        run.work([RUNS[NAMES[0]]], place, 60 + run.STOPPING, file=tmp_path / 'file/rows.jsonl')


def test_a_run_is_told_to_stop_when_its_driver_is_killed(place):
    each = RUNS[NAMES[0]]
    folder = place.of(each)
    driver = f"""
import os, pathlib, signal, time
from benchmarks.study import run
from benchmarks.study.grid import RUNS
from benchmarks.study.stages import Place, Stage
place = Place(*map(pathlib.Path, {list(map(str, place))}))
with run.alone(place.work) as lock:
    run.start(RUNS[{each.name!r}], Stage('one', ['-c', {SAVES!r}, {str(folder)!r}], 'two'), place,
              lock)
    while not (place.of(RUNS[{each.name!r}]) / 'begun').exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    code = subprocess.run([sys.executable, '-c', driver], cwd=ROOT, timeout=120).returncode
    assert code == -9
    until = time.monotonic() + 20
    while not (folder / 'saved').exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert (folder / 'saved').exists() and not (folder / 'two').exists()


def test_a_row_that_cannot_be_made_stops_no_other(place, monkeypatch, tmp_path, capsys):
    done = write("pathlib.Path(sys.argv[1], 'two').write_text('{')")
    of_scripts(monkeypatch, write("pathlib.Path(sys.argv[1], 'one').touch()"), done)
    failed = run.work(
        [RUNS[n] for n in NAMES[:2]], place, 60 + run.STOPPING, file=tmp_path / 'rows'
    )
    assert failed == NAMES[:2]
    assert f'{NAMES[0]}: no row, JSONDecodeError(' in (said := capsys.readouterr().out)
    assert f'; remove {place.of(RUNS[NAMES[0]])} to run it again' in said


def test_it_stops_when_asked(place, monkeypatch, tmp_path):
    of_scripts(monkeypatch, SAVES, '')
    asked, each = threading.Event(), RUNS[NAMES[0]]

    def ask() -> None:
        while not (place.of(each) / 'begun').exists():
            time.sleep(0.01)
        asked.set()

    threading.Thread(target=ask, daemon=True).start()
    began = time.monotonic()
    assert run.work([each], place, 300, file=tmp_path / 'rows', asked=asked) == []
    assert (place.of(each) / 'saved').exists() and time.monotonic() - began < 20


def test_cpu_seconds_add_up_over_starts(place, monkeypatch, tmp_path):
    monkeypatch.setattr(run, 'LOOK', 0.02)
    busy = 'while time.process_time() < 0.5: pass'
    of_scripts(monkeypatch, f'import sys, time\n{busy}', '')
    each = RUNS[NAMES[0]]
    used = []
    for _ in range(2):
        run.work([each], place, 60 + run.STOPPING, file=tmp_path / 'rows')
        used.append(json.loads((place.of(each) / NOTES).read_text())['cpu_seconds']['one'])
    assert 0.3 <= used[0] <= 1.0 and 1.5 * used[0] <= used[1] <= 2.5 * used[0]


def test_cpu_seconds_are_noted_while_a_stage_runs(place, monkeypatch, tmp_path):
    """A driver that is killed has noted them; the stage sees it."""
    monkeypatch.setattr(run, 'NOTE', 0.2)
    notes = """
import json, pathlib, sys, time
folder, until = pathlib.Path(sys.argv[1]), time.time() + 20
while time.process_time() < 0.5: pass
while not json.loads((folder / 'run.json').read_text())['cpu_seconds']:
    time.sleep(0.05)
    if time.time() > until: sys.exit(1)
(folder / 'one').touch()
"""
    of_scripts(monkeypatch, notes, write("pathlib.Path(sys.argv[1], 'two').touch()"))
    assert run.work([RUNS[NAMES[0]]], place, 60 + run.STOPPING, file=tmp_path / 'rows') == []
