"""What a user can put right, told in one line: one family of errors, and the door of every tool."""

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Input or a setting that cannot be used; it says what was given and what is accepted."""


class CheckpointError(UserError):
    """A file that is no checkpoint, is damaged, asks for more than data, or is of another arch."""


class ResumeError(UserError):
    """A checkpoint that this run cannot go on from."""


class PackedError(UserError):
    """A packed folder is incomplete or damaged; the message names the file."""


class NonFiniteError(UserError):
    """Loss or gradients are not finite; the message says where, and what to go back to."""


class BadImagesError(UserError):
    """More images cannot be read than the data set allows."""


# What Python says of a call that it cannot make: of which class or function, and an argument.
_CALL = re.compile(
    r"(?P<called>\S+?)(\.__init__)?\(\) (got an unexpected|missing \d+ required) .*?'(?P<name>\w+)'"
)


def one_line(main: Callable[[], None]) -> None:
    """Run a tool: what its user can put right is one line and exit code 1, Ctrl-C is code 130.

    Our own mistakes keep their traceback. One of several processes leaves its end to
    ``sys.excepthook``, so that the job ends at once (see :mod:`mirl_mm.engine.stopping`).
    """
    try:
        main()
    except KeyboardInterrupt:
        if _others_wait():
            raise
        sys.exit(130)
    except Exception as error:
        reason = reason_of(error)
        if reason and not _others_wait():
            sys.exit(f'error: {reason}')
        if not reason or isinstance(error, UserError):
            raise
        raise UserError(reason) from error


def reason_of(error: BaseException) -> str:
    """The one line of an error that the user can put right; '' for our own mistakes."""
    if not isinstance(error, UserError | OSError):
        return config_slip(error)
    text = str(error).rstrip()
    from_worker = '\nOriginal Traceback' in text  # of a loader's, as torch hands it on
    return text.splitlines()[-1].partition(': ')[2] if from_worker else text


def _others_wait() -> bool:
    """Whether this is one of several processes, with a hook for their common end in place."""
    counts = (os.environ.get(n) for n in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'))
    return sys.excepthook is not sys.__excepthook__ and any(n not in (None, '1') for n in counts)


def did_you_mean(name: str, accepted: Iterable[str], cutoff: float = 0.6) -> str:
    """A name that is nearly this one, in brackets; empty where there is none."""
    near = get_close_matches(name, sorted(accepted), n=1, cutoff=cutoff)
    return f' (did you mean {near[0]!r}?)' if near else ''


def config_slip(error: BaseException) -> str:
    """In words, an unknown type or key that MMEngine met in a config; '' for another error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    build = next((f.f_locals for f in frames[::-1] if f.f_code.co_name == 'build_from_cfg'), {})
    if isinstance(error, KeyError) and 'is not in the' in str(error) and 'registry' in build:
        known, registry = set(), build['registry']
        while registry is not None:
            known, registry = known | registry.module_dict.keys(), registry.parent
        near = did_you_mean(str(build.get('obj_type')), known)
        return f'unknown type: {error.args[0].split(". ")[0]}{near}'
    if not isinstance(error, TypeError) or not (found := _CALL.match(str(error))):
        return ''
    called, unexpected, name = found['called'], 'unexpected' in found[0], found['name']
    kind = build.get('obj_cls')
    if called not in [getattr(k, '__qualname__', '') for k in getattr(kind, '__mro__', [kind])]:
        caller = frames[-1].f_globals  # MMEngine calls DataLoader without a registry
        kind = caller.get(called) if caller['__name__'].startswith('mmengine') else None
    elif unexpected and name not in build['args']:
        kind = None  # a class that calls its base wrongly: no slip of the user's
    if kind is None:
        return ''
    accepted = _arguments(kind)
    near = did_you_mean(name, accepted) if unexpected else ''
    fault = 'has no' if unexpected else 'needs the'
    return f'{kind.__name__} {fault} argument {name!r}{near}; accepted are {", ".join(accepted)}'


def _arguments(kind: Callable) -> list[str]:
    """Names of the arguments; of a class's bases' too, as far as **kwargs hands on."""
    names: list[str] = []
    for call in getattr(kind, '__mro__', [kind]):
        if inspect.isclass(call) and (call := vars(call).get('__init__')) is None:
            continue
        parameters = inspect.signature(call).parameters.values()
        named = (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        names += [name for name in named if name not in ('self', *names)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
