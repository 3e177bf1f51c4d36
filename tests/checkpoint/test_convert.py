"""Names, shapes and files of mirl_mm.checkpoint, without the command line."""

import os
import stat
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmpretrain.models import VisionTransformer
from safetensors import safe_open

from mirl_mm.checkpoint import (
    EncoderArch,
    backbone_state,
    check_stored_arch,
    compare,
    convert_official,
    load_weights,
    open_checkpoint,
    read_checkpoint,
    to_ours,
    to_timm,
    write_checkpoint,
)
from mirl_mm.checkpoint.convert import by_part, counted, expected_shapes
from mirl_mm.models import MIRLViT
from mirl_mm.models.archs import check_same
from mirl_mm.models.fit import difference, shapes, summary
from mirl_mm.models.segments import strip_wrappers
from tests.models.build import mirl, reference, small_mirl


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert expected
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope='module')
def ours() -> dict[str, torch.Tensor]:
    """A whole model's weights, all of them random."""
    return convert_official(reference().state_dict())


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrap', ['module.{}', '_orig_mod.{}', 'module._orig_mod.{}',
                                  '_orig_mod.module.{}', 'module.module.{}'])  # fmt: skip
def test_wrappers_around_the_model(ours, wrap):
    found, unused = to_ours({wrap.format(name): t for name, t in ours.items()})
    assert_same(found, ours)
    assert unused == []


def test_wrappers_inside_the_model():
    names = {
        'backbone._orig_mod.layers.0.ln1.weight': 'backbone.layers.0.ln1.weight',
        'backbone.layers.1._checkpoint_wrapped_module.ln1.bias': 'backbone.layers.1.ln1.bias',
        '_fsdp_wrapped_module.backbone._fsdp_wrapped_module.cls_token': 'backbone.cls_token',
        'my_orig_mod.weight': 'my_orig_mod.weight',
    }
    assert strip_wrappers(names) == names
    assert strip_wrappers(['module.a', 'b']) == {'module.a': 'module.a', 'b': 'b'}


def test_two_tensors_of_one_name(ours):
    twice = {**ours, '_orig_mod.backbone.cls_token': ours['backbone.cls_token']}
    with pytest.raises(ValueError, match='differ only in the prefixes of wrappers'):
        to_ours(twice)


def test_every_naming_of_the_encoder_is_read(ours):
    encoder = {name: t for name, t in ours.items() if name.startswith('backbone.')}
    for state in (encoder, backbone_state(ours), to_timm(encoder)):
        found, unused = to_ours(state)
        assert_same(found, encoder)
        assert unused == []


def test_timm_and_back(ours):
    head = {'head.fc.weight': torch.randn(7, 48), 'head.fc.bias': torch.randn(7)}
    tuned = {name.replace('.ln1.', '.ln2.') if name.count('.') == 2 else name: t
             for name, t in ours.items() if name.startswith('backbone.')} | head  # fmt: skip
    timm = to_timm(tuned | {'neck.stem_norm.bias': torch.zeros(48)})
    assert {'fc_norm.weight', 'head.bias', 'blocks.11.mlp.fc2.bias', 'pos_embed'} <= timm.keys()
    assert len(timm) == len(tuned)
    back, unused = to_ours(timm)
    assert back.keys() == tuned.keys() and unused == []
    for name, tensor in tuned.items():
        assert back[name] is tensor
    layered = {name.replace('head.fc.', 'head.layers.head.'): t for name, t in tuned.items()}
    assert to_timm(layered)['head.weight'] is head['head.fc.weight']


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('backbone.layers.0.attn.rel_pos_h', "no place for 'backbone.layers.0.attn.rel_pos_h"),
        ('backbone.ln2.weight', 'norms before and after pooling'),
    ],
)
def test_what_timm_cannot_compute_is_refused(ours, name, words):
    with pytest.raises(ValueError, match=words):
        to_timm({**ours, name: torch.ones(48)})


@pytest.mark.parametrize('end', ['weight', 'other'])
def test_decoders_of_mae_get_their_names_in_mmpretrain(ours, end):
    """Where they are MAE's: a mask token alone, or another decoder, is unused."""
    encoder = to_timm(ours)
    mae = {
        f'decoder_embed.{end}': f'neck.decoder_embed.{end}', 'mask_token': 'neck.mask_token',
        'decoder_pos_embed': 'neck.decoder_pos_embed', 'decoder_norm.bias': 'neck.ln1.bias',
        'decoder_blocks.0.norm1.weight': 'neck.decoder_blocks.0.ln1.weight',
        'decoder_pred.bias': 'neck.decoder_pred.bias',
    }  # fmt: skip
    found, unused = to_ours({**encoder, **dict.fromkeys(mae, torch.ones(2, 2))})
    new = found.keys() - to_ours(encoder)[0].keys()
    if end == 'weight':
        assert (new, unused) == (set(mae.values()), [])
    else:
        assert (new, unused) == (set(), list(mae))


@pytest.mark.parametrize('name', ['head_dist.weight', 'blocks.0.attn.other.weight'])
def test_parts_that_change_what_is_computed_are_refused(ours, name):
    with pytest.raises(ValueError, match='not a name of the official MIRL') as error:
        to_ours({**to_timm(ours), name: torch.ones(48)})
    assert name in str(error.value)


def test_another_kind_of_model():
    state = {'conv1.weight': torch.ones(1), 'layer1.0.bn1.weight': torch.ones(1)}
    with pytest.raises(ValueError, match=r"not a plain ViT of a known naming.*'conv1.weight'"):
        to_ours(state)


# --- shapes ---------------------------------------------------------------------------------------


def test_arch_is_read_off_the_weights(ours):
    arch = EncoderArch.of_state(ours)
    assert arch == EncoderArch(48, 12, 192, 16, None, 3, (64, 64))
    assert arch.name == 'test'
    assert str(arch) == 'test (48 wide, 12 deep), patches of 16 px, positions of 64x64 px'
    module = EncoderArch.of_module(mirl(backbone={'arch': 'test'}).backbone)
    assert module == replace(arch.named('test'), norm_eps=1e-6)
    assert arch.named('test').num_heads == 4
    assert replace(arch, num_layers=11).name is None
    assert replace(arch.named('test'), num_heads=8).name is None
    with pytest.raises(ValueError, match=r"'backbone.patch_embed.projection.weight' is missing"):
        EncoderArch.of_state({'backbone.layers.0.ln1.weight': torch.ones(4)})


def test_arch_survives_meta(ours):
    arch = EncoderArch.of_state(ours).named('test')
    assert arch.to_meta()['name'] == 'test'
    assert EncoderArch.of_meta({'arch': arch.to_meta(), 'epoch': 3}) == arch
    assert EncoderArch.of_meta({}) is None
    assert EncoderArch.of_meta({'arch': 'vit'}) is None
    assert EncoderArch.of_meta({'arch': {'embed_dims': 48, 'num_layers': '12'}}) is None


def test_heads_are_compared_where_they_are_known():
    arch = EncoderArch(384, 12, 1536, 16, 6)
    check_same(arch, replace(arch, num_heads=None, img_size=(64, 64)), 'a model')
    check_same(None, arch, 'a model')
    with pytest.raises(ValueError, match='its num_heads is 6, and 12 in s12'):
        check_same(arch, arch.named('s12'), 's12')


@pytest.mark.parametrize(('segments', 'context'), [(6, True), (4, True), (6, False), (1, False)])
def test_expected_shapes_are_those_of_the_model(ours, segments, context):
    pairing = 'none' if segments == 1 else 'mirrored'
    decoders = dict(decoder_depth=2, decoder_width=40, context=context, pairing=pairing)
    model = mirl(segments=segments, **decoders)
    state = model.state_dict()
    assert expected_shapes(state, EncoderArch.of_state(state)) == shapes(state)
    tuned = MIRLViT('test', img_size=64, final_norm=False, out_type='avg_featmap').state_dict()
    tuned = {f'backbone.{name}': t for name, t in tuned.items()}
    tuned |= {'head.fc.weight': torch.zeros(7, 48), 'head.fc.bias': torch.zeros(7)}
    assert expected_shapes(tuned, EncoderArch.of_state(tuned)) == shapes(tuned)


def test_compare_accounts_for_every_name(ours):
    wanted = shapes(ours)
    norms = {name for name in ours if name.startswith('neck.norms.')}
    given = {name: shape for name, shape in wanted.items() if name not in norms}
    given |= {'backbone.pos_embed': torch.Size([1, 197, 48]), 'head.fc.bias': torch.Size([7])}
    fit = compare(given, wanted, 'it')
    assert set(fit.missing) == norms and len(norms) == 10
    assert fit.unused == ['head.fc.bias']
    assert set(fit.matched) == ours.keys() - norms
    assert fit.resized == ['backbone.pos_embed']


def test_compare_names_the_first_other_shape(ours):
    arch = EncoderArch.of_state(ours)
    with pytest.raises(ValueError) as error:
        compare(shapes(ours), expected_shapes(ours, arch.named('s12')), 's12')
    assert str(error.value) == (
        "the checkpoint is of another arch: 'backbone.cls_token' is (1, 1, 48) there and "
        '(1, 1, 384) in s12'
    )


