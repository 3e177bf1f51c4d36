"""Files as others write them: where their weights are, and what is no weight to go on with."""

import argparse
import datetime
import json
import os
import pathlib
import pickle
import re
import types
from collections import Counter, OrderedDict, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from safetensors.torch import save_file
from torch import Tensor, nn

from mirl_mm.checkpoint import (
    EncoderArch,
    convert_file,
    convert_official,
    load_weights,
    open_checkpoint,
    read_checkpoint,
    to_timm,
    write_checkpoint,
)
from mirl_mm.checkpoint.config_text import heads_in
from mirl_mm.checkpoint.loading import check_start, part_taken
from mirl_mm.models import MIRLViT
from tests.models.build import reference

ARCH = dict(embed_dims=48, num_layers=12, num_heads=4, feedforward_channels=192)


@pytest.fixture(scope='module')
def ours() -> dict[str, Tensor]:
    return convert_official(reference().state_dict())


@pytest.fixture(scope='module')
def encoder(ours) -> dict[str, Tensor]:
    """Under timm's names."""
    return to_timm(ours)


def zeros(state: dict) -> dict:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


# --- where the weights are ------------------------------------------------------------------------

HEAD = {'head.mlp.0.weight': torch.ones(3, 3)}


def chunked(state: dict) -> dict:
    """Blocks 0 to 5 in a chunk, and 6 to 11 in another, as DINOv2's training has them."""
    return {re.sub(r'^blocks\.(\d+)', lambda m: f'blocks.{int(m[1]) // 6}.{m[1]}', n): x
            for n, x in state.items()}  # fmt: skip


NESTED = {  # content of weights W and zeros Z; the place that is told; averaged, raw or plain
    'timm': (lambda w, z: w, '', 'plain'),
    'MAE': (lambda w, z: dict(model=w, epoch=3), 'model/', 'plain'),
    'DeepSpeed': (lambda w, z: dict(module=w, optimizer={}), 'module/', 'plain'),
    'deeper': (lambda w, z: dict(state_dict=dict(model=w)), 'state_dict/model/', 'plain'),
    'Lightning': (lambda w, z: dict(state_dict=under('model.', w)), 'state_dict/model.', 'plain'),
    'net': (lambda w, z: dict(state_dict=under('net.', w)), 'state_dict/net.', 'plain'),
    'encoder': (lambda w, z: under('encoder.', w) | HEAD, 'encoder.', 'plain'),
    'module': (lambda w, z: dict(model=under('module.', w)), 'model/', 'plain'),
    'compiled': (lambda w, z: dict(state_dict=under('model._orig_mod.', w)), 'state_dict/model.',
                 'plain'),
    'AveragedModel': (lambda w, z: under('module.', w) | dict(n_averaged=torch.tensor(3)),
                      'module.', 'plain'),
    'backbone': (lambda w, z: dict(state_dict=under('backbone.', w) | HEAD), 'state_dict/backbone.',
                 'plain'),
    'DINO': (lambda w, z: dict(teacher=under('backbone.', w) | HEAD,
                               student=under('module.backbone.', z)), 'teacher/backbone.',
             'averaged'),
    'teacher alone': (lambda w, z: dict(teacher=w), 'teacher/', 'averaged'),
    'lightly': (lambda w, z: dict(state_dict=under('student_backbone.', z)
                                  | under('teacher_backbone.', w)),
                'state_dict/teacher_backbone.', 'averaged'),
    'timm EMA': (lambda w, z: dict(state_dict=z, state_dict_ema=w), 'state_dict_ema/', 'averaged'),
    'model_ema': (lambda w, z: dict(model=z, model_ema=w), 'model_ema/', 'averaged'),
    'ema': (lambda w, z: dict(net=z, ema=dict(model=under('module.', w), decay=0.9)),
            'ema/model/', 'averaged'),
    'model_ema_state': (lambda w, z: dict(model_state=z, model_ema_state=w), 'model_ema_state/',
                        'averaged'),
    'I-JEPA': (lambda w, z: dict(encoder=z, target_encoder=w, predictor={'a': torch.ones(1)}),
               'target_encoder/', 'averaged'),
    'chunks of DINOv2': (lambda w, z: dict(teacher=under('backbone.', chunked(w)) | HEAD),
                         'teacher/backbone.', 'averaged'),
    'WeightAveraging': (lambda w, z: dict(state_dict=under('model.', w),
                                          current_model_state=under('model.', z)),
                        'state_dict/model.', 'averaged'),
    'EMAHook': (lambda w, z: dict(state_dict=w, ema_state_dict=under('module.', z)
                                  | dict(steps=torch.tensor(3))), 'state_dict/', 'averaged'),
    'ema_state_dict of others': (lambda w, z: dict(state_dict=z, ema_state_dict=w),
                                 'ema_state_dict/', 'averaged'),
}  # fmt: skip


@pytest.mark.parametrize('kind', NESTED)
def test_weights_are_found_by_their_structure(encoder, tmp_path, kind):
    build, place, weights = NESTED[kind]
    torch.save(build(encoder, zeros(encoder)), tmp_path / 'file.pth')
    found = open_checkpoint(tmp_path / 'file.pth')
    assert (found.place, found.weights, found.form) == (place, weights, 'mae')
    vit = MIRLViT('test', img_size=64)
    fit = load_weights(vit, tmp_path / 'file.pth')
    assert len(fit.matched) == 150 and fit.missing == []
    for name, tensor in to_timm(under('backbone.', vit.state_dict())).items():
        assert torch.equal(tensor, encoder[name]), name
    if kind in ('DINO', 'lightly', 'timm EMA', 'EMAHook', 'I-JEPA'):
        raw = open_checkpoint(tmp_path / 'file.pth', raw=True)
        assert raw.weights == 'raw' and len(raw.state) >= 150
        assert not any(tensor.any() for tensor in raw.state.values())
    elif weights == 'plain':
        with pytest.raises(ValueError, match='has no raw weights beside averaged ones'):
            open_checkpoint(tmp_path / 'file.pth', raw=True)


def test_our_names_are_found_too(ours, tmp_path):
    torch.save(dict(state_dict=under('model.', ours)), tmp_path / 'file.pth')
    found = open_checkpoint(tmp_path / 'file.pth')
    assert (found.place, found.form, found.state.keys()) == (
        'state_dict/model.', 'mirl_mm', ours.keys())  # fmt: skip


def test_the_account_says_what_was_taken(encoder, tmp_path):
    source, target = tmp_path / 'dino.pth', tmp_path / 'out.pth'
    torch.save(dict(teacher=under('backbone.', encoder) | HEAD, student=encoder), source)
    assert convert_file(source, target)[0] == (
        f'read      {source}: names of MAE or timm at teacher/backbone., torch layout, 150 '
        'tensors, averaged weights of a run with EMA, beside them student, head.mlp.0.weight'
    )
    assert 'raw weights' in convert_file(source, target, raw=True)[0]


def test_two_sets_without_a_hint_are_asked_for(encoder, tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(model=encoder, best=encoder), path)
    with pytest.raises(ValueError) as error:
        open_checkpoint(path)
    assert str(error.value) == (
        f'{path} holds 2 sets of weights (model/, best/): save the one you mean as a file of its '
        'own'
    )
    torch.save(dict(model=encoder, model_ema=encoder, model_ema2=encoder), path)
    with pytest.raises(ValueError, match=r'holds 3 sets of weights \(model/, model_ema/, model_e'):
        open_checkpoint(path)
    assert open_checkpoint(path, raw=True).place == 'model/'


def test_a_dict_that_holds_itself(tmp_path):
    content: dict = dict(a=1)
    content['content'] = content
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(ValueError, match='holds no tensors'):
        open_checkpoint(tmp_path / 'file.pth')


