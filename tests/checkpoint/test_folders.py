"""Folders of --to timm and --to hf: timm loads its own; transformers' names are held against files.

What transformers computes from such folders stands in docs/transfer.md: it is not installed here.
"""

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from mirl_mm.apps.report.runs import record_of
from mirl_mm.checkpoint import convert_file, folders, write_checkpoint
from mirl_mm.checkpoint.folders import IMAGENET, pixels_of
from mirl_mm.errors import UserError
from mirl_mm.models import MIRLViT
from mirl_mm.models.archs import ARCHS, EncoderArch
from tests.apps.runs import add_start, train_rows

HUB = Path(__file__).parents[1] / 'data/hub'
TINY = dict(embed_dims=24, num_layers=2, num_heads=4, feedforward_channels=96)
SCALED = dict(layer_scale_init_value=1.0)
POOLED = dict(final_norm=False, out_type='avg_featmap')


def shrunken(name: str) -> dict:
    """Depth and heads of an arch, 48 wide."""
    return dict(ARCHS[name], embed_dims=48, feedforward_channels=192)


def encoder(arch: dict = TINY, size: int | tuple = 16, patch: int = 4, **settings) -> MIRLViT:
    """With all parameters random, so that no zero or one hides a mistake."""
    torch.manual_seed(0)
    settings = dict(num_segments=2, out_type='raw') | settings
    vit = MIRLViT(arch, size, patch, **settings)
    for name, x in vit.named_parameters():
        one = name.endswith('weight') and ('ln' in name or 'norm' in name)
        nn.init.normal_(x, mean=float(one), std=0.3 if x.ndim < 4 else 0.1)
    return vit.eval()


def saved(path: Path, vit: MIRLViT, classes: int = 0, **meta) -> nn.Linear | None:
    """A checkpoint of an encoder, with a classifier or without."""
    state = {f'backbone.{name}': x for name, x in vit.state_dict().items()}
    head = nn.Linear(vit.embed_dims, classes) if classes else None
    if head:
        state |= {f'head.fc.{name}': x for name, x in head.state_dict().items()}
    write_checkpoint(path, state, meta | dict(arch=EncoderArch.of_module(vit).to_meta()))
    return head


def config_of(folder: Path, name: str = 'config.json') -> dict:
    return json.loads((folder / name).read_text())


# --- timm -----------------------------------------------------------------------------------------

MODELS = {
    's12': dict(arch=shrunken('s12')),
    's54': dict(arch=shrunken('s54')),
    'rectangle': dict(size=(8, 32)),
    'channels': dict(in_channels=5),
    'eps': dict(norm_cfg=dict(type='LN', eps=1e-5)),
    'norm before the blocks': dict(pre_norm=True),
    'layer scale': SCALED,
    'registers': dict(num_registers=4, **SCALED),
    'odd mlp': dict(arch=dict(TINY, feedforward_channels=61)),
}


@torch.no_grad()
@pytest.mark.parametrize('name', MODELS)
def test_timm_computes_the_same_features(name, tmp_path):
    vit = encoder(**MODELS[name])
    saved(tmp_path / 'in.pth', vit)
    lines = convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm')
    assert lines[-1] == f"load with timm.create_model('local-dir:{tmp_path}/out', pretrained=True)"
    assert sorted(os.listdir(tmp_path / 'out')) == ['README.md', 'config.json', 'model.safetensors']
    model = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()
    imgs = torch.randn(2, vit.patch_embed.projection.in_channels, *vit.img_size)
    expected = vit(imgs)[-1]
    assert expected.std() > 0.3
    torch.testing.assert_close(model.forward_features(imgs), expected, rtol=0, atol=1e-5)
    assert model.pretrained_cfg['input_size'] == tuple(imgs.shape[1:])
    assert model.pretrained_cfg['tag'] == 'mirl_mm'


@pytest.mark.long  # 800 MB on the disk
@torch.no_grad()
@pytest.mark.parametrize('name', ['s12', 's54'])
def test_timm_computes_the_same_features_at_full_width(name, tmp_path):
    vit = MIRLViT(name, 64, out_type='raw').eval()
    saved(tmp_path / 'in.pth', vit)
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm')
    model = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()
    imgs = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.forward_features(imgs), vit(imgs)[-1], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('registers', [0, 4])
@pytest.mark.parametrize('kind', [POOLED, dict(out_type='cls_token')], ids=['fine-tuned', 'cls'])
def test_timm_computes_the_same_logits(kind, registers, tmp_path):
    vit = encoder(num_registers=registers, **kind)
    names = [f'class {i}' for i in range(5)]
    head = saved(tmp_path / 'in.pth', vit, 5, dataset_meta=dict(classes=names))
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm', licence='cc-by-4.0')
    model = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()
    imgs = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(imgs), head(vit(imgs)[-1]), rtol=0, atol=1e-5)
    assert model.pretrained_cfg['label_names'] == names
    assert model.pretrained_cfg['license'] == 'cc-by-4.0'
    assert '\nlicense: cc-by-4.0\n' in (tmp_path / 'out/README.md').read_text()


@torch.no_grad()
def test_the_printed_call_of_a_file_takes_a_rectangle_and_registers(tmp_path):
    vit = encoder(size=(8, 32), num_registers=4)
    saved(tmp_path / 'in.pth', vit)
    call = convert_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')[-1]
    assert 'img_size=(8, 32)' in call and 'reg_tokens=4, ' in call and 'no_embed_class=True' in call
    model = eval(call.removeprefix('load with '), {'timm': timm}).eval()
    model.load_state_dict(torch.load(tmp_path / 'out.pth'))
    imgs = torch.randn(2, 3, 8, 32)
    torch.testing.assert_close(model.forward_features(imgs), vit(imgs)[-1], rtol=0, atol=1e-5)


def test_an_eps_that_timm_has_not_is_told(tmp_path):
    lines = convert_file(HUB / 'hf_vit_classifier', tmp_path / 'out', 'timm')
    assert "norms     timm's have an eps of 1e-06" in lines
    assert not any(
        'norms ' in x for x in convert_file(HUB / 'timm_clip', tmp_path / 'clip', 'timm')
    )
    assert config_of(tmp_path / 'clip')['architecture'] == 'vit_base_patch16_clip_224'


TIMM = ['timm_augreg', 'timm_mae', 'timm_dinov2', 'timm_dinov2_registers', 'timm_clip']


@pytest.mark.parametrize('family', TIMM)
def test_timm_to_ours_and_back_is_bit_equal(family, tmp_path):
    convert_file(HUB / family, tmp_path / 'ours.pth')
    convert_file(tmp_path / 'ours.pth', tmp_path / 'back', 'timm')
    given, back = (load_file(d / 'model.safetensors') for d in (HUB / family, tmp_path / 'back'))
    assert given.keys() == back.keys()
    assert all(torch.equal(given[name], back[name]) for name in given)


# --- transformers ---------------------------------------------------------------------------------


def hub_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: x for path in folder.glob('*.safetensors') for n, x in load_file(path).items()}


@pytest.mark.parametrize(
    ('family', 'without'),
    [
        ('hf_vit_shards', 'pooler'),
        ('hf_vit_classifier', '-'),
        ('hf_dinov2', 'mask_token'),
        ('hf_dinov2_registers', 'mask_token'),
    ],
)
def test_transformers_to_ours_and_back_is_bit_equal(family, without, tmp_path):
    """But for what ours has not: a pooler, and a mask token that is no zero."""
    convert_file(HUB / family, tmp_path / 'ours.pth')
    lines = convert_file(tmp_path / 'ours.pth', tmp_path / 'back', 'hf')
    given, back = hub_tensors(HUB / family), hub_tensors(tmp_path / 'back')
    assert {n for n in given.keys() ^ back.keys() if without not in n} == set()
    assert all(given[n].shape == x.shape for n, x in back.items())
    assert all(torch.equal(given[n], x) for n, x in back.items() if without not in n)
    assert f'{len(back)} tensors' in lines[-3]
    before, after = config_of(HUB / family), config_of(tmp_path / 'back')
    told = {'image_size': [16, 16]} | {n: before[n] for n in after.keys() & before.keys()}
    assert {n: after[n] for n in told} == told | dict(image_size=[16, 16])
    assert {'architectures', 'model_type', 'layer_norm_eps', 'hidden_size'} <= told.keys()


def block(name: str) -> set[str]:
    """Names of transformers' BEiT and ViT in a block."""
    parts = ['attention.output.dense', 'intermediate.dense', 'output.dense']
    parts += ['layernorm_before', 'layernorm_after']
    parts += [f'attention.attention.{each}' for each in ('query', 'key', 'value')]
    return {f'{name}.{part}.{kind}' for part in parts for kind in ('weight', 'bias')}


def test_a_fine_tuned_classifier_is_a_beit_without_relative_positions(tmp_path):
    """Names are those that BeitForImageClassification of transformers 4.49 and 5.24 asks for."""
    vit = encoder(layer_scale_init_value=1.0, **POOLED)
    saved(tmp_path / 'in.pth', vit, 5)
    lines = convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    assert 'AutoModelForImageClassification.from_pretrained' in lines[-1]
    names = {'cls_token', 'position_embeddings'}
    names |= {f'patch_embeddings.projection.{kind}' for kind in ('weight', 'bias')}
    names = {f'embeddings.{name}' for name in names}
    names |= {f'pooler.layernorm.{kind}' for kind in ('weight', 'bias')}
    for i in range(2):
        names |= block(f'encoder.layer.{i}') | {f'encoder.layer.{i}.lambda_{g}' for g in (1, 2)}
        names.remove(f'encoder.layer.{i}.attention.attention.key.bias')
    names = {f'beit.{name}' for name in names} | {'classifier.weight', 'classifier.bias'}
    found = hub_tensors(tmp_path / 'out')
    assert found.keys() == names
    second = vit.layers[1]
    assert torch.equal(found['beit.encoder.layer.1.lambda_2'], second.ffn.gamma2.weight)
    value = second.attn.qkv.weight[48:]
    assert torch.equal(found['beit.encoder.layer.1.attention.attention.value.weight'], value)
    config = config_of(tmp_path / 'out')
    assert config['architectures'] == ['BeitForImageClassification']
    assert config['use_absolute_position_embeddings'] and config['use_mean_pooling']
    assert config['layer_scale_init_value'] > 0
    assert config['label2id']['LABEL_4'] == 4


@torch.no_grad()
def test_key_biases_are_the_same_for_all_keys():
    vit, imgs = encoder(), torch.randn(1, 3, 16, 16)
    before = vit(imgs)[-1]
    for layer in vit.layers:
        layer.attn.qkv.bias[24:48] = 0
    torch.testing.assert_close(vit(imgs)[-1], before, rtol=0, atol=1e-5)
    vit.layers[0].attn.qkv.bias[:24] = 0
    assert (vit(imgs)[-1] - before).abs().max() > 1e-2


def test_registers_without_layer_scale_and_a_classifier_of_cls_as_a_dinov2(tmp_path):
    vit = encoder(num_registers=3, out_type='cls_token')
    head = saved(tmp_path / 'in.pth', vit, 5)
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    found, start = hub_tensors(tmp_path / 'out'), 'dinov2_with_registers.'
    assert torch.equal(found[f'{start}embeddings.register_tokens'], vit.register_tokens)
    assert found[f'{start}embeddings.mask_token'].tolist() == [[0.0] * 24]
    scale = f'{start}encoder.layer.1.layer_scale2.lambda1'
    assert found[scale].tolist() == [1.0] * 24
    zeros = torch.zeros(5, 24)
    assert torch.equal(found['classifier.weight'], torch.cat([head.weight.detach(), zeros], 1))
    assert config_of(tmp_path / 'out')['num_register_tokens'] == 3
    convert_file(tmp_path / 'out', tmp_path / 'again.pth')
    again = torch.load(tmp_path / 'again.pth')['state_dict']
    assert torch.equal(again['head.fc.weight'], head.weight)


def test_the_call_for_an_encoder_leaves_the_pooler_out(tmp_path):
    saved(tmp_path / 'in.pth', encoder(size=(8, 32)))
    lines = convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    call = f"transformers.AutoModel.from_pretrained('{tmp_path}/out', add_pooling_layer=False)"
    assert lines[-1] == f'load with {call}'
    assert config_of(tmp_path / 'out')['image_size'] == [8, 32]
    size = config_of(tmp_path / 'out', 'preprocessor_config.json')['size']
    assert size == dict(height=8, width=32)


@pytest.mark.parametrize(
    ('settings', 'classes', 'words'),
    [
        (dict(num_registers=4, **POOLED), 5, 'registers beside a norm behind the mean'),
        (dict(size=(8, 32), **SCALED), 0, 'no positions of a rectangle in Dinov2;'),
        (dict(size=(8, 32), **POOLED), 5, 'no positions of a rectangle in Beit;'),
        (dict(arch=dict(TINY, feedforward_channels=61), **SCALED), 0, 'no MLP of 61 in Dinov2'),
        (dict(pre_norm=True), 0, "no place for 'norm_pre.weight'"),
    ],
)
def test_what_transformers_cannot_compute_is_refused_and_timm_takes_it(
    settings, classes, words, tmp_path
):
    saved(tmp_path / 'in.pth', encoder(**settings), classes)
    with pytest.raises(UserError, match=words) as error:
        convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    assert '--to timm' in str(error.value) and '\n' not in str(error.value)
    assert os.listdir(tmp_path) == ['in.pth']
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm')


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('to', 'name', 'words'),
    [
        ('timm', 'full', 'is a folder with something in it; accepted for timm is a new or empty'),
        ('hf', 'full', 'is a folder with something in it; accepted for hf is a new or empty'),
        ('timm', 'file', 'file is a file; .*folder, or a file in .pth or .safetensors'),
        ('hf', 'out.pth', 'out.pth ends as a file does; accepted for hf is a new or empty folder$'),
    ],
)
def test_nothing_is_overwritten(to, name, words, tmp_path):
    saved(tmp_path / 'in.pth', encoder())
    (tmp_path / 'full').mkdir()
    for path in (tmp_path / 'file', tmp_path / 'full/notes.txt'):
        path.write_text('mine')
    with pytest.raises(UserError, match=words):
        convert_file(tmp_path / 'in.pth', tmp_path / name, to)
    assert (tmp_path / 'full/notes.txt').read_text() == (tmp_path / 'file').read_text() == 'mine'


def test_an_empty_folder_is_filled_and_can_be_read_by_others(tmp_path):
    saved(tmp_path / 'in.pth', encoder())
    (tmp_path / 'out').mkdir()
    (tmp_path / 'fresh').mkdir()
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    assert len(os.listdir(tmp_path / 'out')) == 4
    assert (tmp_path / 'out').stat().st_mode == (tmp_path / 'fresh').stat().st_mode


def test_half_a_folder_does_not_stay(tmp_path, monkeypatch):
    saved(tmp_path / 'in.pth', encoder())

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(folders, 'card', full_disk)
    with pytest.raises(OSError, match='No space left'):
        convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm')
    assert os.listdir(tmp_path) == ['in.pth']


def test_what_weights_do_not_tell_is_asked_for(tmp_path):
    state = {f'backbone.{name}': x for name, x in encoder(size=(8, 24)).state_dict().items()}
    write_checkpoint(tmp_path / 'in.pth', state, {})
    with pytest.raises(UserError, match='does not tell its num_heads and img_size; --config does'):
        convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm')
    config = tmp_path / 'config.py'
    backbone = dict(type='MIRLViT', arch=TINY, img_size=(8, 24), patch_size=4, num_segments=2)
    classifier = dict(type='ImageClassifier', backbone=backbone)
    config.write_text(f'model = {classifier}\n')
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'timm', config=str(config))
    arguments = config_of(tmp_path / 'out')['model_args']
    assert (arguments['num_heads'], arguments['img_size']) == (4, [8, 24])


@pytest.mark.parametrize('to', ['timm', 'hf'])
def test_a_linear_probe_is_refused_for_its_batch_norm(to, tmp_path):
    vit = encoder(out_type='cls_token')
    state = {f'backbone.{name}': x for name, x in vit.state_dict().items()}
    state |= {'neck.bn.running_mean': torch.ones(24), 'head.fc.weight': torch.ones(5, 24)}
    write_checkpoint(tmp_path / 'in.pth', state, dict(arch=EncoderArch.of_module(vit).to_meta()))
    with pytest.raises(UserError, match='no batch norm before its classifier'):
        convert_file(tmp_path / 'in.pth', tmp_path / 'out', to)


# --- mean, std and card ---------------------------------------------------------------------------


def test_mean_and_std_are_the_configs_the_hubs_or_imagenets(tmp_path):
    text = 'model = dict(data_preprocessor=dict(mean=[51.0, 102.0, 0.0], std=[255, 255, 51]))\n'
    given = [0.2, 0.4, 0.0], [1.0, 1.0, 0.2], "the config's"
    assert pixels_of(text, tmp_path, 3) == given
    assert pixels_of(text[13:-2], tmp_path, 3) == given  # mmpretrain's stands beside the model
    one = 'data_preprocessor = dict(mean=[51.0], std=[255.0])'  # for all channels
    assert pixels_of(one, tmp_path, 2) == ([0.2] * 2, [1.0] * 2, "the config's")
    (tmp_path / 'config.json').write_text('[1]')
    assert pixels_of('', tmp_path, 3)[:2] == IMAGENET
    assert pixels_of('def broken(', tmp_path, 3)[:2] == IMAGENET
    assert pixels_of(text, tmp_path, 5) == (
        [0.0] * 5,
        [1.0] * 5,
        "nobody's, as the source tells none",
    )
    settings = dict(pretrained_cfg=dict(mean=[0.5] * 3, std=[0.25] * 3))
    (tmp_path / 'config.json').write_text(json.dumps(settings))
    assert pixels_of('', tmp_path, 3) == ([0.5] * 3, [0.25] * 3, 'of config.json')
    (tmp_path / 'preprocessor_config.json').write_text(
        json.dumps(dict(image_mean=[0.1] * 3, image_std=[1] * 3))
    )
    assert pixels_of('', tmp_path, 3) == ([0.1] * 3, [1.0] * 3, 'of preprocessor_config.json')
    assert pixels_of(text, tmp_path, 3) == given


def test_mean_and_std_reach_both_libraries_and_the_account(tmp_path):
    cfg = 'model = dict(data_preprocessor=dict(mean=[51.0, 102.0, 0.0], std=[255, 255, 51]))\n'
    saved(tmp_path / 'in.pth', encoder(), cfg=cfg)
    lines = convert_file(tmp_path / 'in.pth', tmp_path / 'timm', 'timm')
    told = "pixels    from 0 to 1, mean [0.2, 0.4, 0.0], std [1.0, 1.0, 0.2]: the config's"
    assert lines[-2] == told
    convert_file(tmp_path / 'in.pth', tmp_path / 'hf', 'hf')
    assert config_of(tmp_path / 'timm')['pretrained_cfg']['mean'] == [0.2, 0.4, 0.0]
    reading = config_of(tmp_path / 'hf', 'preprocessor_config.json')
    assert (reading['image_mean'], reading['image_std']) == ([0.2, 0.4, 0.0], [1.0, 1.0, 0.2])
    assert reading['resample'] == 3


def rows_of(folder: Path) -> dict[str, str]:
    lines = (folder / 'README.md').read_text().splitlines()
    cells = [line.strip('| ').split(' | ') for line in lines if line.startswith('| ')]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_the_card_tells_what_the_run_recorded(tmp_path):
    run = tmp_path / 'run'
    add_start(run, '20260101_100000', train_rows(0, 100))
    cfg = "train_dataloader = dict(\n    dataset=dict(\n        data_root='data/cats | dogs'))\n"
    saved(run / 'epoch_1.pth', encoder(), epoch=1, iter=50, cfg=cfg)
    record = lambda meta: record_of(run / 'epoch_1.pth', meta)  # noqa: E731
    convert_file(run / 'epoch_1.pth', tmp_path / 'out', 'timm', record=record)
    rows = rows_of(tmp_path / 'out')
    assert rows['data'] == 'data/cats / dogs'
    assert (rows['epochs'], rows['iterations']) == ('1', '50')
    assert rows['results'] == 'recon/error 1.2, loss 1'  # of that epoch, not of the last
    recorded = json.loads(next(run.glob('*/run.json')).read_text())
    assert rows['command'] == recorded['command']
    assert f'torch {recorded["versions"]["torch"]}' in rows['versions']
    text = (tmp_path / 'out/README.md').read_text()
    assert text.startswith('---\nlibrary_name: timm\nlicense: other\ntags: [timm, vit, mirl_mm]\n')
    assert "\n    model = timm.create_model('local-dir:out', pretrained=True)\n" in text
    assert '24 wide, 2 deep, 4 heads, patches of 4 px' in text and 'from epoch_1.pth.' in text


def test_the_card_names_the_data_of_training_alone(tmp_path):
    cfg = "train_dataloader = dict(dataset=dict(type='A'))\n"
    cfg += "val_dataloader = dict(dataset=dict(data_root='data/val'))\n"
    assert record_of(tmp_path / 'in.pth', dict(cfg=cfg)) == {}
    parts = "datasets=[dict(data_root='data/a'), dict(data_root='data/b')]"
    cfg = f'train_dataloader = dict(dataset=dict({parts}))'
    assert record_of(tmp_path / 'in.pth', dict(cfg=cfg)) == dict(data='data/a, data/b')


def test_a_card_without_a_run_says_so(tmp_path):
    saved(tmp_path / 'in.pth', encoder())
    assert record_of(tmp_path / 'in.pth', {}) == {}
    convert_file(tmp_path / 'in.pth', tmp_path / 'out', 'hf')
    names = ('data', 'epochs', 'results', 'command', 'versions')
    assert rows_of(tmp_path / 'out') == dict.fromkeys(names, 'not recorded')
