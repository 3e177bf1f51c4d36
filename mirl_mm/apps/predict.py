"""What a trained detector, segmentor or classifier sees in arbitrary pictures.

The drawing is that of the libraries' own inferencers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope
from PIL import Image

from mirl_mm.checkpoint.loading import check_whole
from mirl_mm.checkpoint.reading import open_checkpoint
from mirl_mm.engine.launch import check_file, load_config
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder

from .reconstruct import assign_panels, find_pictures

Drawn = tuple[np.ndarray, str]  # RGB [H, W, 3], and what is on it in words


def predict_pictures(
    config: str,
    checkpoint: str,
    pictures: str,
    out: str = 'predictions',
    score: float = 0.3,
    cfg_options: Mapping[str, object] | None = None,
) -> Iterator[str]:
    """Draw the boxes and masks, the classes of the pixels, or the label of every picture.

    Args:
        config: path of a config under the scope of mmdet, mmseg or mmpretrain.
        checkpoint: what a training run of the config wrote.
        pictures: an image file or a folder of them, in any nesting.
        out: the folder of the drawings, or an image file for a single one.
        score: of a detector, the lowest score that is drawn.
        cfg_options: dotted key path to value.

    Yields:
        A line on every picture: what was found and where it is drawn, or why it was skipped.

    Raises:
        UserError, OSError: config, checkpoint or pictures cannot be used, or nothing be written.
    """
    if not 0 <= score <= 1:
        raise UserError(f'score must be from 0 to 1, got {score}')
    cfg = load_config(config, cfg_options)
    check_file(checkpoint, 'checkpoint')
    scope, kind = cfg.get('default_scope'), (cfg.get('model') or {}).get('type')
    if scope not in PAINTERS or (scope == 'mmpretrain' and kind != 'ImageClassifier'):
        raise UserError(
            f'{config} is no detector, segmentor or classifier; its model is {kind} (default_scope '
            f'{scope!r}; accepted are {", ".join(PAINTERS)})'
        )
    if not cfg.get('test_dataloader'):
        raise UserError(f'{config} has no test_dataloader, whose pipeline is needed')
    panels = assign_panels(find_pictures(pictures), Path(pictures), Path(out))
    if len(panels) == 1 and len(next(iter(panels.values()))) > 1:
        raise UserError(f'{out} is one image file, and {pictures} has several; give a folder')
    init_default_scope(scope)
    draw = PAINTERS[scope](cfg, checkpoint, score)
    for folder in sorted({panel.parent for panel in panels}):
        check_folder(folder)
    drawn = 0
    for panel, (picture,) in panels.items():
        try:
            image, found = draw(str(picture))
        except Exception as error:  # decoders raise whatever they like
            yield f'{picture}: skipped ({type(error).__name__}: {error})'
            continue
        Image.fromarray(image).save(panel)
        yield f'{picture}: {found} -> {panel}'
        drawn += 1
    if not drawn:
        raise UserError(f'no picture of {pictures} can be read')


def whole(inferencer: BaseInferencer, checkpoint: str) -> BaseInferencer:
    """The inferencer without its progress bar, if the checkpoint has all weights of its model."""
    check_whole(inferencer.model, open_checkpoint(checkpoint).state, checkpoint)
    inferencer.show_progress = False
    return inferencer


def detector(cfg: Config, checkpoint: str, score: float) -> Callable[[str], Drawn]:
    """Boxes and masks of at least a score, by mmdet's DetInferencer."""
    from mmdet.apis import DetInferencer

    inferencer = whole(DetInferencer(cfg, checkpoint), checkpoint)
    names = inferencer.model.dataset_meta['classes']

    def draw(picture: str) -> Drawn:
        result = inferencer(picture, return_vis=True, pred_score_thr=score)
        (found,), (image,) = result['predictions'], result['visualization']
        pairs = zip(found['labels'], found['scores'], strict=True)
        counts = Counter(names[label] for label, each in pairs if each >= score)
        return image, ', '.join(f'{n} {name}' for name, n in counts.most_common()) or 'nothing'

    return draw


def segmentor(cfg: Config, checkpoint: str, score: float) -> Callable[[str], Drawn]:
    """The class of every pixel, by mmseg's MMSegInferencer; the score plays no part."""
    from mmseg.apis import MMSegInferencer

    inferencer = whole(MMSegInferencer(cfg, checkpoint), checkpoint)
    names = inferencer.model.dataset_meta['classes']

    def draw(picture: str) -> Drawn:
        result = inferencer(picture, return_vis=True, opacity=0.5)
        labels = np.asarray(result['predictions'])
        counts = Counter(labels.ravel().tolist()).most_common(3)
        shares = (f'{names[label]} {100 * n / labels.size:.0f} %' for label, n in counts)
        return result['visualization'], ', '.join(shares)

    return draw


def classifier(cfg: Config, checkpoint: str, score: float) -> Callable[[str], Drawn]:
    """The most probable label, by mmpretrain's inferencer; the score plays no part."""
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    inferencer = whole(ImageClassificationInferencer(cfg, checkpoint), checkpoint)
    visualizer = UniversalVisualizer()

    def draw(picture: str) -> Drawn:
        (sample,) = inferencer([picture], return_datasamples=True)
        label = int(sample.pred_score.argmax())
        name = inferencer.classes[label] if inferencer.classes else f'class {label}'
        with Image.open(picture) as file:
            image = np.asarray(file.convert('RGB'))
        visualizer.visualize_cls(image, sample, classes=inferencer.classes, draw_gt=False)
        return visualizer.get_image(), f'{name} {100 * float(sample.pred_score[label]):.0f} %'

    return draw


PAINTERS = dict(mmdet=detector, mmseg=segmentor, mmpretrain=classifier)
