"""Norms against plain PyTorch, on the update that the log line shows."""

import copy
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import IterTimerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from mirl_mm.engine.hooks import HealthHook, health
from mirl_mm.measure.cost import Flops
from mirl_mm.models.segments import parameter_segments
from tests.models.build import images, small_mirl

IMAGES = images(8, 32).split(2)  # four micro-batches of two


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch):
    monkeypatch.setattr(health, 'peak_rate', lambda *_: (1e12, 'made up'))
    monkeypatch.setattr(health, 'flops_per_image', lambda model, batch: Flops(0, model * batch))


class ScaledWrapper(OptimWrapper):
    """AmpOptimWrapper with a scaler, which needs a GPU, less its autocast."""

    def __init__(self, scale: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def backward(self, loss: torch.Tensor, **_) -> None:
        self.loss_scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self, **_) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


class Loader:
    batch_size = 2

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def fake_runner(model: nn.Module, wrapper: OptimWrapper, loop: type, length: int):
    messages = []
    return SimpleNamespace(
        model=model,
        cfg=SimpleNamespace(model=1e9),  # as the patched count understands it
        optim_wrapper=wrapper,
        hooks=[IterTimerHook()],
        iter=0,
        max_iters=length,
        train_loop=object.__new__(loop),
        train_dataloader=Loader(length),
        message_hub=MessageHub(f'health-{time.perf_counter_ns()}'),
        logger=SimpleNamespace(info=messages.append, messages=messages),
    )


def adamw(model: nn.Module, **kwargs) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **kwargs)


def loss_of(model: nn.Module, imgs: torch.Tensor) -> torch.Tensor:
    return model.reconstruct(imgs, torch.linspace(0, 1, 16).expand(2, -1)).loss


def train(hook: HealthHook, runner, steps: int, scale=1.0) -> dict[str, float]:
    """Train and return the scalars of the last log line."""
    hooks = [hook, *runner.hooks]
    for each in hooks:
        each.before_train(runner)
        each.before_train_epoch(runner)
    runner.optim_wrapper.initialize_count_status(runner.model, 0, steps)
    for runner.iter in range(steps):
        for each in hooks:
            each.before_train_iter(runner, runner.iter)
        runner.optim_wrapper.update_params(loss_of(runner.model, IMAGES[runner.iter % 4]) * scale)
        for each in hooks:
            each.after_train_iter(runner, runner.iter)
    hook.after_train(runner)
    scalars = runner.message_hub.log_scalars
    return {name.removeprefix('train/'): value.current() for name, value in scalars.items()}


def expected(model: nn.Module, steps: int, accumulation: int) -> dict[str, float]:
    """The last update by hand."""
    optimizer, labels = adamw(model), parameter_segments(model)
    for i in range(steps):
        (loss_of(model, IMAGES[i % 4]) / accumulation).backward()
        if (i + 1) % accumulation == 0 and i + 1 < steps:
            optimizer.step()
            optimizer.zero_grad()
    squares = {}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    grads = {name: grad.clone() for name, grad in grads.items()}
    optimizer.step()
    for name, p in model.named_parameters():
        if name in grads:
            change = (p.detach() - before[name]).square().sum().item()
            for kind, value in (
                ('grad', grads[name].square().sum().item()),
                ('weight', before[name].square().sum().item()),
                ('change', change),
            ):
                squares[kind, labels[name]] = squares.get((kind, labels[name]), 0) + value
    parts = {part for _, part in squares}
    wanted = {f'grad/{part}': squares['grad', part] ** 0.5 for part in parts}
    wanted |= {
        f'update/{part}': (squares['change', part] / squares['weight', part]) ** 0.5
        for part in parts
    }
    wanted['grad/all'] = sum(squares['grad', part] for part in parts) ** 0.5
    return wanted


def compare(found: dict[str, float], wanted: dict[str, float]) -> None:
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize('accumulation', [1, 2])
def test_norms_of_the_update_before_the_log_line(accumulation):
    model = small_mirl()
    wanted = expected(copy.deepcopy(model), 4, accumulation)
    wrapper = OptimWrapper(adamw(model), accumulative_counts=accumulation)
    runner = fake_runner(model, wrapper, IterBasedTrainLoop, 4)
    found = train(HealthHook(interval=4), runner, 4)
    assert {'grad/stem', 'grad/segment_0', 'grad/segment_1', 'update/decoder_1'} <= wanted.keys()
    compare(found, wanted)
    assert 'amp_scale' not in found
    assert found['mfu'] == pytest.approx(100 * found['images_per_s'] * 2e9 / 1e12)
    assert runner.message_hub.get_scalar('train/grad/all').data[0].shape == (1,)  # one line
    assert not wrapper.optimizer._optimizer_step_pre_hooks


def test_norms_of_decoders_without_context_and_pairs():
    model = small_mirl(depth=6, segments=3, pairing='none', context=False)
    wanted = expected(copy.deepcopy(model), 2, 1)
    runner = fake_runner(model, OptimWrapper(adamw(model)), IterBasedTrainLoop, 2)
    found = train(HealthHook(interval=2), runner, 2)
    parts = {'stem', 'neck', 'all', *(f'{x}_{g}' for x in ('segment', 'decoder') for g in range(3))}
    assert {name for name in wanted if name.startswith('grad/')} == {f'grad/{p}' for p in parts}
    compare(found, wanted)


