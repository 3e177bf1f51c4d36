"""What a run consists of: commands in order, each with the file that it leaves when it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import rows
from .grid import CAMVID_IMAGES, FEW, LABELS, SCRATCH, SCRATCH_LONG, UNTRAINED, WARM_UP, Run

HERE, PACKAGE = 'benchmarks/study', 'benchmarks.study'
UPERNET = f'{HERE}/upernet_camvid.py'
TINY, CAMVID = 'tiny_imagenet_100', 'camvid'  # below the data folder
ITERATIONS, LONG = 600, 4600  # of UperNet: 0.58 s each; 1,720 of pre-training take 1.35 s each
BATCH, WIDTH = dict(tiny=64, camvid=64), dict(tiny=64, camvid=96)
LAST = 10  # the last loss is the mean over the last tenth of the steps
CPU = 'cpu.json'  # seconds that the stages' processes used, in the run's folder
SPEC = 'run.json'  # what the folder was begun as


class Place(NamedTuple):
    """Where runs work, and what they read."""

    work: Path
    data: Path

    def of(self, run: Run) -> Path:
        return self.work / run.name


class Stage(NamedTuple):
    """One process of a run."""

    name: str
    command: list[str]  # behind the interpreter, in the root of the checkout
    made: str  # what lies in the run's folder when the stage is done, as a glob


def stages(run: Run, place: Place) -> list[Stage]:
    return (tiny if run.grid == 'tiny' else camvid)(run, place)


def unfinished(run: Run, place: Place) -> list[Stage]:
    """The stages that are left, in order."""
    found = stages(run, place)
    done = [any(place.of(run).glob(stage.made)) for stage in found]
    return found[done.index(False) :] if False in done else []


def tiny(run: Run, place: Place) -> list[Stage]:
    """Train, probe every block with images, then with scenes and the held-out error."""
    folder, images = place.of(run), place.data / TINY
    config, checkpoint = config_of(run), f'train/epoch_{run.epochs}.pth'
    options = written(options_of(run, place))
    if run.method == UNTRAINED:
        start = ['-m', f'{PACKAGE}.draw', config, '--out', folder / checkpoint, *options]
    else:
        start = train(config, folder / 'train', options)
    probe = ['tools/probe_depth.py', config, folder / checkpoint, '--labels', run.name]
    probe += ['--train', images / 'train', '--val', images / 'val', '--workers', '0']
    measure = ['-m', f'{PACKAGE}.measure', config, folder / checkpoint]
    measure += ['--images', images / 'val', '--scenes', place.data / CAMVID]
    return [
        stage('train', start, checkpoint),
        stage('probe', [*probe, '--out', folder / 'probe', *options], 'probe/depth.png'),
        stage('measure', [*measure, '--out', folder / 'measured.json', *options], 'measured.json'),
    ]


def camvid(run: Run, place: Place) -> list[Stage]:
    """Pre-train where the run does, then UperNet with all labels and with few, each tested."""
    folder, config = place.of(run), UPERNET
    start: dict[str, object] = {'model.backbone.init_cfg': None}
    found, length = [], length_of(run)
    if run.epochs:
        iterations = pretraining_iterations(run)
        options = written(options_of(run, place))
        command = train(config_of(run), folder / 'pretrain', options)
        found.append(stage('pretrain', command, f'pretrain/iter_{iterations}.pth'))
        start = {'model.backbone.init_cfg.checkpoint': folder / 'pretrain/encoder.pth'}
    for labels in LABELS:
        settings = written(upernet_options(run, place, labels, length) | start)
        checkpoint = f'{labels}/iter_{length}.pth'
        test = [
            'tools/test.py',
            config,
            folder / checkpoint,
            '--work-dir',
            folder / f'{labels}-test',
        ]
        found += [
            stage(labels, train(config, folder / labels, settings), checkpoint),
            stage(f'{labels}-test', [*test, *settings], f'{labels}-test/*/2*.json'),
        ]
    return found


def stage(name: str, command: list[object], made: str) -> Stage:
    return Stage(name, [str(word) for word in command], made)


def train(config: str, work_dir: Path, options: list[str]) -> list[object]:
    return ['tools/train.py', config, '--work-dir', work_dir, '--resume', 'auto', *options]


def config_of(run: Run) -> str:
    """The config that it is trained or drawn by."""
    if run.method in (SCRATCH, SCRATCH_LONG):
        return UPERNET
    method = 'mirl' if run.method == UNTRAINED else run.method
    source = '_camvid-tiny' if run.data == 'camvid+tiny' else f'_{run.grid}'
    return f'{HERE}/{method}{source}.py'


def options_of(run: Run, place: Place) -> dict[str, object]:
    """What the grid sets in that config, by dotted key."""
    options: dict[str, object] = {'randomness.seed': run.seed}
    if run.grid == 'tiny':
        options['model.backbone.arch.num_layers'] = run.depth
    if not run.epochs:
        return options
    if run.grid == 'tiny':
        options['train_dataloader.dataset.data_root'] = f'{place.data / TINY}/'
        end, warm_up = run.epochs, round(run.epochs * WARM_UP, 4)
        options['train_cfg.max_epochs'] = end
    else:
        roots = ['', '.datasets.0.dataset', '.datasets.1']
        which = roots[1:] if run.data == 'camvid+tiny' else roots[:1]
        for root, name in zip(which, [CAMVID, TINY], strict=False):
            options[f'train_dataloader.dataset{root}.data_root'] = f'{place.data / name}/'
        end = pretraining_iterations(run)
        warm_up = round(end * WARM_UP)
        options['train_cfg.max_iters'] = end
    return options | {
        'param_scheduler.0.end': warm_up,
        'param_scheduler.1.begin': warm_up,
        'param_scheduler.1.end': end,
        'param_scheduler.1.T_max': end - warm_up,
        'optim_wrapper.optimizer.lr': run.rate,
    }


def length_of(run: Run) -> int:
    """Iterations of UperNet."""
    return LONG if run.method == SCRATCH_LONG else ITERATIONS


def pretraining_iterations(run: Run) -> int:
    return run.epochs * CAMVID_IMAGES // BATCH['camvid']


def upernet_options(run: Run, place: Place, labels: str, length: int) -> dict[str, object]:
    """A UperNet's: its seed, its labels and its length."""
    root = f'{place.data / CAMVID}/'
    options: dict[str, object] = {
        'randomness.seed': run.seed,
        'train_dataloader.dataset.data_root': root,
        'test_dataloader.dataset.data_root': root,
        'train_cfg.max_iters': length,
        'param_scheduler.1.end': length,
    }
    if labels == 'few':
        options['train_dataloader.dataset.indices'] = list(range(0, CAMVID_IMAGES, FEW))
    return options


