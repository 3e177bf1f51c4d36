"""What a finished run has left in its folder, as a row."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mirl_mm.apps.report.runs import read_scalars
from mirl_mm.demo.transfer import measured

from . import rows
from .begun import begun
from .grid import LABELS, Run
from .stages import BATCH, TASKS, Place, pretraining_iterations, spec

ERROR = 'recon/error'  # as MMEngine logs it
LAST = 10  # the last loss is the mean over the last tenth of the steps


def row_of(run: Run, place: Place) -> dict:
    """A finished run's row: what was run, where, by which code, and what it came to."""
    folder = place.of(run)
    results = dict(camvid=camvid_results, demo=demo_results).get(run.grid, tiny_results)
    found = results(run, folder)
    notes = begun(run, folder)
    return rows.form(spec(run), found | {key: notes[key] for key in ('cpu_seconds', 'code')})


def tiny_results(run: Run, folder: Path) -> dict:
    blocks = json.loads((folder / 'probe/depth.json').read_text())['rows']
    return json.loads((folder / 'measured.json').read_text()) | dict(
        knn20=[round(block['knn'], 2) for block in blocks],
        ridge=[round(block['linear'], 2) for block in blocks],
    )


def camvid_results(run: Run, folder: Path) -> dict:
    """mIoU in percent by labels, and the pre-training."""
    found: dict = dict(miou={})
    if run.epochs:
        checkpoint = folder / f'pretrain/iter_{pretraining_iterations(run)}.pth'
        found |= summary_of(*history(read(checkpoint)), BATCH['camvid'])
    for labels in LABELS:
        newest = sorted(folder.glob(f'{labels}-test/*/2*.json'))[-1]
        found['miou'][labels] = json.loads(newest.read_text())['mIoU']
    return found


def demo_results(run: Run, folder: Path) -> dict:
    """The scores that the demo prints, in percent, and the pre-training."""
    found: dict = dict(scores={})
    if run.epochs:
        checkpoint = folder / f'pretrain/iter_{pretraining_iterations(run)}.pth'
        found |= summary_of(*history(read(checkpoint)), BATCH['demo'])
        rows_of = read_scalars(folder / 'pretrain')
        errors = [row[ERROR] for row in rows_of if ERROR in row]
        found['held_out_error'] = round(errors[-1], 5) if errors else None
    for task in TASKS:
        if 'loss' in read_scalars(folder / task)[-1]:
            raise LookupError(f'{folder / task} was not evaluated')
        found['scores'] |= {key: round(x, 2) for key, x in measured(folder / task).items()}
    return found


def summary_of(losses: np.ndarray, times: np.ndarray, batch: int) -> dict:
    """Steps, rate and last loss of a pre-training, as :func:`history` gives it."""
    return dict(
        steps=len(losses),
        images_per_s=round(float(batch / times.mean()), 1),
        seconds=round(float(times.sum()), 1),
        last_loss=round(float(losses[-max(len(losses) // LAST, 1) :].mean()), 5),
    )


def read(checkpoint: Path) -> dict:
    """All that a training run's checkpoint has."""
    from mmengine.runner.checkpoint import CheckpointLoader

    import mirl_mm  # noqa: F401  (from here on MMEngine's loader runs no code that a file has)

    return CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')


def history(content: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Losses and seconds of every step, whichever process made it, as a checkpoint has them."""
    scalars = content['message_hub']['log_scalars']
    return scalars['train/loss'].data[0], scalars['train/time'].data[0]
