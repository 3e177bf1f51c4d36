"""What a run consists of: commands in order, each with the file that it leaves when it is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .grid import (
    CAMVID_IMAGES,
    CHANGES,
    DEMO_IMAGES,
    FEW,
    LABELS,
    PART,
    SCRATCH,
    SCRATCH_LONG,
    UNTRAINED,
    WARM_UP,
    Run,
)

HERE, PACKAGE = 'benchmarks/study', 'benchmarks.study'
UPERNET = f'{HERE}/upernet_camvid.py'
TINY, CAMVID, SCENES = 'tiny_imagenet_100', 'camvid', 'scenes'  # below the data folder
DEMO = 'configs/demo'
TASKS = dict(
    detection=f'{DEMO}/mask-rcnn_12-blocks.py', segmentation=f'{DEMO}/upernet_12-blocks.py'
)
TUNED = 800  # iterations of either task
ITERATIONS, LONG = 600, 4600  # of UperNet: 0.58 s each; 1,720 of pre-training take 1.35 s each
BATCH = dict(tiny=64, camvid=64, ablation=64, demo=32)
WIDTH = dict(tiny=64, camvid=96, ablation=64, demo=64)


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
    return dict(camvid=camvid, demo=demo).get(run.grid, tiny)(run, place)


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
    if run.grid == 'ablation':
        probe, measure = ([*command, '--every', PART] for command in (probe, measure))
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


def demo(run: Run, place: Place) -> list[Stage]:
    """Pre-train where the run does, then what the demo does with the encoder."""
    folder, found = place.of(run), []
    start: dict[str, object] = {'model.backbone.init_cfg': None}
    if run.epochs:
        command = train(config_of(run), folder / 'pretrain', written(options_of(run, place)))
        made = f'pretrain/iter_{pretraining_iterations(run)}.pth'
        found.append(stage('pretrain', command, made))
        start = {'model.backbone.init_cfg.checkpoint': folder / 'pretrain/encoder.pth'}
    scenes = place.data / SCENES
    for task, config in TASKS.items():
        options = {'randomness.seed': run.seed} | start
        for split in ('train', 'val', 'test'):
            options[f'{split}_dataloader.dataset.data_root'] = f'{scenes}/'
        if task == 'detection':
            file = scenes / 'annotations/instances_val.json'
            options |= {f'{split}_evaluator.ann_file': file for split in ('val', 'test')}
        command = train(config, folder / task, written(options))
        found.append(stage(task, command, f'{task}/iter_{TUNED}.pth'))
    return found


def stage(name: str, command: list[object], made: str) -> Stage:
    return Stage(name, [str(word) for word in command], made)


def train(config: str, work_dir: Path, options: list[str]) -> list[object]:
    return ['tools/train.py', config, '--work-dir', work_dir, '--resume', 'auto', *options]


def config_of(run: Run) -> str:
    """The config that it is trained or drawn by."""
    if run.grid == 'demo':
        own = dict(mirl=f'{DEMO}/mirl_12-blocks.py', mae=f'{HERE}/mae_demo.py')
        return own.get(run.method, TASKS['segmentation'])
    if run.method in (SCRATCH, SCRATCH_LONG):
        return UPERNET
    method = 'mirl' if run.method == UNTRAINED else run.method
    source = '_camvid-tiny' if run.data == 'camvid+tiny' else '_camvid'
    source = source if run.grid == 'camvid' else '_tiny'
    return f'{HERE}/{method}{source}.py'


def options_of(run: Run, place: Place) -> dict[str, object]:
    """What the grid sets in that config, by dotted key."""
    options: dict[str, object] = {'randomness.seed': run.seed}
    if run.grid not in ('camvid', 'demo'):
        options['model.backbone.arch.num_layers'] = run.depth
    options |= CHANGES[run.change]
    if not run.epochs:
        return options
    if run.grid == 'demo':
        return options | demo_options(run, place)
    if run.grid != 'camvid':
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


def demo_options(run: Run, place: Place) -> dict[str, object]:
    """A pre-training's of the demo: its scenes and its length, evaluated once, at the end."""
    splits = ('train', 'val', 'test') if run.method == 'mirl' else ('train',)
    roots = {f'{split}_dataloader.dataset.data_root': f'{place.data / SCENES}/' for split in splits}
    end = pretraining_iterations(run)
    return roots | {
        'train_cfg.max_iters': end,
        'train_cfg.val_interval': end,
        'param_scheduler.1.end': end,
        'param_scheduler.1.T_max': end - 100,
    }


def length_of(run: Run) -> int:
    """Iterations of UperNet."""
    return LONG if run.method == SCRATCH_LONG else ITERATIONS


def pretraining_iterations(run: Run) -> int:
    images = DEMO_IMAGES if run.grid == 'demo' else CAMVID_IMAGES
    return run.epochs * images // BATCH[run.grid]


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


def what(run: Run) -> dict:
    """What a row is of: rows of other settings are not compared."""
    sizes = dict(run=run.name, width=WIDTH[run.grid], batch=BATCH[run.grid])
    if run.grid == 'camvid':
        sizes['transfer'] = dict(config=UPERNET, iterations=length_of(run))
    if run.grid == 'demo':
        sizes['transfer'] = dict(iterations=TUNED)
    found = sizes | run._asdict()
    return found if run.change else {key: x for key, x in found.items() if key != 'change'}


def spec(run: Run) -> dict:
    """All that a run is by the grid, whatever the folders."""
    options = options_of(run, Place(Path(), Path())).items()
    given = {key: value for key, value in options if not key.endswith('data_root')}
    return what(run) | dict(config=config_of(run), options=given)
