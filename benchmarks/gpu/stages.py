"""The stages in the order of their value, and the minutes that each may take."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from . import correct, dense, depth, end_to_end, pretrain
from .stage import Part


class Stage(NamedTuple):
    """What is measured, at which sizes, and for how long."""

    minutes: float | None  # in all calls together; None: what the others leave
    parts: Callable[[bool], list[Part]]  # of the rehearsal or not
    sizes: Callable[[bool], dict]
    why_not: Callable[[Namespace], str] = lambda args: ''  # it cannot start


STAGES = {
    'correct': Stage(6, correct.parts, correct.sizes),
    'pretrain': Stage(8, pretrain.parts, pretrain.sizes),
    'dense': Stage(5, dense.parts, dense.sizes),
    'end_to_end': Stage(3, end_to_end.parts, end_to_end.sizes),
    'depth': Stage(None, depth.parts, depth.sizes, depth.why_not),
}
