"""What every test starts from, and what --light leaves out."""

import pytest
from mmengine.registry import DefaultScope


def pytest_addoption(parser):
    parser.addoption('--light', action='store_true', help='skip the tests marked dense')


def pytest_collection_modifyitems(config, items):
    """Without --light nothing is skipped: a full environment that lacks a library fails."""
    if config.getoption('--light'):
        skipped = pytest.mark.skip(reason='--light: needs mmdet, mmseg or the ops of mmcv')
        for item in items:
            if item.get_closest_marker('dense'):
                item.add_marker(skipped)


@pytest.fixture(autouse=True)
def own_default_scope():
    """MMEngine's own scope: a test finds none that another has left, and leaves none."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield
