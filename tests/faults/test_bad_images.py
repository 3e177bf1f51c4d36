"""Images that cannot be read: counted over all processes, listed, and too many at some point."""

import pytest

from benchmarks.faults.run import write_images
from mirl_mm.engine.hooks import data
from mirl_mm.errors import BadImagesError

from .small import log_of, run, small_config

pytestmark = pytest.mark.xdist_group('faults')


@pytest.fixture(scope='module')
def spoilt(tmp_path_factory):
    """40 images, 2 of them cut short."""
    return write_images(tmp_path_factory.mktemp('spoilt'), 0.05)


def listed(folder) -> list[str]:
    lines = (folder / 'bad_images.txt').read_text().splitlines()
    return sorted(line.partition('\t')[0].rpartition('/')[2] for line in lines)


def test_counted_once_an_epoch_and_listed_once(spoilt, tmp_path):
    options = {'train_cfg__max_epochs': 2, 'train_cfg__val_interval': 5}
    folder = tmp_path / 'run'
    runner = run(folder, small_config(spoilt, workers=1, **options))
    log = log_of(runner)
    first, second = 'epoch 1: 2 images were replaced', 'epoch 2: 2 images were replaced'
    assert f'{first} since they cannot be read; 2 of them new, 2 of 40 (5.00%) so far' in log
    assert f'{second} since they cannot be read; 0 of them new, 2 of 40 (5.00%) so far' in log
    assert listed(folder) == ['0000.png', '0001.png']
    assert runner.message_hub.get_scalar('train/bad_images').current() == 2

    runner = run(folder, small_config(spoilt, workers=0, train_cfg__max_epochs=3), 'last')
    assert listed(folder) == ['0000.png', '0001.png']  # not again


def test_a_share_that_is_too_much_stops(spoilt, tmp_path):
    options = {'train_dataloader__dataset__max_bad_share': 0.03}
    with pytest.raises(BadImagesError, match=r'2 images cannot be read, max_bad_share=0\.03'):
        run(tmp_path / 'run', small_config(spoilt, workers=0, **options))


def test_all_processes_together_are_counted(spoilt, tmp_path, monkeypatch):
    def gathered(mine):
        return [mine, ([7, 8], 2)]  # as if there were a second process

    monkeypatch.setattr(data, 'all_gather_object', gathered)
    options = {'train_dataloader__dataset__max_bad_images': 3}
    with pytest.raises(BadImagesError, match=r'4 of 40 images cannot be read, more than the 3 of'):
        run(tmp_path / 'run', small_config(spoilt, workers=0, **options))
