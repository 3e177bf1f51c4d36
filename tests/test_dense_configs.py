"""The configs of detectors and segmentors: recipes, widths, groups, data."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from mirl_mm.demo.scene_set import write_bands, write_scenes
from mirl_mm.demo.scenes import CLASSES, MASK_CLASSES, MASK_PALETTE, PALETTE
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import set_precision
from mirl_mm.models.archs import ARCHS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    p for task in ('mask-rcnn', 'upernet') for p in (ROOT / f'configs/{task}').glob('*.py')
)
LARGE = [path for path in CONFIGS if 'vit-test' not in path.name]
DINOV2 = [path for path in CONFIGS if 'dinov2' in path.name]
LSJ = [path for path in LARGE if 'lsj-100e' in path.name]
# arch: layer decay, drop path. Those of b12 are published; s54, b24 and b48 are ours
LSJ_BY_ARCH = dict(b12=(0.7, 0.1), b24=(0.8, 0.2), s54=(0.92, 0.1), b48=(0.9, 0.4), l24=(0.8, 0.4))
ADE20K = {  # file: the same two, size
    'b12_160k_ade20k-512': (0.65, 0.1, 512),
    'b24_160k_ade20k-512': (0.8, 0.2, 512),
    's54_160k_ade20k-512': (0.9, 0.1, 512),
    'b48_160k_ade20k-512': (0.9, 0.2, 512),
    'l24_mae-160k_ade20k-512': (0.65, 0.2, 512),
    'b12_dinov2-160k_ade20k-518': (0.65, 0.1, 518),
    'l24_dinov2-160k_ade20k-518': (0.8, 0.2, 518),
}
OTHERS = {
    'mae-l': 'l24',
    'dinov2-b': 'b12',
    'dinov2-l': 'l24',
    'dinov2-test': 'test',
}  # weights: arch
WHOLE = {  # of these, all loaders read the data
    'coco', 'coco_lsj-100e', 'coco_multi-scale-1x', 'ade20k_160k', 'instances_scenes',
    'masks_scenes', 'ade20k_160k-518px',
}  # fmt: skip
QUARTERS = {  # the last block of each
    arch: tuple(math.ceil(settings['num_layers'] * q / 4) - 1 for q in (1, 2, 3, 4))
    for arch, settings in ARCHS.items()
}


def name(path: Path) -> str:
    return f'{path.parent.name}/{path.stem}'


def config(path: Path | str) -> Config:
    cfg = load_config(str(ROOT / 'configs' / path))
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_the_lists_are_not_empty():
    of_archs = {path.name for path in CONFIGS}
    assert {f'vit-{arch}_lsj-100e_coco.py' for arch in LSJ_BY_ARCH if arch != 'l24'} < of_archs
    assert {f'vit-{name}.py' for name in ADE20K} < of_archs
    assert len(CONFIGS) == len(LARGE) + 5 >= 21 and len(LSJ) >= 8 and len(DINOV2) == 6
    assert (QUARTERS['s54'], QUARTERS['b48']) == ((13, 26, 40, 53), (11, 23, 35, 47))
    assert (QUARTERS['b12'], QUARTERS['b24']) == ((2, 5, 8, 11), (5, 11, 17, 23))


@pytest.mark.parametrize('path', LSJ, ids=name)
def test_the_recipe_of_vitdet(path):
    cfg = config(path)
    k = cfg.optim_wrapper.get('accumulative_counts', 1)
    assert cfg.train_dataloader.batch_size * 8 * k == 64
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True
    )
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.end, warm_up.start_factor) == (250 * k, 1e-3)
    assert cfg.train_cfg == dict(type='ExactIterLoop', max_iters=184375 * k, val_interval=5000 * k)
    assert cfg.default_hooks.checkpoint.interval == 5000 * k
    assert (steps.milestones, steps.gamma) == ([163889 * k, 177546 * k], 0.1)
    shares = [milestone / steps.end for milestone in steps.milestones]
    assert shares == [pytest.approx(0.889, abs=5e-4), pytest.approx(0.963, abs=5e-4)]
    backbone = cfg.model.backbone
    found = (cfg.optim_wrapper.paramwise_cfg.layer_decay_rate, backbone.drop_path_rate)
    assert path.name.startswith(f'vit-{backbone.arch}_')
    assert found == LSJ_BY_ARCH.get(backbone.arch, found)  # of ours
    dinov2 = path in DINOV2
    assert backbone.window_size == (37 if dinov2 else 14)
    assert build(cfg).backbone.global_indices == list(QUARTERS[backbone.arch])
    flip, resize, crop = cfg.train_dataloader.dataset.pipeline[2:5]
    assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    assert (resize.scale, resize.ratio_range) == ((1024, 1024), (0.1, 2.0))
    assert crop.crop_size == (1024, 1024)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1024, 1024)
    assert cfg.model.data_preprocessor.pad_size_divisor == (1036 if dinov2 else 1024)


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'rcnn' in path.parent.name], ids=name)
def test_heads_are_told_the_strides_of_the_maps(path):
    """Of an image of the size that the preprocessor makes, which every map covers exactly."""
    cfg = config(path)
    model, size = build(cfg).eval(), cfg.model.data_preprocessor.pad_size_divisor
    with torch.device('meta'):
        maps = model.extract_feat(torch.zeros(1, 3, size, size))
    extractors = [model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor]
    extractors = [each[0] if hasattr(each, '__len__') else each for each in extractors]
    told = [stride for stride, _ in model.rpn_head.prior_generator.strides]
    for i, stride in enumerate(told):
        assert maps[i].shape[-1] == math.ceil(size / stride)
        assert i > 3 or all(each.featmap_strides[i] == stride for each in extractors)
    assert told[2] == model.backbone.patch_size
    generator = type(model.rpn_head.prior_generator)(**plain(cfg.model.rpn_head.anchor_generator))
    anchors = generator.grid_priors([tuple(m.shape[-2:]) for m in maps], device='cpu')
    for stride, of_level, usual in zip(told, anchors, (32, 64, 128, 256, 512), strict=True):
        widths, heights = (of_level[:, 2:] - of_level[:, :2]).T
        torch.testing.assert_close((widths * heights).sqrt(), torch.full_like(widths, usual))
        middles = (of_level[:, :2] + of_level[:, 2:])[1::3, 0].unique() / 2
        torch.testing.assert_close(middles.diff(), torch.full_like(middles[1:], stride))
        assert size - stride <= middles.max() + stride / 2 <= size + stride
    for extractor in extractors:
        assert extractor.finest_scale == 56 * extractor.featmap_strides[0] / 4
        found = [layer.spatial_scale for layer in extractor.roi_layers]
        assert found == [1 / stride for stride in told[:4]]


def plain(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key != 'type'}


@pytest.mark.parametrize('path', DINOV2, ids=name)
def test_the_form_of_dinov2(path):
    backbone = build(config(path)).backbone
    assert backbone.patch_size == 14
    grid = (5, 5) if 'test' in path.name else (37, 37)
    assert tuple(backbone.patch_resolution) == grid
    assert all(layer.attn.gamma1.weight.ndim == 1 for layer in backbone.layers)
    assert all(layer.attn.qkv.bias is not None for layer in backbone.layers)
    option = '--cfg-options model.backbone.num_registers=4'
    for base in ('mask-rcnn', 'upernet'):
        assert option in (ROOT / f'configs/_base_/{base}_dinov2.py').read_text()
    cfg = load_config(str(path), {'model.backbone.num_registers': 4})
    assert build(cfg).backbone.register_tokens.shape == (1, 4, backbone.embed_dims)


def test_the_shorter_recipe():
    cfg = config('mask-rcnn/vit-b12_1x_coco.py')
    assert cfg.train_dataloader.batch_size * 8 == 32
    assert cfg.train_cfg.max_iters == 12 * math.ceil(117266 / 32)
    assert [m / cfg.train_cfg.max_iters * 12 for m in cfg.param_scheduler[1].milestones] == [9, 11]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (3e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.75
    assert cfg.model.backbone.drop_path_rate == 0.2


@pytest.mark.parametrize('file', ADE20K)
def test_the_recipe_of_upernet(file):
    cfg, (decay, drop, size) = config(f'upernet/vit-{file}.py'), ADE20K[file]
    assert cfg.train_dataloader.batch_size * 8 == 16
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.dtype == 'bfloat16'
    rate = 4e-4 if 'mae' in file else 1e-4
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=rate, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    )
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.end, poly.begin, poly.end) == (1500, 1500, 160000)
    assert (poly.power, poly.eta_min) == (1.0, 0.0)
    backbone = cfg.model.backbone
    found = (cfg.optim_wrapper.paramwise_cfg.layer_decay_rate, backbone.drop_path_rate)
    assert found == (decay, drop)
    taps = (7, 11, 15, 23) if 'mae' in file else QUARTERS[backbone.arch]
    assert tuple(backbone.out_indices) == taps
    stride = {512: 341, 518: 345}[size]
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(size,) * 2, stride=(stride,) * 2)
    assert cfg.model.data_preprocessor.size == (size, size)
    resize, crop = cfg.train_dataloader.dataset.pipeline[2:4]
    assert (resize.scale, crop.crop_size) == ((4 * size, size), (size, size))
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (4 * size, size)
    assert cfg.model.auxiliary_head.in_index == 2
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.sync_bn == 'torch' and cfg.model.decode_head.norm_cfg.type == 'BN'


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_widths_fit_each_other(path):
    """One forward of backbone, neck and every head on meta tensors, and the encoder's size."""
    cfg = config(path)
    model = build(cfg).eval()
    size = cfg.model.backbone.img_size
    with torch.device('meta'):
        channels = cfg.model.backbone.get('in_channels', 3)
        maps = model.extract_feat(torch.zeros(2, channels, size, size))
        strides = [s * model.backbone.patch_size / 16 for s in (4, 8, 16, 32, 64)][: len(maps)]
        assert [m.shape[-1] for m in maps] == [math.ceil(size / stride) for stride in strides]
        if cfg.default_scope == 'mmseg':
            out, side = model.decode_head(maps), maps[0].shape[-1]
            assert out.shape == (2, cfg.model.decode_head.num_classes, side, side)
            assert model.auxiliary_head(maps).shape[1] == out.shape[1]
        else:
            model.rpn_head(maps)
            heads = model.roi_head.bbox_head
            for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
                scores, _ = head(torch.zeros(4, maps[0].shape[1], 7, 7))
                assert scores.shape == (4, head.num_classes + 1)
            heads = model.roi_head.mask_head
            for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
                masks = head(torch.zeros(4, maps[0].shape[1], 14, 14))
                assert masks.shape == (4, head.num_classes, 28, 28)
    assert model.backbone.num_layers == ARCHS[cfg.model.backbone.arch]['num_layers']
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('path', LARGE, ids=name)
def test_groups(path):
    """The first layer's rate, and what is not decayed."""
    cfg = config(path)
    model = build(cfg)
    set_precision(cfg, amp=False, accelerator=False, bfloat16=False)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert len(found) == len(list(model.parameters()))
    lr, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    depth = model.backbone.num_layers
    first = lr * cfg.optim_wrapper.paramwise_cfg.layer_decay_rate ** (depth + 1)
    biases = decay if 'lsj' in path.name else 0  # ViTDet decays biases
    rate = cfg.optim_wrapper.paramwise_cfg.layer_decay_rate
    for parameter, expected in {
        'backbone.pos_embed': (first, 0),
        'backbone.cls_token': (first, 0),
        'backbone.patch_embed.projection.weight': (first, decay),
        'backbone.layers.0.attn.qkv.weight': (first / rate, decay),
        f'backbone.layers.{depth - 1}.ln1.weight': (lr * rate, 0),
        f'backbone.layers.{depth - 1}.attn.qkv.bias': (lr * rate, biases),
        'neck.levels.0.0.weight': (lr, decay),
        'neck.levels.0.0.bias': (lr, biases),
    }.items():
        assert found[id(model.get_parameter(parameter))] == pytest.approx(expected), parameter
    if path in DINOV2:
        cfg.model.backbone.num_registers = 4
        model = build(cfg)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
        assert found[id(model.backbone.register_tokens)] == pytest.approx((first, 0))
        gamma = model.backbone.layers[0].ffn.gamma2.weight
        assert found[id(gamma)] == pytest.approx((first / rate, 0))


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_what_the_headers_say(path):
    cfg, text = config(path), re.sub(r'\n# +', ' ', path.read_text().split('_base_ =')[0])
    init = cfg.model.backbone.init_cfg
    assert (init.type, init.prefix) == ('Pretrained', 'backbone.')
    assert f'{path.relative_to(ROOT)}' in text
    run = Path(init.checkpoint)
    if run.parts[0] == 'weights':
        assert OTHERS[run.stem] == cfg.model.backbone.arch
        assert f' {init.checkpoint}' in text
        assert path not in LARGE or ('docs/vit-you-have.md' in text and 'To beat: ' in text)
        return
    assert (run.parts[0], run.name) == ('work_dirs', 'encoder.pth')
    assert (ROOT / f'configs/mirl/{run.parts[1]}.py').is_file()
    assert run.parts[1].startswith(f'vit-{cfg.model.backbone.arch}_')
    if path in LARGE:
        assert init.checkpoint in text and 'paper number not available. To beat: ' in text
        bar = '5[157]\\.[56] box AP' if path in LSJ else '48.4 box AP|48.1 mIoU|53.6 mIoU'
        assert re.search(bar, text)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_a_run_that_starts_over_is_the_same_run(path):
    assert config(path).randomness == dict(seed=0, diff_rank_seed=True)


