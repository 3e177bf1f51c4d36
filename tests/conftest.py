"""What every test starts from."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def own_default_scope():
    """MMEngine's own scope: a test finds none that another has left, and leaves none."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield
