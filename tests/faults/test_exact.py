"""A resumed run ends as an undisturbed one, to the bit."""

import shutil

import pytest
import torch

from .small import differs, load, log_of, run, small_config

pytestmark = pytest.mark.xdist_group('faults')


def left_at(source, iteration: int, folder):
    """What a run killed after a checkpoint leaves."""
    folder.mkdir()
    shutil.copy(source / f'iter_{iteration}.pth', folder)
    return folder


@pytest.mark.parametrize('iteration', [4, 12, 20])  # in an epoch; 20: at its end, validated
def test_epochs(undisturbed, images, tmp_path, iteration):
    folder = left_at(undisturbed, iteration, tmp_path / 'run')
    runner = run(folder, small_config(images, workers=0), 'last')
    assert differs(undisturbed / 'iter_30.pth', folder / 'iter_30.pth') == ''
    again = f'running {iteration % 3} micro-batches of the open accumulation again'
    assert (again in log_of(runner)) == (iteration % 3 > 0)
    assert runner.message_hub.get_info('best_score') == best_of(undisturbed)
    log = log_of(runner)
    assert f'Epoch(train) [{iteration // 10 + 1}][{iteration % 10 + 1:>2}/10]' in log
    assert log.count('recon/error: ') == 3 - iteration // 10


def test_a_validation_that_was_cut_short_is_made_up_for(undisturbed, images, tmp_path):
    folder = left_at(undisturbed, 20, tmp_path / 'run')
    state = load(folder / 'iter_20.pth')
    assert state['message_hub']['runtime_info'].pop('iter_validated') == 20
    torch.save(state, folder / 'iter_20.pth')
    log = log_of(run(folder, small_config(images, workers=0), 'last'))
    assert log.count('recon/error: ') == 2
    assert differs(undisturbed / 'iter_30.pth', folder / 'iter_30.pth') == ''


def best_of(folder) -> float:
    return load(folder / 'iter_30.pth')['message_hub']['runtime_info']['best_score']


def test_iterations_with_workers_on_an_endless_sampler(images, tmp_path):
    options = {'default_hooks__checkpoint__max_keep_ckpts': -1}
    cfg = small_config(images, by_epoch=False, workers=2, **options)
    run(tmp_path / 'one', cfg)
    folder = left_at(tmp_path / 'one', 8, tmp_path / 'two')
    run(folder, small_config(images, by_epoch=False, workers=0), 'last')  # workers do not matter
    assert differs(tmp_path / 'one/iter_30.pth', folder / 'iter_30.pth') == ''


def test_the_comparison_sees_one_bit(undisturbed, tmp_path):
    state = load(undisturbed / 'iter_30.pth')
    bits = state['ema_state_dict']['module.backbone.cls_token'].view(torch.int32)
    bits.view(-1)[0] ^= 1
    torch.save(state, tmp_path / 'flipped.pth')
    found = differs(undisturbed / 'iter_30.pth', tmp_path / 'flipped.pth')
    assert found == 'ema_state_dict.module.backbone.cls_token'


def test_stock_loops_are_said_to_be_inexact(images, tmp_path):
    options = {'train_cfg__type': 'EpochBasedTrainLoop', 'train_cfg__max_epochs': 1}
    log = log_of(run(tmp_path / 'run', small_config(images, workers=0, **options)))
    assert 'a run of EpochBasedTrainLoop cannot be resumed to the bit' in log


def test_another_layout_goes_on_at_the_same_place_and_says_so(undisturbed, images, tmp_path):
    folder = left_at(undisturbed, 16, tmp_path / 'run')
    cosine = dict(type='CosineAnnealingLR', T_max=3, end=3, convert_to_iter_based=True)
    options = {'train_dataloader__batch_size': 2, 'param_scheduler': [cosine]}
    state = load(folder / 'iter_16.pth')
    state['meta']['run']['processes'] = 2
    state['param_schedulers'] = [dict(last_step=16, _global_step=16, T_max=30, end=30)]
    torch.save(state, folder / 'iter_16.pth')
    runner = run(folder, small_config(images, workers=0, **options), 'last')
    log = log_of(runner)
    assert 'processes: 2, now 1; images of a process in an iteration: 4, now 2' in log
    assert 'not to the bit' in log and 'masks, drop paths and mixes' in log
    assert 'an epoch had 10 iterations, now 20: going on at iteration 32 of 60' in log
    (schedule,) = runner.param_schedulers
    assert (schedule.T_max, schedule.last_step, runner.iter) == (60, 59, 60)
    assert schedule.get_last_value()[0] < 1e-3 * 2e-2
