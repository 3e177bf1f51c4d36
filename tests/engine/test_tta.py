"""tools/test.py --tta: one plain view is the plain test, what several give, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image

from mirl_mm.demo.scene_set import SceneSet, write_scenes
from mirl_mm.engine.launch import build_runner, load_config, testing_config
from mirl_mm.engine.tta import use_tta
from mirl_mm.errors import UserError
from tests.class_folders import COLOURS, write_classes
from tests.processes import run_forked

testing_config.__test__ = False  # its name looks like a test's to pytest
ROOT = Path(__file__).parents[2]
CONFIGS = {
    'mmdet': 'mask-rcnn/vit-test_20it_scenes',
    'mmseg': 'upernet/vit-test_20it_scenes',
    'mmpretrain': 'finetune/vit-test_2e_classes',
}
METRICS = {'mmdet': 'coco/bbox_mAP', 'mmseg': 'mIoU', 'mmpretrain': 'accuracy/top1'}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> SceneSet:
    return write_scenes(tmp_path_factory.mktemp('scenes') / 'set', num_train=2, num_val=2)


@pytest.fixture(scope='module')
def data(scenes, tmp_path_factory) -> dict[str, dict]:
    """By scope, the options that name a test set of its own."""
    classes = tmp_path_factory.mktemp('classes')
    write_classes(classes / 'val', COLOURS, count=4)
    root = {'test_dataloader.dataset.data_root': f'{scenes.root}/'}
    return dict(
        mmdet=root | {'test_evaluator.ann_file': str(scenes.annotations('val'))},
        mmseg=root,
        mmpretrain={'test_dataloader.dataset.data_root': str(classes)},
    )


def config_of(scope: str) -> str:
    return str(ROOT / f'configs/{CONFIGS[scope]}.py')


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Random models, the detector's with scores that pass its thresholds."""
    folder, paths = tmp_path_factory.mktemp('models'), {}
    for scope in CONFIGS:
        cfg = load_config(config_of(scope), {'model.backbone.init_cfg': None})
        init_default_scope(scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        for name, weight in model.named_parameters():
            if 'fc_cls' in name or name in ('head.fc.weight', 'decode_head.conv_seg.weight'):
                torch.nn.init.normal_(weight, std=0.5)
        names = cfg.get('metainfo') or dict(classes=['blue', 'green', 'grey', 'red'])
        paths[scope] = str(folder / f'{scope}.pth')
        meta = dict(dataset_meta=dict(names))
        content = dict(state_dict=model.state_dict(), meta=meta)
        if scope == 'mmpretrain':  # trained with EMAHook: its raw weights
            raw = {f'module.{name}': x for name, x in model.state_dict().items()}
            content['ema_state_dict'] = raw | dict(steps=torch.tensor(3))
        torch.save(content, paths[scope])
    return paths


@pytest.fixture
def predicted(checkpoints, data, tmp_path):
    """Samples and metrics of a test, and its messages."""

    def test(scope: str, tta: bool = False, **changes) -> tuple[list, dict, list[str]]:
        given = data[scope] | {'experiment_name': f'{tmp_path.name}-{len(runs)}'} | changes
        cfg, notes = testing_config(
            config_of(scope), checkpoints[scope], str(tmp_path / f'{len(runs)}'), cfg_options=given
        )
        notes = use_tta(cfg) if tta else notes
        runner = build_runner(cfg)
        runs.append(runner)
        metrics = runner.test()
        with torch.no_grad():
            batches = [runner.model.test_step(batch) for batch in runner.test_dataloader]
        return [sample for batch in batches for sample in batch], metrics, notes

    runs = []
    return test


def views(scope: str, scales: list[int], flips: list[float]) -> dict:
    """A tta_pipeline as an option; scenes are 128 px."""
    steps = [[dict(type='RandomFlip', prob=p) for p in flips]]
    steps.insert(0, [dict(type='Resize', scale=(s, s), keep_ratio=True) for s in scales])
    if scope == 'mmseg':
        steps.append([dict(type='LoadAnnotations')])
    steps.append([dict(type='PackDetInputs' if scope == 'mmdet' else 'PackSegInputs')])
    load = dict(type='LoadImageFromFile')
    return dict(tta_pipeline=[load, dict(type='TestTimeAug', transforms=steps)])


def test_views_are_normalised_as_beside_the_model():
    """mmpretrain's own configs have it there, and the Runner would give it to the merging model."""
    cfg = load_config(config_of('mmpretrain'))
    beside = cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    use_tta(cfg)
    init_default_scope('mmpretrain')
    inner = MODELS.build(cfg.model).module.data_preprocessor
    assert inner.mean.flatten().tolist() == pytest.approx(beside.mean)
    assert inner.std.flatten().tolist() == pytest.approx(beside.std)


def test_one_plain_view_of_a_segmentor_is_the_plain_test(predicted):
    plain, metrics, _ = predicted('mmseg')
    same, found, notes = predicted('mmseg', tta=True, **views('mmseg', [128], [0.0]))
    assert notes == [] and metrics['mIoU'] > 0
    assert found['mIoU'] == metrics['mIoU'] and found['aAcc'] == metrics['aAcc']
    assert len(plain) == 2
    for one, other in zip(plain, same, strict=True):
        assert len(one.pred_sem_seg.data.unique()) > 1
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)


