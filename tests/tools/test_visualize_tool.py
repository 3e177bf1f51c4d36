"""tools/visualize.py as users start it: strips of any size, form of checkpoint and channels."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from PIL import Image

from mirl_mm.apps.visualize import chosen_patch, whole_patches
from mirl_mm.errors import UserError
from mirl_mm.measure.features import load_encoder, preprocessor_of
from mirl_mm.pictures.features import feature_maps
from mirl_mm.pictures.panel import GAP, HEADER, TILE
from tests.class_folders import MAE, MIRL, write_checkpoint, write_config

ROOT = Path(__file__).parents[2]
HUB = ROOT / 'tests/data/hub'


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Configs and checkpoints of MIRL and MAE, four blocks each, and pictures of several kinds."""
    root = tmp_path_factory.mktemp('visualize')
    for name, method in dict(mirl=MIRL, mae=MAE).items():
        config = write_config(root / f'{name}.py', method)
        write_checkpoint(root / f'{name}.pth', config, seed=len(name))
    (root / 'pictures/deep').mkdir(parents=True)
    noise = Image.effect_noise((100, 80), 60)
    noise.convert('RGB').save(root / 'pictures/dog.jpg')
    noise.convert('RGBA').save(root / 'pictures/dog.png')
    noise.resize((40, 90)).convert('P').save(root / 'pictures/deep/tall.BMP')
    (root / 'pictures/broken.jpg').write_bytes((root / 'pictures/dog.jpg').read_bytes()[:400])
    (root / 'empty').mkdir()
    return root


@pytest.fixture
def tool(monkeypatch, folder, tmp_path, capsys):
    """Runs the tool in a temporary folder, with names of the folder's files; its lines."""

    def tool(*arguments: object) -> list[str]:
        monkeypatch.chdir(tmp_path)
        given = [str(folder / a) if (folder / str(a)).exists() else str(a) for a in arguments]
        monkeypatch.setattr(sys, 'argv', ['visualize.py', *given])
        capsys.readouterr()
        runpy.run_path(str(ROOT / 'tools/visualize.py'), run_name='__main__')
        return [line for line in capsys.readouterr().out.splitlines() if ': ' in line]

    return tool


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert('RGB'))


def test_a_strip_for_every_picture(tool, folder, tmp_path):
    lines = tool('mirl.py', 'mirl.pth', 'pictures')
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.*'))
    assert found == [f'visualized/{n}.png' for n in ('deep/tall', 'dog', 'dog.png')]
    assert len(lines) == 4 and 'broken.jpg: skipped (OSError' in ''.join(lines)
    assert any(line.endswith('dog.jpg: 4 x 5 patches -> visualized/dog.png') for line in lines)
    assert any('tall.BMP: 9 x 4 patches' in line for line in lines)
    strip = pixels(tmp_path / 'visualized/dog.png')  # 16 x 20 pixels, magnified by 12
    assert strip.shape[0] == 2 * HEADER + 12 * 16
    tiles = strip[2 * HEADER :, -(5 * (240 + GAP) - GAP) :]  # the image and four segments
    cfg = Config.fromfile(folder / 'mirl.py')
    image = np.asarray(Image.open(folder / 'pictures/dog.jpg'))[..., ::-1]
    small = whole_patches(image, 16, 4)
    assert small.shape == (3, 16, 20)
    shown = tiles[6::12, 6 : 6 + 240 : 12]
    assert np.abs(shown - small.flip(0).permute(1, 2, 0).numpy().astype(int)).max() <= 1
    imgs = preprocessor_of(cfg)(dict(inputs=small[None]))['inputs']
    vit = load_encoder(cfg, str(folder / 'mirl.pth'))
    for i, wanted in enumerate(feature_maps(vit, imgs, 'pca', [0, 1, 2, 3], None), start=1):
        left = i * (240 + GAP) + 6
        assert np.array_equal(tiles[6::12, left : left + 240 : 12], wanted[0].permute(1, 2, 0))


def test_checkpoints_and_what_are_rows(tool, folder, tmp_path):
    """One config for encoders of both methods and none, on one page, with the marked patch."""
    options = ['--labels', 'MIRL', 'MAE', 'none', '--out', 'page.png', '--blocks', '4', '2', '4']
    options += ['--what', 'attention', 'pca', '--patch', '2', '1', '--size', '24']
    checkpoints = ['mirl.pth', 'mae.pth', 'random']
    (line,) = tool('mirl.py', *checkpoints, 'pictures/dog.jpg', *options)
    assert line.endswith('dog.jpg: 6 x 8 patches -> page.png')
    page = pixels(tmp_path / 'page.png')
    high, wide = 8 * 24, 8 * 32
    assert page.shape[0] == 2 * HEADER + 6 * (high + GAP) - GAP
    tiles = page[2 * HEADER :, -(3 * (wide + GAP) - GAP) :]
    cfg = Config.fromfile(folder / 'mirl.py')
    image = np.asarray(Image.open(folder / 'pictures/dog.jpg'))[..., ::-1]
    imgs = preprocessor_of(cfg)(dict(inputs=whole_patches(image, 24, 4)[None]))['inputs']
    given = [c if c == 'random' else str(folder / c) for c in checkpoints]
    for row, (what, path) in enumerate((w, c) for w in ('attention', 'pca') for c in given):
        top = row * (high + GAP)
        maps = feature_maps(load_encoder(cfg, path), imgs, what, [1, 3], (1, 0))
        for column, wanted in enumerate(maps, start=1):
            left = column * (wide + GAP) + 4
            shown = tiles[top + 4 : top + high : 8, left : left + wide : 8]
            assert np.array_equal(shown, wanted[0].permute(1, 2, 0)), (what, path, column)
        frame = tiles[top + 4 : top + high : 8, 4:wide:8] == (255, 60, 60)
        assert 10 < frame.all(-1).sum() < 20  # around a patch of 4 pixels at the left border
    assert tool('mae.py', *checkpoints, 'pictures/dog.jpg', *options) == [line]
    same = (pixels(tmp_path / 'page.png') == page).all((1, 2))
    same = [same[2 * HEADER + row * (high + GAP) :][:high].all() for row in range(6)]
    assert same == [True, True, False] * 2  # MAE starts from other weights than MIRL


def test_heads_are_rows_and_cls_has_no_frame(tool, tmp_path):
    tool('mae.py', 'mae.pth', 'pictures', '--what', 'attention', 'similarity', '--heads',
         '--patch', 'cls', '--blocks', '1', '--out', 'p.png')  # fmt: skip
    page = pixels(tmp_path / 'p.png')
    strips = [7 * 36, 12 * 16, 12 * 16]  # of what is tall and narrow, and of the two dogs
    assert page.shape[0] == sum(2 * HEADER + 3 * (high + GAP) - GAP for high in strips)
    assert not (page == (255, 60, 60)).all(-1).any()
    assert page.shape[1] > 2 * TILE
    assert (page[: 3 * strips[0], -100:] == 255).all()  # white beside it


def test_five_channels_show_three(tool, folder, tmp_path):
    config = ROOT / 'configs/mirl/vit-test_2e_5-channels.py'
    numbers = np.random.default_rng(0).integers(0, 60000, (80, 64, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / 'bands.tif', numbers, photometric='minisblack')
    (line,) = tool(config, 'random', tmp_path / 'bands.tif', '--out', 'b.png', '--blocks', '1')
    assert re.search(r'bands\.tif: \d+ x \d+ patches -> b\.png', line)
    image = pixels(tmp_path / 'b.png')[2 * HEADER :, -400:-260].reshape(-1, 3).astype(int)
    assert np.abs(image[:, 0] - image[:, 1]).mean() > 20  # three different channels


@pytest.mark.parametrize('family', ['hf_dinov2_registers', 'timm_mae'])
def test_folders_of_transformers_and_timm(tool, tmp_path, family):
    extra = dict(hf_dinov2_registers='num_registers=4, layer_scale_init_value=1.0', timm_mae='')
    arch = dict(embed_dims=24, num_layers=2, num_heads=4, feedforward_channels=48)
    backbone = f'dict(type="MIRLViT", arch={arch}, img_size=16, patch_size=4, num_segments=2, {extra[family]})'  # fmt: skip  # noqa: E501
    normed = 'dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)'
    text = "custom_imports = dict(imports=['mirl_mm'])\ndefault_scope = 'mmpretrain'\n"
    text += f'model = dict(backbone={backbone}, data_preprocessor={normed})\n'
    (tmp_path / 'hub.py').write_text(text)
    options = ['--what', 'pca', 'attention', 'similarity', '--out', 'hub.png']
    (line,) = tool(tmp_path / 'hub.py', HUB / family, 'pictures/dog.jpg', *options)
    assert '4 x 5 patches' in line
    assert pixels(tmp_path / 'hub.png').std() > 30


def test_sides_are_whole_patches():
    for shape, wanted in (((80, 110), (28, 42)), ((300, 30), (280, 28)), ((28, 28), (28, 28))):
        found = whole_patches(np.zeros((*shape, 2), np.uint16), 28, 14)
        assert found.shape == (2, *wanted) and found.dtype == torch.float32
    picture = np.random.default_rng(0).integers(0, 256, (28, 42, 3), dtype=np.uint8)
    kept = whole_patches(picture, 28, 14)
    assert np.array_equal(kept.permute(1, 2, 0), picture)


def test_patches_count_from_one():
    assert chosen_patch(None, (4, 5), Path('a.png')) == (2, 2)
    assert chosen_patch(['cls'], (4, 5), Path('a.png')) is None
    assert chosen_patch(['4', '1'], (4, 5), Path('a.png')) == (3, 0)
    accepted = r'takes cls, or ROW COL counted from 1, in a\.png up to 4 5; got '
    for line in ('0 1', '5 1', '1 6', '1', '-1 2', 'cls 1', '² 1', '1 ', '1 1 1'):
        wrong = line.split(' ')  # of which one is empty
        with pytest.raises(UserError, match=accepted + ' '.join(wrong)):
            chosen_patch(wrong, (4, 5), Path('a.png'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['pictures', '--blocks', '1', '5'], '--blocks go from 1 to the depth, 4; got 5'),
        (['pictures', '--blocks', '0'], '--blocks go from 1 to the depth, 4; got 0'),
        (['pictures', '--heads'], '--heads is for attention; --what is pca'),
        (['pictures', '--patch', 'cls'], '--patch is for attention and similarity; --what is pca'),
        (['pictures', '--patch', '9', '9', '--what', 'similarity'], 'up to 9 4; got 9 9'),
        (['pictures', '--size', '3'], '--size must be at least a patch of 4 pixels, got 3'),
        (['pictures', '--labels', 'a', 'b'], '1 checkpoints need as many different labels'),
        (['missing'], 'no image or folder at missing'),
        (['empty'], 'accepted are files ending in .jpg'),
        (['pictures/broken.jpg'], 'can be read'),
        (['mirl.py'], 'can be read'),
        (['none.pth', 'pictures'], 'no checkpoint at none.pth'),
    ],
)
def test_bad_input_is_one_line(tool, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stop:
        tool('mirl.py', 'mirl.pth', *arguments)
    assert stop.value.code.startswith('error: ') and message in stop.value.code
    assert '\n' not in stop.value.code
    assert not list(tmp_path.rglob('*.png'))
