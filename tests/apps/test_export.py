"""Exported files compute what the models compute, at other sizes and batches than traced."""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from mirl_mm.apps.export import export_model
from mirl_mm.engine.launch import load_config
from mirl_mm.errors import CheckpointError
from mirl_mm.models import MIRLViT

pytestmark = pytest.mark.xdist_group('export')  # its models are exported once

ENCODER, MAE = 'mirl/vit-test_2e', 'mae/vit-test_2e'
CLASSIFIER = 'finetune/vit-test_2e_classes'
SEGMENTOR, DETECTOR = 'upernet/vit-test_20it_scenes', 'mask-rcnn/vit-test_20it_scenes'
SMALL = dict(embed_dims=48, num_layers=4, num_heads=4, feedforward_channels=96, num_segments=2)
REGISTERS = {'model.backbone.num_registers': 3, 'model.backbone.layer_scale_init_value': 0.5}
WHOLE = {'model.test_cfg.mode': 'whole', 'model.backbone.out_indices': [0, 1, 2, 3]}
WINDOWS = {'model.backbone.window_size': 3, 'model.backbone.global_indices': [3]}
CLASSES = ['ant', 'bee', 'cat', 'dog']


def small(*changes: dict) -> dict:
    """Settings of a model with four blocks, and with changes; MMEngine takes the first apart."""
    arch = {'model.backbone.arch': dict(SMALL, _delete_=True)}
    return {key: value for each in (arch, *changes) for key, value in each.items()}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Makes a config's model with random weights (positions too), and its checkpoint."""

    def saved(config: str, options: dict | None = None) -> tuple[nn.Module, str]:
        cfg = load_config(config, options or {})
        cfg.model.backbone.init_cfg = None
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1, generator=generator)
        model.eval()
        path = tmp_path_factory.mktemp('export') / 'epoch_1.pth'
        meta = dict(dataset_meta=dict(classes=CLASSES))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
        return model, str(path)

    return saved


