"""What --light takes for the want of a library, and where it may."""

from pathlib import Path

import pytest

from mirl_mm.errors import UserError
from tests.conftest import MAY_LACK, lacked

SAID = 'a model of mmdet needs mmcv.ops, which cannot be imported'
CORE = ('models/test_mirl', 'models/test_vit', 'checkpoint/', 'training/test_training', 'datasets/')


@pytest.mark.parametrize(
    ('error', 'library'),
    [
        (ModuleNotFoundError("No module named 'mmseg.models'"), 'mmseg'),
        (AssertionError(f'printed: {SAID}'), 'mmcv.ops'),
        (ModuleNotFoundError("No module named 'mmpretrain'"), None),
        (KeyError('mmdet'), None),
    ],
)
def test_an_error_names_what_lacks(error, library):
    assert lacked(error) == library
    behind = UserError('another line')
    behind.__context__ = error
    assert lacked(behind) == library


def test_the_listed_files_exist_and_the_core_is_none_of_them():
    files = {file.removesuffix('::') for file in MAY_LACK}
    assert all((Path(__file__).parents[1] / file).is_file() for file in files)
    core = tuple(f'tests/{name}' for name in CORE)
    assert [file for file in files if file.startswith(core)] == []
