"""What every test starts from."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def own_default_scope():
    """That of most of our configs. A test finds no scope that another has left, and leaves none."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield
