"""tools/convert_checkpoint.py from the command line, against the golden numbers and timm."""

import argparse
import os
import pickle
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmpretrain.models import VisionTransformer
from safetensors.torch import load_file
from torch import Tensor

from mirl_mm.checkpoint import read_checkpoint
from mirl_mm.models import MIRLViT
from tests.models.build import mirl

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests/data'
TUNED = DATA / 'vit_ft_tiny.pd'
TUNED_ARCH = dict(embed_dims=48, num_layers=6, num_heads=4, feedforward_channels=192)
CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='MIRLViT',
        arch=TUNED_ARCH,
        img_size=64,
        final_norm=False,
        out_type='avg_featmap',
    ),
    head=dict(type='LinearClsHead', num_classes=7, in_channels=48),
)


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """Runs the tool in the temporary folder and returns what it printed, by a line's first word."""

    def tool(*arguments: object) -> dict[str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / 'tools/convert_checkpoint.py'), run_name='__main__')
        lines = [
            line for line in capsys.readouterr().out.splitlines() if '  ' in line or 'load' in line
        ]
        return {line[:9].strip(): line[10:] for line in lines}

    return tool


def golden(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f'{name}.npz') as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope='module')
def official(tmp_path_factory) -> Path:
    """The golden pre-training weights as the official code saves them."""
    path = tmp_path_factory.mktemp('official') / 'checkpoint-0.pd'
    with np.load(DATA / 'tiny6_weights.npz') as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    with np.load(DATA / 'posembed.npz') as tables:
        weights['pos_embed'] = tables['sincos_d48_g4'][None]
        for g in range(6):
            weights[f'decoder_pos_embed{g}'] = tables['sincos_d32_g4'][None]
    model = OrderedDict((name, (f'param_{i}', a)) for i, (name, a) in enumerate(weights.items()))
    content = dict(model=model, optimizer={}, epoch=0, args=argparse.Namespace(lr=0.1))
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


# --- official files, held against the official numbers --------------------------------------------


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_official_pretraining_gives_the_golden_predictions(tool, official, tmp_path, ending):
    out = tool(official, f'mirl.{ending}', '--arch', 'test')
    assert out['read'].endswith(
        'official MIRL, paddle layout, 350 tensors, beside them optimizer, epoch, args'
    )
    assert out['arch'].startswith('test (48 wide, 12 deep, 4 heads), patches of 16 px')
    assert out['matched'] == '344 of the 344 of test: encoder 150, decoders 194'
    assert out['unused'].startswith('6: decoder_pos_embed0, decoder_pos_embed1,')
    assert out['missing'] == 'none'

    model = mirl(backbone={'arch': 'test'})
    load_checkpoint(model, str(tmp_path / f'mirl.{ending}'), strict=True)
    io = golden('tiny6_io')
    result = model.reconstruct(io['imgs'], io['noise'])
    for g, pred in enumerate(result.preds):
        torch.testing.assert_close(pred.double(), io[f'pred{g}'], rtol=0, atol=2e-6)
    torch.testing.assert_close(result.pair_losses.double(), io['pair_losses'], rtol=0, atol=1e-6)


@pytest.mark.parametrize('to', ['mirl', 'backbone', 'timm'])
def test_decoders_without_context_and_pairs(tool, tmp_path, to):
    """All of them is known, and the encoder is what it is of any other."""
    torch.manual_seed(0)
    model = mirl(backbone={'arch': 'test'}, segments=3, pairing='none', context=False)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'whole.pth')
    out = tool('whole.pth', 'out.pth', '--to', to, '--arch', 'test')
    whole = len(model.state_dict())
    decoders = whole - 150
    assert out['matched'] == f'{whole} of the {whole} of test: encoder 150, decoders {decoders}'
    assert out['unused'] == out['missing'] == 'none'
    if to == 'mirl':
        other = mirl(backbone={'arch': 'test'}, segments=3, pairing='none', context=False)
        load_checkpoint(other, str(tmp_path / 'out.pth'), strict=True)
        assert same(other.state_dict(), model.state_dict())
    else:
        rest = f'neck.norms.* (4), neck.decoders.* ({decoders - 4})'
        assert out['left out'] == f'{decoders}: {rest}'


def tuned_classifier(path: Path) -> torch.nn.Module:
    model = MODELS.build(dict(CLASSIFIER, _scope_='mmpretrain')).eval()
    load_checkpoint(model, str(path), strict=True)
    return model


def test_official_fine_tuning_gives_the_golden_logits(tool, tmp_path):
    out = tool(TUNED, 'tuned.pth')
    assert out['arch'].startswith('48 wide, 6 deep, patches of 16 px')  # heads are not in the file
    assert out['matched'] == '80 of the 80 of a ViT of this arch: encoder 78, head 2'
    assert out['unused'] == out['missing'] == 'none'
    model, io = tuned_classifier(tmp_path / 'tuned.pth'), golden('vit_ft_tiny_io')
    features = model.extract_feat(io['imgs'])[-1]
    torch.testing.assert_close(features.double(), io['pre_logits_f64'], rtol=0, atol=5e-6)
    torch.testing.assert_close(model(io['imgs']).double(), io['logits_f64'], rtol=0, atol=5e-6)


# --- timm -----------------------------------------------------------------------------------------


def timm_model(call: str, path: Path) -> torch.nn.Module:
    """The model of the printed call, with the weights, all of them."""
    assert call.startswith('timm.create_model(')
    model = eval(call, {'timm': timm}).eval()
    safe = path.suffix == '.safetensors'
    model.load_state_dict(load_file(path) if safe else torch.load(path), strict=True)
    return model


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_timm_computes_the_same_features(tool, official, tmp_path, ending):
    out = tool(official, f'timm.{ending}', '--to', 'timm')
    assert out['left out'].startswith('194: neck.')
    model = timm_model(out['load with'], tmp_path / f'timm.{ending}')
    tool(official, 'encoder.pth', '--to', 'backbone')
    ours = MIRLViT('test', img_size=64, out_type='raw')
    ours.eval()
    load_checkpoint(ours, str(tmp_path / 'encoder.pth'), strict=True)
    imgs = golden('tiny6_io')['imgs']
    features = ours(imgs)[-1]
    torch.testing.assert_close(model.forward_features(imgs), features, rtol=0, atol=2e-6)
    torch.testing.assert_close(model(imgs), features[:, 0], rtol=0, atol=2e-6)


def test_timm_computes_the_golden_logits(tool, tmp_path):
    (tmp_path / 'classifier.py').write_text(f'model = {CLASSIFIER!r}\n')
    out = tool(TUNED, 'unknown.pth', '--to', 'timm')
    assert 'num_heads=?' in out['load with'] and '--arch or --config does' in out['heads']
    out = tool(TUNED, 'timm.pth', '--to', 'timm', '--config', 'classifier.py')
    assert 'heads' not in out
    assert 'num_heads=4' in out['load with'] and "global_pool='avg'" in out['load with']
    model, io = timm_model(out['load with'], tmp_path / 'timm.pth'), golden('vit_ft_tiny_io')
    torch.testing.assert_close(model(io['imgs']).double(), io['logits_f64'], rtol=0, atol=5e-6)
    plain = timm.create_model(  # as timm's own users load a file
        'vit_base_patch16_224', img_size=64, embed_dim=48, depth=6, num_heads=4, num_classes=7,
        global_pool='avg', checkpoint_path=str(tmp_path / 'timm.pth'),
    ).eval()  # fmt: skip
    assert torch.equal(plain(io['imgs']), model(io['imgs']))


