"""Checkpoints when the disk fails, when the run is preempted, and when they are cut short."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

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

    patch = pytest.MonkeyPatch()
    patch.setattr('mirl_mm.files._to_disk', write)
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
