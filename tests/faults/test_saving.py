"""Checkpoints when the disk fails, when the run is preempted, and when they are cut short."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mirl_mm import files
from mirl_mm.engine.resume import ResumeError, find_checkpoint
from mirl_mm.engine.stopping import PreemptHook
from mirl_mm.files import complete_file, remove_parts, write_complete

from .small import differs, load, log_of, run, small_config

pytestmark = pytest.mark.xdist_group('faults')


@HOOKS.register_module()
class AtIteration(Hook):
    """Calls a function before an iteration (counted from 1)."""

    def __init__(self, calls: dict) -> None:
        self.calls = calls

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if call := self.calls.get(runner.iter + 1):
            call(runner)


def with_calls(runner, calls: dict) -> None:
    runner.register_hook(AtIteration(calls))


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_complete_or_the_old_one(tmp_path):
    path = tmp_path / 'file'
    write_complete(path, b'old')
    with pytest.raises(RuntimeError), complete_file(path) as part:
        part.write_bytes(b'half')
        assert path.read_bytes() == b'old'
        raise RuntimeError
    assert os.listdir(tmp_path) == ['file'] and path.read_bytes() == b'old'
    write_complete(path, b'new')
    assert path.read_bytes() == b'new'
    (tmp_path / '.file.77.part').touch()
    assert remove_parts(tmp_path) == ['.file.77.part'] and os.listdir(tmp_path) == ['file']


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert find_checkpoint(tmp_path) == (None, [])
    for i in (1, 2, 3):
        torch.save(dict(weight=torch.ones(100)), tmp_path / f'epoch_{i}.pth')
        os.utime(tmp_path / f'epoch_{i}.pth', (i, i))
    torch.save({}, tmp_path / 'best_top1_epoch_3.pth')  # holds no optimizer
    assert find_checkpoint(tmp_path)[0].name == 'epoch_3.pth'
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    assert find_checkpoint(tmp_path) == (tmp_path / 'epoch_2.pth', [])
    content = (tmp_path / 'epoch_2.pth').read_bytes()
    (tmp_path / 'epoch_2.pth').write_bytes(content[:-1])
    path, notes = find_checkpoint(tmp_path)
    assert path.name == 'epoch_3.pth'
    assert notes == [f'{tmp_path / "epoch_2.pth"} is cut short: passing over it']
    damaged = content[: content.rindex(b'PK\x01\x02')] + bytes(46)  # zeros in the table of contents
    end = content[content.rindex(b'PK\x05\x06') :]
    (tmp_path / 'epoch_2.pth').write_bytes(damaged.ljust(len(content) - len(end), b'\0') + end)
    assert find_checkpoint(tmp_path)[0].name == 'epoch_3.pth'
    for i in (1, 3):
        (tmp_path / f'epoch_{i}.pth').write_bytes(b'')
    with pytest.raises(ResumeError, match=r'epoch_2.pth, epoch_3.pth, epoch_1.pth are cut short'):
        find_checkpoint(tmp_path)


# --- runs -----------------------------------------------------------------------------------------


def refuse(runner) -> None:
    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    runner.call_hook('flush')  # what came before is on the disk
    patch = pytest.MonkeyPatch()
    patch.setattr(files, '_to_disk', write)
    runner.undo = patch.undo


def test_a_full_disk_keeps_the_old_checkpoint_and_the_run(undisturbed, images, tmp_path):
    files = []

    def note(runner) -> None:
        files.append(sorted(path.name for path in Path(runner.work_dir).glob('*.pth')))
        runner.undo()

    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    with_calls(runner, {11: refuse, 22: note})
    runner.train()
    log = log_of(runner)
    for name in ('iter_12.pth', 'iter_16.pth', 'iter_20.pth', 'the best checkpoint'):
        assert f'could not save {name} after ' in log, name
    assert log.count('No space left on device); the run goes on, and to resume from, ') == 4
    # (iter_10: MMEngine saves anew when there is a new best)
    assert files == [['best_recon_error_iter_10.pth', 'encoder.pth', 'iter_10.pth', 'iter_8.pth']]
    left = sorted(path.name for path in (tmp_path / 'run').glob('iter_*.pth'))
    assert left == ['iter_28.pth', 'iter_30.pth']
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'run/iter_30.pth') == ''


def test_an_end_that_cannot_be_saved_is_an_error(images, tmp_path):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    with_calls(runner, {29: refuse})
    with pytest.raises(OSError, match=r'could not be saved .*No space.* after .*iter_28.pth with'):
        try:
            runner.train()
        finally:
            runner.undo()


def test_older_checkpoints_go_when_the_new_one_is_there(images, tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def note(source, target):
        replace(source, target)
        names = os.listdir(tmp_path / 'run')
        seen.append((Path(target).name, sorted(n for n in names if n.startswith(('iter', 'best')))))

    monkeypatch.setattr(os, 'replace', note)
    runner = run(tmp_path / 'run', small_config(images, workers=0))
    monkeypatch.undo()
    states = dict(seen)
    assert states['iter_28.pth'] == ['best_recon_error_iter_20.pth'] + [
        f'iter_{i}.pth' for i in (20, 24, 28)
    ]
    assert states['best_recon_error_iter_30.pth'][:2] == [
        f'best_recon_error_iter_{i}.pth' for i in (20, 30)
    ]
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run/iter_30.pth')
    # a run killed just before it removed iter_20.pth: the next one removes it
    kept = load(tmp_path / 'run/iter_28.pth')['message_hub']['runtime_info']['keep_ckpt_ids']
    assert kept == [20, 24, 28]
    # 30 was saved twice, the second time with a new best: nothing is left to remove
    assert list(runner.message_hub.get_info('keep_ckpt_ids')) == [28, 30]


class SlowDisk:
    """A disk that writes nothing until it is told to, or for so many seconds."""

    def __init__(self, monkeypatch, work_dir: Path, seconds: float = 60) -> None:
        self.work_dir, self.seconds = work_dir, seconds
        self.free, self.refuses, flushed = threading.Event(), False, files._to_disk
        monkeypatch.setattr(files, '_to_disk', lambda path: (self.wait(), flushed(path)))

    def wait(self) -> None:
        self.free.wait(self.seconds)
        if self.refuses:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.work_dir.glob('*') if path.suffix == '.pth')


def test_nobody_waits_for_the_disk(undisturbed, images, tmp_path, monkeypatch):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    disk, seen = SlowDisk(monkeypatch, tmp_path / 'run'), []

    def look(runner) -> None:
        seen.append((runner.iter, disk.names(), (tmp_path / 'run/last_checkpoint').exists()))
        disk.free.set()

    with_calls(runner, {8: look})  # what began behind iteration 4 would be waited for behind 8
    runner.train()
    assert seen == [(7, [], False)]
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'run/iter_30.pth') == ''
    for name in ('iter_28.pth', 'iter_30.pth'):  # packed when it was due, not when it was written
        assert differs(undisturbed / name, tmp_path / 'run' / name) == ''


def test_one_checkpoint_at_a_time_is_under_way(images, tmp_path, monkeypatch):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    disk, seen = SlowDisk(monkeypatch, tmp_path / 'run', seconds=0.5), []
    with_calls(runner, {9: lambda _: seen.append(disk.names())})
    runner.train()
    assert 'iter_4.pth' in seen[0] and 'iter_8.pth' not in seen[0]


@pytest.mark.parametrize('end', ['error', 'SIGTERM'])
def test_whatever_ends_a_run_waits_for_the_disk(images, tmp_path, monkeypatch, end):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    SlowDisk(monkeypatch, tmp_path / 'run', seconds=0.5)

    def fail(runner) -> None:
        raise ArithmeticError('an injected error')

    term = end == 'SIGTERM'
    with_calls(runner, {5: (lambda _: os.kill(os.getpid(), signal.SIGTERM)) if term else fail})
    with pytest.raises(SystemExit if term else ArithmeticError):
        runner.train()
    left = 'iter_5.pth' if term else 'iter_4.pth'
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run' / left)
    assert load(tmp_path / 'run' / left)['meta']['iter'] == int(left[5])
    assert not list((tmp_path / 'run').glob('.*.part'))


def test_a_save_that_fails_later_is_told_and_undone(images, tmp_path, monkeypatch):
    options = {'default_hooks__checkpoint__save_best': None}
    runner = run(tmp_path / 'run', small_config(images, workers=0, **options), start=False)
    disk, seen = SlowDisk(monkeypatch, tmp_path / 'run'), []

    def fill(_) -> None:
        disk.refuses = True
        disk.free.set()

    def look(runner) -> None:
        disk.refuses = False
        hub = runner.message_hub
        seen.append((list(hub.get_info('keep_ckpt_ids') or []), hub.get_info('last_ckpt')))

    with_calls(runner, {6: fill, 8: lambda _: time.sleep(0.2), 9: look})
    runner.train()
    assert seen == [([8], str(tmp_path / 'run/iter_8.pth'))]
    assert disk.names() == ['encoder.pth', 'iter_28.pth', 'iter_30.pth']
    assert 'could not save iter_4.pth after 3 iterations (' in log_of(runner)
    assert 'to resume from, there is none yet' in log_of(runner)


def test_sigterm_saves_after_the_step_and_exits_with_0(undisturbed, images, tmp_path):
    runner = run(tmp_path / 'run', small_config(images, workers=1), start=False)
    with_calls(runner, {7: lambda _: os.kill(os.getpid(), signal.SIGTERM)})
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    for worker in multiprocessing.active_children():  # as the interpreter does at its end
        worker.terminate()
        worker.join(30)
        assert not worker.is_alive()
    assert stop.value.code == 0 and signal.getsignal(signal.SIGTERM) is former
    said = f'SIGTERM after 7 of 30 iterations: saved {tmp_path / "run/iter_7.pth"}; continue with'
    assert said in log_of(runner)
    run(tmp_path / 'run', small_config(images, workers=0), 'last')
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'run/iter_30.pth') == ''
    assert not (tmp_path / 'run/iter_7.pth').exists()  # replaced by the next regular one


def test_signals_are_named():
    with pytest.raises(ValueError, match='names such as SIGTERM'):
        PreemptHook(('SIGTREM',))