def test_official_classifier_of_timm_comes_in(tool, tmp_path):
    model = timm.create_model(
        'vit_base_patch16_224', img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=5
    ).eval()
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    out = tool('vit.pth', 'ours.pth')
    assert 'names of MAE or timm, torch layout, 32 tensors' in out['read']
    assert out['unused'] == out['missing'] == 'none'
    backbone = dict(type='MIRLViT', arch=dict(TUNED_ARCH, embed_dims=24, num_layers=2,
                    num_heads=2, feedforward_channels=96), img_size=32, num_segments=2)  # fmt: skip
    head = dict(type='LinearClsHead', num_classes=5, in_channels=24)
    ours = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, head=head, _scope_='mmpretrain')
    ).eval()
    load_checkpoint(ours, str(tmp_path / 'ours.pth'), strict=True)
    imgs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(imgs), model(imgs), rtol=0, atol=2e-6)


# --- round trips and the account ------------------------------------------------------------------


def test_round_trips_are_equal_to_the_bit(tool, official, tmp_path):
    tool(official, 'whole.pth')
    tool('whole.pth', 'whole.safetensors')
    tool('whole.safetensors', 'again.pth')
    whole = torch.load(tmp_path / 'whole.pth')
    again = torch.load(tmp_path / 'again.pth')
    assert same(again['state_dict'], whole['state_dict']) and len(whole['state_dict']) == 344
    assert again['meta']['arch'] == whole['meta']['arch']
    assert whole['meta']['source'] == official.name

    tool('again.pth', 'timm.pth', '--to', 'timm')
    tool('timm.pth', 'encoder.safetensors', '--to', 'backbone')
    tool('encoder.safetensors', 'last.pth', '--to', 'backbone', '--arch', 'test')
    last = torch.load(tmp_path / 'last.pth')['state_dict']
    expected = {n: t for n, t in whole['state_dict'].items() if n.startswith('backbone.')}
    assert same({f'backbone.{name}': t for name, t in last.items()}, expected)
    stock = VisionTransformer(arch=dict(TUNED_ARCH, num_layers=12), img_size=64)
    load_checkpoint(stock, str(tmp_path / 'last.pth'), strict=True)
    assert same(stock.state_dict(), last)