def test_one_plain_view_of_a_detector_is_the_plain_test_of_its_boxes(predicted):
    plain, metrics, _ = predicted('mmdet')
    same, found, notes = predicted('mmdet', tta=True, **views('mmdet', [128], [0.0]))
    assert notes == ['--tta: mmdet merges no masks, so boxes alone are made and tested']
    assert found == {name: x for name, x in metrics.items() if '/bbox_' in name}
    assert any('/segm_' in name for name in metrics) and len(plain) == 2
    for one, other in zip(plain, same, strict=True):
        one, other = one.pred_instances, other.pred_instances
        assert len(one) == len(other) > 20 and 'masks' in one and 'masks' not in other
        orders = [x.scores.argsort(descending=True, stable=True) for x in (one, other)]
        for key in ('bboxes', 'scores', 'labels'):
            pair = [x[key][order] for x, order in zip((one, other), orders, strict=True)]
            torch.testing.assert_close(*pair)


@pytest.mark.long
def test_views_of_a_segmentor_are_averaged(predicted):
    """Two scales and their mirrors: the mean of the four tests' probabilities."""
    total = 0
    for scale in (128, 160):
        for flip in (0.0, 1.0):
            samples, _, _ = predicted('mmseg', tta=True, **views('mmseg', [scale], [flip]))
            total += torch.stack([x.seg_logits.data.softmax(dim=0) for x in samples])
    merged, _, _ = predicted('mmseg', tta=True, **views('mmseg', [128, 160], [0.0, 1.0]))
    for sample, probabilities in zip(merged, total, strict=True):
        best = probabilities.topk(2, dim=0)
        clear = best.values[0] - best.values[1] > 1e-4
        assert clear.float().mean() > 0.9
        assert torch.equal(sample.pred_sem_seg.data[0][clear], best.indices[0][clear])


def test_without_a_pipeline_of_its_own_an_image_is_also_mirrored(predicted):
    """A classifier's mean of both; the config's collate_fn cannot hold lists of views."""
    merged, metrics, notes = predicted('mmpretrain', tta=True)
    assert notes == ['--tta: the config has no tta_pipeline; views are the image and its mirror']
    scores = []
    for prob in (0.0, 1.0):
        flip = [dict(type='RandomFlip', prob=prob)]
        pack = [dict(type='PackInputs')]
        steps = load_config(config_of('mmpretrain')).test_dataloader.dataset.pipeline[:-1]
        one = dict(tta_pipeline=[*steps, dict(type='TestTimeAug', transforms=[flip, pack])])
        scores.append([x.pred_score for x in predicted('mmpretrain', tta=True, **one)[0]])
    assert len(merged) == 16 and 0 <= metrics['accuracy/top1'] <= 100
    different = 0
    for sample, plain, mirror in zip(merged, *scores, strict=True):
        torch.testing.assert_close(sample.pred_score, (plain + mirror) / 2)
        different += not torch.allclose(plain, mirror)
    assert different > 8


