"""What every test starts from, and what --light leaves out."""

import gc
import re
from functools import cache

import mmengine.config.config
import mmengine.runner.runner
import pytest
import yapf.yapflib.yapf_api
from mmengine.registry import DefaultScope

# The files of which --light skips a test that ends for want of one of these, as the error or the
# output of a tool says it. Any other such test fails: what it tests has to do without them.
MAY_LACK = (
    'tests/apps/test_export.py::',
    'tests/apps/test_plan.py::',
    'tests/apps/test_predict.py::',
    'tests/apps/test_scenes.py::',
    'tests/engine/test_checks.py::',
    'tests/engine/test_checks_masks.py::',
    'tests/engine/test_data.py::',
    'tests/engine/test_data_boxes.py::',
    'tests/engine/test_optim.py::',
    'tests/engine/test_own_data.py::',
    'tests/engine/test_runner.py::',
    'tests/engine/test_tta.py::',
    'tests/gpu/test_rehearsal.py::',
    'tests/models/test_dense_pyramid.py::',
    'tests/models/test_segments.py::',
    'tests/study/test_grid.py::',
    'tests/test_configs.py::',
    'tests/test_dense_configs.py::',
    'tests/test_dense_docs.py::',
    'tests/test_dense_transfer.py::',
    'tests/test_exits.py::',
    'tests/test_host_reads.py::',
    'tests/test_small_configs.py::',
    'tests/test_stack_tools_docs.py::',
    'tests/test_vit_you_have.py::',
    'tests/training/test_channels.py::',
    'tests/training/test_dense.py::',
)
WANT = re.compile(r"(?:No module named '|a model of \w+ needs )(mmdet|mmseg|mmcv\.(?:ops|_ext))\b")


# What a run says of itself: compilers are asked for their versions once a process, and a config's
# text is what is handed to yapf, by one MMEngine from here and by another from there.
mmengine.runner.runner.collect_env = cache(mmengine.runner.runner.collect_env)
for room in (mmengine.config.config, yapf.yapflib.yapf_api):
    room.FormatCode = lambda text, **_: (text, False)


def pytest_addoption(parser):
    parser.addoption('--light', action='store_true', help='skip what needs mmdet, mmseg, mmcv.ops')


def pytest_collection_modifyitems(config, items):
    """Without --light nothing is skipped: a full environment that lacks a library fails."""
    if config.getoption('--light'):
        skipped = pytest.mark.skip(reason='--light: marked dense')
        for item in items:
            if item.get_closest_marker('dense'):
                item.add_marker(skipped)


def pytest_collection_finish():
    """What was imported is not looked through by the collector: each dataset calls it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    light = item.config.getoption('--light') and item.nodeid.startswith(MAY_LACK)
    if light and report.failed and (library := lacked(call.excinfo.value)):
        report.outcome = 'skipped'
        report.longrepr = (*item.location[:2], f'--light: needs {library}')
    return report


def lacked(error: BaseException | None) -> str | None:
    """The library that an error, or one behind it, says is not there."""
    while error:
        if found := WANT.search(str(error)):
            return found[1]
        error = error.__cause__ or error.__context__
    return None


@pytest.fixture(autouse=True)
def own_default_scope():
    """MMEngine's own scope: a test finds none that another has left, and leaves none."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield
