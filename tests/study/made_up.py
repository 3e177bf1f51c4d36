"""Made-up rows of the study."""

from benchmarks.study.grid import RUNS


def row(name: str, **found) -> dict:
    run = RUNS[name]
    curve = [1.0] * max(run.depth - 2, 0)
    last = found.pop('last', 5.0)
    made = dict(
        run=name, held_out_error=None, images_per_s=None, seconds=0.0, last_loss=None,
        knn20=[*curve, 9.0, last], ridge=[*curve, 9.0, last + 1], segment=[*curve, 9.0, last + 2],
    )  # fmt: skip
    return run._asdict() | made | found


def rows_of(*rows: dict) -> dict[str, dict]:
    return {each['run']: each for each in rows}


def trained(method: str, depth: int, seed: int, last: float) -> dict:
    return row(f'tiny-{method}-{depth}-10e-s{seed}', last=last, held_out_error=0.6 + seed / 10,
               steps=5460, batch=64,
               cpu_seconds=dict(train=3494.4 / (seed + 1), probe=100.0, measure=20.0))  # fmt: skip


SOME = rows_of(
    *(trained('mirl', 12, seed, 5.0 + seed) for seed in (0, 1, 2)),
    *(trained('mirl', 24, seed, 8.0 + seed) for seed in (0, 1, 2)),
    *(trained('mae', 12, seed, 4.0 + seed) for seed in (0, 1, 2)),
    trained('mae', 24, 0, 3.0),
    row('tiny-untrained-12-s0', last=2.0),
)


def changed(change: str, seed: int, last: float, error: float) -> dict:
    """A row of grid ``ablation``; those of the method as it is lack the change, as in the file."""
    name = f'ablation-mirl-12-1e-{change}-s{seed}'.replace('--', '-')
    made = row(name, last=last, held_out_error=error,
               cpu_seconds=dict(train=60.0 * (1 + seed), probe=60.0, measure=60.0))  # fmt: skip
    return made if change else {key: x for key, x in made.items() if key != 'change'}


CHANGED = rows_of(
    *(changed('', seed, 5.0 + seed, 0.70 + seed / 100) for seed in (0, 1, 2)),
    *(changed('unpaired', seed, 9.0 + seed, 0.90) for seed in (0, 1, 2)),
    *(changed('segments-2', seed, 4.0 + seed, 0.60 + seed / 100) for seed in (0, 1, 2)),
    *(changed('mask-0.9', seed, 1.0, 0.95) for seed in (0, 1)),
)
