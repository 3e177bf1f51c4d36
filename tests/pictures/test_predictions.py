"""Pages of dense predictions: the pixels, on tiny pictures."""

import numpy as np
import pytest
from PIL import Image

from mirl_mm.pictures.predictions import (
    OPACITY,
    Instances,
    draw_instances,
    painted,
    plot_predictions,
)

COLOURS = np.array([(0, 0, 0), (200, 0, 0), (0, 100, 0)])


def test_labels_tint_the_image_but_black_and_unknown_ones_do_not():
    image = np.full((1, 4, 3), 100, np.uint8)
    result = painted(image, np.array([[0, 1, 255, -1]]), COLOURS)
    assert result.dtype == np.uint8
    tinted = [round((1 - OPACITY) * 100 + OPACITY * c) for c in COLOURS[1]]
    assert result[0].tolist() == [[100] * 3, tinted, [100] * 3, [100] * 3]


def test_the_surest_instance_lies_on_top():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    masks = np.zeros((2, 2, 3), bool)
    masks[0, :, :2] = masks[1, :, 1:] = True  # they share the middle column
    found = Instances(
        np.array([1, 2]), np.array([[0, 0, 2, 2], [1, 0, 3, 2.0]]), masks, np.array([0.9, 0.4])
    )
    draw_instances(axes, np.zeros((2, 3, 3), np.uint8), found, COLOURS)
    shown = axes.images[0].get_array()
    assert shown[0, :, 0].tolist() == [110, 110, 0]
    assert shown[0, :, 1].tolist() == [0, 0, 55]
    assert [text.get_text() for text in axes.texts] == ['0.40', '0.90']
    assert [patch.get_bbox().bounds for patch in axes.patches] == [(1, 0, 2, 2), (0, 0, 2, 2)]


def test_a_page_has_the_image_and_one_column_per_entry(tmp_path):
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    regions = [np.ones((8, 8), int)] * 2
    none = Instances(np.zeros(0, int), np.zeros((0, 4)), np.zeros((0, 8, 8), bool))
    file = tmp_path / 'page.png'
    plot_predictions(
        images, {'truth': regions, 'nothing': [none] * 2}, ('a', 'b', 'c'), COLOURS, file
    )
    page = np.asarray(Image.open(file).convert('RGB'))
    assert page.shape == (2 * 240 + 90, 3 * 240, 3)
    assert (page == [110, 0, 0]).all(axis=-1).sum() > 2 * 150**2, 'two tinted squares'
    with pytest.raises(ValueError):
        plot_predictions(images, {'truth': regions[:1]}, ('a', 'b', 'c'), COLOURS, file)