@pytest.mark.parametrize(
    ('layers', 'words'),
    [
        (13, "it lacks 'backbone.layers.12.ln1.weight' and 11 more, which it has"),
        (11, "it has 'backbone.layers.11.ln1.weight' and 11 more, which it lacks"),
    ],
)
def test_compare_refuses_another_depth(ours, layers, words):
    wanted = expected_shapes(ours, replace(EncoderArch.of_state(ours), num_layers=layers))
    with pytest.raises(ValueError, match=words):
        compare(shapes(ours), wanted, 'it')


def test_difference_is_as_strict_as_it_is_asked_to_be():
    model = {'a.x': torch.Size([2]), 'b.x': torch.Size([3]), 'b.pos_embed': torch.Size([1, 5, 4])}
    file = {'a.x': torch.Size([2]), 'c.x': torch.Size([3]), 'b.pos_embed': torch.Size([1, 9, 4])}
    assert difference(model, model, 'it') == ''
    assert difference(file, model, 'it') == "'b.pos_embed' is (1, 9, 4) there and (1, 5, 4) in it"
    assert difference(file, model, 'it', resized=True) == "it lacks 'b.x', which it has"
    assert difference(file, model, 'it', 'a', resized=True) == "it has 'c.x', which it lacks"
    assert difference(file, model, 'it', 'a', known='[ab]', resized=True) == ''
    assert difference(file, model, 'it', None, known=None, resized=True) == ''
    wide = dict(file, **{'b.pos_embed': torch.Size([1, 5, 8])})
    assert '(1, 5, 8) there' in difference(wide, model, 'it', None, None, resized=True)
    assert difference({}, model, 'it') == "it lacks 'a.x' and 2 more, which it has"


def test_compare_refuses_strangers(ours):
    with pytest.raises(ValueError, match='holds no weight of it: its names are a'):
        compare({'a': torch.Size([1])}, shapes(ours), 'it')


def test_names_are_summarised(ours):
    assert summary([]) == 'none' == counted([])
    assert summary(['a', 'b.1']) == 'a, b.1'
    assert summary(list(ours)).startswith('backbone.cls_token, neck.decoders.* (180), ')
    assert 'backbone.layers.* (144)' in summary(list(ours))
    assert 'neck.decoders.* (180)' in counted(list(ours))
    assert by_part(ours) == 'encoder 150, decoders 194'


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_written_files_are_read_to_the_bit(ours, tmp_path, ending):
    path = tmp_path / f'model.{ending}'
    state = {**ours, 'half': torch.randn(3, 2).t().half(), 'steps': torch.tensor(3)}
    state['view'] = torch.randn(1000, 100)[10:12]
    meta = dict(epoch=3, arch=EncoderArch.of_state(ours).to_meta(), cfg='model = dict()')
    write_checkpoint(path, state, meta)
    found = open_checkpoint(path)
    assert found.meta == meta
    assert_same(found.state, state)
    assert path.stat().st_size < 1.1 * sum(t.numel() * t.element_size() for t in ours.values())
    assert os.listdir(tmp_path) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400

    model = mirl()
    load_checkpoint(model, str(path))  # MMEngine's own, also for safetensors
    assert_same(model.state_dict(), ours)


def test_safetensors_of_others(ours, tmp_path):
    path = tmp_path / 'model.safetensors'
    write_checkpoint(path, to_timm(ours), {})
    with safe_open(path, 'pt') as file:
        assert file.metadata() == {'format': 'pt', 'mirl_mm': '{}'}
    state, info = read_checkpoint(path)
    assert info == dict(form='mae', layout='torch')
    assert len(state) == 150


def test_safetensors_that_start_like_a_pickle(tmp_path):
    """The first byte is that of the header's length."""
    path = tmp_path / 'model.safetensors'
    for length in range(64):
        write_checkpoint(path, {'layers.0.ln1.weight': torch.ones(2)}, dict(note='x' * 8 * length))
        if path.read_bytes()[:1] == b'\x80':
            break
    else:
        pytest.fail('no header of that length')
    assert read_checkpoint(path)[1] == dict(form='mirl_mm', layout='torch')
    assert 'state_dict' in CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


@pytest.mark.parametrize('part', [0.0001, 0.01, 0.5, 0.9999])
def test_safetensors_cut_short(ours, tmp_path, part):
    path = tmp_path / 'model.safetensors'
    write_checkpoint(path, ours, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match='cut short') as error:
        read_checkpoint(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_an_older_file_is_kept_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / 'model.pth'
    path.write_text('older')

    def full_disk(content, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(OSError, match=r'cannot write .*model.pth: .*No space left'):
        write_checkpoint(path, {'a': torch.ones(1)}, {})
    assert path.read_text() == 'older'
    assert os.listdir(tmp_path) == ['model.pth']


def test_averaged_and_raw_weights(tmp_path):
    averaged, raw = ({'backbone.layers.0.ln1.weight': torch.randn(4)} for _ in range(2))
    ema = OrderedDict(steps=torch.tensor(7), **{f'module.{name}': t for name, t in raw.items()})
    torch.save(dict(state_dict=averaged, ema_state_dict=ema, optimizer={}), tmp_path / 'ema.pth')
    found = open_checkpoint(tmp_path / 'ema.pth')
    assert_same(found.state, averaged)
    assert (found.weights, found.beside) == ('averaged', ('ema_state_dict', 'optimizer'))
    found = open_checkpoint(tmp_path / 'ema.pth', raw=True)
    assert found.weights == 'raw'
    assert_same(to_ours(found.state)[0], raw)
    torch.save(dict(state_dict=averaged), tmp_path / 'plain.pth')
    assert open_checkpoint(tmp_path / 'plain.pth').weights == 'plain'
    with pytest.raises(ValueError, match='has no raw weights beside averaged ones'):
        open_checkpoint(tmp_path / 'plain.pth', raw=True)


# --- into models ----------------------------------------------------------------------------------


def test_load_weights_of_any_form(tmp_path):
    state = reference().state_dict()
    torch.save({'model': state}, tmp_path / 'official.pth')
    model = mirl()
    fit = load_weights(model, tmp_path / 'official.pth')
    assert len(fit.matched) == 344
    assert fit.missing == fit.resized == []
    assert fit.unused == [f'decoder_pos_embed{g}' for g in range(6)]
    assert_same(model.state_dict(), convert_official(state))

    encoder = MIRLViT('test', img_size=64)
    fit = load_weights(encoder, tmp_path / 'official.pth')
    assert_same(encoder.state_dict(), model.backbone.state_dict())
    assert (len(fit.matched), fit.missing, len(fit.unused)) == (150, [], 200)


def test_load_weights_resizes_positions(ours, tmp_path):
    write_checkpoint(tmp_path / 'small.pth', ours, {})
    model = mirl(img_size=(96, 96))
    fit = load_weights(model, tmp_path / 'small.pth')
    assert fit.resized == ['backbone.pos_embed']
    assert model.backbone.pos_embed.shape == (1, 37, 48)
    cls = ours['backbone.pos_embed'][:, 0]
    assert torch.equal(model.backbone.pos_embed[:, 0], cls)


def test_load_weights_checks_the_stored_arch(tmp_path):
    model = small_mirl()
    arch = EncoderArch.of_module(model.backbone)
    meta = dict(arch=replace(arch, num_heads=3).to_meta())
    write_checkpoint(tmp_path / 'other.pth', model.state_dict(), meta)
    with pytest.raises(ValueError, match='its num_heads is 3, and 2 in this MIRL'):
        load_weights(model, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='its num_heads is 3, and 2 in this MIRLViT'):
        check_stored_arch(tmp_path / 'other.pth', model.backbone)
    write_checkpoint(tmp_path / 'same.pth', model.state_dict(), dict(arch=arch.to_meta()))
    check_stored_arch(tmp_path / 'same.pth', model.backbone)
    check_stored_arch('https://somewhere/other.pth', model.backbone)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit], ids=['name', 'class'])
@pytest.mark.parametrize('encoder', [MIRLViT, VisionTransformer])
@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_mmengines_pretrained_checks_the_stored_arch(tmp_path, kind, encoder, ending):
    """Shapes do not tell the heads, and MMEngine logs at most what does not fit."""
    model = small_mirl()
    arch, path = EncoderArch.of_module(model.backbone), str(tmp_path / f'heads.{ending}')
    settings = dict(model.backbone.arch_settings)
    own = dict(num_segments=2) if encoder is MIRLViT else {}
    init = dict(type=kind, checkpoint=path, prefix='backbone.')
    vit = encoder(settings, img_size=model.backbone.img_size, patch_size=8, init_cfg=init, **own)
    write_checkpoint(path, model.state_dict(), dict(arch=replace(arch, num_heads=3).to_meta()))
    with pytest.raises(ValueError, match=f'its num_heads is 3, and 2 in this {encoder.__name__}'):
        vit.init_weights()
    filled = model.backbone.layers[0].attn.qkv.weight
    assert not torch.equal(vit.layers[0].attn.qkv.weight, filled)
    write_checkpoint(path, model.state_dict(), dict(arch=arch.to_meta()))
    vit.init_weights()
    assert_same(vit.layers.state_dict(), model.backbone.layers.state_dict())


def test_other_models_are_filled_as_ever(tmp_path):
    net = torch.nn.Linear(2, 2)
    torch.save(dict(state_dict=dict(weight=torch.ones(2, 2), bias=torch.ones(2)), meta='text'),
               tmp_path / 'net.pth')  # fmt: skip
    PretrainedInit(str(tmp_path / 'net.pth'))(net)
    assert net.weight.sum() == 4
