"""Weights of transformers and timm: the files of random models, and what these compute.

Files and figures are of tests/data/make_hub.py; neither library computes here.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.structures import DataSample
from safetensors.torch import load_file, save_file

from mirl_mm.checkpoint import convert_file, load_weights, open_checkpoint
from mirl_mm.checkpoint.loading import check_start, check_whole, part_taken
from mirl_mm.checkpoint.names import from_hub
from mirl_mm.checkpoint.reading import class_names
from mirl_mm.errors import CheckpointError, reason_of
from mirl_mm.models import MIRLViT

HUB = Path(__file__).parents[1] / 'data/hub'
ARCH = dict(embed_dims=24, num_layers=2, num_heads=4, feedforward_channels=48)
SETTINGS = dict(img_size=16, patch_size=4, num_segments=2, out_type='raw')
EPS = dict(hf_mae=1e-12, hf_vit_shards=1e-12, hf_vit_classifier=1e-12, timm_clip=1e-5)
SCALED = dict(layer_scale_init_value=1.0)
FAMILIES = dict(
    hf_mae={}, hf_vit_shards={}, hf_vit_classifier={}, hf_dinov2=SCALED,
    hf_dinov2_registers=dict(num_registers=4, **SCALED), timm_augreg={}, timm_mae={},
    timm_dinov2=SCALED, timm_dinov2_registers=dict(num_registers=4, **SCALED),
    timm_clip=dict(pre_norm=True),
)  # fmt: skip


def vit(family: str, **settings) -> MIRLViT:
    norm = dict(norm_cfg=dict(type='LN', eps=EPS.get(family, 1e-6)))
    return MIRLViT(ARCH, **norm | SETTINGS | FAMILIES[family] | settings).eval()


def features(family: str) -> dict[str, torch.Tensor]:
    with np.load(HUB / family / 'features.npz') as stored:
        return {name: torch.from_numpy(x) for name, x in stored.items()}


def apart(model: MIRLViT, given: dict, end: str = '', of: str | None = None) -> float:
    """The largest difference of cls and patches behind the last norm."""
    tokens = model(given[f'imgs{end}'])[-1]
    of, number = end if of is None else of, given[f'patches{end}'].shape[1]
    assert tokens.shape[1] == number + model.num_extra_tokens
    left, right = tokens[:, -number:] - given[f'patches{of}'], tokens[:, 0] - given[f'cls{of}']
    return max(left.abs().max(), right.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize('family', FAMILIES)
def test_features_equal_the_librarys(family, tmp_path):
    """Read as they are and converted; at the table's size, and at another by our rule."""
    given, loaded, started = features(family), vit(family), vit(family)
    fit = load_weights(loaded, HUB / family)
    assert fit.missing == [] and len(fit.matched) == len(loaded.state_dict())
    convert_file(HUB / family, tmp_path / 'out.pth', 'backbone')
    started.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'out.pth'))
    started.init_weights()
    for model in (loaded, started):
        assert apart(model, given) < 1e-5
        assert apart(model, given, '2') < 1e-5
    own = apart(loaded, given, '2', '_own')
    if family in ('hf_mae', 'hf_vit_shards', 'hf_vit_classifier', 'hf_dinov2'):
        assert own < 1e-5
    else:  # the library resizes positions with antialiasing; docs/transfer.md
        assert 0.1 < own < 0.6


@torch.no_grad()
def test_what_makes_a_family_is_no_matter_of_chance():
    """Without layer scale, registers or the norm before the blocks, with other heads or eps."""
    for family, other in (
        ('hf_dinov2', dict(layer_scale_init_value=0.0)),
        ('hf_dinov2_registers', dict(num_registers=0)),
        ('timm_dinov2_registers', dict(num_registers=3)),
        ('timm_clip', dict(pre_norm=False)),
    ):
        with pytest.raises(CheckpointError, match='of another arch'):
            load_weights(vit(family, **other), HUB / family)
    heads = MIRLViT(dict(ARCH, num_heads=2), **SETTINGS)
    with pytest.raises(CheckpointError, match='its num_heads is 4, and 2 in this MIRLViT'):
        load_weights(heads, HUB / 'timm_mae')
    for family, eps in (('hf_mae', 1e-5), ('timm_mae', 1e-5), ('timm_clip', 1e-6)):
        other = vit(family, norm_cfg=dict(type='LN', eps=eps))
        load_weights(other, HUB / family)
        assert apart(other, features(family)) > 3e-5


