import json

import numpy as np
import pytest
import torch
from PIL import Image

from mirl_mm.models import Reconstruction
from mirl_mm.models.masking import patchify
from mirl_mm.pictures.plots import panel_columns, plot_losses, plot_panel, read_scalars


@pytest.fixture
def painted() -> tuple[torch.Tensor, Reconstruction]:
    """Two 8x8 images on a 2x2 grid; decoder g paints g everywhere, patches have mean 10, std 2."""
    imgs = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    preds = tuple(torch.full((2, 4, 48), float(g)) for g in range(4))
    return imgs, Reconstruction(
        preds=preds,
        target=torch.zeros(2, 4, 48),
        mask=mask,
        ids_restore=torch.zeros(2, 4, dtype=torch.long),
        pair_errors=torch.zeros(2, 2),
        patch_mean=torch.full((2, 4, 1), 10.0),
        patch_std=torch.full((2, 4, 1), 2.0),
        grid=(2, 2),
        patch_size=4,
    )


def test_panel_columns(painted):
    imgs, result = painted
    columns = panel_columns(imgs, result)
    assert list(columns) == [
        'original',
        'masked',
        *('main 1', 'residual 4', 'sum 1 + 4'),
        *('main 2', 'residual 3', 'sum 2 + 3'),
    ]
    assert torch.equal(columns['original'], imgs)
    hidden = result.mask.bool()
    original = patchify(imgs, 4)
    masked = patchify(columns['masked'], 4)
    assert torch.equal(masked[~hidden], original[~hidden])
    assert not masked[hidden].any()
    assert torch.equal(columns['main 2'], torch.full_like(imgs, 1 * 2 + 10))
    assert torch.equal(columns['residual 3'], torch.full_like(imgs, 2 * 2 + 10))
    both = patchify(columns['sum 2 + 3'], 4)
    assert torch.equal(both[hidden], torch.full_like(both[hidden], (1 + 2) * 2 + 10))
    assert torch.equal(both[~hidden], original[~hidden])


def test_plot_panel_shows_the_pixels(painted, tmp_path):
    imgs, result = painted
    path = tmp_path / 'panel.png'
    plot_panel(torch.zeros_like(imgs), result, path, mean=[255, 0, 0], std=[1, 1, 1])
    pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    red = (pixels == (255, 0, 0)).all(axis=1).mean()
    assert red > 0.1  # the originals are plain red
    assert (pixels == (255, 12, 12)).all(axis=1).any()  # main 2


def test_read_scalars_takes_the_newest_run(tmp_path):
    for stamp, loss in (('20260101_000000', 1.0), ('20260102_000000', 2.0)):
        folder = tmp_path / stamp / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(json.dumps(dict(loss=loss, step=1)) + '\n')
    assert read_scalars(tmp_path) == [dict(loss=2.0, step=1)]


def test_read_scalars_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='not a work dir of a run that has logged'):
        read_scalars(tmp_path)


def test_plot_losses_draws_every_curve(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    plot = Axes.plot

    def record(self, x, y, *args, **kwargs):
        drawn[kwargs['label']] = (x, y)
        return plot(self, x, y, *args, **kwargs)

    monkeypatch.setattr(Axes, 'plot', record)
    rows = [dict(step=i, loss=2.0 - i, pair_0_1=3.0 - i) for i in (1, 2)]
    held = {'step': 1, 'recon/error': 0.5}  # MMEngine's step is the epoch here
    plot_losses([*rows, held], tmp_path / 'loss.png')
    assert drawn == {
        'segments 1 + 2': ([1, 2], [2.0, 1.0]),
        'mean of the pairs': ([1, 2], [1.0, 0.0]),
        'held-out images': ((2,), (0.5,)),
    }
    assert Image.open(tmp_path / 'loss.png').size == (960, 540)
