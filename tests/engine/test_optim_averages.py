"""The average of the fine-tuning configs: the official one, also under accumulation."""

import pytest
import torch
from mmengine.model import MomentumAnnealingEMA
from torch import nn

from mirl_mm.engine.optim import ForeachEMA

UPDATES = 400


def weights() -> torch.Tensor:
    """The weight before every update and after the last, [UPDATES + 1]: a noisy descent."""
    noise = torch.randn(UPDATES + 1, generator=torch.Generator().manual_seed(0))
    return 10 / (1 + torch.arange(UPDATES + 1) / 50) + noise


def official(values: torch.Tensor) -> float:
    """Official average: a shadow from zero, decay min(0.9998, (1+t)/(10+t)), bias corrected."""
    shadow, decay = 0.0, 0.0
    for t, value in enumerate(values.tolist()):
        decay = min(0.9998, (1 + t) / (10 + t))
        shadow = decay * shadow + (1 - decay) * value
    return shadow / (1 - decay ** len(values))


@pytest.mark.parametrize('k', [1, 2, 8])
def test_average_of_updates_and_not_of_iterations(k):
    """EMAHook calls update_parameters behind every iteration; every k-th one updates the weight."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(weights()[0])
    average = ForeachEMA(model, momentum=2e-4, interval=k, gamma=9 * k)
    iterations = weights()[1:].repeat_interleave(k)[: k * UPDATES]
    # in a group of k, all iterations but the last see the weight of the update before
    iterations = torch.cat([weights()[:1].expand(k - 1), iterations])[: k * UPDATES]
    for value in iterations:
        model.weight.data.fill_(value)
        average.update_parameters(model)
    found = average.module.weight.item()
    seen = weights()[1:] if k == 1 else weights()[:-1]  # one iteration late: not yet the last one
    assert found == pytest.approx(official(seen), rel=0.02)
    assert found == pytest.approx(by_hand(seen), rel=1e-4)


def by_hand(values: torch.Tensor) -> float:
    average = values[0].item()
    for n, value in enumerate(values[1:].tolist(), start=1):
        momentum = max(2e-4, 9 / (9 + n))
        average += momentum * (value - average)
    return average


@pytest.mark.parametrize(
    'settings', [dict(interval=1), dict(interval=3), dict(update_buffers=True)]
)
def test_the_values_and_checkpoints_of_mmengine(settings):
    """Equal to the bit, also where each goes on from the other's checkpoint."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))
    kinds = (MomentumAnnealingEMA, ForeachEMA)
    stock, own = (kind(model, momentum=0.1, gamma=4, **settings) for kind in kinds)
    for step in range(20):
        if step == 10:
            states = {name: value.clone() for name, value in own.state_dict().items()}
            own.load_state_dict(stock.state_dict())
            stock.load_state_dict(states)
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter)
        model(torch.randn(4, 5))
        stock.update_parameters(model)
        own.update_parameters(model)
        assert own.count == own.steps == step + 1
        for name, value in stock.state_dict().items():
            assert torch.equal(own.state_dict()[name], value), (step, name)
