"""tools/dist_train.sh with one process, over NCCL where there is a GPU: killed, resumed, compared.

Every run is started as a user starts it. One is killed behind its first checkpoint and goes on with
``--resume auto``; its end is held against that of an undisturbed run, and that against another
undisturbed one: kernels may add up in another order each time.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.distributed.elastic.utils.distributed import get_free_port

from benchmarks.faults.jobs import TRAINED, different
from benchmarks.faults.run import write_images
from benchmarks.processes import ROOT, end

from .stage import Bench

CONFIG = ROOT / 'configs/mirl/vit-test_2e.py'
BATCH, EVERY = 16, 2  # images, and iterations between checkpoints
LIMIT = 120.0  # seconds that a start may take


def compare(bench: Bench, twice: bool, images: int) -> dict:
    """How far the end of a killed and resumed run is from that of an undisturbed one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / 'images', count=images)
        names = ['killed', 'undisturbed', *['undisturbed-again'] * twice]
        started = {name: start(folder, name) for name in names}  # side by side: nothing is timed
        killed_at = kill_behind_first_checkpoint(started['killed'], folder / 'killed')
        wait(start(folder, 'killed'), folder / 'killed')
        for name in names[1:]:
            wait(started[name], folder / name)
        log = ''.join(path.read_text() for path in (folder / 'killed').glob('*/*.log'))
        assert 'resuming from' in log, 'the run was not resumed'
        if killed_at == newest(folder / 'killed').name:
            raise RuntimeError('the run was over before it was killed')
        ends = {name: last_state(folder / name) for name in names}
    found = {'resumed': distance(ends['undisturbed'], ends['killed'])}
    if twice:
        found['again'] = distance(ends['undisturbed'], ends['undisturbed-again'])
    backend = 'nccl' if bench.device == 'cuda' else 'gloo'
    words = [f'resumed {word(found["resumed"])}']
    words += [f'a second undisturbed run {word(found["again"])}'] if twice else []
    return dict(
        backend=backend, **found, says=f'{backend}, against an undisturbed run: {", ".join(words)}'
    )


def word(found: dict) -> str:
    return 'equal to the bit' if found['equal'] else f'{found["relative"]:.1e} of the weights apart'


def start(folder: Path, name: str) -> subprocess.Popen:
    """Start or go on with a run; its output goes to ``<name>.out``."""
    options = [
        f'train_dataloader.dataset.data_root={folder / "images"}',
        'train_dataloader.dataset.data_prefix=',
        f'train_dataloader.batch_size={BATCH}',
        'val_dataloader=None',
        'val_evaluator=None',
        'val_cfg=None',
        'default_hooks.panel=None',
        'default_hooks.checkpoint.by_epoch=False',
        f'default_hooks.checkpoint.interval={EVERY}',
    ]
    command = [ROOT / 'tools/dist_train.sh', CONFIG, 1, '--amp', '--resume', 'auto']
    command += ['--work-dir', folder / name, '--cfg-options', *options]
    with (folder / f'{name}.out').open('ab') as out:
        return subprocess.Popen(
            ['bash', *map(str, command)],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, PYTHON=sys.executable, PORT=str(get_free_port())),
        )


def kill_behind_first_checkpoint(process: subprocess.Popen, work_dir: Path) -> str:
    """SIGKILL to all processes of a run once it has saved; the name of what it has saved.

    Raises:
        RuntimeError: it ended, or took too long, before.
    """
    until = time.monotonic() + LIMIT
    while not (work_dir / 'last_checkpoint').is_file():
        if process.poll() is not None or time.monotonic() > until:
            end(process.pid)
            raise RuntimeError(f'no checkpoint to kill it behind: {tail(work_dir)}')
        time.sleep(0.01)
    end(process.pid)
    process.wait()
    return newest(work_dir).name


def wait(process: subprocess.Popen, work_dir: Path) -> None:
    """RuntimeError unless a run ends well."""
    try:
        code = process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        end(process.pid)
        code = f'nothing in {LIMIT:.0f} s'
    if code != 0:
        raise RuntimeError(f'{work_dir.name} ended with {code}: {tail(work_dir)}')


def tail(work_dir: Path) -> str:
    return work_dir.with_suffix('.out').read_text(errors='replace')[-3000:]


def newest(work_dir: Path) -> Path:
    return Path((work_dir / 'last_checkpoint').read_text().strip())


def last_state(work_dir: Path) -> dict:
    return torch.load(newest(work_dir), map_location='cpu', weights_only=False)


def distance(one: dict, other: dict) -> dict:
    """Whether all that is trained is equal to the bit, and how far apart the weights are."""
    keys = [key for key in TRAINED if key in one]
    places = [found for key in keys if (found := different(one[key], other[key], key))]
    weights = [
        torch.cat([t.double().flatten() for t in state['state_dict'].values()])
        for state in (one, other)
    ]
    apart = ((weights[1] - weights[0]).norm() / weights[0].norm()).item()
    return dict(equal=not places, first_difference=(places or [''])[0], relative=apart)