def loaded(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """The file as a user of it loads it: images to outputs by name."""
    if path.suffix == '.pt2':
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        found = session.run(None, dict(images=images.numpy()))
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return run


def images_of(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def taps_of(vit: VisionTransformer, images: Tensor, segments: int) -> dict[str, Tensor]:
    """What an encoder's outputs have to be, by mmpretrain's own pass or ours."""
    length = vit.num_layers // segments
    vit.out_type, vit.out_indices = 'raw', [*range(length - 1, vit.num_layers, length)]
    outs = (MIRLViT if isinstance(vit, MIRLViT) else VisionTransformer).forward(vit, images)
    taps = {f'tap_{i}': out[:, vit.num_extra_tokens :] for i, out in enumerate(outs, start=1)}
    return dict(cls=outs[-1][:, 0], patches=taps[f'tap_{segments}'], **taps)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, want in wanted.items():
        assert want.std() > 0.01, name
        torch.testing.assert_close(found[name], want, rtol=0, atol=1e-4, msg=name)


@pytest.fixture(scope='module', params=['.onnx', '.pt2'])
def encoder(request, saved, tmp_path_factory) -> tuple[Path, str, MIRLViT, Callable]:
    """A file, what was said of it, the encoder in it, and the file loaded."""
    model, checkpoint = saved(ENCODER)
    out = tmp_path_factory.mktemp('encoder') / f'encoder{request.param}'
    return out, export_model(ENCODER, checkpoint, str(out)), model.backbone, loaded(out)


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('size', [(64, 64), (96, 48)], ids=['table', 'oblong'])
def test_an_encoder_of_any_size_and_batch(encoder, batch, size):
    _, _, vit, run = encoder
    images = images_of(batch, size)
    wanted = taps_of(vit, images, segments=6)
    assert wanted['tap_2'].shape == (batch, size[0] * size[1] // 256, 48)
    assert_equal(run(images), wanted)


def test_sides_that_are_no_multiples_of_the_patch_fail_in_the_file(encoder):
    with pytest.raises(Exception, match=r'Guard failed: images|cannot be reshaped to the request'):
        encoder[-1](images_of(2, (100, 64)))


def test_what_a_file_says_of_itself(encoder):
    out, words, _, _ = encoder
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    said = f'Images: any batch, any multiples of 16 px, RGB less {mean} over {std}.'
    assert f'. {said} Of two: ' in words
    assert 'Of two: cls [2, 48], patches [2, 30, 48], tap_1 [2, 30, 48]' in words
    if out.suffix == '.pt2':
        facts = dict.fromkeys(('mean', 'std', 'channels', 'classes'), '')
        torch.export.load(out, extra_files=facts)
        assert words.startswith(f'{out}: torch {torch.__version__} program')
    else:
        model = onnx.load(out)
        facts = {each.key: each.value for each in model.metadata_props}
        assert [each.version for each in model.opset_import if not each.domain] == [18]
        (images,) = onnxruntime.InferenceSession(out).get_inputs()
        assert (images.name, images.shape) == ('images', ['batch', 3, 'height', 'width'])
        assert words.startswith(f'{out}: ONNX, opset 18')
    facts = {key: json.loads(value) for key, value in facts.items()}
    assert facts == dict(mean=mean, std=std, channels='RGB', classes=CLASSES)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_file_names_no_folder_of_the_machine(encoder):
    content = encoder[0].read_bytes()
    if encoder[0].suffix == '.pt2':
        with zipfile.ZipFile(encoder[0]) as archive:
            content = b''.join(map(archive.read, archive.namelist()))
    assert b'layer_norm' in content or b'LayerNormalization' in content
    assert b'site-packages' not in content and str(Path.cwd()).encode() not in content


@pytest.mark.parametrize('ending', [pytest.param('.onnx', marks=pytest.mark.long), '.pt2'])
def test_a_classifier_with_registers_and_layer_scale(saved, tmp_path, ending):
    model, checkpoint = saved(CLASSIFIER, small(REGISTERS))
    out = tmp_path / f'classifier{ending}'
    words = export_model(CLASSIFIER, checkpoint, str(out), cfg_options=small(REGISTERS))
    assert words.endswith('Of two: logits [2, 4]')
    run = loaded(out)
    for batch, size in ((1, (64, 64)), (3, (48, 112))):
        images = images_of(batch, size)
        with torch.no_grad():
            wanted = dict(logits=model(images))
        assert wanted['logits'].shape == (batch, 4)
        assert_equal(run(images), wanted)


def test_maes_encoder_at_one_size(saved, tmp_path):
    model, checkpoint = saved(MAE)
    out = tmp_path / 'mae.pt2'
    assert 'any batch, 32x80 px, RGB' in export_model(MAE, checkpoint, str(out), size=(32, 80))
    images = images_of(3, (32, 80))
    run = loaded(out)
    assert_equal(run(images), taps_of(model.backbone, images, segments=2))
    with pytest.raises(AssertionError, match='Guard failed: images'):
        run(images_of(3, (64, 64)))


@pytest.mark.parametrize('ending', [pytest.param('.onnx', marks=pytest.mark.long), '.pt2'])
def test_a_segmentor_at_its_size(saved, tmp_path, ending):
    model, checkpoint = saved(SEGMENTOR, small(WHOLE))
    out, size = tmp_path / f'segmentor{ending}', (80, 112)
    export_model(SEGMENTOR, checkpoint, str(out), size, cfg_options=small(WHOLE))
    run = loaded(out)
    for batch in (1, 3):
        images = images_of(batch, size)
        with torch.no_grad():
            maps = model.decode_head(model.extract_feat(images))
            wanted = nn.functional.interpolate(maps, size, mode='bilinear')
        assert wanted.shape == (batch, 4, *size)
        assert_equal(run(images), dict(logits=wanted))


@pytest.mark.parametrize('ending', [pytest.param('.onnx', marks=pytest.mark.long), '.pt2'])
def test_a_detectors_maps_with_windows(saved, tmp_path, ending):
    model, checkpoint = saved(DETECTOR, small(WINDOWS))
    out, size = tmp_path / f'detector{ending}', (128, 80)
    export_model(DETECTOR, checkpoint, str(out), size, cfg_options=small(WINDOWS))
    run = loaded(out)
    for batch in (1, 3):
        images = images_of(batch, size)
        with torch.no_grad():
            maps = model.extract_feat(images)
        assert [each.shape[-2:] for each in maps] == [(32, 20), (16, 10), (8, 5), (4, 3), (2, 2)]
        wanted = {f'level_{i}': each for i, each in enumerate(maps, start=1)}
        assert_equal(run(images), wanted)


@pytest.mark.parametrize(
    ('config', 'changes', 'message'),
    [
        (ENCODER, dict(out='a.pth'), r'a\.pth must end in \.onnx \(ONNX\) or \.pt2'),
        (ENCODER, dict(out='a.onnx', opset=0), r'--opset must be 18 to \d+ \(onnx .*, got 0'),
        (ENCODER, dict(out='a.onnx', opset=17), r'--opset must be 18 to \d+ \(onnx .*, got 17'),
        (ENCODER, dict(opset=18), r'--opset 18 is for ONNX; .*\.pt2 is a program of torch'),
        (ENCODER, dict(size=(64, 72)), r'image size 64x72 .* does not fit patch_size=16'),
        (
            SEGMENTOR,
            dict(size=(64, 64)),
            r'is no one program; give --cfg-options model\.test_cfg\.m',
        ),
        (
            SEGMENTOR,
            dict(cfg_options=WHOLE),
            r'EncoderDecoder is exported for one size of images',
        ),
        (DETECTOR, dict(), r'MaskRCNN is exported for one size of images; give --size HEIGHT'),
    ],
)
def test_what_cannot_be_exported(saved, tmp_path, monkeypatch, config, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'any.pth').touch()
    checkpoint = saved(ENCODER)[1] if 'size' in changes and config == ENCODER else 'any.pth'
    given = dict(config=config, checkpoint=checkpoint, out='new.pt2') | changes
    with pytest.raises(ValueError, match=message) as error:
        export_model(**given)
    assert '\n' not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['any.pth']


STOCK = f"""
default_scope = 'mmpretrain'
data_preprocessor = dict(
    num_classes=3, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
_backbone = dict(type='VisionTransformer', arch={SMALL!r}, img_size=32, patch_size=8)
_head = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=48)
model = dict(type='ImageClassifier', backbone=_backbone, head=_head)
"""
OTHER = """
default_scope = 'mmpretrain'
model = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=3))
"""


def test_other_models_are_refused(tmp_path):
    for name, kind in (
        ('head', "dict(type='LinearClsHead', num_classes=3, in_channels=2)"),
        ('none', None),
    ):
        (tmp_path / f'{name}.py').write_text(f"default_scope = 'mmpretrain'\nmodel = {kind}\n")
    (tmp_path / 'lenet.py').write_text(OTHER)
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(type='LeNet5', num_classes=3))
    state = {f'backbone.{name}': x for name, x in model.state_dict().items()}
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'any.pth')
    for name, message in dict(
        head='LinearClsHead with the backbone NoneType is not exported; accepted is a pre-train',
        none=r'none\.py cannot be run: it has no model',
        lenet='ImageClassifier with the backbone LeNet5 is not exported; .*MAEViT of mmpretrain',
    ).items():
        with pytest.raises(ValueError, match=message):
            export_model(
                str(tmp_path / f'{name}.py'), str(tmp_path / 'any.pth'), str(tmp_path / 'a.pt2')
            )
    assert not (tmp_path / 'a.pt2').exists()


def test_a_classifier_of_mmpretrain_is_normalised_as_beside_its_model(saved, tmp_path):
    config = tmp_path / 'stock.py'
    config.write_text(STOCK)
    checkpoint = saved(str(config))[1]
    words = export_model(str(config), checkpoint, str(tmp_path / 'stock.pt2'))
    assert 'any multiples of 8 px, RGB less [123.675, 116.28, 103.53] over [58.395' in words
    assert words.endswith('logits [2, 3]')


def test_checkpoints_that_do_not_fit(saved, tmp_path):
    model, checkpoint = saved(CLASSIFIER)
    out = str(tmp_path / 'a.pt2')
    with pytest.raises(CheckpointError, match=r"norms than the config's: backbone\.ln1"):
        export_model(ENCODER, checkpoint, out)
    state = {n: x for n, x in model.state_dict().items() if not n.startswith('head')}
    torch.save(dict(state_dict=state), tmp_path / 'part.pth')
    with pytest.raises(
        CheckpointError, match=r'does not fit this ImageClassifier: it lacks head\.'
    ):
        export_model(CLASSIFIER, str(tmp_path / 'part.pth'), out)
    with pytest.raises(FileNotFoundError, match=r'no such checkpoint file: .*other\.pth'):
        export_model(CLASSIFIER, str(tmp_path / 'other.pth'), out)


@pytest.mark.parametrize('absent', ['onnx', 'onnxscript'])
def test_an_environment_without_onnx(tmp_path, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ValueError, match=f'{absent} .*pip install onnx onnxscript onnxruntime'):
        export_model(ENCODER, 'any.pth', str(tmp_path / 'a.onnx'))


def test_a_file_that_was_there_stays_where_the_export_fails(saved, tmp_path, monkeypatch):
    _, checkpoint = saved(MAE)
    out = tmp_path / 'mae.pt2'
    out.write_bytes(b'older')

    def full(program, path, **_):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr(torch.export, 'save', full)
    with pytest.raises(OSError, match='No space left'):
        export_model(MAE, checkpoint, str(out), size=(32, 32))
    assert [path.name for path in tmp_path.iterdir()] == ['mae.pt2']
    assert out.read_bytes() == b'older'