@pytest.mark.parametrize('ending', ['bin', 'safetensors'])
def test_shards_with_their_index(encoder, tmp_path, ending):
    names, files = list(encoder), [f'model-0000{i}-of-00002.{ending}' for i in (1, 2)]
    for file, part in zip(files, (names[:70], names[70:]), strict=True):
        save = save_file if ending == 'safetensors' else torch.save
        save({name: encoder[name].contiguous() for name in part}, tmp_path / file)
    index = tmp_path / f'model.{ending}.index.json'
    with pytest.raises(ValueError) as error:
        open_checkpoint(tmp_path / files[0])
    assert str(error.value) == (
        f'{tmp_path / files[0]} is part 1 of 2, and no *.index.json beside it lists the others'
    )
    index.write_text(json.dumps(dict(weight_map={n: files[n in names[70:]] for n in names})))
    for given in (index, tmp_path / files[1]):
        found = open_checkpoint(given)
        assert found.state.keys() == encoder.keys()
        assert found.place == f'all parts of {index.name}/'
    (tmp_path / files[0]).unlink()
    with pytest.raises(FileNotFoundError, match=rf'{index} lists {files[0]}, and there is no '):
        open_checkpoint(index)
    index.write_text('[1]')
    with pytest.raises(ValueError, match=rf'{index} is no index of shards, which has a weight_map'):
        open_checkpoint(index)


# --- plain data beside them -----------------------------------------------------------------------

PLAIN = dict(
    path=pathlib.Path('/data/imagenet'), windows=pathlib.PureWindowsPath('c:/data'),
    lists=defaultdict(list, a=[1]), counts=defaultdict(int, a=2), plain=defaultdict(None, a=2),
    nested=defaultdict(dict, a=defaultdict(float, b=1.0)), counter=Counter('abc'),
    ordered=OrderedDict(a=1), space=types.SimpleNamespace(a=1, b=pathlib.Path('x')), type=int,
    set={1, 2}, frozen=frozenset('ab'), range=range(3), slice=slice(1, 2), complex=1j,
    size=torch.Size([1, 2]), device=torch.device('cuda', 0), dtype=torch.bfloat16,
    float=np.float64(0.5), bool=np.bool_(True), text=np.str_('x'), array=np.arange(3),
    names=np.array(['ab', 'c']), numpy_dtype=np.dtype('float16'), big=10**30,
    time=datetime.datetime(2026, 11, 29), day=datetime.date(2026, 11, 29),
    zone=datetime.datetime(2026, 11, 29, tzinfo=datetime.timezone.utc), delta=datetime.timedelta(1),
)  # fmt: skip


@pytest.mark.parametrize('kind', PLAIN)
def test_plain_data_beside_the_weights(tmp_path, kind):
    value, path = PLAIN[kind], str(tmp_path / 'file.pth')
    torch.save(dict(model={'a': torch.ones(1)}, args=argparse.Namespace(x=value)), path)
    assert read_checkpoint(path)[0]['a'] == 1
    found = CheckpointLoader.load_checkpoint(path, logger='silent')['args'].x
    assert not isinstance(found, pathlib.Path)  # a pure path: it touches no file
    assert np.all(found == value) or str(found) == str(value)


def test_paths_of_any_system_are_read_from_paddle_files(tmp_path):
    pickled = pickle.dumps(dict(model={'a': (1, np.ones(1))}, args=pathlib.PurePosixPath('/a')),
                           protocol=4)  # fmt: skip
    for name in ('PosixPath', 'WindowsPath'):
        short = pickled.replace(
            b'\x8c\rPurePosixPath', b'\x8c' + bytes([len(name)]) + name.encode()
        )
        assert short != pickled
        frame = int.from_bytes(pickled[3:11], 'little') + len(short) - len(pickled)
        (tmp_path / 'file.pd').write_bytes(short[:3] + frame.to_bytes(8, 'little') + short[11:])
        assert read_checkpoint(tmp_path / 'file.pd')[0]['a'] == 1


class Evil:
    """Pickles as a call."""

    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


def test_a_factory_is_never_called(tmp_path):
    """Whatever it is, and whatever keys the reader asks for."""
    path, crime = str(tmp_path / 'file.pth'), tmp_path / 'crime'
    torch.save(dict(model={'a': torch.ones(1)}, args=Evil(defaultdict, (os.getcwd,))), path)
    with pytest.raises(ValueError, match=r'It asks for posix\.getcwd'):
        read_checkpoint(path)
    call = Evil(defaultdict, (Evil(os.system, (f'touch {crime}',)),))
    torch.save(dict(model={'a': torch.ones(1)}, args=call), path)
    with pytest.raises(ValueError, match='refused'):
        read_checkpoint(path)
    torch.save(dict(model={'a': torch.ones(1)}, args=defaultdict(list)), path)
    assert type(CheckpointLoader.load_checkpoint(path, logger='silent')['args']) is dict
    assert not crime.exists()


@pytest.mark.parametrize('kind', [pathlib.PurePosixPath, types.SimpleNamespace])
def test_a_paddle_file_changes_no_class(tmp_path, kind):
    """BUILD on a class itself would put attributes on it, for the whole process."""
    name = f'{kind.__module__}\n{kind.__name__}\n'.encode()
    hostile = b'\x80\x02c' + name + b'N}\x8c\x05crimeK\x01s\x86b.'
    path = tmp_path / 'file.pd'
    path.write_bytes(hostile)
    with pytest.raises(ValueError, match=r'not a dict of weights|cut short'):
        read_checkpoint(path)
    assert not hasattr(kind, 'crime')


# --- NaN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('reader', ['convert', 'load_weights', 'Pretrained', 'start'])
def test_weights_that_are_not_finite(ours, tmp_path, reader, value):
    state = {name: tensor.clone() for name, tensor in ours.items()}
    for name in ('backbone.layers.3.ln1.weight', 'backbone.layers.7.ffn.layers.1.bias'):
        state[name][5] = value
    path = str(tmp_path / 'bad.pth')
    torch.save(dict(state_dict=state), path)
    vit = MIRLViT('test', img_size=64)
    calls = dict(
        convert=lambda: convert_file(path, tmp_path / 'out.pth'),
        load_weights=lambda: load_weights(vit, path),
        Pretrained=lambda: PretrainedInit(path, 'backbone.')(vit),
        start=lambda: check_start(path, 'backbone.', 'model.backbone.init_cfg'),
    )
    with pytest.raises(ValueError) as error:
        calls[reader]()
    assert str(error.value) == (
        f'{path} cannot be used: 2 of 344 tensors hold NaN or infinity: '
        'backbone.layers.3.ln1.weight, backbone.layers.7.ffn.layers.1.bias'
    )
    assert not (tmp_path / 'out.pth').exists()
    assert all(x.isfinite().all() for x in vit.state_dict().values())


# --- every converted file can be loaded -----------------------------------------------------------


def timm_vit(**settings) -> nn.Module:
    size = dict(img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=0)
    return timm.create_model('vit_base_patch16_224', **size | settings).eval()


FORMS = {
    'plain': {}, 'no place for cls': dict(no_embed_class=True), 'wide': dict(img_size=(64, 128)),
    'patches of 8': dict(patch_size=8), 'grey': dict(in_chans=1), 'four': dict(in_chans=4),
    'pooled': dict(global_pool='avg', num_classes=5), 'head': dict(num_classes=5),
}  # fmt: skip


@pytest.mark.parametrize('form', FORMS)
def test_every_converted_file_is_loaded_in_its_target(tmp_path, form):
    torch.manual_seed(0)
    model = timm_vit(**FORMS[form])
    nn.init.normal_(model.pos_embed)
    torch.save(dict(model=model.state_dict()), tmp_path / 'theirs.pth')
    settings = dict(dict(patch_size=16, in_chans=3, img_size=64), **FORMS[form])
    pooled = form == 'pooled'
    size = dict(img_size=settings['img_size'], patch_size=settings['patch_size'],
                in_channels=settings['in_chans'], final_norm=not pooled,
                out_type='avg_featmap' if pooled else 'cls_token')  # fmt: skip
    images = torch.randn(2, settings['in_chans'], 64, 128 if form == 'wide' else 64)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    arch = dict(ARCH, num_layers=2)
    for to in ('mirl', 'backbone'):
        lines = convert_file(tmp_path / 'theirs.pth', tmp_path / f'{to}.pth', to)
        assert any('zeros for the cls' in line for line in lines) == (form == 'no place for cls')
        for vit in (MIRLViT(arch, num_segments=2, **size), VisionTransformer(arch, **size)):
            prefix = 'backbone.' if to == 'mirl' else None
            vit.eval()
            PretrainedInit(str(tmp_path / f'{to}.pth'), prefix)(vit)
            torch.testing.assert_close(vit(images)[-1], expected, rtol=0, atol=2e-6)
    straight = MIRLViT(arch, num_segments=2, **size).eval()
    load_weights(straight, tmp_path / 'theirs.pth')
    torch.testing.assert_close(straight(images)[-1], expected, rtol=0, atol=2e-6)

    source = tmp_path / 'mirl.pth'
    lines = convert_file(source, tmp_path / 'timm.pth', 'timm')
    call = next(line for line in lines if line.startswith('load with '))[10:]
    if form == 'wide':
        assert 'img_size=?' in call
        assert 'img_size  the positions are of no square: give height and width' in lines
    call = call.replace('num_heads=?', 'num_heads=4').replace('img_size=?', 'img_size=(64, 128)')
    again = eval(call, dict(timm=timm)).eval()
    again.load_state_dict(torch.load(tmp_path / 'timm.pth'), strict=True)
    found = again.forward_head(again.forward_features(images), pre_logits=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_the_stored_size_tells_a_grid_that_is_not_square(tmp_path):
    vit = MIRLViT('test', img_size=(64, 96))  # 25 positions, as those of 5 x 5 patches alone
    meta = dict(arch=EncoderArch.of_module(vit).to_meta())
    write_checkpoint(tmp_path / 'wide.pth', vit.state_dict(), meta)
    lines = convert_file(tmp_path / 'wide.pth', tmp_path / 'timm.pth', 'timm')
    assert 'positions of 64x96 px' in lines[1]
    assert 'num_heads=4' in lines[-1] and 'img_size=(64, 96)' in lines[-1]
    same, other = MIRLViT('test', img_size=(64, 96)), MIRLViT('test', img_size=64)
    nn.init.zeros_(same.pos_embed)
    load_weights(same, tmp_path / 'wide.pth')
    assert torch.equal(same.pos_embed, vit.pos_embed)
    load_weights(other, tmp_path / 'wide.pth')
    expected = resize_pos_embed(vit.pos_embed, (4, 6), (4, 4), num_extra_tokens=1)
    assert torch.equal(other.pos_embed, expected)
    vit = MIRLViT('test', img_size=(64, 128))
    write_checkpoint(tmp_path / 'wide.pth', vit.state_dict(), {})
    with pytest.raises(ValueError) as error:
        load_weights(other, tmp_path / 'wide.pth')
    assert str(error.value) == (
        f"{tmp_path / 'wide.pth'}: 'pos_embed' is (1, 33, 48) there and (1, 17, 48) in this "
        'encoder; resized is from a square grid alone'
    )


@pytest.mark.parametrize('number', [24, 25])  # (25 is a square, and has its place for cls here)
def test_a_known_number_decides_on_the_place_of_cls(encoder, tmp_path, number):
    places = torch.randn(1, number, 48)
    torch.save(encoder | dict(pos_embed=places), tmp_path / 'file.pth')
    config = tmp_path / 'config.py'
    config.write_text(
        "model = dict(type='ImageClassifier', "
        "backbone=dict(type='MIRLViT', arch='test', img_size=(64, 96)))\n"
    )
    lines = convert_file(tmp_path / 'file.pth', tmp_path / 'out.pth', config=str(config))
    assert any('zeros for the cls' in line for line in lines) == (number == 24)
    for file in ('file.pth', 'out.pth'):
        vit = MIRLViT('test', img_size=(64, 96))
        load_weights(vit, tmp_path / file)
        assert torch.equal(vit.pos_embed[:, -number:], places)
        assert number == 25 or not vit.pos_embed[:, 0].any()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'pos_embed': torch.ones(17, 48)}, "'backbone.pos_embed' is (17, 48) there"),
        ({'pos_embed': torch.ones(48)}, "'backbone.pos_embed' is (48,) there"),
        (
            {'patch_embed.proj.weight': torch.ones(48, 768)},
            "projection.weight' is missing or ",
        ),
        ({'patch_embed.proj.weight': torch.ones(48, 3, 16, 8)}, 'is (48, 3, 16, 8) there'),
        ({'cls_token': torch.ones(1, 2, 48)}, "'backbone.cls_token' is (1, 2, 48) there"),
    ],
)
def test_other_shapes_are_refused_in_one_line(encoder, tmp_path, change, words):
    path = tmp_path / 'file.pth'
    torch.save(encoder | change, path)
    with pytest.raises(ValueError) as error:
        convert_file(path, tmp_path / 'out.pth')
    assert words in str(error.value) and str(path) in str(error.value)
    assert '\n' not in str(error.value) and not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('lost', ['pos_embed', 'norm.weight'])
def test_timm_needs_all_of_an_encoder(encoder, tmp_path, lost):
    torch.save({n: x for n, x in encoder.items() if n != lost}, tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=r"timm's ViT needs backbone\.(pos_embed|ln1\.weight), wh"):
        convert_file(tmp_path / 'file.pth', tmp_path / 'out.pth', 'timm')


# --- heads and rights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arch', 'heads'),
    [("'b12'", 12), ("'test'", 4), ("'base'", 12), ("'deit-small'", 6), (repr(ARCH), 4),
     ('dict(embed_dims=48, num_heads=8)', 8), ('exit()', None), ("'mine'", None)],
)  # fmt: skip
def test_heads_are_in_the_config_of_a_run(ours, tmp_path, arch, heads):
    text = f"model = dict(backbone=dict(type='MIRLViT', arch={arch}), head=dict())\nlr = 1\n"
    assert heads_in(text) == heads
    assert heads_in('model = (') is heads_in('') is None
    torch.save(dict(state_dict=ours, meta=dict(cfg=text)), tmp_path / 'run.pth')
    call = convert_file(tmp_path / 'run.pth', tmp_path / 'out.pth', 'timm')
    assert any(f'num_heads={heads or "?"},' in line for line in call)


@pytest.mark.parametrize('mask', [0o022, 0o077, 0o002])
@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_written_files_have_the_rights_of_the_umask(tmp_path, ending, mask):
    before = os.umask(mask)
    try:
        write_checkpoint(tmp_path / f'file.{ending}', {'a': torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / f'file.{ending}').stat().st_mode & 0o777 == 0o666 & ~mask


# --- as a start -----------------------------------------------------------------------------------

CONVERT = 'convert it: python tools/convert_checkpoint.py {path} NEW.pth --to '


@pytest.mark.parametrize(
    ('wrap', 'prefix', 'words'),
    [
        (lambda o, e: o, 'backbone.', None),
        (lambda o, e: dict(state_dict=o), 'backbone', None),
        (lambda o, e: dict(model=e), 'backbone.', 'names of MAE or timm (cls_token, pos_embed, '),
        (lambda o, e: dict(model=e), 'backbone.', CONVERT + 'mirl'),
        (lambda o, e: dict(model=e), None, CONVERT + 'backbone'),
        (lambda o, e: dict(model=o), 'backbone.', CONVERT + 'mirl'),  # MMEngine looks not there
        (lambda o, e: e, 'backbone.', CONVERT + 'mirl'),
        (lambda o, e: dict(state_dict=o), None, CONVERT + 'backbone'),
        (lambda o, e: under('module.', o), 'backbone.', CONVERT + 'mirl'),
        (lambda o, e: {n[9:]: x for n, x in o.items() if n.startswith('backbone.')}, 'backbone.',
         CONVERT + 'mirl'),
        (lambda o, e: {'conv1.weight': torch.ones(1)}, 'backbone.',
         "{path}: not a plain ViT of a known naming: 'blocks.0.attn.qkv.weight' is missing"),
        (lambda o, e: dict(epoch=3), 'backbone.', 'holds no tensors'),
    ],
)  # fmt: skip
def test_a_file_that_init_cfg_would_not_load(ours, encoder, tmp_path, wrap, prefix, words):
    path = str(tmp_path / 'file.pth')
    torch.save(wrap(ours, encoder), path)
    if words is None:
        return check_start(path, prefix, 'KEY')
    with pytest.raises(ValueError) as error:
        check_start(path, prefix, 'KEY')
    assert words.format(path=path) in str(error.value)
    assert path in str(error.value) and '\n' not in str(error.value)


def test_paddle_files_as_a_start(tmp_path):
    path = Path(__file__).parents[1] / 'data/vit_ft_tiny.pd'
    with pytest.raises(ValueError) as error:
        check_start(str(path), 'backbone.', 'load_from')
    assert str(error.value) == (
        f'load_from: nothing of {path} would be loaded: it has official MIRL (pos_embed, '
        'cls_token, patch_embed.proj.weight, ...), and not backbone.layers.*; convert it: '
        f'python tools/convert_checkpoint.py {path} NEW.pth --to mirl'
    )


def test_what_a_start_takes(ours):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert part_taken(model, state, 'a.pth') == ''
    state['1.weight'] = torch.ones(5, 3)
    state['2.weight'] = state.pop('1.bias')
    assert part_taken(model, state, 'a.pth') == (
        '2 of the 4 tensors of this Sequential start from a.pth; as before training stay '
        '1.weight, 1.bias; the file has unused 2.weight'
    )
    with pytest.raises(ValueError, match=r'a\.pth holds no weight of this Sequential, name and sh'):
        part_taken(model, {'0.weight': torch.ones(9)}, 'a.pth')


def test_a_new_norm_behind_the_pooling_is_said_in_one_line(ours, tmp_path, monkeypatch):
    torch.save(ours, tmp_path / 'file.pth')
    vit = MIRLViT('test', img_size=64, out_type='avg_featmap', final_norm=False)
    logged = []
    vit.init_cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'file.pth'), prefix='backbone.'
    )
    logger = MMLogger.get_instance('new-norm')  # current from now on: later tests log to it as well
    monkeypatch.setattr(logger, 'handle', lambda record: logged.append(record.getMessage()))
    vit.init_weights()
    text = '\n'.join(logged)
    assert 'the norm behind the pooling (ln2) starts new: a pre-trained encoder has none' in text
    assert 'missing keys' not in text and 'unexpected' not in text
    assert torch.equal(vit.ln2.weight, torch.ones(48)) and not vit.ln2.bias.any()
    tuned = MIRLViT('test', img_size=64, out_type='avg_featmap', final_norm=False)
    nn.init.normal_(vit.ln2.weight)
    tuned.load_state_dict(vit.state_dict(), strict=True)
    assert torch.equal(tuned.ln2.weight, vit.ln2.weight)


def test_heads_of_a_stored_arch_win(ours, tmp_path):
    arch = replace(EncoderArch.of_state(ours), num_heads=8)
    text = "model = dict(backbone=dict(arch='test'))\n"
    write_checkpoint(tmp_path / 'a.pth', ours, dict(arch=arch.to_meta(), cfg=text))
    assert '8 heads' in convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth')[1]


ODD = {
    'no matrix': lambda w: {**w, 'blocks.0.attn.qkv.weight': torch.ones(144)},
    'a number': lambda w: {**w, 'blocks.0.attn.qkv.weight': 3},
    'no dict': lambda w: dict(model=[w]),
    'meta': lambda w: dict(state_dict=w, meta=dict(arch=3, cfg=5, dataset_meta=[1])),
    'one class': lambda w: dict(state_dict=w, meta=dict(dataset_meta=dict(classes='disc'))),
    'no EMA': lambda w: dict(model=w, ema_state_dict=True),
    'averages of an optimizer': lambda w: dict(model=w, optimizer=dict(exp_avg=w)),
    '8 bits': lambda w: {n: x.to(torch.float8_e5m2) if x.ndim == 2 else x for n, x in w.items()},
    'sparse': lambda w: w | {'norm.weight': w['norm.weight'].to_sparse()},
    'other keys': lambda w: {1: {2: w}},
}  # fmt: skip


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ODD)
def test_odd_files_are_read_or_refused_in_words(encoder, tmp_path, kind):
    torch.save(ODD[kind](encoder), tmp_path / 'file.pth')
    refused = kind in ('no matrix', 'a number', 'no dict')
    for read in (
        lambda: convert_file(tmp_path / 'file.pth', tmp_path / 'out.pth'),
        lambda: load_weights(MIRLViT('test', img_size=64), tmp_path / 'file.pth'),
    ):
        if not refused:
            read()
            continue
        with pytest.raises(ValueError, match=r'file\.pth(: not a plain ViT| holds no tensors)'):
            read()