def test_the_data_root_stands_in_one_place():
    said = {}
    for base in (ROOT / 'configs/_base_').iterdir():
        code = re.sub(r'^#.*', '', base.read_text(), flags=re.MULTILINE)
        if roots := re.findall(r"^data_root = '(.*)'$", code, re.MULTILINE):
            (said[base.stem],) = roots
            assert code.count(roots[0]) == 1
    assert {'coco', 'ade20k_160k', 'instances_scenes', 'masks_scenes'} < set(said)
    said |= {
        recipe: said['ade20k_160k' if 'ade20k' in recipe else 'coco']
        for recipe in WHOLE
        if recipe not in said
    }
    for base, root in said.items():
        cfg = Config.fromfile(ROOT / f'configs/_base_/{base}.py')
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if loader in cfg or base in WHOLE:
                assert cfg[loader].dataset.data_root == root


def test_one_image_a_process_needs_another_norm():
    """As the base says: BN has one value per channel in the pool of scale 1, LN does not mind."""
    cfg = config('upernet/vit-test_20it_scenes.py')
    cfg.model.backbone.init_cfg = None
    from mmseg.structures import SegDataSample

    scene = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 128, 128, dtype=torch.long)))
    imgs = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        MODELS.build(cfg.model).loss(imgs, [scene])
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg.type = 'mmpretrain.LN2d'
    losses = MODELS.build(cfg.model).loss(imgs, [scene])
    assert losses['decode.loss_ce'].isfinite() and losses['aux.loss_ce'].isfinite()


