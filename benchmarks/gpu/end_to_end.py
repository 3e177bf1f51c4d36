"""Stage 4: tools/train.py as a user starts it, on generated JPEGs of ImageNet's size.

The files lie in the page cache and come again and again, by a list that names each several times,
so that one epoch is long. Read from the run's own log: images per second and the share of time in
which training waited for data, behind the first lines; and from a hook the seconds from the start
of the process to the end of the first step.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks.processes import ROOT, end, with_checkout
from benchmarks.timing import synchronise
from mirl_mm.apps.report.runs import read_scalars

from .stage import Bench, LeftOut, Part

CONFIG = """_base_ = {base!r}
custom_imports = dict(imports=['mirl_mm', 'benchmarks.gpu.end_to_end'])
custom_hooks = [dict(type='FirstStepHook', device={device!r})]
"""
SIZES = {  # of the rehearsal or not; workers None: as many as there are cores
    False: dict(
        runs=[
            dict(arch='s54', batch=256, workers=None, steps=160),
            dict(arch='s54', batch=256, workers=8, steps=120),
            dict(arch='b48', batch=64, workers=None, steps=240),
        ],
        files=4096,
        interval=10,
        settled=4,
    ),
    True: dict(
        runs=[dict(arch='test', batch=8, workers=2, steps=12)], files=32, interval=2, settled=1
    ),
}
LIMIT = 150.0  # seconds for a run


def sizes(rehearse: bool) -> dict:
    return SIZES[rehearse]


def parts(rehearse: bool) -> list[Part]:
    size = SIZES[rehearse]
    common = {key: size[key] for key in ('files', 'interval', 'settled')}

    def part(arch: str, batch: int, workers: int | None, steps: int) -> Part:
        run = partial(train, arch, batch, workers or os.cpu_count(), steps, **common)
        name = f'{arch} {batch}, {workers or "all"} workers'
        return Part(name, run, 60, 50)

    return [part(**run) for run in size['runs']]


@HOOKS.register_module()
class FirstStepHook(Hook):
    """Write the clock at the end of the first step to ``first_step.json`` in the work dir."""

    priority = 'VERY_HIGH'

    def __init__(self, device: str) -> None:
        self.device, self.seen = device, False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self.seen:
            self.seen = True
            synchronise(self.device)
            Path(runner.work_dir, 'first_step.json').write_text(json.dumps(time.time()))


def train(
    arch: str,
    batch: int,
    workers: int,
    steps: int,
    bench: Bench,
    files: int,
    interval: int,
    settled: int,
) -> dict:
    """Run tools/train.py for some steps.

    Args:
        arch: of the shipped MIRL config.
        batch: images a step.
        workers: of the loader.
        steps: iterations of the one epoch.
        bench: as for every part.
        files: different pictures.
        interval: iterations between log lines.
        settled: log lines at the start that do not count.
    """
    check_shared_memory(batch, workers)
    schedule = '2e' if arch == 'test' else '300e'
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_all(folder / 'images', files)
        write_list(folder / 'images', batch * steps)
        base = str(ROOT / f'configs/mirl/vit-{arch}_{schedule}.py')
        (folder / 'config.py').write_text(CONFIG.format(base=base, device=bench.device))
        began = time.time()
        run(folder, batch, workers, interval)
        first = json.loads((folder / 'work/first_step.json').read_text()) - began
        rows = [row for row in read_scalars(folder / 'work') if 'data_time' in row]
    return measured(rows[settled:], batch) | dict(
        arch=arch,
        batch=batch,
        workers=workers,
        start_up_s=round(first, 1),
        says=sentence(measured(rows[settled:], batch), workers, first),
    )


def check_shared_memory(batch: int, workers: int) -> None:
    """LeftOut where batches on their way from the workers would not fit: they would die of it."""
    needed, there = workers * 3 * batch * 3 * 224**2, shutil.disk_usage('/dev/shm').free
    if needed > there:
        raise LeftOut(
            f'{workers} workers with batches of {batch} need about {needed / 1e9:.1f} GB of '
            f'/dev/shm, and {there / 1e9:.1f} are free'
        )


def write_list(folder: Path, length: int) -> None:
    """``list.txt``: the pictures of a folder over and over again."""
    found = sorted(folder.rglob('*.jpg'))
    names = [str(found[i % len(found)].relative_to(folder)) for i in range(length)]
    (folder / 'list.txt').write_text('\n'.join(names))


def measured(rows: list[dict], batch: int) -> dict:
    """Medians over log lines."""
    if not rows:
        raise RuntimeError('the run has not logged enough lines')
    time_s, waited = (statistics.median(row[key] for row in rows) for key in ('time', 'data_time'))
    found = dict(
        images_per_s=round(batch / time_s, 1),
        waiting=round(waited / time_s, 4),
        seconds=[round(row['time'], 5) for row in rows],
    )
    if mfu := [row['mfu'] for row in rows if 'mfu' in row]:
        found['mfu_percent'] = round(statistics.median(mfu), 2)
    return found


def sentence(found: dict, workers: int, first: float) -> str:
    return (
        f'{found["images_per_s"]:,.0f} images/s with {workers} workers, {found["waiting"]:.1%} of '
        f'the time waiting for data; first step done {first:.0f} s after the start'
    )


def run(folder: Path, batch: int, workers: int, interval: int) -> None:
    """RuntimeError with the end of its output where it does not end well."""
    options = [
        f'train_dataloader.dataset.data_root={folder / "images"}',
        'train_dataloader.dataset.data_prefix=',
        'train_dataloader.dataset.ann_file=list.txt',
        f'train_dataloader.batch_size={batch}',
        f'train_dataloader.num_workers={workers}',
        'train_dataloader.persistent_workers=True',
        'optim_wrapper.accumulative_counts=1',
        'train_cfg.max_epochs=1',
        'param_scheduler=None',
        'val_dataloader=None',
        'val_evaluator=None',
        'val_cfg=None',
        f'default_hooks.logger.interval={interval}',
        'default_hooks.health.interval=100',
        'default_hooks.panel=None',
        'default_hooks.checkpoint.interval=-1',
        'default_hooks.checkpoint.save_last=False',
    ]
    command = [sys.executable, ROOT / 'tools/train.py', folder / 'config.py']
    command += ['--work-dir', folder / 'work', '--cfg-options', *options]
    with (folder / 'out.txt').open('wb') as out:
        process = subprocess.Popen(
            [str(w) for w in command], stdout=out, stderr=out, cwd=ROOT, env=with_checkout()
        )
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f'nothing in {LIMIT:.0f} s'
        finally:
            end(process.pid)
    said = (folder / 'out.txt').read_text(errors='replace')
    print(said, flush=True)
    if code != 0:
        raise RuntimeError(f'tools/train.py ended with {code}: {said[-3000:]}')


def write_all(folder: Path, count: int) -> None:
    """Pictures, on up to 8 cores, each in a folder of its own; LeftOut without scikit-image."""
    try:
        from benchmarks.loader import write_pictures
    except ImportError as error:
        raise LeftOut(f'no pictures can be made: {error}') from error
    shares = [count // 8] * 7 + [count - count // 8 * 7]
    folders = [folder / f'{i}' for i in range(len(shares))]
    for each in folders:
        each.mkdir(parents=True)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write_pictures, folders, shares))
