"""Nobody waits for the device: losses and verdicts are read later, and say the same."""

import math

import pytest
import torch
from mmengine.hooks import Hook

from mirl_mm.engine.hooks import NonFiniteError, finite

from .small import differs, load, log_of, run, small_config
from .test_finite import spoil

pytestmark = pytest.mark.xdist_group('faults')

SILENT = {'default_hooks__logger__interval': 50}
SAVE_AT_END = dict(type='SafeCheckpointHook', by_epoch=False, interval=100)


def quiet_config(images, by_epoch: bool = True, **options):
    """Images one by one, 40 iterations by epochs or else 30, and no look before the end."""
    cfg = small_config(images, 1, by_epoch, 0, train_dataloader__batch_size=1, **SILENT)
    cfg.default_hooks.checkpoint = SAVE_AT_END
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if by_epoch:
        cfg.train_cfg.max_epochs = 1
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg


class Watch(Hook):
    """Weights, moments and counts behind every iteration, and its images."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.states, self.batches = [], {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        optimizer = runner.optim_wrapper.optimizer
        state = [value for each in optimizer.state.values() for value in each.values()]
        values = [*runner.model.parameters(), *filter(torch.is_tensor, state)]
        self.states.append([value.detach().clone() for value in values])
        self.batches[runner.iter] = data_batch['inputs'].clone()


def prepared(folder, cfg, resume=None, **bad):
    """A runner whose values are spoilt, and what watches it."""
    runner, watch = run(folder, cfg, resume, start=False), Watch()
    runner.register_hook(watch)
    if bad:
        spoil(runner, **bad)
    return runner, watch


def stop_of(runner) -> str:
    with pytest.raises(NonFiniteError) as stop:
        runner.train()
    return str(stop.value)


def policy(name: str, **settings) -> dict:
    return {'default_hooks__finite': dict(type='FiniteHook', policy=name, **settings)}


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


# --- losses ---------------------------------------------------------------------------------------


def test_histories_and_ends_are_those_of_mmengine(undisturbed, images, tmp_path):
    """In every checkpoint, whenever losses were read; and the guard has changed nothing."""
    stock = {'default_hooks__runtime_info': dict(type='RuntimeInfoHook')}
    options = {'default_hooks__checkpoint__max_keep_ckpts': -1}
    for name, more in (('late', {}), ('stock', stock)):
        run(tmp_path / name, small_config(images, workers=0, **SILENT, **options, **more))
    for i in range(4, 31, 4):
        names = [folder / f'iter_{i}.pth' for folder in (tmp_path / 'late', tmp_path / 'stock')]
        late, stock = (load(name)['message_hub']['log_scalars'] for name in names)
        assert late.keys() == stock.keys() and {'train/loss', 'train/pair_0_1'} <= late.keys()
        for key in ('train/loss', 'train/pair_0_1', 'train/lr'):
            for one, other in zip(late[key].data, stock[key].data, strict=True):
                assert len(one) == i and one.tolist() == other.tolist() and one.dtype == other.dtype
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'late/iter_30.pth') == ''


# --- stop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('by_epoch', 'bad', 'message'),
    [
        (
            False,
            dict(iterations=[8]),
            'iteration 8: the loss is nan: the first bad value is in the output of '
            'backbone.layers.2 (segment_1), parameter backbone.layers.2.',
        ),
        (
            True,
            dict(iterations=[9], block=1, backward=True),
            'iteration 9: a gradient is not finite: the forward pass is finite; on the way back '
            'the first bad gradient is that of backbone.layers.1.ffn.layers.0.0.weight (segment_0)',
        ),
        (
            True,
            dict(iterations=[8], block=1, backward=True),
            'iteration 9: a gradient is not finite: in the micro-batch of iteration 8, the forward '
            'pass is finite; on the way back the first bad gradient is that of backbone.layers.1.',
        ),
    ],
)
def test_the_weights_wait_for_the_look(images, tmp_path, by_epoch, bad, message):
    """At the end of the run, 22 or 32 iterations later."""
    cfg = quiet_config(
        images, by_epoch, train_dataloader__num_workers=int(bad['iterations'] == [9])
    )
    runner, watch = prepared(tmp_path / 'run', cfg, **bad)
    found = stop_of(runner)
    assert found.startswith(message) and found.endswith('There is no checkpoint yet')
    assert len(watch.states) == (39 if by_epoch else 29)
    assert same(watch.states[-1], watch.states[7]) and not same(watch.states[5], watch.states[4])


def test_neither_saved_nor_validated(images, tmp_path):
    """Looked at before the checkpoint of iteration 12, and before the validation behind 10."""
    cfg = small_config(images, workers=0, default_hooks__logger__interval=8)
    for name, bad, kept in (('saving', 11, 10), ('validating', 9, 8)):
        runner, _ = prepared(tmp_path / name, cfg, iterations=[bad])
        message = stop_of(runner)
        assert message.startswith(f'iteration {bad}: ')
        assert message.endswith(f'checkpoint to go back to: {tmp_path / name}/iter_{kept}.pth')
        assert runner.iter == dict(saving=11, validating=10)[name]
        assert not (tmp_path / name / 'iter_12.pth').exists()
        assert log_of(runner).count('recon/error: ') == (name == 'saving')


def test_a_stock_checkpoint_hook_saves_nothing_bad(images, tmp_path):
    hook = dict(type='CheckpointHook', by_epoch=False, interval=4)
    cfg = small_config(images, workers=0, **SILENT)
    cfg.default_hooks.checkpoint = hook
    runner, _ = prepared(tmp_path / 'run', cfg, iterations=[6])
    assert stop_of(runner).endswith(f'The checkpoint to go back to: {tmp_path / "run/iter_4.pth"}')
    assert not (tmp_path / 'run/iter_8.pth').exists()


def test_a_bad_loss_with_finite_gradients_holds_the_weights_too(images, tmp_path):
    cfg = quiet_config(images, optim_wrapper__accumulative_counts=1)
    runner, watch = prepared(tmp_path / 'run', cfg)
    loss = runner.model.loss

    def spoilt(*args, **kwargs) -> dict:
        losses = loss(*args, **kwargs)
        return losses | dict(loss=losses['loss'] + (math.inf if runner.iter == 4 else 0))

    runner.model.loss = spoilt
    assert stop_of(runner).startswith('iteration 5: the loss is inf: ')
    assert same(watch.states[-1], watch.states[4]) and not same(watch.states[4], watch.states[3])


def test_going_on_after_a_stop_is_exact(undisturbed, images, tmp_path):
    cfg = small_config(images, workers=0, **SILENT)
    stop_of(prepared(tmp_path / 'run', cfg, iterations=[14])[0])
    run(tmp_path / 'run', cfg, 'last')
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'run/iter_30.pth') == ''


def test_an_optimizer_that_is_not_fused_is_held_back_by_the_host(images, tmp_path):
    cfg = quiet_config(images)
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1)
    runner, watch = prepared(tmp_path / 'run', cfg, iterations=[8])
    assert stop_of(runner).startswith('iteration 8: the loss is nan: the first bad value is in')
    assert runner.iter == 8  # at the update, not at the end
    assert same(watch.states[7], watch.states[5]) and not same(watch.states[5], watch.states[4])
    assert 'SGD is not fused: before every update FiniteHook waits' in log_of(runner)


def test_a_checkpoint_of_an_unfused_optimizer_goes_on_unfused(images, tmp_path):
    """As torch has it, whatever the config says: such an optimizer refuses the verdict."""
    options = dict(optim_wrapper__optimizer__fused=False, optim_wrapper__accumulative_counts=1)
    before, bad = quiet_config(images, **options), dict(iterations=[35])
    before.default_hooks.checkpoint.interval = 30
    stop_of(prepared(tmp_path / 'run', before, **bad)[0])
    cfg = quiet_config(images, optim_wrapper__accumulative_counts=1)
    runner, _ = prepared(tmp_path / 'run', cfg, 'last', **bad)
    message = stop_of(runner)
    assert message.startswith('iteration 35: a gradient is not finite: the first bad value is in')
    assert message.endswith(f'The checkpoint to go back to: {tmp_path / "run/iter_30.pth"}')
    assert 'AdamW is not fused' in log_of(runner) and runner.iter == 34


def test_loops_that_cannot_repeat_say_so(images, tmp_path):
    options = SILENT | {'train_cfg__type': 'EpochBasedTrainLoop'}
    cfg = small_config(images, workers=0, **options)
    runner, _ = prepared(tmp_path / 'run', cfg, iterations=[9])
    message = stop_of(runner)
    assert 'a gradient is not finite: the pass cannot be repeated to find the place. The' in message


# --- skip -----------------------------------------------------------------------------------------


def test_skipping_is_the_same_whenever_it_is_looked_at(images, tmp_path, monkeypatch):
    """At every iteration, in open groups, at the end, or left out by the host: equal to the bit."""
    always, often = (
        dict(default_hooks__logger__interval=1),
        dict(default_hooks__checkpoint__interval=4),
    )
    for name, options in (('now', always), ('often', often), ('end', {}), ('host', always)):
        if name == 'host':
            monkeypatch.setattr(finite, 'takes_verdict', lambda optimizer: False)
        cfg = quiet_config(images, **policy('skip'), **options)
        runner, _ = prepared(tmp_path / name, cfg, iterations=[5, 9, 20])
        runner.train()
        log = log_of(runner)
        for update, bad in ((6, 5), (9, 9), (21, 20)):
            where = '' if update == bad else f'in the micro-batch of iteration {bad}, '
            line = f'iteration {update}: update left out, since a gradient is not finite: {where}'
            assert (
                log.count(f'{line}the first bad value is in the output of backbone.layers.2') == 1
            )
        assert log.count('(updates until it was repeated: ') == dict(often=2, end=3).get(name, 0)
        assert differs(tmp_path / 'now/iter_40.pth', tmp_path / name / 'iter_40.pth') == ''


def test_skips_in_a_row_are_counted_on_the_device(images, tmp_path):
    cfg = quiet_config(images, **policy('skip', max_skips=2))
    runner, watch = prepared(tmp_path / 'run', cfg, iterations=[1, 10, 14])
    message = stop_of(runner)
    assert message.startswith('iteration 15: 2 updates in a row had bad gradients; in the micro-')
    assert same(watch.states[-1], watch.states[8]) and not same(watch.states[8], watch.states[7])
    assert 'iteration 3: update left out' in log_of(runner)


# --- the batches that are repeated ----------------------------------------------------------------


@pytest.mark.parametrize('by_epoch', [True, pytest.param(False, marks=pytest.mark.long)])
def test_batches_are_loaded_again_as_they_were(images, tmp_path, by_epoch):
    """With workers that read ahead, over the ends of passes, and of a resumed open group."""
    options = dict(by_epoch=by_epoch, default_hooks__checkpoint__max_keep_ckpts=-1)
    for workers, resume in ((1, None), (0, str(tmp_path / 'run/iter_16.pth'))):
        cfg = small_config(images, workers=workers, **options)
        runner, watch = prepared(tmp_path / 'run', cfg, resume)
        runner.train()
        assert [*watch.batches] == [*range(16 if resume else 0, 30)]
        state = torch.get_rng_state()
        for iteration, inputs in watch.batches.items():
            with runner.train_loop.repeating(iteration) as forward:
                again = runner.train_dataloader.again(iteration)
            assert forward is not None and torch.equal(again['inputs'], inputs), iteration
        assert torch.equal(torch.get_rng_state(), state)
        assert runner.train_dataloader.again(15) is not None  # of the open group
        assert runner.train_dataloader.again(1000) is None