def test_the_same_input_gives_the_same_bytes(tool, official, tmp_path):
    files = [tmp_path / name / 'out.pth' for name in 'ab']
    for file in files:
        file.parent.mkdir()
        tool(official, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_against_a_config(tool, official, tmp_path):
    tool(official, 'encoder.pth', '--to', 'backbone')
    config = ROOT / 'configs/mirl/vit-test_2e.py'
    out = tool('encoder.pth', 'part.pth', '--config', config)
    assert out['matched'] == f'150 of the 344 of {config}: encoder 150'
    assert out['missing'].startswith('194: neck.') and out['unused'] == 'none'
    out = tool(official, 'big.pth', '--config', ROOT / 'configs/mae/vit-test_2e.py')
    assert (
        out['unused'].startswith('200: decoder_pos_embed*') and 'neck.decoders.*' in out['unused']
    )
    assert out['matched'].endswith('encoder 150')
    assert len(torch.load(tmp_path / 'big.pth')['state_dict']) == 150


def test_averaged_and_raw_weights_of_a_wrapped_run(tool, official, tmp_path):
    tool(official, 'whole.pth')
    averaged = torch.load(tmp_path / 'whole.pth')['state_dict']
    raw = {name: t + 1 for name, t in averaged.items()}
    torch.save(
        dict(
            state_dict={f'_orig_mod.{name}': t for name, t in averaged.items()},
            ema_state_dict=dict(
                steps=torch.tensor(3), **{f'module._orig_mod.{name}': t for name, t in raw.items()}
            ),
            meta=dict(epoch=3, cfg='model = dict()', dataset_meta=dict(classes=('cat', 'dog'))),
            optimizer=dict(state={}, param_groups=[]),
        ),
        tmp_path / 'epoch_3.pth',
    )
    out = tool('epoch_3.pth', 'averaged.pth')
    assert 'names of mirl_mm or mmpretrain, torch layout, 344 tensors' in out['read']
    assert 'averaged weights of a run with EMA' in out['read']
    content = torch.load(tmp_path / 'averaged.pth')
    assert same(content['state_dict'], averaged)
    assert content['meta']['epoch'] == 3
    assert content['meta']['dataset_meta'] == dict(classes=['cat', 'dog'])
    out = tool('epoch_3.pth', 'raw.pth', '--raw')
    assert 'raw weights of a run with EMA' in out['read']
    assert same(torch.load(tmp_path / 'raw.pth')['state_dict'], raw)


def test_mae_style_file_of_the_authors(tool, official, tmp_path):
    """Their conversion of the 48-block model: torch layout, key model, the encoder's names."""
    weights = read_checkpoint(official)[0]
    encoder = {n: t.t() if t.ndim == 2 else t for n, t in weights.items()
               if n.startswith(('blocks.', 'cls', 'pos', 'patch', 'norm.'))}  # fmt: skip
    torch.save(dict(model=encoder), tmp_path / 'mae.pth')
    out = tool('mae.pth', 'ours.pth', '--arch', 'test')
    assert 'names of MAE or timm, torch layout, 150 tensors' in out['read']
    tool(official, 'expected.pth')
    expected = torch.load(tmp_path / 'expected.pth')['state_dict']
    found = torch.load(tmp_path / 'ours.pth')
    assert same(found['state_dict'], {n: t for n, t in expected.items() if 'backbone.' in n})
    assert found['meta']['arch']['num_heads'] == 4


# --- bad input ------------------------------------------------------------------------------------


class Evil:
    def __init__(self, crime: Path) -> None:
        self.crime = crime

    def __reduce__(self):
        return os.system, (f'touch {self.crime}',)


def bad_files(folder: Path) -> None:
    """Write all bad files; a hostile one that is executed leaves the file ``crime``."""
    evil = dict(model={'a': torch.ones(1)}, args=Evil(folder / 'crime'))
    torch.save(evil, folder / 'evil.pth')
    torch.save(evil, folder / 'evil-legacy.pth', _use_new_zipfile_serialization=False)
    (folder / 'evil.pd').write_bytes(pickle.dumps(evil | dict(model={'a': (1, 2)}), protocol=4))
    (folder / 'text.pth').write_text('not a checkpoint, but a text')
    (folder / 'cut.pd').write_bytes(TUNED.read_bytes()[:300_000])
    torch.save(dict(state_dict=dict(a=torch.ones(99))), folder / 'cut.pth')
    (folder / 'cut.pth').write_bytes((folder / 'cut.pth').read_bytes()[:800])
    torch.save({'conv1.weight': torch.ones(1)}, folder / 'resnet.pth')
    (folder / 'file').touch()
    (folder / 'folder').mkdir()


SYSTEM = f'{os.system.__module__}.system'
BAD = [
    (['missing.pth', 'out.pth'], 'no checkpoint at missing.pth'),
    (['text.pth', 'out.pth'], 'text.pth is not a checkpoint'),
    (['cut.pd', 'out.pth'], 'cut.pd is cut short'),
    (['cut.pth', 'out.pth'], 'cut.pth cannot be read as a torch file; it may be cut short'),
    (['evil.pth', 'out.pth'], f'It asks for {SYSTEM}'),
    (['evil-legacy.pth', 'out.pth'], f'It asks for {SYSTEM}'),
    (['evil.pd', 'out.pth'], f'evil.pd was refused: it asks for {SYSTEM}'),
    (['resnet.pth', 'out.pth'], 'not a plain ViT of a known naming'),
    ([TUNED, 'out.pth', '--arch', 's54'], "'backbone.cls_token' is (1, 1, 48) there and (1, 1, 3"),
    ([TUNED, 'out.pth', '--arch', 'test'],
     "it lacks 'backbone.layers.6.ln1.weight' and 71 more, which test has"),
    ([TUNED, 'out.pth', '--arch', 'b99'], "unknown arch 'b99'; known are test, s12"),
    ([TUNED, 'out.pth', '--config', 'missing.py'], 'no such config file: missing.py'),
    ([TUNED, 'out.pth', '--config', 'empty.py'], 'empty.py has no model'),
    ([TUNED, 'out.pth', '--config', 'typo.py'], "(did you mean 'MIRLViT'?)"),
    ([TUNED, 'out.pth', '--config', 'x.py', '--arch', 's54'], 'an arch or a config, not both'),
    ([TUNED, 'out.pth', '--raw'], 'has no raw weights beside averaged ones'),
    ([TUNED, 'nowhere/out.pth'], 'cannot write nowhere/out.pth: there is no folder nowhere'),
    ([TUNED, 'file/out.pth'], 'cannot write file/out.pth: there is no folder file'),
    ([TUNED, 'folder'], 'cannot write folder: it is a folder'),
    ([TUNED, 'out.pdparams'], 'Paddle files are read, not written'),
    (['cut.pth', 'cut.pth'], 'cut.pth is the source itself'),
]  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_one_line(tool, tmp_path, arguments, message):
    bad_files(tmp_path)
    (tmp_path / 'empty.py').write_text('a = 1\n')
    (tmp_path / 'typo.py').write_text("model = dict(type='MIRLVit')\n")
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit) as stop:
        tool(*arguments)
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code
    assert sorted(tmp_path.rglob('*')) == before  # nothing written, nothing executed