# --- heads and decoders ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('family', ['hf_vit_classifier', 'timm_augreg'])
def test_classifiers(family, tmp_path):
    lines = convert_file(HUB / family, tmp_path / 'out.pth')
    assert any(line.startswith('unused    none') for line in lines)
    model, given = vit(family, out_type='cls_token'), features(family)
    load_weights(model, tmp_path / 'out.pth')
    head = torch.load(tmp_path / 'out.pth')['state_dict']
    logits = F.linear(model(given['imgs'])[-1], head['head.fc.weight'], head['head.fc.bias'])
    torch.testing.assert_close(logits, given['logits'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('pool', ['max', 'avg'])
def test_a_classifier_of_another_pooling_is_left_out(pool, tmp_path):
    """Ours takes cls, or a mean with a norm of its own, which these weights have not."""
    arguments = dict(global_pool=pool, num_heads=4)
    source = family('timm_augreg', tmp_path / 'in', global_pool=pool, model_args=arguments)
    lines = convert_file(source, tmp_path / 'out.pth')
    said = f"beside them a classifier with global_pool='{pool}', which ours has not"
    assert lines[0].endswith(said)
    assert torch.load(tmp_path / 'out.pth')['state_dict'].keys() == {
        f'backbone.{name}' for name in vit('timm_augreg').state_dict()
    }


def test_names_of_labels_go_along(tmp_path):
    names = ['cat', 'dog', 'ant', 'bee', 'cow']
    hf = family('hf_vit_classifier', tmp_path / 'hf', id2label=dict(enumerate(names)))
    for source in (hf, family('timm_augreg', tmp_path / 'timm', label_names=names)):
        convert_file(source, tmp_path / 'out.pth')
        assert class_names(torch.load(tmp_path / 'out.pth')['meta']) == names
    assert class_names(open_checkpoint(HUB / 'hf_vit_classifier').meta) == []


def test_another_eps_is_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr('mirl_mm.models.archs.print_log', lambda *line: said.append(line))
    for eps in (1e-6, 1e-12):
        load_weights(vit('hf_mae', norm_cfg=dict(type='LN', eps=eps)), HUB / 'hf_mae')
    ((line, _, level),) = said
    assert line.startswith('norms of the weights have eps=1e-12, and 1e-06 in this MIRLViT: norm_')
    assert level == logging.WARNING


def test_a_config_tells_the_grid_of_bare_weights(tmp_path):
    state = load_file(HUB / 'timm_mae/model.safetensors')
    save_file(state, tmp_path / 'bare.safetensors')
    backbone = dict(type='MIRLViT', arch=ARCH, **SETTINGS | dict(img_size=(8, 32)))
    (tmp_path / 'wide.py').write_text(f"""
default_scope = 'mmpretrain'
model = dict(type='ImageClassifier', backbone={backbone})
""")
    for config, size in ((None, [16, 16]), (str(tmp_path / 'wide.py'), [8, 32])):
        convert_file(tmp_path / 'bare.safetensors', tmp_path / 'out.pth', config=config)
        assert torch.load(tmp_path / 'out.pth')['meta']['arch']['img_size'] == size


def test_a_norm_that_the_model_lacks_is_no_whole_model(tmp_path):
    """transformers' classifier norms cls; a config without that norm would compute others."""
    convert_file(HUB / 'hf_vit_classifier', tmp_path / 'out.pth')
    state = open_checkpoint(tmp_path / 'out.pth').state
    head = dict(type='LinearClsHead', num_classes=len(state['head.fc.bias']), in_channels=24)
    for final_norm in (True, False):
        backbone = dict(type='MIRLViT', arch=ARCH, **SETTINGS | dict(out_type='cls_token'))
        init_default_scope('mmpretrain')
        model = MODELS.build(
            dict(type='ImageClassifier', backbone=backbone | dict(final_norm=final_norm), head=head)
        )
        if final_norm:
            check_whole(model, state, tmp_path / 'out.pth')
        else:
            with pytest.raises(CheckpointError, match=r"has 'backbone\.ln1\.weight' and 1 more"):
                check_whole(model, state, tmp_path / 'out.pth')


UNUSED = dict(
    hf_vit_shards='2: pooler.dense.bias, pooler.dense.weight', hf_dinov2='1: mask_token',
    hf_dinov2_registers='1: mask_token', hf_mae='32: neck.', timm_clip='none',
)  # fmt: skip


@pytest.mark.parametrize('family', UNUSED)
def test_the_account_says_what_is_left_and_which_norm_computes_the_same(family, tmp_path):
    lines = dict(line.split(maxsplit=1) for line in convert_file(HUB / family, tmp_path / 'out'))
    names = 'MAE or timm' if family == 'timm_clip' else 'transformers'
    assert f': names of {names}' in lines['read']
    assert lines['arch'].startswith('24 wide, 2 deep, 4 heads, patches of 4 px, positions of 16x16')
    assert lines['unused'].startswith(UNUSED[family])
    assert lines['missing'] == 'none'
    eps = EPS.get(family)
    end = f", norm_cfg=dict(type='LN', eps={eps:g})" if eps else ''
    assert lines['arch'].endswith(end) and ('norm_cfg' in lines['arch']) == bool(eps)


def test_the_classifier_of_dinov2_is_unused(tmp_path):
    """It is of cls beside the mean of the patches, twice as wide as a classifier of ours."""
    state = {f'dinov2.{n}': x for n, x in load_file(HUB / 'hf_dinov2/model.safetensors').items()}
    save_file(state | {'classifier.weight': torch.ones(3, 48)}, tmp_path / 'model.safetensors')
    lines = convert_file(tmp_path, tmp_path / 'out.pth')
    assert 'unused    2: classifier.weight, mask_token' in lines
    assert torch.load(tmp_path / 'out.pth')['state_dict'].keys() == {
        f'backbone.{name}' for name in vit('hf_dinov2').state_dict()
    }


def mae() -> torch.nn.Module:
    """mmpretrain's, with the settings of configs/mae at the size of the files."""
    norm = dict(type='LN', eps=1e-12)
    cfg = dict(
        type='MAE',
        backbone=dict(
            type='MAEViT', arch=ARCH, img_size=16, patch_size=4, mask_ratio=0.75, norm_cfg=norm
        ),
        neck=dict(
            type='MAEPretrainDecoder', num_patches=16, patch_size=4, embed_dim=24, norm_cfg=norm,
            decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2, mlp_ratio=2,
        ),
        head=dict(
            type='MAEPretrainHead', norm_pix=True, patch_size=4,
            loss=dict(type='PixelReconstructionLoss', criterion='L2'),
        ),
    )  # fmt: skip
    init_default_scope('mmpretrain')
    return MODELS.build(cfg).eval()


@torch.no_grad()
@pytest.mark.parametrize('names', ['transformers', 'facebook', 'as they are'])
def test_maes_whole_checkpoint_continues_in_mmpretrains(names, tmp_path, monkeypatch):
    source, model, given = HUB / 'hf_mae/model.safetensors', mae(), features('hf_mae')
    if names == 'as they are':
        assert load_weights(model, source).missing == []
    else:
        if names == 'facebook':
            torch.save(dict(model=from_hub(load_file(source))), tmp_path / 'mae.pth')
            source = tmp_path / 'mae.pth'
        lines = convert_file(source, tmp_path / 'out.pth', 'mae')
        assert 'matched   62 of the 62 of a ViT of this arch: encoder 30, decoders 32' in lines
        written = load_checkpoint(model, str(tmp_path / 'out.pth'), strict=True)
        assert part_taken(model, written['state_dict'], 'out.pth') == ''  # as load_from: all starts
    monkeypatch.setattr(torch, 'rand', lambda *_, **__: given['noise'])
    tokens, mask, restore = model.backbone(given['imgs'])
    pred = model.neck(tokens, restore)
    torch.testing.assert_close(pred, given['pred'], rtol=0, atol=1e-5)
    assert torch.equal(mask, given['mask'])
    loss = model.loss(given['imgs'], [DataSample()] * 2)['loss']
    torch.testing.assert_close(loss, given['loss'], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ('family', 'lost', 'words'),
    [
        ('hf_vit_classifier', '', "it has no decoder of MAE; accepted for mae is MAE's whole"),
        ('hf_mae', 'decoder.decoder_norm.bias', "mmpretrain's MAE needs neck.ln1.bias, which it"),
        ('hf_mae', 'vit.layernorm.bias', "mmpretrain's MAE needs backbone.ln1.bias, which it"),
    ],
)
def test_mae_needs_a_whole_checkpoint(family, lost, words, tmp_path):
    state = load_file(HUB / family / 'model.safetensors')
    state.pop(lost, None)
    save_file(state, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError) as error:
        convert_file(tmp_path, tmp_path / 'out.pth', 'mae')
    assert str(error.value).startswith(f'{tmp_path}: {words}') and '\n' not in str(error.value)
    assert not (tmp_path / 'out.pth').exists()


# --- where they are -------------------------------------------------------------------------------


def family(name: str, folder: Path, **config) -> Path:
    """A copy of a family's folder, with other settings in its config.json."""
    shutil.copytree(HUB / name, folder)
    path = folder / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def told(call, *args) -> str:
    """The one line of what a call refuses."""
    with pytest.raises((ValueError, OSError)) as error:
        call(*args)
    line = reason_of(error.value)
    assert line and '\n' not in line
    return line


def test_every_place_of_a_set_is_the_set():
    whole = open_checkpoint(HUB / 'hf_vit_shards')
    assert len(whole.state) == 40 and whole.form == 'hf'
    for name in ('model.safetensors.index.json', 'model-00002-of-00003.safetensors'):
        found = open_checkpoint(HUB / 'hf_vit_shards' / name)
        assert found.state.keys() == whole.state.keys() and found.told == whole.told


@torch.no_grad()
@pytest.mark.parametrize(
    ('prefix', 'place'), [('', ''), ('module.', ''), ('model.', 'state_dict/model.')]
)
def test_torch_files_and_prefixes(prefix, place, tmp_path):
    """In a folder as transformers wrote it before safetensors, or in a trainer's checkpoint."""
    state = load_file(HUB / 'hf_vit_classifier/model.safetensors')
    content = {prefix + name: x for name, x in state.items()}
    torch.save(dict(state_dict=content) if place else content, tmp_path / 'pytorch_model.bin')
    found = open_checkpoint(tmp_path)
    assert (found.form, found.place, found.told) == ('hf', place, {})
    model = vit('hf_vit_classifier')
    load_weights(model, tmp_path)
    assert apart(model, features('hf_vit_classifier')) < 1e-5


@torch.no_grad()
def test_dinov2s_own_names(tmp_path):
    """They are timm's but for the registers, and positions have a place for cls."""
    state = from_hub(load_file(HUB / 'hf_dinov2_registers/model.safetensors'))
    state['register_tokens'] = state.pop('reg_token')
    assert {'mask_token', 'blocks.0.ls1.gamma', 'blocks.1.attn.qkv.bias'} <= state.keys()
    torch.save(state, tmp_path / 'dinov2.pth')
    model = vit('hf_dinov2_registers')
    assert load_weights(model, tmp_path / 'dinov2.pth').unused == ['mask_token']
    assert apart(model, features('hf_dinov2_registers')) < 1e-5


def test_a_set_without_one_of_its_parts(tmp_path):
    folder = family('hf_vit_shards', tmp_path / 'vit')
    (folder / 'model-00002-of-00003.safetensors').unlink()
    assert told(open_checkpoint, folder) == (
        f'{folder}/model.safetensors.index.json lists model-00002-of-00003.safetensors, and there '
        f'is no {folder}/model-00002-of-00003.safetensors'
    )
    # an index that has forgotten one
    index = json.loads((HUB / 'hf_vit_shards/model.safetensors.index.json').read_text())
    places = {n: file for n, file in index['weight_map'].items() if '00002' not in file}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=places)))
    line = told(convert_file, folder, tmp_path / 'out.pth')
    assert line.startswith(f'{folder}: ') and 'its num_layers is 1, and 2 in the config' in line


def test_a_folder_without_weights(tmp_path):
    assert told(open_checkpoint, tmp_path) == (
        f'no checkpoint at {tmp_path}, a folder with none of model.safetensors, '
        'model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json'
    )


def test_a_start_from_them_names_the_converter():
    path = HUB / 'hf_dinov2/model.safetensors'
    line = told(check_start, str(path), None, 'model.backbone.init_cfg')
    assert 'it has names of transformers (embeddings.cls_token, ' in line
    assert line.endswith('--to backbone')


# --- config.json ----------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['hf_vit_classifier', 'timm_mae'])
def test_a_config_of_a_rectangle(name, tmp_path):
    """16 positions are of 8x2 patches where the config says so."""
    hf, timm = dict(image_size=[32, 8]), dict(img_size=[32, 8], patch_size=4, num_heads=4)
    change = hf if name == 'hf_vit_classifier' else dict(model_args=timm)
    folder = family(name, tmp_path / 'in', **change)
    lines = convert_file(folder, tmp_path / 'out.pth', 'backbone')
    assert any('4 heads, patches of 4 px, positions of 32x8 px' in line for line in lines)
    stored = torch.load(tmp_path / 'out.pth')['meta']['arch']
    assert (stored['img_size'], stored['num_heads']) == ([32, 8], 4)
    assert stored['norm_eps'] == (1e-12 if name == 'hf_vit_classifier' else 1e-6)
    model, positions = vit(name, img_size=(32, 8)), 'vit.embeddings.position_embeddings'
    load_weights(model, folder)
    given = open_checkpoint(folder).state
    assert torch.equal(model.pos_embed, given.get(positions, given.get('pos_embed')))


@pytest.mark.parametrize(
    ('architecture', 'heads'),
    [
        ('vit_tiny_patch16_224', 3),
        ('vit_base_patch14_reg4_dinov2', 12),
        ('vit_huge_patch14_224', 16),
        ('vit_so400m_patch14_siglip_224', None),
    ],
)
def test_heads_in_the_name_of_a_timm_architecture(architecture, heads, tmp_path):
    folder = family('timm_mae', tmp_path / 'in', architecture=architecture, model_args={})
    assert open_checkpoint(folder).told == dict(num_heads=heads, norm_eps=1e-6)


DISAGREE = {
    'embed_dims': (dict(hidden_size=48), 'embed_dims is 24, and 48'),
    'num_layers': (dict(num_hidden_layers=3), 'num_layers is 2, and 3'),
    'mlp': (dict(intermediate_size=96), 'feedforward_channels is 48, and 96'),
    'channels': (dict(num_channels=1), 'in_channels is 3, and 1'),
    'patch': (dict(patch_size=8), 'patch_size is 4, and 8'),
    'positions': (dict(image_size=32), 'img_size is (16, 16), and (32, 32)'),
}


@pytest.mark.parametrize('key', DISAGREE)
def test_a_config_that_disagrees_with_the_weights(key, tmp_path):
    change, words = DISAGREE[key]
    folder = family('hf_vit_classifier', tmp_path / 'in', **change)
    line = f'{folder}: the checkpoint is of another arch: its {words} in the config.json beside it'
    assert told(convert_file, folder, tmp_path / 'out.pth') == line
    assert told(load_weights, vit('hf_vit_classifier'), folder) == line


@pytest.mark.parametrize(
    ('key', 'value', 'accepted'),
    [
        ('patch_size', 0, 'a whole number above 0 or two, [height, width]'),
        ('image_size', [32], 'a whole number above 0 or two, [height, width]'),
        ('image_size', ['a', 'b'], 'a whole number above 0 or two, [height, width]'),
        ('hidden_size', [24], 'a whole number above 0'),
        ('num_attention_heads', 0, 'a whole number above 0'),
        ('layer_norm_eps', '1e-6', 'a number above 0'),
    ],
)
def test_a_config_of_no_such_numbers(key, value, accepted, tmp_path):
    folder = family('hf_vit_classifier', tmp_path / 'in', **{key: value})
    line = f'{folder}/config.json: {key!r} is {value!r}; accepted is {accepted}'
    assert told(open_checkpoint, folder) == line


def test_heads_that_do_not_divide_the_width(tmp_path):
    folder = family('hf_vit_classifier', tmp_path / 'in', num_attention_heads=5)
    line = f'{folder}: 5 heads in the config.json beside it do not divide a width of 24'
    assert told(convert_file, folder, tmp_path / 'out.pth') == line
    assert told(load_weights, vit('hf_vit_classifier'), folder) == line


def test_a_config_of_patches_with_two_sides(tmp_path):
    folder = family('hf_vit_classifier', tmp_path / 'in', patch_size=[4, 4], image_size=[16, 16])
    fields = open_checkpoint(folder).told
    assert (fields['patch_size'], fields['img_size']) == (4, (16, 16))