def test_mirrored_boxes_come_back_to_their_places(predicted):
    """Boxes of the mirror alone are those of an image mirrored beforehand, mirrored."""
    (mirror, *_), _, _ = predicted('mmdet', tta=True, **views('mmdet', [128], [1.0]))
    both, metrics, notes = predicted('mmdet', tta=True)
    assert 'mirror' in notes[1] and 0 <= metrics['coco/bbox_mAP'] <= 1
    (plain, *_), _, _ = predicted('mmdet')
    boxes = torch.cat([plain.pred_instances.bboxes, mirror.pred_instances.bboxes])
    for box in both[0].pred_instances.bboxes:
        assert (boxes - box).abs().amax(dim=1).min() < 1e-3


@pytest.mark.parametrize(
    ('scope', 'changes', 'message'),
    [
        ('mmseg', views('mmseg', [], [0.0]), 'gives no view of an image; needed is one Tes'),
        ('mmseg', {'tta_pipeline.1.transforms': []}, 'gives no view of an image'),
        ('mmseg', dict(tta_pipeline=[]), 'gives no view of an image'),
        ('mmdet', 'no flip', r"RandomFlip notes; add \[dict\(type='RandomFlip', prob=0\.0\)\]"),
        ('mmdet', {'model.roi_head.mask_head': None}, 'alone, and the masks of MaskRCNN are no m'),
    ],
)
def test_what_is_refused(scope, changes, message):
    cfg = load_config(config_of(scope))
    cfg.merge_from_dict(views(scope, [128], [0.0]))
    if changes == 'no flip':
        del cfg.tta_pipeline[1].transforms[1]
    else:
        cfg.merge_from_dict(changes)
    with pytest.raises(UserError, match=message) as caught:
        use_tta(cfg)
    assert '\n' not in str(caught.value)


def test_pre_training_has_nothing_to_merge():
    cfg = load_config(str(ROOT / 'configs/mirl/vit-test_2e.py'))
    with pytest.raises(UserError, match=r'--tta: .*vit-test_2e\.py has a MIRL, with nothing to me'):
        use_tta(cfg)


def test_a_mask_with_a_wrong_value_is_named(predicted, scenes, tmp_path):
    """CheckLabelsHook looks into views as well."""
    file = next(scenes.masks('val').iterdir())
    kept = file.read_bytes()
    mask = np.array(Image.open(file))
    mask[0, 0] = 77
    Image.fromarray(mask).save(file)
    try:
        with pytest.raises(UserError, match=rf'{file.name}.*77'):
            predicted('mmseg', tta=True, check_files=False)
    finally:
        file.write_bytes(kept)


LARGE = [
    f'{task}/{path.stem}'
    for task in ('mask-rcnn', 'upernet')
    for path in sorted((ROOT / f'configs/{task}').glob('*.py'))
    if 'vit-test' not in path.stem
]


@pytest.mark.parametrize('config', LARGE)
def test_shipped_views(config):
    """The first is the plain test: its scale, no flip."""
    scale = {'tta_pipeline.1.transforms.0.1.scale': (640, 640)}  # as docs/dense.md says
    assert load_config(config, scale).tta_pipeline[1].transforms[0][1].scale == (640, 640)
    cfg = load_config(config)
    plain = next(step for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize')
    init_default_scope(cfg.default_scope)
    use_tta(cfg)
    assert {**cfg.model, 'module': None} == {**cfg.tta_model, 'module': None}
    *_, step = cfg.test_dataloader.dataset.pipeline
    assert step.transforms[0][0] == plain and step.transforms[1][0].prob == 0
    number = 8 if cfg.default_scope == 'mmseg' else 4
    assert len(LARGE) >= 11 and len(TRANSFORMS.build(step).subroutines) == number
    module = ConfigDict(type='DetTTAModel' if cfg.default_scope == 'mmdet' else 'SegTTAModel')
    assert cfg.tta_model.type == module.type


@pytest.mark.long
def test_the_tool_on_two_processes(checkpoints, data, tmp_path):
    """As tools/dist_test.sh starts it: the merger is inside of DDP."""
    given = [f'{key}={value}' for key, value in data['mmseg'].items()]
    arguments = (config_of('mmseg'), checkpoints['mmseg'], '--tta', '--cfg-options', *given)
    first, _ = run_forked('test.py', *arguments, cwd=tmp_path, processes=2)
    assert 'mIoU: ' in first and 'views are the image and its mirror' in first
