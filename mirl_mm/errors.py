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
    r'(?P<called>\S+?)(\.__init__)?\(\) (takes no arguments|'
    r"(got an unexpected|missing \d+ required) .*?'(?P<name>\w+)')"
)
# What builds from a config in MMEngine, and its variables of the class and its arguments.
_BUILDERS = dict(
    build_from_cfg=('obj_cls', 'args'),
    build_scheduler_from_cfg=('scheduler_cls', 'args'),
    build_dataloader=('DataLoader', 'dataloader_cfg'),
)
_PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg')


def visible(text: str) -> str:
    """A text with escapes for what terminals and pages obey, not show; tabs, ends of lines stay."""
    return ''.join(c if c.isprintable() or c in '\t\n' else ascii(c)[1:-1] for c in text)


def one_line(main: Callable[[], None]) -> None:
    """Run a tool: what its user can put right is one line and exit code 1, Ctrl-C is code 130.

    Our own mistakes keep their traceback. One of several processes leaves its end to
    ``sys.excepthook``, so that the job ends at once (see :mod:`mirl_mm.engine.stopping`).
    What a terminal's encoding lacks is written in ASCII.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    try:
        main()
    except KeyboardInterrupt:
        if _others_wait():
            raise
        sys.exit(130)
    except Exception as error:
        reason = visible(reason_of(error)).replace('\n', '\\n')
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
    """In words, what MMEngine could not build or merge from a config; '' for another error."""
    if isinstance(error, TypeError) and ' in <' in str(error) and error.__context__:
        error = error.__context__  # of a hook, which MMEngine has put into words of its own
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builder = next((f for f in frames[::-1] if f.f_code.co_name in _BUILDERS), frames[-1])
    kind_name, given_name = _BUILDERS.get(builder.f_code.co_name, ('', ''))
    kind = builder.f_locals.get(kind_name, builder.f_globals.get(kind_name))
    given = builder.f_locals.get(given_name) or {}
    module = frames[-1].f_globals
    theirs = module['__name__'].startswith(_PACKAGES)
    if unknown := _unknown_type(error, builder.f_locals):
        return unknown
    if isinstance(error, TypeError) and (call := _CALL.match(str(error))):
        return _wrong_argument(call, kind, given, module if theirs else {})
    return _wrong_value(error, kind, given, theirs) if callable(kind) else ''


def _unknown_type(error: BaseException, building: dict) -> str:
    """A type that no registry has, or none at all; ``building`` are the builder's variables."""
    text = str(error.args[0]) if isinstance(error, KeyError) else ''
    if 'is not in the' in text and 'registry' in building:
        known, registry = set(), building['registry']
        while registry is not None:
            known, registry = known | registry.module_dict.keys(), registry.parent
        near = did_you_mean(str(building.get('obj_type', building.get('scheduler_type'))), known)
        return f'unknown type: {text.split(". ")[0]}{near}'
    if 'must contain the key "type"' in text:
        return f'no type in {building.get("cfg")}'
    if 'collate_fn_type' in building and building.get('collate_fn') is None:
        return f'unknown type: {building["collate_fn_type"]} is no function to collate'
    return ''


def _wrong_argument(call: re.Match, kind: Callable | None, given: dict, module: dict) -> str:
    """An argument that a class does not have, or one that it needs."""
    called, name, unexpected = call['called'], call['name'], 'unexpected' in call[0]
    if called not in [getattr(k, '__qualname__', '') for k in getattr(kind, '__mro__', [kind])]:
        kind = module.get(called)  # built without a registry
    elif unexpected and name not in given:
        return ''  # a class that calls its base wrongly: no slip of the user's
    if kind is None or name is None:
        return f'{called} has no arguments; got {", ".join(given)}' if kind else ''
    accepted = _arguments(kind)
    near = did_you_mean(name, accepted) if unexpected else ''
    fault = f'{"has no" if unexpected else "needs the"} argument {name!r}{near}'
    return f'{kind.__name__} {fault}; accepted are {", ".join(accepted)}'


def _wrong_value(error: BaseException, kind: Callable, given: dict, theirs: bool) -> str:
    """Text for a number, or what a class of MMEngine and the like refuses itself."""
    for name, parameter in (_arguments(kind) if given else {}).items():
        kinds = {type(parameter.default), parameter.annotation}
        if isinstance(given.get(name), str) and kinds & {int, float, 'int', 'float'}:
            return f'{kind.__name__}: {name} must be a number, got {given[name]!r}'
    if not theirs or not isinstance(error, ValueError | TypeError | AssertionError | KeyError):
        return ''
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    if 'need at least one array to concatenate' in text:  # BaseDataset's own
        text = 'no image is there, or its filter_cfg leaves out all'
    return f'{kind.__name__}: {text.splitlines()[0]}' if text else ''


def _arguments(kind: Callable) -> dict[str, inspect.Parameter]:
    """The arguments by name; of a class's bases' too, as far as **kwargs hands on."""
    found: dict[str, inspect.Parameter] = {}
    for call in getattr(kind, '__mro__', [kind]):
        if inspect.isclass(call) and (call := vars(call).get('__init__')) is None:
            continue
        parameters = inspect.signature(call).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        found |= {p.name: p for p in named if p.name not in ('self', *found)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