def test_other_heads_than_stored(tool, official, tmp_path):
    tool(official, 'whole.pth')
    heads = "model['backbone']['arch'] = dict(embed_dims=48, num_layers=12, num_heads=8, "
    (tmp_path / 'heads.py').write_text(
        "model = dict(type='ImageClassifier', backbone=dict(type='MIRLViT', img_size=64), "
        "head=dict(type='LinearClsHead', num_classes=2, in_channels=48))\n"
        f'{heads}feedforward_channels=192)\n'
    )
    with pytest.raises(SystemExit, match=r'its num_heads is 4, and 8 in heads\.py'):
        tool('whole.pth', 'out.pth', '--config', 'heads.py')


def test_unknown_target(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool(TUNED, 'out.pth', '--to', 'keras')
    assert stop.value.code == 2
    assert "error: argument --to: invalid choice: 'keras'" in capsys.readouterr().err


# --- folders --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folder_for_timm_and_one_for_transformers(tool, official, tmp_path):
    out = tool(official, 'folder', '--to', 'timm', '--arch', 'test', '--licence', 'mit')
    assert out['left out'].startswith('194: neck.')
    assert out['written'].startswith('folder/model.safetensors: timm, 150 tensors, ')
    assert out['pixels'].endswith("ImageNet's, as the source tells none")
    model = eval(out['load with'], {'timm': timm}).eval()
    tool(official, 'encoder.pth', '--to', 'backbone')
    ours = MIRLViT('test', img_size=64, out_type='raw')
    ours.eval()
    load_checkpoint(ours, str(tmp_path / 'encoder.pth'), strict=True)
    imgs = golden('tiny6_io')['imgs']
    torch.testing.assert_close(model.forward_features(imgs), ours(imgs)[-1], rtol=0, atol=2e-6)
    card = (tmp_path / 'folder/README.md').read_text()
    assert '\nlicense: mit\n' in card and '| epochs | not recorded |' in card

    out = tool(official, 'hub', '--to', 'hf', '--arch', 'test')
    call = "transformers.AutoModel.from_pretrained('hub', add_pooling_layer=False)"
    assert out['load with'] == call
    assert out['written'].startswith('hub/model.safetensors: hf, 198 tensors, ')
    weights = load_file(tmp_path / 'hub/model.safetensors')
    query = 'encoder.layer.11.attention.attention.query.weight'
    assert torch.equal(weights[query], ours.layers[11].attn.qkv.weight[:48])


def test_a_folder_needs_the_heads(tool, tmp_path):
    with pytest.raises(SystemExit, match='does not tell its num_heads; --config does'):
        tool(TUNED, 'folder', '--to', 'timm')
    assert os.listdir(tmp_path) == []
