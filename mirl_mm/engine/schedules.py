"""A warm-up for one part of a model; and does the learning rate's schedule end with the run?"""

from collections.abc import Iterator, Sequence
from copy import copy
from math import ceil
from types import SimpleNamespace

from mmengine.optim import LinearLR, OptimWrapper, _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mirl_mm.errors import UserError

# Those that hang on metrics, start again, or fall by a factor for as long as the run is.
WITHOUT_END = ('ReduceOnPlateau', 'CosineRestart', 'OneCycle', 'Step', 'Exponential')


@PARAM_SCHEDULERS.register_module()
class PartLinearLR(LinearLR):
    """LinearLR for the groups that ``paramwise_cfg.part`` marks; the rates of others stay.

    For weights that are kept while what is behind them learns from nothing. Its factor multiplies
    those of the other schedules, as MMEngine chains them (exactly where ``eta_min`` is 0).
    """

    def __init__(self, optimizer: OptimWrapper, *args, **kwargs) -> None:
        if not any(group.get('part') for group in optimizer.param_groups):
            how = 'constructor=MergedOptimWrapperConstructor and paramwise_cfg.part=backbone'
            raise UserError(f'PartLinearLR has no part to act on; optim_wrapper needs {how}')
        super().__init__(optimizer, *args, **kwargs)

    def _get_value(self) -> list[float]:
        rates = zip(self.optimizer.param_groups, super()._get_value(), strict=True)
        return [rate if group.get('part') else group['lr'] for group, rate in rates]


def schedule_warning(runner: Runner) -> str:
    """A line where the run goes on at a schedule's last rate, or ends before it; else empty.

    It has the settings of a schedule that fits. Schedules that end at the full rate (warm-up
    alone), those without an end and those of several optimizers get none.
    """
    rates = [s for s in runner.param_schedulers or () if getattr(s, 'param_name', '') == 'lr']
    if not rates or any(type(s).__name__.startswith(WITHOUT_END) for s in rates):
        return ''
    length, total = len(runner.train_dataloader), runner.max_iters
    ends, marks = (
        [at(s) * (length if s.by_epoch else 1) for s in rates] for at in (_end, _last_milestone)
    )
    goes_on = max(ends) + 1 < total  # parts of an epoch are rounded to iterations
    last = max(ends) if goes_on else max(total, *(n for n in ends + marks if n < INF))
    rate, final = _rates_at(runner, rates, *sorted((last, total)))
    peak = max(group['initial_lr'] for group in runner.optim_wrapper.param_groups)
    if min(rate, final) > 0.99 * peak if goes_on else abs(rate - final) < 0.01 * peak:
        return ''
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    one, word = (length, 'epochs') if by_epoch else (1, 'iterations')
    what = f'takes {last / one:g} {word}, but the run ends after {total / one:g}, at {rate:.3g}'
    if goes_on:
        what = f'ends after {last / one:g} of {total / one:g} {word}, and the rest would run at '
        what += f'{rate:.3g}' if final <= rate else f'rates that rise again, to {final:.3g}'
    how = '--cfg-options '
    if runner._resume:
        how = f'a resumed run keeps its own, so start anew with {how}load_from={runner._load_from} '
    how += ' '.join(_scaled(runner.cfg.param_scheduler, total / last))
    return f'The schedule of the learning rate (at most {peak:.3g}) {what}. To fit it: {how}'


def _end(scheduler: _ParamScheduler) -> int:
    """In its own steps; of a cosine, before it rises again."""
    half = getattr(scheduler, 'T_max', None)
    return scheduler.end if half is None else scheduler.begin + round(half)


def _last_milestone(scheduler: _ParamScheduler) -> int:
    return scheduler.begin + max(getattr(scheduler, 'milestones', [-1])) + 1


def _rates_at(runner: Runner, rates: Sequence[_ParamScheduler], first: int, last: int):
    """The largest group's rates after so many iterations, were none cut short."""
    length, groups = len(runner.train_dataloader), runner.optim_wrapper.param_groups
    i = max(range(len(groups)), key=lambda i: groups[i]['initial_lr'])
    group = {key: value for key, value in groups[i].items() if key != 'params'}
    called = SimpleNamespace(_with_counter=True)  # as if optimizer.step() came before
    optimizer = SimpleNamespace(param_groups=[group], step=called, _global_step=0)
    rates, found = [copy(each) for each in rates], [group['lr']]
    for each in rates:
        each.optimizer, each.base_values = optimizer, each.base_values[i : i + 1]
        each.end = max(each.end, _end(each), _last_milestone(each))
    for done in range(runner.iter + 1, last + 1):
        for each in rates:
            if not each.by_epoch or done % length == 0:
                each.step()
        found.append(group['lr'])
    return found[max(first - runner.iter, 0)], found[-1]


def _scaled(settings: Sequence[dict] | dict, factor: float) -> Iterator[str]:
    """Options that make all parts of a schedule longer or shorter by a factor."""
    several = isinstance(settings, list | tuple)
    for i, setting in enumerate(settings if several else [settings]):
        begin = setting.get('begin', 0)
        end = begin + setting['T_max'] if 'T_max' in setting else setting.get('end', INF)
        begin, end = (round(n * factor, 3) for n in (begin, end))
        if not setting.get('convert_to_iter_based'):  # those may have parts of an epoch
            begin, end = ceil(begin), ceil(end)
        marks = [int(mark * factor) for mark in setting.get('milestones', ())]
        new = dict(begin=begin, end=end, T_max=end - begin, milestones=marks)
        for key in [key for key in new if key in setting and new[key] != setting[key]]:
            text = str(new[key]).replace(' ', '') if key == 'milestones' else f'{new[key]:.10g}'
            yield f'param_scheduler.{f"{i}." * several}{key}={text}'