def written(options: Mapping[str, object]) -> list[str]:
    """As --cfg-options takes them."""
    return ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in options.items())]


def spec(run: Run) -> dict:
    """All that a run is by the grid, whatever the folders."""
    options = options_of(run, Place(Path(), Path())).items()
    given = {key: value for key, value in options if not key.endswith('data_root')}
    what = dict(run=run.name, width=WIDTH[run.grid], batch=BATCH[run.grid], **run._asdict())
    return what | dict(config=config_of(run), options=given)


def row_of(run: Run, place: Place) -> dict:
    """A finished run's row: what was run, where, and what it came to."""
    folder = place.of(run)
    results = (tiny_results if run.grid == 'tiny' else camvid_results)(run, folder)
    return rows.form(spec(run), results | dict(cpu_seconds=json.loads((folder / CPU).read_text())))


def tiny_results(run: Run, folder: Path) -> dict:
    blocks = json.loads((folder / 'probe/depth.json').read_text())['rows']
    return json.loads((folder / 'measured.json').read_text()) | dict(
        knn20=[round(block['knn'], 2) for block in blocks],
        ridge=[round(block['linear'], 2) for block in blocks],
    )


def camvid_results(run: Run, folder: Path) -> dict:
    """mIoU in percent by labels, and the pre-training."""
    found: dict = dict(miou={}, transfer=dict(config=UPERNET, iterations=length_of(run)))
    if run.epochs:
        checkpoint = folder / f'pretrain/iter_{pretraining_iterations(run)}.pth'
        found |= summary_of(*history(read(checkpoint)), BATCH['camvid'])
    for labels in LABELS:
        newest = sorted(folder.glob(f'{labels}-test/*/2*.json'))[-1]
        found['miou'][labels] = json.loads(newest.read_text())['mIoU']
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