def test_the_scenes_are_named_as_they_are_drawn():
    for task, classes, palette in (
        ('mask-rcnn', CLASSES, PALETTE),
        ('upernet', MASK_CLASSES, MASK_PALETTE),
    ):
        cfg = config(f'{task}/vit-test_20it_scenes.py')
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            metainfo = cfg[loader].dataset.metainfo
            assert tuple(metainfo.classes) == classes
            assert tuple(map(tuple, metainfo.palette)) == palette


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_pipelines_run(path, tmp_path):
    """Each of them, on one of the demo's scenes."""
    cfg = config(path)
    scenes = write_scenes(tmp_path / 'scenes', num_train=1, num_val=1, size=128)
    image = scenes.images('train') / '000001.jpg'
    channels = cfg.model.backbone.get('in_channels', 3)
    if channels > 3:
        image = write_bands(scenes) / 'train/000001.tif'
    sample = dict(
        img_path=str(image),
        seg_map_path=str(scenes.masks('train') / '000001.png'),
        img_id=1,
        seg_fields=[],
        reduce_zero_label=False,
        label_map=None,
        instances=[
            dict(
                bbox=[10, 20, 90, 100], bbox_label=2, ignore_flag=0, mask=[[10, 20, 90, 20, 50, 99]]
            )
        ],
        height=128,
        width=128,
    )
    for loader, most in (('train_dataloader', 1024), ('test_dataloader', 2048)):
        packed = Compose(cfg[loader].dataset.pipeline)(dict(sample))
        height, width = packed['inputs'].shape[-2:]
        dtype = torch.uint8 if channels == 3 else torch.float32
        assert packed['inputs'].dtype == dtype and max(height, width) <= most
        assert len(packed['inputs']) == channels
        if cfg.default_scope == 'mmseg':
            shape = packed['data_samples'].gt_sem_seg.data.shape[-2:]
            assert shape == ((height, width) if loader == 'train_dataloader' else (128, 128))
        else:
            masks = packed['data_samples'].gt_instances.masks
            assert len(masks) <= 1 and packed['data_samples'].img_shape == (height, width)


def test_soft_nms_lowers_scores_where_nms_drops_boxes():
    """The variant is the config beside it but for that; IoU of the boxes: 0.6, and none."""
    from mmdet.models.layers import multiclass_nms

    plain, soft = (config(f'mask-rcnn/vit-b48_lsj-100e{n}_coco.py') for n in ('', '-soft-nms'))
    tests = [cfg.model.test_cfg.rcnn for cfg in (plain, soft)]
    boxes = torch.tensor([[0.0, 0, 100, 100], [25, 0, 125, 100], [200, 200, 300, 300]])
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0.7, 0]])  # and of the background
    (hard, _), (lowered, labels) = (
        multiclass_nms(boxes, scores, each.score_thr, each.nms, each.max_per_img) for each in tests
    )
    assert hard[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert lowered[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.8 * (1 - 0.6)])
    assert labels.tolist() == [0, 0, 0] and torch.equal(lowered[2, :4], boxes[1])
    soft.model.test_cfg.rcnn.nms = plain.model.test_cfg.rcnn.nms
    rest = soft.to_dict()
    del rest['_soft']
    assert rest == plain.to_dict()
