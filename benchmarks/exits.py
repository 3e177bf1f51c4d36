"""Do jobs of two processes that have done their work end with 0, on a machine that is busy?

    python -m benchmarks.exits [--jobs 200] [--busy 2] [--at-once 2] [--out FILE]

A job is ``tools/train.py`` in two processes: three iterations of the MIRL of ``benchmarks.faults``,
or, every fourth job, two of Mask R-CNN at test size; each with a validation and a checkpoint. The
processes are forked from this one, which has imported everything, but leave as a script does: the
interpreter is taken down while threads of a process group may still be there. Others keep the cores
busy. The exit code is 1 where a job did not end with 0.
"""

import argparse
import gc
import os
import runpy
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ |= dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')  # before torch looks

import mmdet.apis  # noqa: F401  (so that the jobs need not import it)
import mmengine.runner.runner
from mmengine.config import Config
from torch.distributed.elastic.utils.distributed import get_free_port

from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

from .faults.run import ROOT, small_config, write_images

LONGEST = 180  # seconds: a process that takes longer is ended by SIGALRM


class Job(NamedTuple):
    """One that was started; ``codes`` of its processes come as they end, below 0 for a signal."""

    kind: str
    folder: Path
    began: float
    codes: list[int]
    seconds: list[float]  # until each end


def write_configs(folder: Path) -> dict[str, Path]:
    """A config for each kind of job."""
    images = write_images(folder / 'images', count=12)
    length = dict(train_cfg__max_iters=3, train_cfg__val_interval=3)
    length['default_hooks__checkpoint__interval'] = 3
    mirl = small_config(images, processes=2, by_epoch=False, **length)
    scenes = write_scenes(folder / 'scenes', num_train=4, num_val=2)
    dense = Config.fromfile(ROOT / 'configs/mask-rcnn/vit-test_20it_scenes.py')
    lengths = ('train_cfg.max_iters', 'train_cfg.val_interval', 'default_hooks.checkpoint.interval')
    roots = [f'{split}_dataloader.dataset.data_root' for split in ('train', 'val')]
    given = dict.fromkeys(lengths, 2) | dict.fromkeys(roots, f'{scenes.root}/')
    given['val_evaluator.ann_file'] = str(scenes.annotations('val'))
    dense.merge_from_dict(given | {'model.backbone.init_cfg': None})
    files = {kind: folder / f'{kind.split()[0]}.py' for kind in ('MIRL', 'Mask R-CNN')}
    for cfg, file in zip((mirl, dense), files.values(), strict=True):
        cfg.dump(file)
    return files


def start(config: Path, work_dir: Path) -> list[int]:
    """Fork the processes of a job. They leave by an exception through all frames below."""
    where = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(get_free_port()))
    where |= dict.fromkeys(('WORLD_SIZE', 'LOCAL_WORLD_SIZE'), '2')
    children = []
    for rank in ('0', '1'):
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(LONGEST)
            out = os.open(f'{work_dir}.{rank}.out', os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.environ.update(where, RANK=rank, LOCAL_RANK=rank)
            given = [str(config), '--work-dir', str(work_dir), '--launcher', 'pytorch']
            sys.argv = ['train.py', *given]
            runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
            sys.exit()
    return children


def work(configs: dict[str, Path], folder: Path, count: int, at_once: int) -> list[Job]:
    """Start the jobs, each when there is room, and wait for all."""
    jobs, running = [], {}
    while running or len(jobs) < count:
        if len(jobs) < count and len(running) <= 2 * (at_once - 1):
            kind = list(configs)[len(jobs) % 4 == 3]
            job = Job(kind, folder / f'job{len(jobs)}', time.monotonic(), [], [])
            jobs.append(job)
            running |= dict.fromkeys(start(configs[kind], job.folder), job)
            continue
        child, status = os.wait()
        job = running.pop(child)
        job.codes.append(os.waitstatus_to_exitcode(status))
        job.seconds.append(time.monotonic() - job.began)
        if len(job.codes) == 2:
            shutil.rmtree(job.folder, ignore_errors=True)
            if any(job.codes):
                print(f'{job.kind}, number {len(jobs)}: exit codes {job.codes}')
                for file in folder.glob(f'{job.folder.name}.*.out'):
                    print('\n'.join(file.read_text().splitlines()[-5:]), flush=True)
    return jobs


def busy(processes: int) -> list[int]:
    """Start so many that do nothing, as fast as they can."""
    children, parent = [], os.getpid()
    for _ in range(processes):
        children.append(os.fork())
        if children[-1] == 0:
            while os.getppid() == parent:
                pass
            os._exit(0)
    return children


def main() -> None:
    parser = argparse.ArgumentParser(description='Whether jobs of two processes end with 0.')
    parser.add_argument('--jobs', type=int, default=200)
    parser.add_argument('--busy', type=int, default=2, help='busy loops beside them')
    parser.add_argument('--at-once', type=int, default=2, help='jobs at a time')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results/exits.json')
    args = parser.parse_args()
    if args.jobs < 1 or args.at_once < 1 or args.busy < 0:
        parser.error('--jobs and --at-once must be at least 1, --busy at least 0')
    mmengine.runner.runner.collect_env = dict  # asks compilers for their versions
    gc.freeze()  # what was imported is not looked through again in every process
    # (what removes it by itself would do so in the forked ones as well)
    folder = Path(tempfile.mkdtemp(prefix='exits-'))
    configs, loops = write_configs(folder), busy(args.busy)
    jobs = work(configs, folder, args.jobs, args.at_once)
    for child in loops:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    shutil.rmtree(folder)
    rows = []
    print(f'{"kind":12} {"jobs":>5} {"exits of 0":>11} {"seconds":>8}')
    for kind in configs:
        if mine := [job for job in jobs if job.kind == kind]:
            good = sum(not any(job.codes) for job in mine)
            seconds = statistics.median(max(job.seconds) for job in mine)
            rows.append(dict(kind=kind, jobs=len(mine), exits_of_0=good, seconds=round(seconds, 2)))
            print(f'{kind:12} {len(mine):5} {good:11} {seconds:8.1f}')
    settings = dict(jobs=args.jobs, busy=args.busy, at_once=args.at_once)
    write_json(args.out, environment() | dict(config=settings, exits=rows))
    sys.exit(any(any(job.codes) for job in jobs))


if __name__ == '__main__':
    main()
