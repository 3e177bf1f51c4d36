"""What a trained detector, segmentor or classifier sees in any pictures, drawn by its library."""

from collections import Counter
from collections.abc import Iterator
from importlib import import_module

import numpy as np
from mmcv import bgr2rgb
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope

from mirl_mm.checkpoint.loading import check_whole
from mirl_mm.checkpoint.reading import open_checkpoint
from mirl_mm.datasets.decode import decode
from mirl_mm.engine.checks import channels_of
from mirl_mm.engine.launch import check_file, load_config
from mirl_mm.errors import UserError
from mirl_mm.pictures.panel import write_picture

from .reconstruct import assign_panels

Seen = tuple[np.ndarray, str]  # a drawing, RGB [H, W, 3], and words


def predict_pictures(
    config: str,
    checkpoint: str,
    pictures: str,
    out: str = 'predictions',
    score: float = 0.3,
    cfg_options: dict | None = None,
) -> Iterator[str]:
    """Draw the boxes and masks, the classes of the pixels, or the label of every picture.

    Yields a line on each: what was found and where it is drawn, or why it was skipped. The config
    is one of mmdet, mmseg or mmpretrain, and the checkpoint what its training wrote; ``score`` is
    the lowest that is drawn of a detector. For ``pictures`` and ``out`` see :func:`assign_panels`.
    """
    if not 0 <= score <= 1:
        raise UserError(f'score must be from 0 to 1, got {score}')
    cfg = load_config(config, cfg_options)
    check_file(checkpoint, 'checkpoint')
    scope, kind = cfg.get('default_scope'), (cfg.get('model') or {}).get('type')
    if scope not in PAINTERS or (scope == 'mmpretrain' and kind != 'ImageClassifier'):
        accepted = f'default_scope {scope!r}; accepted are {", ".join(PAINTERS)}'
        no = f'{config} is no detector, segmentor or classifier'
        raise UserError(f'{no}; its model is {kind} ({accepted})')
    if not cfg.get('test_dataloader'):
        raise UserError(f'{config} has no test_dataloader, whose pipeline is needed')
    if channels := channels_of(cfg.test_dataloader.dataset.get('pipeline')):
        raise UserError(f'{config} reads {channels} channels; predictions are drawn on RGB alone')
    panels = assign_panels(pictures, out, rows=1)
    init_default_scope(scope)
    module, name, draw = PAINTERS[scope]
    inferencer = getattr(import_module(module), name)(cfg, checkpoint)
    check_whole(inferencer.model, open_checkpoint(checkpoint).state, checkpoint)
    inferencer.show_progress = False
    drawn = 0
    for panel, (picture,) in panels.items():
        try:
            drawing, found = draw(inferencer, decode(picture.read_bytes()), score)
        except Exception as error:  # decoders raise whatever they like
            yield f'{picture}: skipped ({type(error).__name__}: {error})'
            continue
        write_picture(drawing, panel)
        yield f'{picture}: {found} -> {panel}'
        drawn += 1
    if not drawn:
        raise UserError(f'no picture of {pictures} can be read')


def instances(inferencer: BaseInferencer, image: np.ndarray, score: float) -> Seen:
    """Boxes and masks of at least a score, by mmdet's inferencer."""
    (sample,) = inferencer(image, return_datasamples=True)['predictions']
    found, names = sample.pred_instances, inferencer.model.dataset_meta['classes']
    counts = Counter(names[label] for label in found.labels[found.scores >= score].tolist())
    settings = dict(return_vis=True, pred_score_thr=score)
    (drawing,) = inferencer.visualize([bgr2rgb(image)], [sample], **settings)
    return drawing, ', '.join(f'{n} {name}' for name, n in counts.most_common()) or 'nothing'


def regions(inferencer: BaseInferencer, image: np.ndarray, score: float) -> Seen:
    """The class of every pixel, by mmseg's inferencer; the score plays no part."""
    sample = inferencer(image, return_datasamples=True)
    (drawing,) = inferencer.visualize([bgr2rgb(image)], [sample], return_vis=True, opacity=0.5)
    labels, names = sample.pred_sem_seg.data, inferencer.model.dataset_meta['classes']
    counts = Counter(labels.flatten().tolist()).most_common(3)
    shares = (f'{names[label]} {100 * n / labels.numel():.0f} %' for label, n in counts)
    return drawing, ', '.join(shares)


def label(inferencer: BaseInferencer, image: np.ndarray, score: float) -> Seen:
    """The most probable label, by mmpretrain's inferencer; the score plays no part."""
    from mmpretrain.visualization import UniversalVisualizer

    (data,) = inferencer.preprocess([image])
    (sample,) = inferencer.forward(data)  # calling it draws a progress bar
    best, visualizer = int(sample.pred_score.argmax()), UniversalVisualizer()
    name = inferencer.classes[best] if inferencer.classes else f'class {best}'
    visualizer.visualize_cls(bgr2rgb(image), sample, classes=inferencer.classes, draw_gt=False)
    return visualizer.get_image(), f'{name} {100 * float(sample.pred_score[best]):.0f} %'


PAINTERS = dict(  # by scope: inferencer, and what makes of BGR [H, W, 3] a drawing and words
    mmdet=('mmdet.apis', 'DetInferencer', instances),
    mmseg=('mmseg.apis', 'MMSegInferencer', regions),
    mmpretrain=('mmpretrain', 'ImageClassificationInferencer', label),
)
