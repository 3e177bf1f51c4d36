"""Fabricated work dirs for the tests of the report."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

from PIL import Image

ROOT = Path(__file__).parents[2]


def train_rows(first: int, last: int, loss: float = 1.0) -> list[dict]:
    """What LoggerHook writes every 10 iterations, and after each epoch of 50 its validation."""
    rows = []
    for i in range(first + 10, last + 1, 10):
        names = ('stem', 'segment_0', 'segment_1', 'segment_10', 'decoder_0', 'neck', 'all')
        health = {f'grad/{name}': 0.1 / (n + 1) for n, name in enumerate(names)}
        rows.append(
            dict(
                lr=1e-3 * (1 - i / 200),
                data_time=0.05,
                loss=loss,
                pair_0_3=loss + 0.1,
                pair_1_2=loss - 0.1,
                time=0.2,
                images_per_s=320.0,
                mfu=12.5,
                epoch=1 + (i - 1) // 50,
                iter=i,
                step=i,
                **health,
            )
        )
        if i % 50 == 0:
            rows.append({'recon/error': loss + 0.2, 'time': 0.1, 'step': i // 50})
    return rows


def add_start(
    work_dir: Path,
    stamp: str,
    rows: list[dict],
    first: int = 0,
    finished: bool = True,
    record: bool = True,
    model: str = 'MIRL',
) -> Path:
    """Write what one start of a run leaves, and return its folder."""
    log = work_dir / stamp
    (log / 'vis_data/vis_image').mkdir(parents=True)
    (log / 'vis_data/scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (log / 'vis_data/config.py').write_text("model = dict(type='MIRL')\n")
    last = max((row.get('iter', 0) for row in rows), default=0)
    for step in (0, 40, 80, 100):
        if (first < step or first == step == 0) and step <= last:
            colour = (int(stamp[7]) * 40, step, 100)
            picture = Image.new('RGB', (700, 300), colour)
            picture.save(log / f'vis_data/vis_image/panel_{step}.png')
    if record:
        written = dict(
            kind='train',
            started=f'{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T10:00:00+00:00',
            command='python tools/train.py config.py',
            config='config.py',
            model=model,
            encoder='MIRLViT, 12 blocks of 48',
            trainable_parameters=642848,
            processes=2,
            python='3.11.7',
            git=dict(commit='abcdef0123456789' * 2, branch='main', changed=['a.py']),
            hardware='some GPU',
            cpu='some CPU, 8 cores',
            versions=dict(torch='2.11.0', mirl_mm='0.1.0'),
            first_iteration=first,
            iterations=100,
            epochs=2,
            images=3200,
            batch=32,
            accumulation=1,
            effective_batch=64,
            learning_rate=1e-3,
            precision='float32 (AMP off)',
            seed=0,
        )
        if finished:
            written |= dict(finished=written['started'], seconds=3700)
        (log / 'run.json').write_text(json.dumps(written))
    return log


def report_tool() -> ModuleType:
    """tools/report.py as a module."""
    spec = importlib.util.spec_from_file_location('report_tool', ROOT / 'tools/report.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
