"""Data that cannot be read, values that are not finite, a clock that jumps."""

import json

import torch

from mirl_mm.datasets.packed.writing import pack_images

from .bench import Bench, Outcome, until
from .jobs import TRAINED, Job, different
from .run import CLOCK, NAN, SLOW_DISK, write_images

JUMP = 15  # the iteration in which the clock is set


def not_finite(bench: Bench) -> Outcome:
    """NaN in the output of a block: the run stops and names it, and goes on without it."""
    outcome = Outcome('NaN in the output of block 2 at iteration 17')
    job = bench.job(environ={NAN: '0,2,17'})
    job.start('auto')
    codes = job.wait()
    out = job.output()
    words = ('iteration 17', 'backbone.layers.2', 'segment_1', 'iter_16.pth')
    missing = [word for word in words if word not in out]
    problem = '' if codes == [1] and not missing else f'exit {codes}, not named: {missing}'
    job.environ = {}
    outcome.count(problem or bench.ends_well(job))
    return outcome


def corrupt_images(bench: Bench) -> Outcome:
    """1 % of 200 images are cut short: counted, listed, replaced, also after a kill."""
    outcome = Outcome('1 % corrupt images')
    images = write_images(bench.folder / 'spoilt', 0.01, 200)
    ends = []
    for struck in (False, True):
        # 50 iterations a pass: the three passes of the others are a bit more than half a one here
        job = bench.job(images=images, train_cfg__max_epochs=1)
        job.start('auto')
        if struck:
            until(lambda job=job: job.saved(28) or not job.running())
            job.kill()
            job.wait()
            job.start('auto')
        codes = job.wait()
        listed = (job.work_dir / 'bad_images.txt').read_text().splitlines()
        ends.append((codes, sorted(line.partition('\t')[0] for line in listed), job))
    (first, names, one), (second, again, two) = ends
    problem = '' if first == second == [0] else f'exit codes {first} and {second}'
    expected = [str(images / f'{i:04d}.png') for i in range(2)]
    if not problem and not names == again == expected:
        problem = f'listed {names} and {again}'
    if not problem and '2 of 200 (1.00%) so far' not in one.log():
        problem = 'not counted'
    outcome.count(problem or _same_files(one, two, 'iter_50.pth'), 2)
    return outcome


def _same_files(one: Job, two: Job, name: str) -> str:
    states = [torch.load(job.work_dir / name, weights_only=False) for job in (one, two)]
    found = (different(states[0][key], states[1][key], key) for key in TRAINED)
    return next((f'differs in {f}' for f in found if f), '')


def damaged_shard(bench: Bench) -> Outcome:
    """A shard of a packed folder is spoilt after the start: its name is told; then it is mended.

    In place, and cut short. No image may be replaced, so that none of the damage is trained on.
    """
    outcome = Outcome('shard of a packed folder damaged after the start')
    packed = bench.folder / 'packed'
    pack_images(bench.data.images, packed)
    shard = packed / 'shard-00000.tar'
    whole = shard.read_bytes()
    for damage in (whole.replace(b'IDAT', b'TADI'), whole[:4096]):
        job = bench.job(
            images=f'packed://{packed}',
            environ={SLOW_DISK: '0.02'},
            train_dataloader__dataset__max_bad_images=0,
        )
        job.start('auto')
        until(lambda job=job: job.saved(8) or not job.running())
        shard.write_bytes(damage)
        codes = job.wait()
        shard.write_bytes(whole)
        said = f'shard {shard} is corrupt' in job.output()
        problem = '' if codes == [1] and said else f'exit {codes}: {job.output()[-800:]}'
        outcome.count(problem or bench.ends_well(job))
    return outcome


def clock(bench: Bench) -> Outcome:
    """The clock jumps by an hour back and by a day forth: same bits, and a log that recovers."""
    outcome = Outcome('clock that jumps by -1 h and +24 h')
    for seconds in (-3600, 86400):
        job = bench.job(environ={CLOCK: f'{JUMP},{seconds}'})
        job.start('auto')
        codes = job.wait()
        problem = '' if codes == [0] else f'ended with {codes}: {job.output()[-500:]}'
        outcome.count(problem or bench.differs(job) or _strange(job))
    outcome.notes.append("MMEngine's log has wrong times for 10 iterations, and its eta is wrong")
    return outcome


def _strange(job: Job) -> str:
    """Wrong times in the log other than a mean over 10 iterations has; empty if there are none."""
    (file,) = job.work_dir.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    times = {row['iter']: row.get('time', 0) for row in rows if 'loss' in row}
    if times.keys() != set(range(1, job.iterations + 1)):
        return f'the log has iterations {sorted(times)}'
    wrong = [each for each, seconds in times.items() if not 0 <= seconds < 60]
    beyond = [each for each in wrong if not JUMP < each <= JUMP + 11]
    return f'wrong times in iterations {beyond}' if beyond else ''