@pytest.mark.parametrize(('rates', 'largest'), [((1e-4, 1e-3), 1e-3), ((2e-3, 1e-4), 2e-3)])
def test_the_largest_learning_rate_is_a_scalar(rates, largest):
    model = small_mirl()
    parts = (model.backbone.parameters(), [*model.neck.parameters(), *model.head.parameters()])
    groups = [dict(params=part, lr=lr) for part, lr in zip(parts, rates, strict=True)]
    wrapper = OptimWrapper(torch.optim.AdamW(groups, lr=1.0))  # the base rate, which nothing has
    found = train(HealthHook(1), fake_runner(model, wrapper, IterBasedTrainLoop, 1), 1)
    assert found['max_lr'] == largest


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('clip', [False, True])
def test_gradients_are_unscaled(fused, clip):
    model = small_mirl()
    wanted = expected(copy.deepcopy(model), 1, 1)
    clipping = dict(clip_grad=dict(max_norm=1e6)) if clip else {}
    wrapper = ScaledWrapper(1024.0, optimizer=adamw(model, fused=fused), **clipping)
    found = train(HealthHook(1), fake_runner(model, wrapper, IterBasedTrainLoop, 1), 1)
    compare(found, wanted)
    assert found['amp_scale'] == 1024


@pytest.mark.parametrize('fused', [False, True])
def test_a_step_that_the_scaler_skips_is_not_measured(fused):
    model = small_mirl()
    wrapper = ScaledWrapper(1024.0, optimizer=adamw(model, fused=fused))
    runner = fake_runner(model, wrapper, IterBasedTrainLoop, 1)
    found = train(HealthHook(1), runner, 1, scale=float('inf'))
    assert found['amp_scale'] == 512
    assert not any(name.startswith(('grad', 'update')) for name in found)


def test_a_gradient_that_is_not_finite_is_shown():
    model = small_mirl()
    runner = fake_runner(model, OptimWrapper(adamw(model)), IterBasedTrainLoop, 1)
    found = train(HealthHook(1), runner, 1, scale=float('nan'))
    assert found['grad/segment_0'] != found['grad/segment_0']


def test_a_short_epoch_is_logged_at_its_end():
    model = small_mirl()
    runner = fake_runner(model, OptimWrapper(adamw(model)), EpochBasedTrainLoop, 3)
    hook = HealthHook(100)
    train(hook, runner, 3)
    assert len(runner.message_hub.get_scalar('train/grad/all').data[0]) == 1


def test_measuring_changes_nothing():
    plain, watched = small_mirl(), small_mirl()
    optimizer = adamw(plain)
    for i in range(4):
        loss_of(plain, IMAGES[i]).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = torch.get_rng_state()
    train(
        HealthHook(1), fake_runner(watched, OptimWrapper(adamw(watched)), IterBasedTrainLoop, 4), 4
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


def test_validation_is_not_counted(monkeypatch):
    """Nor are its metrics, nor the iterations before the last look."""
    now = 100.0
    monkeypatch.setattr(time, 'time', lambda: now)
    model = nn.Linear(2, 2)
    runner = fake_runner(model, OptimWrapper(adamw(model)), IterBasedTrainLoop, 4)
    hook, (timer,) = HealthHook(2), runner.hooks  # which is the last to look
    hook.before_train(runner)
    timer.before_train_epoch(runner)
    runner.val_dataloader = range(1)
    for runner.iter in range(4):
        hook.before_val(runner)
        timer.before_val_epoch(runner)
        now += 50
        timer.after_val_iter(runner, 0)
        now += 30
        hook.after_val(runner)
        timer.before_train_iter(runner, runner.iter)
        now += 9 if runner.iter < 2 else 1
        hook.after_train_iter(runner, runner.iter)
        timer.after_train_iter(runner, runner.iter)
    rates = runner.message_hub.get_scalar('train/images_per_s').data[0]
    assert rates.tolist() == pytest.approx([2 / 9, 2 / 5])
    assert runner.logger.messages[0].startswith('no model FLOP utilisation: it is for MIRL')


def test_without_a_timer_there_is_no_rate():
    model = small_mirl()
    runner = fake_runner(model, OptimWrapper(adamw(model)), IterBasedTrainLoop, 1)
    runner.hooks.clear()
    found = train(HealthHook(1), runner, 1)
    assert 'grad/all' in found and not {'images_per_s', 'mfu'} & found.keys()


def test_frozen_parameters_have_no_norm():
    model = small_mirl()
    model.backbone.patch_embed.requires_grad_(False)
    model.backbone.cls_token.requires_grad_(False)
    runner = fake_runner(model, OptimWrapper(adamw(model)), IterBasedTrainLoop, 1)
    assert 'grad/stem' not in train(HealthHook(1), runner, 1)


def test_wrong_settings():
    with pytest.raises(ValueError, match='interval must be at least 1 or None, got 0'):
        HealthHook(0)
    with pytest.raises(ValueError, match='needs one optimizer, got a dict: switch it off'):
        HealthHook().before_train(SimpleNamespace(optim_wrapper={}))
