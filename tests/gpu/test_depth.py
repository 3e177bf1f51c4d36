"""The depth study: images, schedules, equal conditions, lengths."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks import images
from benchmarks.gpu import depth, study
from benchmarks.gpu.stage import LeftOut, Record
from benchmarks.gpu.study import Setting
from benchmarks.study.grid import METHODS
from tests.gpu.small import arguments, bench

SETTING = Setting(width=32, side=16, patch=4, batch=4, epochs=3, device='cpu')


def test_the_depth_study_without_its_data(tmp_path):
    args = arguments(tmp_path, rehearse=False)
    assert depth.why_not(args).startswith('it needs Tiny-ImageNet-100: --data DIR')
    args.data = tmp_path
    assert depth.why_not(args) == f'{tmp_path} has no folder train and no val'
    (tmp_path / 'train').mkdir(), (tmp_path / 'val').mkdir()
    assert depth.why_not(args) == ''
    record = Record(tmp_path / 'depth.json')
    record.rows.append(dict(part='plan', epochs=90))
    record.write()
    args.epochs = 100
    assert depth.why_not(args).startswith('its runs have 90 epochs, and --epochs is 100')


def test_images_of_class_folders(tmp_path):
    for name, colour in (('b', (0, 255, 0)), ('a', (255, 0, 0))):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new('RGB', (16, 16), colour).save(tmp_path / name / f'{i}.png')
    found = images.read_folders(tmp_path, 16, 'cpu')
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.images.shape == (4, 3, 16, 16) and found.images.dtype == torch.uint8
    assert found.images[:, :, 0, 0].tolist() == [[255, 0, 0]] * 2 + [[0, 255, 0]] * 2
    with pytest.raises(ValueError, match=r'is \(16, 16\), not 8 x 8'):
        images.read_folders(tmp_path, 8, 'cpu')
    mean = images.normalised(found.images[:1])[0, :, 0, 0]
    expected = [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    torch.testing.assert_close(mean, torch.tensor(expected))


def test_crops(monkeypatch):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    # Area, ratio, flip, place: the whole image; the whole image flipped; the left upper quarter.
    drawn = [[1, 1, 0.0625], [0.5] * 3, [0.9, 0.1, 0.9], [0.5, 0.5, 0], [0.5, 0.5, 0]]
    monkeypatch.setattr(torch, 'rand', lambda *_, **__: torch.tensor(drawn))
    made = images.random_crops(pixels, None)
    torch.testing.assert_close(made[0], pixels[0].float(), rtol=0, atol=1e-2)
    torch.testing.assert_close(made[1], pixels[1].flip(-1).float(), rtol=0, atol=1e-2)
    quarter = F.interpolate(pixels[2:, :, :8, :8].float(), (16, 16), mode='bicubic').clamp(0, 255)
    inner = (..., slice(2, 12), slice(2, 12))  # at the crop's edges torch sees what lies beyond
    torch.testing.assert_close(made[2][inner], quarter[0][inner], rtol=0, atol=1e-2)


def test_random_crops_follow_their_generator():
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    one, two, other = (
        images.random_crops(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 255


def test_the_rate():
    rates = [study.share_of_rate(step, 300) for step in range(300)]
    assert rates[0] == pytest.approx(1 / 41) and rates[40] == 1 == max(rates)
    assert rates[170] == pytest.approx(0.5) and rates[299] < 1e-3


def test_both_methods_see_the_same_masks_and_have_one_encoder():
    models = {method: study.model_of(method, 12, SETTING) for method in METHODS}
    imgs = torch.randn(4, 3, 16, 16)
    torch.manual_seed(3)
    mask = models['mirl'].backbone.encode_masked(imgs).mask
    torch.manual_seed(3)
    assert torch.equal(mask, models['mae'].backbone(imgs)[1])
    own, other = (sum(p.numel() for p in m.backbone.parameters()) for m in models.values())
    assert own == other
    assert len(models['mirl'].neck.decoders) == 6
    assert len(models['mae'].neck.decoder_blocks) == 8


def test_a_training_is_its_seed_s():
    pixels = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)

    def losses(seed: int, stop: int | None = None) -> list[float]:
        torch.manual_seed(0)
        found, model = [], study.model_of('mirl', 6, SETTING)
        steps = study.train(
            model, pixels, SETTING, seed, stop, lambda step, loss: found.append(loss.item())
        )
        assert steps == len(found)
        return found

    first = losses(1)
    assert len(first) == 3 * 2  # an epoch is two whole batches of nine images
    assert losses(1, stop=4) == first[:4]
    assert losses(2) != first


def test_lengths_that_fit():
    size = depth.SIZES[False]
    epoch_s = dict.fromkeys(('mirl 48', 'mae 48', 'mirl 12', 'mae 12', 'mirl 24', 'mae 24'), 0.5)
    probing = 2 * 2 * (4 + 1 + 2)
    assert depth.fitting_epochs(size, epoch_s, 300 + probing) == 85
    assert depth.fitting_epochs(size, epoch_s, 1e5) == 300
    with pytest.raises(LeftOut, match='8 epochs would fit into the 58 seconds'):
        depth.fitting_epochs(size, epoch_s, 30 + probing)
    found = dict(plan=dict(epochs=85, epoch_s=epoch_s))
    assert depth.seconds_of(size, 'mirl', 48, found) == pytest.approx(85 * 0.5 / 0.85 + 8)
    assert depth.seconds_of(size, 'untrained', 12, found) == 2
    assert depth.seconds_of(size, 'mirl', 48, {}) == float('inf')


def test_the_order_of_runs_is_that_of_their_value():
    names = [p.name for p in depth.parts(False)]
    assert names[:4] == ['plan', 'mirl 48, seed 0', 'mae 48, seed 0', 'mirl 12, seed 0']
    assert names[7:10] == [f'untrained {n}, seed 0' for n in (48, 12, 24)]
    assert len(names) == 1 + 6 + 3 + 12


def test_given_epochs_are_kept(monkeypatch):
    monkeypatch.setattr(study, 'train', lambda *_, **__: 1)
    monkeypatch.setattr(depth, 'data_of', lambda size, bench: (images.Labelled(torch.ones(40), 0),))
    found = depth.plan(depth.SIZES[True], bench(rehearse=False, epochs=7))
    assert found['epochs'] == 7 and set(found['epoch_s']) == {'mirl 12', 'mae 12'}