def test_registers_and_layer_scale_are_held_to_the_config(tmp_path):
    folder = family('hf_dinov2_registers', tmp_path / 'in', num_register_tokens=5)
    line = told(convert_file, folder, tmp_path / 'out.pth')
    assert 'its num_registers is 4, and 5 in the config.json beside it' in line


@pytest.mark.parametrize(
    ('text', 'told_fields'), [('{"a": 1}', {}), ('[1]', {}), ('{"hidden_size": 24}', None)]
)
def test_a_config_of_something_else(text, told_fields, tmp_path):
    folder = family('hf_vit_classifier', tmp_path / 'in')
    (folder / 'config.json').write_text(text)
    fields = dict(embed_dims=24) if told_fields is None else told_fields
    assert open_checkpoint(folder).told == fields
    assert any(line == 'unused    none' for line in convert_file(folder, tmp_path / 'out.pth'))


def test_a_config_that_is_no_json(tmp_path):
    folder = family('hf_vit_classifier', tmp_path / 'in')
    (folder / 'config.json').write_text('{')
    assert told(open_checkpoint, folder).startswith(f'{folder}/config.json is no JSON (')


# --- refused, with the reason ---------------------------------------------------------------------

RELATIVE, ROTARY, SWIGLU = 'relative positions (as in', 'rotary positions (as in', 'SwiGLU in its'
NAMES = {
    'encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table':
        RELATIVE,
    'blocks.0.attn.relative_position_bias_table': RELATIVE,
    'blocks.0.attn.relative_position_index': RELATIVE,
    'rel_pos_bias.relative_position_bias_table': RELATIVE,
    'blocks.0.attn.rel_pos.mlp.fc1.weight': RELATIVE,
    'rope.freqs_cis': ROTARY, 'rope_embed.periods': ROTARY,
    'layer.0.attention.q_proj.weight': ROTARY,
    'encoder.layer.0.attention.q_proj.weight': 'names of transformers 5 in memory; save_',
    'blocks.0.gamma_1': 'layer scale as in BEiT, EVA and DINOv3',
    'encoder.layer.0.mlp.weights_in.weight': SWIGLU, 'blocks.0.mlp.w12.weight': SWIGLU,
    'blocks.0.mlp.fc1_g.weight': SWIGLU,
    'dist_token': 'a distillation token', 'attn_pool.q.weight': 'attention pooling',
    'blocks.0.attn.q_norm.weight': 'norms of queries and keys',
    'patch_embed.backbone.stem.conv.weight': 'a convolutional stem',
}  # fmt: skip


