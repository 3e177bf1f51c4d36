"""What a trained detector, segmentor or classifier sees in any pictures: drawings and results."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from mmcv import bgr2rgb
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement as Sample
from PIL import Image
from torch.utils.data import DataLoader

from mirl_mm.checkpoint.loading import check_whole
from mirl_mm.checkpoint.reading import open_checkpoint
from mirl_mm.datasets.decode import decode_as
from mirl_mm.engine.checks import channels_of
from mirl_mm.engine.launch import check_file, load_config
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, complete_file
from mirl_mm.pictures.panel import write_picture

from .reconstruct import assign_panels, find_pictures

TASKS = dict(  # by scope: the inferencer, and how the name of its results ends
    mmdet=('mmdet.apis', 'DetInferencer', '.json'),
    mmseg=('mmseg.apis', 'MMSegInferencer', ''),
    mmpretrain=('mmpretrain', 'ImageClassificationInferencer', '.csv'),
)
COCO_NAMES = 80, 'person', 'toothbrush'  # how many, the first and the last
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def predict_pictures(
    config: str,
    checkpoint: str,
    pictures: str,
    out: str | None = 'predictions',
    score: float = 0.3,
    cfg_options: dict | None = None,
    results: str | None = None,
    batch_size: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[str]:
    """Draw the boxes and masks, the classes of the pixels, or the label of every picture.

    Yields a line on each: what was found and where it is drawn, or why it was skipped. The config
    is one of mmdet, mmseg or mmpretrain, and the checkpoint what its training wrote; ``score`` is
    the lowest that is drawn of a detector. For ``pictures`` and ``out`` (None: no drawings) see
    :func:`assign_panels`. ``results`` is for all that was found: COCO's .json of a detector, a .csv
    of labels, a folder of masks. ``progress`` hears how many pictures of how many are done.
    """
    if not 0 <= score <= 1:
        raise UserError(f'score must be from 0 to 1, got {score}')
    if batch_size < 1 or not (out or results):
        given = f'a batch size of {batch_size}, drawings: {out}, results: {results}'
        raise UserError(f'got {given}; accepted is a batch of at least 1, and one of the others')
    cfg = load_config(config, cfg_options)
    check_file(checkpoint, 'checkpoint')
    module, kind, ending = task_of(cfg, config, out, results)
    drawings, masks = pages(pictures, out), pages(pictures, None if ending else results)
    ids, found, drawn = image_ids(pictures), [], 0
    channels = channels_of(pipeline := cfg.test_dataloader.dataset.pipeline)
    for step in pipeline:  # pictures come read; the loaders of inferencers know RGB alone
        step.pop('channels', None)
    init_default_scope(cfg.default_scope)
    inferencer = getattr(import_module(module), kind)(cfg, checkpoint)
    check_whole(inferencer.model, open_checkpoint(checkpoint).state, checkpoint)
    meta = getattr(inferencer.model, 'dataset_meta', None)  # a classifier's are elsewhere
    names = meta['classes'] if meta else inferencer.classes
    progress(0, len(ids))
    reading = partial(read, inferencer.pipeline, bool(out), channels)
    every = predictions(inferencer, cfg, [*ids], batch_size, reading)
    for done, (path, image, sample) in enumerate(every, 1):
        progress(done, len(ids))
        if isinstance(sample, str):
            yield f'{path}: skipped ({sample})'
            continue
        if path in drawings:
            write_picture(draw(inferencer, image, sample, score), drawings[path])
        if path in masks:
            write_mask(sample, names, masks[path])
        elif results:
            found += rows(inferencer, sample, names, *ids[path])
        page = drawings.get(path, masks.get(path))
        yield f'{path}: {words(sample, names, score)}' + (f' -> {page}' if page else '')
        drawn += 1
    if not drawn:
        raise UserError(f'no picture of {pictures} can be read')
    if ending and results:
        write_rows(results, found)
        yield f'{len(found)} results of {drawn} pictures -> {results}'


def task_of(cfg: Config, config: str, out: str | None, results: str | None) -> tuple[str, ...]:
    """The row of TASKS; UserError where a config has none, or results have another ending."""
    scope, kind = cfg.get('default_scope'), (cfg.get('model') or {}).get('type')
    if scope not in TASKS or (scope == 'mmpretrain' and kind != 'ImageClassifier'):
        accepted = f'default_scope {scope!r}; accepted are {", ".join(TASKS)}'
        no = f'{config} is no detector, segmentor or classifier'
        raise UserError(f'{no}; its model is {kind} ({accepted})')
    if not (pipeline := (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline')):
        raise UserError(f'{config} has no test_dataloader with a pipeline, which is needed')
    if out and (channels := channels_of(pipeline)):
        how = 'results without drawings are made (--results PATH --no-pictures)'
        raise UserError(f'{config} reads {channels} channels, and drawn is on RGB alone; {how}')
    *_, ending = TASKS[scope]
    if results and Path(results).suffix.lower() != ending:
        accepted = f'a file ending in {ending}' if ending else 'a folder, whose name has no ending'
        raise UserError(f'--results {results}: accepted of {kind} is {accepted}')
    if results and ending:
        check_folder(Path(results).parent, '--results')
    if results and not ending and out and Path(results).absolute() == Path(out).absolute():
        raise UserError(f'--results and --out are both {out}: masks and drawings have equal names')
    return TASKS[scope]


def pages(pictures: str, out: str | None) -> dict[Path, Path]:
    panels = assign_panels(pictures, out, rows=1) if out else {}
    return {picture: page for page, (picture,) in panels.items()}


def image_ids(pictures: str) -> dict[Path, tuple[str, int]]:
    """By picture, its name in the folder, and the number that the name is (as in COCO, where all
    are numbers, and differ), or else its place from 1.
    """
    names = find_pictures(pictures)
    numbers = {path: int(path.stem) for path in names if path.stem.isdecimal()}
    if len({*numbers.values()}) < len(names):
        numbers = {path: i for i, path in enumerate(names, 1)}
    return {path: (str(name), numbers[path]) for path, name in names.items()}


def predictions(
    inferencer: BaseInferencer,
    cfg: Config,
    paths: list[Path],
    batch_size: int,
    reading: Callable[[list[Path]], list[tuple]],
) -> Iterator[tuple[Path, np.ndarray | None, Sample | str]]:
    """Pictures in order, BGR [H, W, 3], each with what is found, or why it cannot be read.

    Those of a batch that the model sees in other sizes go apart: none depends on the others.
    """
    divisor = getattr(inferencer.model.data_preprocessor, 'pad_size_divisor', 1)
    workers = min(cfg.test_dataloader.get('num_workers', 0), (len(paths) - 1) // batch_size)
    for batch in DataLoader(paths, batch_size, num_workers=workers, collate_fn=reading):
        groups, samples = {}, {}
        for path, _, data in batch:
            if not isinstance(data, str):
                size = (-(-side // divisor) for side in data['inputs'].shape[-2:])
                key = *size, cfg.default_scope == 'mmseg' and data['data_samples'].ori_shape
                groups.setdefault(key, {})[path] = data
        for group in groups.values():
            found = inferencer.forward(pseudo_collate([*group.values()]))
            samples |= zip(group, found, strict=True)
        for path, image, data in batch:
            yield path, image, samples.get(path, data)


def read(
    pipeline: Callable[[dict], dict], keep: bool, channels: int | None, paths: list[Path]
) -> list[tuple]:
    """Of pictures, path, BGR and what the pipeline makes of it; runs in workers of the loader."""
    found = []
    for path in paths:
        try:
            image = decode_as(path.read_bytes(), channels)
            data = pipeline(dict(img=image, img_shape=image.shape[:2]))
            found.append((path, image if keep else None, data))
        except Exception as error:  # decoders raise whatever they like
            found.append((path, None, f'{type(error).__name__}: {error}'))
    return found


def draw(inferencer: BaseInferencer, image: np.ndarray, sample: Sample, score: float) -> np.ndarray:
    """A picture, BGR, with what was found, by its library; RGB [H, W, 3]."""
    if 'pred_score' in sample:
        from mmpretrain.visualization import UniversalVisualizer

        visualizer, classes = UniversalVisualizer(), inferencer.classes
        visualizer.visualize_cls(bgr2rgb(image), sample, classes=classes, draw_gt=False)
        return visualizer.get_image()
    settings = dict(opacity=0.5) if 'pred_sem_seg' in sample else dict(pred_score_thr=score)
    return inferencer.visualize([bgr2rgb(image)], [sample], return_vis=True, **settings)[0]


def words(sample: Sample, names: Sequence[str] | None, score: float) -> str:
    """Boxes of at least a score by class, the three classes with most pixels, or the label."""
    if 'pred_score' in sample:
        best = best_labels(sample, names)[0]
        return f'{best["name"]} {100 * best["score"]:.0f} %'
    if 'pred_sem_seg' in sample:
        counts = sample.pred_sem_seg.data.flatten().bincount()
        most = [(names[i], counts[i] / counts.sum()) for i in counts.argsort(descending=True)[:3]]
        return ', '.join(f'{name} {100 * share:.0f} %' for name, share in most if share)
    found = sample.pred_instances
    counts = Counter(names[label] for label in found.labels[found.scores >= score].tolist())
    return ', '.join(f'{n} {name}' for name, n in counts.most_common()) or 'nothing'


def best_labels(sample: Sample, names: Sequence[str] | None) -> list[dict]:
    """The five best of a classifier."""
    scores, labels = (x.tolist() for x in sample.pred_score.topk(min(5, len(sample.pred_score))))
    said = [names[label] if names else f'class {label}' for label in labels]
    found = enumerate(zip(labels, said, scores, strict=True), 1)
    return [dict(rank=rank, label=i, name=name, score=score) for rank, (i, name, score) in found]


def rows(
    inferencer: BaseInferencer, sample: Sample, names: Sequence[str], file: str, number: int
) -> list[dict]:
    """A picture's five best labels, or its boxes as COCO's results.

    Classes are counted from 1, but COCO's own 80 have COCO's numbers.
    """
    if 'pred_score' in sample:
        return [dict(file=file) | row for row in best_labels(sample, names)]
    found = inferencer.pred2dict(sample)
    boxes = [[x, y, right - x, bottom - y] for x, y, right, bottom in found['bboxes']]
    values = dict(score=found['scores'], bbox=boxes)
    values |= dict(segmentation=found['masks']) if 'masks' in found else {}
    image = dict(image_id=number, file_name=file)
    coco = (len(names), names[0], names[-1]) == COCO_NAMES
    ids = COCO_IDS if coco else range(1, len(names) + 1)
    classes = [dict(category_id=ids[label], category=names[label]) for label in found['labels']]
    columns = zip(classes, *values.values(), strict=True)
    return [image | one | dict(zip(values, row, strict=True)) for one, *row in columns]


def write_rows(path: str, found: list[dict]) -> None:
    with complete_file(path) as part, part.open('w', newline='') as file:
        if path.lower().endswith('.json'):
            json.dump(found, file)
        else:
            table = csv.DictWriter(file, found[0], lineterminator='\n')
            table.writeheader()
            table.writerows(found)


def write_mask(sample: Sample, names: Sequence[str], path: Path) -> None:
    """A PNG of places in the list of classes; of 16 bits for more than 256."""
    kind = np.uint8 if len(names) <= 256 else np.uint16
    with complete_file(path) as part:
        Image.fromarray(sample.pred_sem_seg.data[0].cpu().numpy().astype(kind)).save(part, 'PNG')
