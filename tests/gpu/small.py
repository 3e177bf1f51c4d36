"""What the tests of benchmarks.gpu share."""

from argparse import Namespace
from pathlib import Path

from benchmarks.gpu.stage import Bench, Part


def bench(**changes) -> Bench:
    """A rehearsal's, with time enough."""
    return Bench(
        **(dict(device='cpu', rehearse=True, found={}, seconds_left=lambda: 1e9) | changes)
    )


def part(name: str, run=None, **settings) -> Part:
    return Part(name, run or (lambda bench: dict(says='done')), **settings)


def arguments(out: Path, **changes) -> Namespace:
    """Of the command line."""
    return Namespace(**(dict(out=out, data=None, epochs=None, only=None, rehearse=True) | changes))