@pytest.mark.parametrize('name', NAMES)
def test_parts_that_ours_lack_are_refused_with_the_reason(name, tmp_path):
    base = 'hf_vit_classifier' if name.startswith('encoder.') else 'timm_mae'
    name, words = ('vit.' if name.startswith('encoder.') else '') + name, NAMES[name]
    state = load_file(HUB / base / 'model.safetensors') | {name: torch.ones(2, 2)}
    save_file(state, tmp_path / 'file.safetensors')
    line = told(convert_file, tmp_path / 'file.safetensors', tmp_path / 'out.pth')
    assert line.startswith(f'{tmp_path}/file.safetensors: it has {words}')
    assert line.endswith(repr(name.removeprefix('vit.')))


def test_a_packed_swiglu_is_seen_by_its_shapes(tmp_path):
    state = load_file(HUB / 'timm_dinov2/model.safetensors')
    for i in range(2):  # as timm's vit_giant_patch14_dinov2 has it
        state[f'blocks.{i}.mlp.fc2.weight'] = torch.ones(24, 24)
    save_file(state, tmp_path / 'file.safetensors')
    line = told(convert_file, tmp_path / 'file.safetensors', tmp_path / 'out.pth')
    assert SWIGLU in line and line.endswith("'blocks.0.mlp.fc1.weight' is (48, 24)")


CONFIGS = {
    'quick_gelu': ('hf_vit_classifier', dict(hidden_act='quick_gelu'), 'the activation quick_gelu'),
    'tanh': ('hf_vit_classifier', dict(hidden_act='gelu_pytorch_tanh'), 'the activation gelu_pyt'),
    'relu': ('hf_dinov2', dict(hidden_act='relu'), 'the activation relu, and ours have gelu'),
    'swiglu': ('hf_dinov2', dict(use_swiglu_ffn=True), SWIGLU),
    'beit': ('hf_vit_classifier', dict(model_type='beit'), RELATIVE),
    'dinov3': ('hf_dinov2', dict(model_type='dinov3_vit'), ROTARY),
    'timm quickgelu': ('timm_clip', dict(architecture='vit_base_patch16_clip_quickgelu_224'),
                       'the activation quick_gelu'),
    'timm act': ('timm_mae', dict(model_args=dict(act_layer='quick_gelu')), 'the activation quick'),
    'timm relpos': ('timm_mae', dict(architecture='vit_relpos_base_patch16_224'), RELATIVE),
    'timm dinov3': ('timm_mae', dict(architecture='vit_base_patch16_dinov3'), ROTARY),
    'timm eva': ('timm_mae', dict(architecture='eva02_base_patch14_224'), ROTARY),
}  # fmt: skip


@pytest.mark.parametrize('kind', CONFIGS)
def test_models_that_are_no_plain_vit_are_refused_by_their_config(kind, tmp_path):
    base, change, words = CONFIGS[kind]
    folder = family(base, tmp_path / 'in', **change)
    model = change.get('architecture', change.get('model_type', ''))
    for call in (open_checkpoint, lambda path: convert_file(path, tmp_path / 'out.pth')):
        line = told(call, folder)
        assert line.startswith(f'{folder}/config.json: ') and f'{model} has {words}' in line
