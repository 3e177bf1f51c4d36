"""Does the schedule of the learning rate end where the run ends?"""

from collections.abc import Iterator, Sequence
from copy import copy
from types import SimpleNamespace

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.runner import EpochBasedTrainLoop, Runner

OTHERS = ('ReduceOnPlateau', 'CosineRestart', 'OneCycle')  # that hang on metrics, or start again
ENDLESS = ('Step', 'Exponential')


def schedule_warning(runner: Runner) -> str:
    """A line where the run goes on at a schedule's last rate, or ends before it; else empty.

    It has the settings of a schedule that fits. Schedules that end at the full rate (warm-up
    alone), those without an end and those of several optimizers get none.
    """
    rates = [s for s in runner.param_schedulers or () if getattr(s, 'param_name', '') == 'lr']
    if not rates or any(type(s).__name__.startswith(OTHERS) for s in rates):
        return ''
    length, total = len(runner.train_dataloader), runner.max_iters
    low, ends = ([at(s) * (length if s.by_epoch else 1) for s in rates] for at in (_low, _end))
    if goes_on := max(ends) < total:
        last = max(ends)
        rate, final = (_rate_at(runner, rates, n) for n in (last, total))
    else:
        last = max(total, *(n for n in low if n < INF), 0)
        rate, final = (_rate_at(runner, rates, n, whole=True) for n in (total, last))
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
    how += ' '.join(_fitting(runner, last, goes_on))
    return f'The schedule of the learning rate (at most {peak:.3g}) {what}. To fit it: {how}'


def _low(scheduler: _ParamScheduler) -> int:
    """Where a schedule has its last value, in its own steps; before a cosine rises again."""
    if type(scheduler).__name__.startswith(ENDLESS):
        return INF
    if hasattr(scheduler, 'T_max'):
        return scheduler.begin + scheduler.T_max
    marked = scheduler.begin + max(getattr(scheduler, 'milestones', [-1])) + 1
    return scheduler.end if marked <= scheduler.end < INF else marked


def _end(scheduler: _ParamScheduler) -> int:
    return min(scheduler.end, _low(scheduler)) if hasattr(scheduler, 'T_max') else scheduler.end


def _rate_at(runner: Runner, rates: Sequence[_ParamScheduler], iteration: int, whole=False):
    """The largest group's rate at an iteration to come; ``whole`` leaves no schedule cut short."""
    length, groups = len(runner.train_dataloader), runner.optim_wrapper.param_groups
    i = max(range(len(groups)), key=lambda i: groups[i]['initial_lr'])
    group = {key: value for key, value in groups[i].items() if key != 'params'}
    called = SimpleNamespace(_with_counter=True)
    optimizer, rates = SimpleNamespace(param_groups=[group], step=called), [copy(s) for s in rates]
    optimizer._global_step = 0
    for each in rates:
        each.optimizer, each.base_values = optimizer, each.base_values[i : i + 1]
        each.end = max(each.end, _low(each)) if whole else each.end
    over = max(each.end * (length if each.by_epoch else 1) for each in rates)
    for done in range(runner.iter + 1, min(iteration, over) + 1):
        for each in (each for each in rates if not each.by_epoch or done % length == 0):
            if each.begin <= each._global_step + 1 < each.end:
                each.step()
            else:  # the same, and faster
                each._global_step += 1
    return group['lr']


def _fitting(runner: Runner, last: int, goes_on: bool) -> Iterator[str]:
    """Settings of a schedule, now ``last`` iterations long, that ends with the run.

    A longer run gets a longer last part, a shorter one all parts shorter.
    """
    total, settings = runner.max_iters, runner.cfg.param_scheduler
    several = isinstance(settings, list | tuple)
    for i, setting in enumerate(settings if several else [settings]):
        unit = len(runner.train_dataloader) if setting.get('by_epoch', True) else 1
        begin = setting.get('begin', 0)
        end = begin + setting['T_max'] if 'T_max' in setting else setting.get('end', total / unit)
        first, stop = begin, total / unit if end * unit >= last else end
        if not goes_on:
            first, stop = begin * total / last, end * total / last
        form = '{:.4g}' if setting.get('convert_to_iter_based') else '{:.0f}'  # parts of an epoch
        new = {
            k: form.format(x) for k, x in dict(begin=first, end=stop, T_max=stop - first).items()
        }
        marks = [int(m * (stop - first) / (end - begin)) for m in setting.get('milestones', ())]
        new['milestones'] = str(marks).replace(' ', '')
        for key in [key for key in new if key in setting]:
            if new[key] != str(setting[key]).replace(' ', ''):
                yield f'param_scheduler.{f"{i}." * several}{key}={new[key]}'
