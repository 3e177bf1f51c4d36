"""``tools/test.py --tta``: several views of every test image, merged by the libraries' models."""

import numpy as np
from mmengine.config import Config

from mirl_mm.errors import UserError

from .checks import datasets_of

NMS = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
MERGERS = dict(  # by scope, for a config without tta_model
    mmdet=dict(type='DetTTAModel', tta_cfg=NMS),
    mmseg=dict(type='SegTTAModel'),
    mmpretrain=dict(type='AverageClsScoreTTA'),
)


def use_tta(cfg: Config) -> list[str]:
    """Test on the views of the config's ``tta_pipeline``, else on each image and its mirror.

    Returns messages for the log. UserError: predictions that nothing merges, or no view.
    """
    scope, kind, pipeline = cfg.get('default_scope'), cfg.model.get('type'), cfg.get('tta_pipeline')
    if scope not in MERGERS or (scope == 'mmpretrain' and kind != 'ImageClassifier'):
        accepted = 'accepted are detectors, segmentors and classifiers'
        raise UserError(f'--tta: {cfg.filename} has a {kind}, with nothing to merge; {accepted}')
    notes = leave_masks_out(cfg) if scope == 'mmdet' else []
    if pipeline is None:
        notes.append('--tta: the config has no tta_pipeline; views are the image and its mirror')
    for _, settings in datasets_of(cfg.test_dataloader.dataset, 'test_dataloader.dataset'):
        if pipeline is None:
            *steps, pack = settings['pipeline']
            if keys := pack.get('meta_keys'):
                pack['meta_keys'] = (*keys, 'flip', 'flip_direction')
            flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
            settings['pipeline'] = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
        else:
            settings['pipeline'] = pipeline
        check_views(settings['pipeline'], scope)
    cfg.test_dataloader.collate_fn = dict(type='pseudo_collate')  # views may differ in size
    if beside := cfg.get('data_preprocessor'):  # the Runner would give it to the merging model
        cfg.model.setdefault('data_preprocessor', beside)
    averaging = ('EMAHook', 'RawWeightsHook')  # would look for the model's names in the merger
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in hooks if hook['type'] not in averaging]
    cfg.model = dict(cfg.get('tta_model') or MERGERS[scope], module=cfg.model)
    return notes


def leave_masks_out(cfg: Config) -> list[str]:
    """Take masks out of model and metrics: mmdet merges boxes alone."""
    head = (roi_head := cfg.model.get('roi_head') or {}).get('mask_head')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for metric in metrics:
        if 'segm' in (names := np.atleast_1d(metric.get('metric') or []).tolist()):
            if not head:
                which = f'and the masks of {cfg.model.type} are no mask_head of roi_head'
                raise UserError(f'--tta merges boxes alone, {which}, which can be left out')
            metric['metric'] = [name for name in names if name != 'segm'] or ['bbox']
    if not head:
        return []
    roi_head.mask_head = roi_head.mask_roi_extractor = None
    return ['--tta: mmdet merges no masks, so boxes alone are made and tested']


def check_views(pipeline: list[dict], scope: str) -> None:
    views = [step.get('transforms') for step in pipeline if 'TestTimeAug' in str(step['type'])]
    if len(views) != 1 or not views[0] or not all(views[0]):
        needed = 'needed is one TestTimeAug in which no list of transforms is empty'
        raise UserError(f'--tta: tta_pipeline gives no view of an image; {needed}')
    if scope == 'mmdet' and 'RandomFlip' not in str(views):
        how = "add [dict(type='RandomFlip', prob=0.0)] to the transforms of TestTimeAug"
        raise UserError(f'--tta: boxes are merged by what RandomFlip notes; {how}')
