"""Values that are not finite: named, stopped or left out, and no alarm under a loss scaler."""

import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mirl_mm.engine.hooks import FiniteHook, NonFiniteError
from mirl_mm.engine.hooks.finite import find_blame

from .small import differs, log_of, run, small_config

pytestmark = pytest.mark.xdist_group('faults')


def spoil(runner, iterations, block=2, backward=False) -> None:
    """Puts a NaN into a block's output, or into the gradient of its weights."""
    layer = runner.model.backbone.layers[block]

    def forward(module, inputs, output):
        if runner.iter + 1 in iterations and module.training:
            output = output * torch.tensor([math.nan] + [1] * (output.shape[-1] - 1))
        return output

    if backward:
        layer.ffn.layers[0][0].weight.register_hook(
            lambda grad: grad * math.nan if runner.iter + 1 in iterations else grad
        )
    else:
        layer.register_forward_hook(forward)


def test_a_bad_loss_stops_with_its_origin(images, tmp_path):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    spoil(runner, [10])  # first of three micro-batches: before any gradient is looked at
    with pytest.raises(NonFiniteError) as stop:
        runner.train()
    message = str(stop.value)
    assert message.startswith('iteration 10: the loss is nan: the first bad value is in the output')
    assert 'of backbone.layers.2 (segment_1), parameter backbone.layers.2.' in message
    assert message.endswith(f'The checkpoint to go back to: {tmp_path / "run/iter_8.pth"}')


def test_a_bad_gradient_stops_before_the_update(images, tmp_path):
    runner = run(tmp_path / 'run', small_config(images, workers=0), start=False)
    spoil(runner, [3], block=1, backward=True)
    with pytest.raises(NonFiniteError) as stop:
        runner.train()
    message = str(stop.value)
    assert (
        'iteration 3: a gradient is not finite: the forward pass is finite; on the way' in message
    )
    assert 'that of backbone.layers.1.ffn.layers.0.0.weight (segment_0); 1 of ' in message
    assert message.endswith('There is no checkpoint yet')
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_skip_leaves_out_the_update_and_repeats_no_noise(images, tmp_path):
    options = {'default_hooks__finite': dict(type='FiniteHook', policy='skip')}
    cfg = small_config(images, workers=0, **options)
    runner = run(tmp_path / 'run', cfg, start=False)
    spoil(runner, [8])
    states = []
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.optimizer.register_step_post_hook(
        lambda *_: states.append(runner.model.head_state())
    )
    runner.model.head_state = lambda: runner.model.backbone.ln1.weight.detach().clone()
    runner.train()
    assert 'iteration 9: update left out, since a gradient is not finite' in log_of(runner)
    assert torch.equal(states[2], states[1]) and not torch.equal(states[3], states[2])
    assert len(states) == 10
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())


def test_too_many_skips_stop(images, tmp_path):
    hook = dict(type='FiniteHook', policy='skip', max_skips=2)
    cfg = small_config(images, workers=0, default_hooks__finite=hook)
    runner = run(tmp_path / 'run', cfg, start=False)
    spoil(runner, range(31))
    with pytest.raises(NonFiniteError, match='iteration 6: 2 updates in a row had bad gradients'):
        runner.train()


def test_looking_changes_nothing(undisturbed, images, tmp_path):
    cfg = small_config(images, workers=0, default_hooks__finite=None)
    run(tmp_path / 'run', cfg)
    assert differs(undisturbed / 'iter_30.pth', tmp_path / 'run/iter_30.pth') == ''


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(policy='ignore'), "policy must be one of stop, skip, got 'ignore'"),
        (dict(interval=-1), 'interval must be 0 or more'),
        (dict(policy='skip', interval=5), 'interval must be 1, got 5'),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FiniteHook(**settings)


# --- where it began -------------------------------------------------------------------------------


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.GELU()), nn.Linear(3, 1)
    )


def test_blame_a_weight():
    model = small_model()
    model[1][0].bias.data[1] = math.inf
    blame = find_blame(model)
    assert (blame.place, blame.parameter) == ('weight', '1.0.bias')


