"""One undisturbed run for all tests of a session, and cheap starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.faults.run import write_images

from .small import run, small_config


@contextmanager
def cheap_runs() -> Iterator[None]:
    """No waiting for the disk."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope='module')
def cheap():
    with cheap_runs():
        yield


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, images):
    """Work dir of a run by epochs, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp('undisturbed') / 'run'
    options = {'default_hooks__checkpoint__max_keep_ckpts': -1}
    with cheap_runs():
        run(folder, small_config(images, workers=0, **options))
    return folder
