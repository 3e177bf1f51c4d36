"""tools/reconstruct.py, and mmpretrain's inferencer with our models, as users start them."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mirl_mm.apps.reconstruct import (
    PAGE_ROWS,
    assign_panels,
    load_model,
)
from mirl_mm.checkpoint import EncoderArch, convert_file, read_checkpoint, write_checkpoint
from mirl_mm.errors import UserError
from mirl_mm.measure.features import test_pipeline_of as pipeline_of
from mirl_mm.models import MIRLViT
from mirl_mm.models.masking import named_noise
from mirl_mm.pictures.panel import painted, panel_columns
from tests.models.build import mirl

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/mirl/vit-test_2e.py'
MAE_CONFIG = ROOT / 'configs/mae/vit-test_2e.py'
TUNED = ROOT / 'tests/data/vit_ft_tiny.pd'
SHIPPED = ROOT / 'configs/finetune/vit-test_2e_classes.py'


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A checkpoint of the test arch, its encoder alone, and pictures of several kinds."""
    root = tmp_path_factory.mktemp('reconstruct')
    torch.manual_seed(0)
    model = mirl(backbone=dict(arch='test'))
    model.init_weights()
    meta = dict(arch=EncoderArch.of_module(model.backbone).to_meta())
    write_checkpoint(root / 'whole.pth', model.state_dict(), meta)
    convert_file(root / 'whole.pth', root / 'encoder.pth', 'backbone')
    mae = built(Config.fromfile(MAE_CONFIG).model)
    mae.init_weights()
    torch.save(dict(state_dict=mae.state_dict()), root / 'mae.pth')
    small = "model = dict(type='MAE', backbone=dict(type='MAEHiViT', img_size=64), neck=None)\n"
    (root / 'hivit.py').write_text("default_scope = 'mmpretrain'\n" + small)
    (root / 'pictures/deep').mkdir(parents=True)
    noise = Image.effect_noise((100, 80), 60)
    noise.save(root / 'pictures/grey.png')
    noise.convert('RGB').save(root / 'pictures/dog.jpg')
    noise.convert('RGBA').save(root / 'pictures/dog.png')
    noise.resize((40, 400)).convert('P').save(root / 'pictures/deep/tall.BMP')
    (root / 'pictures/broken.jpg').write_bytes((root / 'pictures/dog.jpg').read_bytes()[:400])
    (root / 'pictures/notes.txt').touch()
    (root / 'empty').mkdir()
    return root


def built(cfg: dict):
    init_default_scope('mmpretrain')
    return MODELS.build(cfg)


@pytest.fixture
def tool(monkeypatch, folder, tmp_path, capsys):
    """Runs the tool in the temporary folder and returns the lines it printed."""

    def tool(*arguments: object) -> list[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['reconstruct.py', *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / 'tools/reconstruct.py'), run_name='__main__')
        return [line for line in capsys.readouterr().out.splitlines() if ': ' in line]

    return tool


def errors(lines: list[str]) -> dict[str, float]:
    """Name of every drawn picture -> its error."""
    drawn = [line.split(': error ') for line in lines if ': error ' in line]
    return {Path(path).name: float(rest.split()[0]) for path, rest in drawn}


def test_a_panel_for_every_picture_of_a_folder(tool, folder, tmp_path):
    lines = tool(CONFIG, folder / 'whole.pth', folder / 'pictures', '--out', 'out')
    assert len(lines) == 5
    panels = sorted(str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.*'))
    assert panels == ['deep/tall.png', 'dog.png', 'dog.png.png', 'grey.png']
    (skipped,) = [line for line in lines if 'skipped' in line]
    assert 'broken.jpg: skipped (OSError' in skipped
    found = errors(lines)
    assert found.keys() == {'tall.BMP', 'dog.jpg', 'dog.png', 'grey.png'}
    assert all(0.5 < error < 5 for error in found.values())
    with Image.open(tmp_path / 'out/grey.png') as panel:
        assert panel.width > 8 * panel.height / 2  # one row of 2 + 3 x 3 pictures
    # A picture's mask is its own: alone it gives the same error.
    alone = tool(CONFIG, folder / 'whole.pth', folder / 'pictures/grey.png', '--out', 'alone')
    assert errors(alone) == {'grey.png': found['grey.png']}
    same = (tmp_path / 'out/grey.png').read_bytes() == (tmp_path / 'alone/grey.png').read_bytes()
    assert same


def test_one_page_with_another_ratio_and_seed(tool, folder, tmp_path):
    pages = {}
    for name, options in dict(
        first=[],
        again=['--seed', '0', '--mask-ratio', '0.75'],
        seed=['--seed', '1'],
        ratio=['--mask-ratio', '0.5'],
    ).items():
        out = ['--out', f'{name}.png', *options]
        lines = tool(CONFIG, folder / 'whole.pth', folder / 'pictures/deep', *out)
        assert len(lines) == 1 and lines[0].endswith(f'-> {name}.png')
        pages[name] = (tmp_path / f'{name}.png').read_bytes()
    assert pages['first'] == pages['again']
    assert len(set(pages.values())) == 3
    tool(CONFIG, folder / 'whole.pth', folder / 'pictures', '--out', 'all.png')
    with Image.open(tmp_path / 'first.png') as one, Image.open(tmp_path / 'all.png') as four:
        assert one.width == four.width and four.height > 3 * one.height


def test_what_is_drawn_is_what_the_model_computes(folder):
    cfg = Config.fromfile(CONFIG)
    model = load_model(cfg, str(folder / 'whole.pth'), mask_ratio=0.5)
    assert not model.training
    imgs = torch.randn(2, 3, 64, 64)
    noise = named_noise(['3 a.png', '3 b.png'], imgs, 16)
    result = model.reconstruct(imgs, noise)
    assert result.mask.sum(dim=1).tolist() == [8, 8]
    kept = result.mask == 0
    assert (noise[kept].view(2, 8).amax(1) < noise[~kept].view(2, 8).amin(1)).all()
    columns = panel_columns(imgs, result)
    assert list(columns)[:5] == ['original', 'masked', 'main 0', 'residual 5', 'pair_0_5']
    assert list(columns)[-1] == 'pair_2_3' and len(columns) == 11
    edge, crop = pipeline_of(Config(dict(model=cfg.model)), 64)[1:3]  # without test images
    assert (edge['scale'], crop['crop_size']) == (73, 64)


def test_decoders_that_paint_alone(tool, folder, tmp_path):
    """An error and a column each."""
    torch.manual_seed(0)
    model = mirl(backbone=dict(arch='test'), segments=3, pairing='none', context=False)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'alone.pth')
    settings = "backbone=dict(num_segments=3), neck=dict(context=False), head=dict(pairing='none')"
    (tmp_path / 'alone.py').write_text(f"_base_ = '{CONFIG}'\nmodel = dict({settings})\n")
    (line,) = tool('alone.py', 'alone.pth', folder / 'pictures/grey.png', '--out', 'page.png')
    mean, *each = map(float, re.findall(r'\d\.\d{3}', line))
    assert re.search(r'\(pair_0 [\d.]+, pair_1 [\d.]+, pair_2 [\d.]+\)', line)
    assert len(each) == 3 and mean == pytest.approx(sum(each) / 3, abs=2e-3)
    with Image.open(tmp_path / 'page.png') as page:
        assert 4.5 * page.height > page.width > 3.5 * page.height  # one row of 2 + 3 pictures


def test_decoders_that_learnt_alone_are_not_paired(folder, tmp_path):
    state, _ = read_checkpoint(folder / 'whole.pth')
    arch = EncoderArch.of_state(state).to_meta()
    write_checkpoint(tmp_path / 'alone.pth', state, dict(arch=arch, run=dict(pairing='none')))
    with pytest.raises(ValueError, match=r"alone\.pth: .*pairing='none', not 'mirrored'"):
        load_model(Config.fromfile(CONFIG), tmp_path / 'alone.pth')
    cfg = Config.fromfile(CONFIG)
    cfg.model.head.pairing = 'none'
    assert load_model(cfg, tmp_path / 'alone.pth').head.pairing == 'none'


def test_an_image_that_is_no_page(folder, tmp_path):
    with pytest.raises(ValueError, match=r'page\.gif cannot be written; accepted is a folder, or'):
        assign_panels(str(folder / 'pictures'), str(tmp_path / 'page.gif'))


def test_mae_paints_too(tool, folder, tmp_path):
    """A picture's error is its own, in a folder, alone and in the model's own loss."""
    lines = tool(MAE_CONFIG, folder / 'mae.pth', folder / 'pictures', '--out', 'out')
    found = errors(lines)
    assert found.keys() == {'tall.BMP', 'dog.jpg', 'dog.png', 'grey.png'} and len(lines) == 5
    assert not any('(' in line for line in lines if ': error' in line)
    assert all(0.5 < error < 5 for error in found.values()) and len(set(found.values())) > 1
    with Image.open(tmp_path / 'out/grey.png') as panel:
        assert panel.width == pytest.approx(3 * (panel.height - 32), abs=12)
    alone = tool(MAE_CONFIG, folder / 'mae.pth', folder / 'pictures/grey.png', '--out', 'alone')
    assert errors(alone) == {'grey.png': found['grey.png']}
    page = (tmp_path / 'alone/grey.png').read_bytes()
    assert page == (tmp_path / 'out/grey.png').read_bytes()
    for option in (['--seed', '1'], ['--mask-ratio', '0.5']):
        tool(
            MAE_CONFIG, folder / 'mae.pth', folder / 'pictures/grey.png', '--out', 'a.png', *option
        )
        assert (tmp_path / 'a.png').read_bytes() != page


@pytest.mark.parametrize('norm_pix', [True, False])
def test_what_is_drawn_of_mae_is_what_it_computes(folder, norm_pix):
    cfg = Config.fromfile(MAE_CONFIG)
    cfg.model.head.norm_pix = norm_pix
    model = load_model(cfg, str(folder / 'mae.pth'))
    imgs = torch.randn(2, 3, 64, 64).cumsum(-1)
    noise = named_noise(['0 a.png', '0 b.png'], imgs, 16)
    with torch.no_grad():
        columns, found = painted(model, imgs, noise)
        assert 'random_masking' not in vars(model.backbone)
        mask = (noise > noise.kthvalue(4, dim=1, keepdim=True).values).float()  # 4 of 16 stay
        hidden = mask.view(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
        assert list(columns) == ['original', 'masked', 'painted']
        assert torch.equal(columns['original'], imgs)
        with pytest.raises(UserError, match=r'its own size, \(64, 64\); got \(64, 32\)$'):
            painted(model, imgs[..., :32], noise)
        assert torch.equal(columns['masked'], imgs * (1 - hidden))
        assert torch.equal(columns['painted'] * (1 - hidden), imgs * (1 - hidden))
        patches = model.head.patchify(columns['painted'])
        if norm_pix:  # back to what the decoder painted
            true = model.head.patchify(imgs)
            std = (true.var(-1, keepdim=True) + 1e-6).sqrt()
            patches = (patches - true.mean(-1, keepdim=True)) / std
        for i in range(2):
            loss = model.head.loss(patches[i : i + 1], imgs[i : i + 1], mask[i : i + 1])
            torch.testing.assert_close(found[i, 0], loss, rtol=1e-4, atol=1e-4)


def test_pictures_and_panels(folder, tmp_path):
    ((page, found),) = assign_panels(str(folder / 'pictures'), str(tmp_path / 'page.PDF')).items()
    assert page == tmp_path / 'page.PDF'
    assert [p.name for p in found] == ['broken.jpg', 'tall.BMP', 'dog.jpg', 'dog.png', 'grey.png']
    for i in range(PAGE_ROWS + 1):
        (tmp_path / f'{i}.jpg').touch()
    with pytest.raises(ValueError, match=rf'page\.png .* {PAGE_ROWS} of the {PAGE_ROWS + 1} pict'):
        assign_panels(str(tmp_path), 'page.png')


def test_pictures_of_a_folder_are_no_hidden_ones_and_no_folders(tmp_path):
    root = tmp_path / 'pictures'
    for name in ('album.jpg/1.JFIF', '2.avif', '._2.avif', '.thumbs/2.jpg', '__MACOSX/3.jpg'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / 'album.jpg/up').symlink_to('..')
    found = assign_panels(str(root), str(tmp_path / 'out'))
    assert list(found.values()) == [[root / '2.avif'], [root / 'album.jpg/1.JFIF']]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.py', 'WHOLE', 'PICTURES'], 'no such config file: missing.py'),
        ([CONFIG, 'missing.pth', 'PICTURES'], 'no checkpoint at missing.pth'),
        ([CONFIG, 'WHOLE', 'missing'], 'no image or folder at missing'),
        ([CONFIG, 'WHOLE', 'EMPTY'], 'accepted are files ending in .jpg'),
        ([CONFIG, 'WHOLE', 'BROKEN'], 'can be read'),
        ([CONFIG, 'WHOLE', 'PICTURES', '--mask-ratio', '0.99'], 'keeps 0 of 16 patches'),
        ([CONFIG, 'WHOLE', 'PICTURES', '--mask-ratio', '0'], 'keeps 16 of 16 patches'),
        ([CONFIG, 'WHOLE', 'PICTURES', '--out', 'file/out'], 'cannot write to file/out (Not a dir'),
        ([CONFIG, 'ENCODER', 'PICTURES'], 'cannot paint: it lacks neck.'),
        ([CONFIG, TUNED, 'PICTURES'], "another arch: it lacks 'backbone.layers.6.ln1.weight'"),
        ([SHIPPED, 'WHOLE', 'PICTURES'], 'does not paint: its model is ImageClassifier with MIRLV'),
        ([MAE_CONFIG, 'WHOLE', 'PICTURES'], 'cannot paint: it lacks neck.'),
        (['HIVIT', 'WHOLE', 'PICTURES'], 'does not paint: its model is MAE with MAEHiViT;'),
        ([ROOT / 'configs/mirl/vit-s12_300e.py', 'WHOLE', 'PICTURES'], 'is (1, 1, 48) there'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tool, folder, tmp_path, arguments, message):
    (tmp_path / 'file').touch()
    names = dict(WHOLE='whole.pth', ENCODER='encoder.pth', PICTURES='pictures', EMPTY='empty',
                 BROKEN='pictures/broken.jpg', HIVIT='hivit.py')  # fmt: skip
    arguments = [folder / names[a] if a in names else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        tool(*arguments)
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code
    assert not list(tmp_path.rglob('*.png'))


# --- mmpretrain's own inferencer ------------------------------------------------------------------

CLASSIFIER = """
custom_imports = dict(imports=['mirl_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[100, 110, 120], std=[50, 60, 70], to_rgb=True),
    backbone=dict(
        type='MIRLViT',
        arch=dict(embed_dims=48, num_layers=6, num_heads=4, feedforward_channels=192),
        img_size=64,
        final_norm=False,
        out_type='avg_featmap',
    ),
    head=dict(type='LinearClsHead', num_classes=7, in_channels=48),
)
test_dataloader = dict(
    dataset=dict(
        type='CustomDataset',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
)
"""
INFER = """
import json, sys
from mmpretrain import ImageClassificationInferencer
config, checkpoint, out, *pictures = sys.argv[1:]
infer = ImageClassificationInferencer(config, checkpoint, device='cpu', classes='abcdefg')
found = [dict(r, pred_scores=r['pred_scores'].tolist()) for r in infer(pictures, batch_size=2)]
shipped = ImageClassificationInferencer(SHIPPED, 'shipped.pth', device='cpu')
found += [dict(r, pred_scores=r['pred_scores'].tolist()) for r in shipped(pictures)]
json.dump(found, open(out, 'w'))
"""


def test_inferencer_of_mmpretrain_in_a_fresh_process(tmp_path):
    convert_file(TUNED, tmp_path / 'tuned.pth')
    (tmp_path / 'classifier.py').write_text(CLASSIFIER)
    cfg = Config.fromfile(SHIPPED)
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmpretrain')
    classifier = MODELS.build(cfg.model).eval()
    torch.nn.init.normal_(classifier.head.fc.weight)
    meta = dict(dataset_meta=dict(classes=['ant', 'bee', 'cat', 'dog']))
    write_checkpoint(tmp_path / 'shipped.pth', classifier.state_dict(), meta)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            INFER.replace('SHIPPED', repr(str(SHIPPED))),
            'classifier.py',
            'tuned.pth',
            'out.json',
        ]
        + [f'{i}.png' for i in range(3)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'out.json').read_text())

    encoder = MIRLViT(
        dict(embed_dims=48, num_layers=6, num_heads=4, feedforward_channels=192),
        img_size=64,
        final_norm=False,
        out_type='avg_featmap',
    )
    encoder.eval()
    state, _ = read_checkpoint(tmp_path / 'tuned.pth')
    encoder.load_state_dict({n[9:]: t for n, t in state.items() if n.startswith('backbone.')})
    imgs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor([[100, 110, 120], [50, 60, 70]])[..., None, None]
    logits = encoder((imgs - mean) / std)[-1] @ state['head.fc.weight'].t() + state['head.fc.bias']
    scores = logits.detach().softmax(dim=1)
    torch.testing.assert_close(
        torch.tensor([r['pred_scores'] for r in found[:3]]), scores, rtol=0, atol=2e-6
    )
    assert [r['pred_class'] for r in found[:3]] == ['abcdefg'[i] for i in scores.argmax(dim=1)]

    mean, std = (
        torch.tensor(cfg.model.data_preprocessor[k])[:, None, None] for k in ('mean', 'std')
    )
    scores = classifier((imgs - mean) / std).detach().softmax(dim=1)
    assert scores.std() > 0.01
    torch.testing.assert_close(
        torch.tensor([r['pred_scores'] for r in found[3:]]), scores, rtol=0, atol=2e-6
    )
    names = [meta['dataset_meta']['classes'][i] for i in scores.argmax(dim=1)]
    assert [r['pred_class'] for r in found[3:]] == names
