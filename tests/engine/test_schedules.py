"""The warning where schedule and run end at different times, and the schedule that it proposes."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from mirl_mm.engine.schedules import PartLinearLR, schedule_warning
from mirl_mm.errors import UserError

EPOCHS, ITERATIONS = dict(by_epoch=True, convert_to_iter_based=True), dict(by_epoch=False)


def warm(end: float, **settings) -> dict:
    return dict(type='LinearLR', start_factor=1e-3, begin=0, end=end, **settings)


def cosine(begin: float, end: float, **settings) -> dict:
    length = dict(begin=begin, end=end, T_max=end - begin)
    return dict(type='CosineAnnealingLR', eta_min=0.0) | length | settings


def steps(*milestones: int, **settings) -> dict:
    return dict(type='MultiStepLR', milestones=list(milestones), gamma=0.1, **settings)


POLY = dict(type='PolyLR', eta_min=0.0, power=1.0, begin=4, end=20, **ITERATIONS)


def runner(settings: object, epochs=0, iterations=0, done=0, length=10) -> SimpleNamespace:
    """As far as the warning looks: a rate of 1 at most, and 10 iterations in an epoch."""
    groups = [dict(params=[nn.Parameter(torch.zeros(1))], lr=lr) for lr in (0.5, 1.0)]
    loop = object.__new__(EpochBasedTrainLoop if epochs else IterBasedTrainLoop)
    made = SimpleNamespace(
        optim_wrapper=OptimWrapper(torch.optim.SGD(groups)),
        cfg=Config(dict(param_scheduler=settings)),
        train_dataloader=range(length),
        train_loop=loop,
        _train_loop=loop,
        max_epochs=epochs or 1,
        max_iters=iterations or epochs * length,
        iter=done,
        _resume=done > 0,
        _load_from='epoch_1.pth',
        logger=SimpleNamespace(debug=print),
    )
    made.param_schedulers = Runner._build_param_scheduler(
        made, made.cfg.param_scheduler, made.optim_wrapper
    )
    for _ in range(done):
        for scheduler in made.param_schedulers:
            scheduler.step()
    return made


@pytest.mark.parametrize(
    ('settings', 'run', 'said', 'fitting'),
    [
        ([cosine(0, 2, **EPOCHS)], dict(epochs=3),
         'ends after 2 of 3 epochs, and the rest would run at 0.00616',
         'param_scheduler.0.end=3 param_scheduler.0.T_max=3'),
        (cosine(0, 2), dict(epochs=3),
         'ends after 2 of 3 epochs, and the rest would run at 0.5',
         'param_scheduler.end=3 param_scheduler.T_max=3'),
        ([warm(40, **EPOCHS), cosine(40, 800, **EPOCHS)], dict(epochs=10),
         'takes 800 epochs, but the run ends after 10, at 0.251',
         'param_scheduler.0.end=0.5 param_scheduler.1.begin=0.5 param_scheduler.1.end=10'
         ' param_scheduler.1.T_max=9.5'),
        ([warm(4, **ITERATIONS), POLY], dict(iterations=40),
         'ends after 20 of 40 iterations, and the rest would run at 0',
         'param_scheduler.0.end=8 param_scheduler.1.begin=8 param_scheduler.1.end=40'),
        ([warm(4, **ITERATIONS), POLY], dict(iterations=10),
         'takes 20 iterations, but the run ends after 10, at 0.6',
         'param_scheduler.0.end=2 param_scheduler.1.begin=2 param_scheduler.1.end=10'),
        ([warm(4, **ITERATIONS), steps(17, 19, end=20, **ITERATIONS)], dict(iterations=40),
         'ends after 20 of 40 iterations, and the rest would run at 0.01',
         'param_scheduler.0.end=8 param_scheduler.1.end=40'
         ' param_scheduler.1.milestones=[34,38]'),
        ([steps(17, 19, end=20, **ITERATIONS)], dict(iterations=10),
         'takes 20 iterations, but the run ends after 10, at 1',
         'param_scheduler.0.end=10 param_scheduler.0.milestones=[8,9]'),
        ([dict(type='CosineAnnealingLR', T_max=6)], dict(epochs=12),
         'ends after 6 of 12 epochs, and the rest would run at rates that rise again, to 0.933',
         'param_scheduler.0.T_max=12'),
        ([cosine(0, 12, T_max=60)], dict(epochs=12),
         'takes 60 epochs, but the run ends after 12, at 0.905',
         'param_scheduler.0.T_max=12'),
        ([warm(5, **EPOCHS)], dict(epochs=2),
         'takes 5 epochs, but the run ends after 2, at 0.409',
         'param_scheduler.0.end=2'),
        ([dict(type='LinearLR', start_factor=1.0, end_factor=0.1, end=2, **EPOCHS)], dict(epochs=3),
         'ends after 2 of 3 epochs, and the rest would run at 0.1',
         'param_scheduler.0.end=3'),
        ([warm(5), cosine(5, 100)], dict(epochs=10),
         'takes 100 epochs, but the run ends after 10, at 0.993',
         'param_scheduler.0.end=1 param_scheduler.1.begin=1 param_scheduler.1.end=10'
         ' param_scheduler.1.T_max=9'),
        ([cosine(5, 33, **EPOCHS)], dict(epochs=16),
         'takes 33 epochs, but the run ends after 16, at 0.665',
         'param_scheduler.0.begin=2.424 param_scheduler.0.end=16 param_scheduler.0.T_max=13.576'),
        ([cosine(0, 2, **EPOCHS)], dict(epochs=3, done=20),
         'ends after 2 of 3 epochs, and the rest would run at 0.00616',
         'load_from=epoch_1.pth param_scheduler.0.end=3 param_scheduler.0.T_max=3'),
    ],
)  # fmt: skip
def test_a_schedule_that_does_not_fit_and_one_that_does(settings, run, said, fitting):
    found = runner(settings, **run)
    before = [dict(vars(each)) for each in found.param_schedulers]
    keeps = 'a resumed run keeps its own, so start anew with ' if found._resume else ''
    assert schedule_warning(found) == (
        f'The schedule of the learning rate (at most 1) {said}. To fit it: {keeps}'
        f'--cfg-options {fitting}'
    )
    assert [dict(vars(each)) for each in found.param_schedulers] == before
    options = dict(pair.split('=') for pair in fitting.split())
    options.pop('load_from', None)
    found.cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in options.items()})
    assert schedule_warning(runner(found.cfg.param_scheduler, **run | dict(done=0))) == ''


@pytest.mark.parametrize(
    ('settings', 'run'),
    [
        ([cosine(0, 2, **EPOCHS)], dict(epochs=2)),
        ([warm(1, **EPOCHS)], dict(epochs=8)),
        ([steps(3, 6)], dict(epochs=12)),
        ([steps(3, 6, end=100)], dict(epochs=12)),
        ([dict(type='StepLR', step_size=3)], dict(epochs=12)),
        ([dict(type='ExponentialLR', gamma=0.9, end=100)], dict(epochs=12)),
        ([dict(type='CosineAnnealingLR', **EPOCHS)], dict(epochs=12)),
        ([dict(type='ReduceOnPlateauLR', monitor='loss')], dict(epochs=3)),
        ([], dict(epochs=3)),
    ],
)
def test_schedules_that_fit_or_have_no_end(settings, run):
    assert schedule_warning(runner(settings, **run)) == ''


def test_none_several_optimizers_and_momentum_have_none():
    found = runner([], epochs=3)
    for found.param_schedulers in (None, dict(one=[]), [SimpleNamespace(param_name='momentum')]):
        assert schedule_warning(found) == ''


def parts(*names: str | None) -> OptimWrapper:
    """A group of rate 1 for each part."""
    groups = [dict(params=[nn.Parameter(torch.zeros(1))], part=name) for name in names]
    return OptimWrapper(torch.optim.SGD(groups, lr=1.0))


def test_one_part_rises_beside_the_schedules_of_all():
    """Its factor multiplies a warm-up and a cosine."""
    wrapper = parts('backbone', None, 'backbone')
    both = dict(by_epoch=False, start_factor=0.1, begin=0)
    schedules = [
        PartLinearLR(wrapper, end=7, **both),
        LinearLR(wrapper, end=4, **both),
        CosineAnnealingLR(wrapper, T_max=8, begin=4, end=12, by_epoch=False),
    ]
    found = []
    for _ in range(12):
        found.append([group['lr'] for group in wrapper.param_groups])
        wrapper.optimizer.step()
        for schedule in schedules:
            schedule.step()
    all_ = [0.1, 0.4, 0.7, 1.0] + [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]
    rise = [0.1 + 0.15 * i for i in range(6)] + [1.0] * 6
    assert [rates[1] for rates in found] == pytest.approx(all_)
    for place in (0, 2):
        shares = [rates[place] / rates[1] for rates in found]
        assert shares == pytest.approx(rise)


def test_a_rise_of_no_part_is_refused():
    with pytest.raises(UserError, match=r'no part to act on; .*paramwise_cfg.part=backbone'):
        PartLinearLR(parts(None, None), end=5)


@pytest.mark.parametrize('place', [0, 1])
def test_a_rise_of_one_part_does_not_disturb_the_warning(place):
    """The largest group is of this part, or of another one."""
    rise = dict(type='PartLinearLR', start_factor=1e-3, begin=0, end=2)
    settings = [rise | EPOCHS, cosine(0, 5, **EPOCHS)]
    made = runner([cosine(0, 5, **EPOCHS)], epochs=10)
    for i, group in enumerate(made.optim_wrapper.param_groups):
        group['part'] = 'backbone' if i == place else None
    made.cfg = Config(dict(param_scheduler=settings))
    made.param_schedulers = Runner._build_param_scheduler(made, settings, made.optim_wrapper)
    said = schedule_warning(made)
    assert 'ends after 5 of 10 epochs' in said and 'param_scheduler.1.end=10' in said