def test_blame_the_innermost_module_and_not_those_behind_it():
    model = small_model()
    model[1][1].register_forward_hook(lambda m, i, o: o / 0)
    blame = find_blame(model, lambda: dict(loss=model(torch.ones(2, 3)).sum()))
    assert (blame.place, blame.module) == ('forward', '1.1')
    assert not math.isfinite(blame.losses['loss'])


def test_a_pass_that_cannot_be_repeated():
    model, where = small_model(), 'the pass cannot be repeated to find the place'

    def forward() -> dict:
        raise torch.OutOfMemoryError('CUDA out of memory.\nSee documentation')

    assert str(find_blame(model, forward)) == f'{where} (CUDA out of memory.)'
    assert str(find_blame(model)) == where


def test_blame_nobody():
    model = small_model()
    blame = find_blame(model, lambda: dict(loss=model(torch.ones(2, 3)).sum()))
    assert (blame.place, blame.bad_gradients) == ('nowhere', 0)


# --- loss scaler ----------------------------------------------------------------------------------


class ScaledWrapper(OptimWrapper):
    """AmpOptimWrapper's steps on a CPU, which it refuses to run on."""

    def __init__(self, optimizer, scaler) -> None:
        super().__init__(optimizer)
        self.loss_scaler = scaler

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()

    def state_dict(self):
        return dict(super().state_dict(), loss_scaler=self.loss_scaler.state_dict())

    def load_state_dict(self, state):
        self.loss_scaler.load_state_dict(state.pop('loss_scaler'))
        super().load_state_dict(state)


class FakeRunner:
    """What FiniteHook asks of a runner."""

    iter, max_iters = 0, 1000
    train_loop, train_dataloader, hooks = None, range(1000), ()

    def __init__(self, fused: bool) -> None:
        self.model = small_model()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler('cpu', init_scale=4.0, growth_interval=3)
        self.optim_wrapper = ScaledWrapper(optimizer, scaler)

    @property
    def message_hub(self):
        return self

    def get_info(self, name):
        return 'epoch_1.pth'

    def train_step(self, hook, factor: float = 1.0) -> None:
        torch.manual_seed(self.iter)
        loss = (self.model(torch.randn(4, 3)) * factor).square().mean()
        self.optim_wrapper.update_params(loss)
        hook.after_train_iter(self, 0, outputs=dict(loss=loss))
        self.iter += 1


@pytest.mark.parametrize('fused', [False, True])
def test_a_step_that_the_scaler_skips_is_no_alarm(fused):
    runner, hook = FakeRunner(fused), FiniteHook()
    hook.before_train(runner)
    runner.train_step(hook)
    before = [p.detach().clone() for p in runner.model.parameters()]
    runner.train_step(hook, factor=1e30)
    assert all(map(torch.equal, before, runner.model.parameters()))
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0
    runner.train_step(hook)
    assert not torch.equal(before[0], next(runner.model.parameters()))


def test_a_scale_that_falls_and_falls_is_an_alarm():
    runner, hook = FakeRunner(False), FiniteHook()
    hook.before_train(runner)
    with pytest.raises(
        NonFiniteError, match=r'iteration 50: the loss scale has fallen to .*epoch_1'
    ):
        for _ in range(60):
            runner.train_step(hook, factor=1e30)


def test_the_scaler_goes_on_as_it_was():
    """With its growth counter: 8 steps at once, or 4 and 4 with the state saved between them."""
    ends = []
    for cut in (None, 4):
        runner, hook = FakeRunner(True), FiniteHook()
        hook.before_train(runner)
        for i in range(8):
            if i == cut:
                weights, state = runner.model.state_dict(), runner.optim_wrapper.state_dict()
                state = torch.load(_saved(state), weights_only=True)
                runner = FakeRunner(True)
                runner.iter = i
                runner.model.load_state_dict(weights)
                runner.optim_wrapper.load_state_dict(state)
                hook.before_train(runner)
            runner.train_step(hook, factor=1e30 if i == 2 else 1.0)
        ends.append((runner.model.state_dict(), runner.optim_wrapper.loss_scaler.state_dict()))
    (one, scaler_one), (two, scaler_two) = ends
    assert scaler_one == scaler_two and scaler_one['_growth_tracker'] == 2
    assert all(torch.equal(one[name], two[name]) for name in one)


def _saved(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
