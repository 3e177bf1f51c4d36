"""Checkpoints under ZeRO: the state is spread over processes, and MMEngine saves on one.

MMEngine's ZeroRedundancyOptimizer gathers the state when it is asked for it, which takes all
processes; its Runner asks on the main process alone, and so waits for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.optim import BaseOptimWrapper, ZeroRedundancyOptimizer
from torch.optim import Optimizer


@contextmanager
def gathered_state(optim_wrapper: BaseOptimWrapper) -> Iterator[None]:
    """Inside, the main process has the whole state at hand. Entered by all processes at once."""
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        yield
        return
    state = optimizer.state_dict()
    optimizer.state_dict = lambda: state
    try:
        yield
    finally:
        del optimizer.state_dict


def own_part(optimizer: Optimizer) -> Optimizer:
    """The optimizer that updates this process's share of the parameters, without ZeRO itself."""
    return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer
