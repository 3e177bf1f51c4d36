"""The demo's second half: the fresh encoder in Mask R-CNN and UperNet, beside none at all."""

import contextlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from torchvision.ops import nms

from mirl_mm.apps.report.runs import read_scalars
from mirl_mm.datasets.decode import decode
from mirl_mm.engine.launch import build_runner, training_config
from mirl_mm.engine.machine import cores, in_processes
from mirl_mm.files import some_of
from mirl_mm.pictures.predictions import Instances, plot_predictions

from .scene_set import SceneSet
from .scenes import CLASSES, MASK_CLASSES, MASK_PALETTE, PALETTE, SPLITS

PRE_TRAINED, SCRATCH = 'MIRL pre-trained', 'from scratch'
AP = {'box AP50': 'coco/bbox_mAP_50', 'mask AP50': 'coco/segm_mAP_50'}  # 0 to 1
MIOU = 'mIoU'  # 0 to 100
Scores = Mapping[str, Mapping[str, float]]  # percent by start, then metric
Known = Mapping[str, Mapping[str, tuple[float, float]]]
SEEDS: Known = {  # of the demo as it is, least and most of three seeds: benchmarks/study
    PRE_TRAINED: {'box AP50': (51.1, 54.1), 'mask AP50': (44.5, 49.5), MIOU: (44.0, 44.7)},
    SCRATCH: {'box AP50': (42.7, 43.9), 'mask AP50': (36.4, 38.1), MIOU: (34.5, 41.0)},
}
ROOTS = [f'{loader}_dataloader.dataset.data_root' for loader in ('train', 'val', 'test')]


def run_transfer(
    configs: Mapping[str, str], encoder: str, scenes: SceneSet, work_dir: Path, cfg_options: dict
) -> tuple[dict[str, dict[str, float]], dict[str, Path], list[Path]]:
    """Fine-tune on the scenes from the encoder and from scratch, and evaluate on the held-out ones.

    Returns the scores by start, then metric, in percent; a page of predictions by task; and the
    four trainings' folders.
    """
    weights = dict(type='Pretrained', checkpoint=encoder, prefix='backbone.')
    starts = {PRE_TRAINED: weights, SCRATCH: None}
    scores, pages = {name: {} for name in starts}, {}
    folders = {(t, n): work_dir / f'{t}_{n.split()[0].lower()}' for t in configs for n in starts}

    def tune(rank: int, number: int) -> None:  # one of two processes gets one of either task
        for (task, name), folder in list(folders.items())[rank::number]:
            places = dict.fromkeys(ROOTS, f'{scenes.root}/')
            if task == 'detection':
                files = [f'{split}_evaluator.ann_file' for split in ('val', 'test')]
                places |= dict.fromkeys(files, str(scenes.annotations('val')))
            print(f'{task.capitalize()}, {name}:', flush=True)
            options = places | cfg_options | {'model.backbone.init_cfg': starts[name]}
            options['default_hooks.summary.show'] = False  # four would fill the screen
            cfg, notes = training_config(configs[task], str(folder), cfg_options=options)
            cfg.visualizer.name = str(folder)  # MMEngine keeps one per name, and its folder
            runner = build_runner(cfg, notes)
            # What is printed past the log goes to a file: pycocotools prints a table at every
            # metric. Logs and progress, built before, keep the standard output that they have.
            with (folder / 'printed.txt').open('w') as file, contextlib.redirect_stdout(file):
                runner.train()
            (folder / 'shown.pkl').write_bytes(pickle.dumps(predictions(runner)))

    in_processes(min(cores(), len(folders)), tune)
    for task in configs:
        columns = {}
        for name in starts:
            scores[name] |= measured(folder := folders[task, name])
            images, truth, columns[name] = pickle.loads((folder / 'shown.pkl').read_bytes())
        pages[task] = work_dir / f'{task}.png'
        named = (CLASSES, PALETTE) if task == 'detection' else (MASK_CLASSES, MASK_PALETTE)
        plot_predictions(images, {'ground truth': truth, **columns}, *named, pages[task])
    if 'segmentation' in configs:
        nothing = {MIOU: all_background(scenes)}
        scores['nothing found'] = dict.fromkeys(scores[SCRATCH], 0.0) | nothing
    return scores, pages, [*folders.values()]


def measured(work_dir: Path) -> dict[str, float]:
    """A run's last evaluation, in percent; of APs that mmdet leaves out, nothing was found: 0."""
    last = {key: value for row in read_scalars(work_dir) for key, value in row.items()}
    if MIOU in last:
        return {MIOU: last[MIOU]}
    return {name: 100 * last.get(key, 0.0) for name, key in AP.items()}


@torch.no_grad()
def predictions(runner: Runner) -> tuple[list[np.ndarray], list, list]:
    """Some held-out images [H, W, 3] of RGB, what is on them, and what the model finds."""
    model, loader = runner.model.eval(), runner.val_dataloader
    batch = some_of(loader.dataset, 6)
    samples = model.test_step(loader.collate_fn(batch))  # in the size of the files
    images = [decode(Path(each.img_path).read_bytes())[..., ::-1] for each in samples]
    if hasattr(samples[0], 'pred_sem_seg'):
        truth = [each.gt_sem_seg.data[0].numpy() for each in samples]
        return images, truth, [each.pred_sem_seg.data[0].numpy() for each in samples]
    truth, found = [], []
    for each in samples:
        there, seen = each.gt_instances, to_show(each.pred_instances).numpy()
        boxes = getattr(there.bboxes, 'tensor', there.bboxes).numpy()
        truth.append(Instances(there.labels.numpy(), boxes, there.masks.to_ndarray().astype(bool)))
        found.append(Instances(seen.labels, seen.bboxes, seen.masks, seen.scores))
    return images, truth, found


def to_show(found: InstanceData) -> InstanceData:
    """What a page shows of a detector's boxes: the certain ones, and one for an object."""
    sure = found[found.scores >= 0.3]
    return sure[nms(sure.bboxes, sure.scores, 0.5)]


def all_background(scenes: SceneSet) -> float:
    """The mIoU of a segmentor that finds nothing: the background's share over all classes."""
    masks = [np.asarray(Image.open(file)) for file in sorted(scenes.masks('val').glob('*.png'))]
    return 100 * float(np.mean([mask == 0 for mask in masks])) / len(MASK_CLASSES)


def told(scores: Scores, scenes: SceneSet, known: Known) -> str:
    """The table, and what it says in a sentence."""
    number = {part: len([*scenes.images(part).iterdir()]) for part in SPLITS}
    brackets = ' (in brackets: what three seeds gave)' if known else ''
    ours, none = (scores[name] for name in (PRE_TRAINED, SCRATCH))
    shown = [name for name in ('box AP50', MIOU) if name in ours]
    gains = ' and '.join(f'{ours[name] - none[name]:+.1f} points of {name}' for name in shown)
    return (
        f'On {number["val"]} held-out scenes, in percent{brackets}:\n{table(scores, known)}\n'
        f'Pre-training on {number["unlabelled"]} scenes without labels, then training on '
        f'{number["train"]} with labels, changes {gains} against the same training from scratch.'
    )


def table(scores: Scores, known: Known) -> str:
    """One line per start, one column per metric; behind a score the least and most known."""
    metrics = next(iter(scores.values()))
    lines = [' ' * 20 + ''.join(f'{metric:>9}{"":15}' for metric in metrics).rstrip()]
    for name, values in scores.items():
        line = f'  {name:<18}'
        for metric in metrics:
            ends = known.get(name, {}).get(metric)
            seen = ' ({:.1f} to {:.1f})'.format(*ends) if ends else ''
            line += f'{values[metric]:9.1f}{seen:<15}'
        lines.append(line.rstrip())
    return '\n'.join(lines)
