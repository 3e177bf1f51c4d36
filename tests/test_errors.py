"""The door through which every tool ends, and MMEngine's errors for a slip in a config."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, OPTIMIZERS, PARAM_SCHEDULERS, Registry
from mmengine.runner import Runner

from mirl_mm.errors import CheckpointError, PackedError, UserError, config_slip, one_line

TOOLS = sorted(  # torchrun.py is the launcher's own
    path for path in (Path(__file__).parents[1] / 'tools').glob('*.py') if path.stem != 'torchrun'
)
SHELF = Registry('shelf')


class Base:
    def __init__(self, size: int, *, colour: str = 'red') -> None:
        self.size, self.colour = size + 1, colour


@SHELF.register_module()
class Cup(Base):
    def __init__(self, handle: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)


@SHELF.register_module()
class Broken(Base):
    def __init__(self, handle: bool = True) -> None:
        super().__init__(1, color='blue')


@SHELF.register_module()
class Plain:
    pass


@SHELF.register_module()
class Shelf:
    def __init__(self, cup: dict) -> None:
        self.cup = SHELF.build(cup)


def told(main: Callable[[], object]) -> object:
    """What a tool that fails tells the shell."""
    with pytest.raises(SystemExit) as stop:
        one_line(main)
    return stop.value.code


def ending(error: BaseException) -> object:
    def main() -> None:
        raise error

    return told(main)


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_every_tool_ends_through_the_door(tool):
    text = tool.read_text()
    assert text.endswith("\n\nif __name__ == '__main__':\n    one_line(main)\n")
    assert 'sys.exit' not in text and 'except' not in text
    assert 'DictAction' not in text  # --cfg-options is defined once


@pytest.mark.parametrize('kind', [UserError, CheckpointError, PackedError, FileNotFoundError])
def test_what_a_user_can_put_right_is_one_line(kind):
    assert ending(kind('no such file: a.pth')) == 'error: no such file: a.pth'


def test_an_interrupt_is_silent():
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize('kind', [ValueError, TypeError, KeyError, RuntimeError, AssertionError])
def test_our_own_mistakes_keep_their_traceback(kind):
    def main() -> None:
        raise kind('a mistake')

    with pytest.raises(kind, match='a mistake'):
        one_line(main)


def test_the_end_of_a_tool_that_ends_well():
    one_line(lambda: None)


@pytest.mark.parametrize('error', [UserError('told'), KeyboardInterrupt()])
def test_one_of_several_processes_leaves_it_to_the_hook(monkeypatch, error):
    def main() -> None:
        raise error

    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(sys, 'excepthook', sys.__excepthook__)
    with pytest.raises(SystemExit):
        one_line(main)
    monkeypatch.setattr(sys, 'excepthook', lambda *_: None)
    with pytest.raises(type(error)):
        one_line(main)
    monkeypatch.setenv('WORLD_SIZE', '1')
    with pytest.raises(SystemExit):
        one_line(main)


def test_one_of_several_processes_gets_slips_in_words(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(sys, 'excepthook', lambda *_: None)
    with pytest.raises(UserError, match="Cup has no argument 'colur'"):
        one_line(lambda: SHELF.build(dict(type='Cup', size=1, colur='blue')))


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        (dict(type='Cup', size=1, colur='blue'), "Cup has no argument 'colur' (did you mean "
         "'colour'?); accepted are handle, size, colour"),
        (dict(type='Shelf', cup=dict(type='Cup')),
         "Cup needs the argument 'size'; accepted are handle, size, colour"),
        (dict(type='Shelf', cup=dict(type='Cpu')),
         "unknown type: Cpu is not in the tests::shelf registry (did you mean 'Cup'?)"),
        (dict(type='Shelf', cup=dict(typ='Cup')), "no type in {'typ': 'Cup'}"),
        (dict(type='Plain', colour='red'), 'Plain has no arguments; got colour'),
        (dict(type='Cup', size='big'), "Cup: size must be a number, got 'big'"),
        (dict(type='Shelf', cups=1), "Shelf has no argument 'cups' (did you mean 'cup'?); accepted"
         ' are cup'),
    ],
)  # fmt: skip
def test_slips_in_a_config(config, words):
    assert told(lambda: SHELF.build(config)) == f'error: {words}'


def test_a_class_that_calls_its_base_wrongly_is_no_slip():
    with pytest.raises(TypeError, match="argument 'color'") as error:
        one_line(lambda: SHELF.build(dict(type='Broken')))
    assert config_slip(error.value) == ''


def test_arguments_of_the_bases_are_known():
    backbone = dict(type='MIRLDenseViT', arch='test', windowsize=3)
    code = told(lambda: MODELS.build(backbone))
    assert code.startswith("error: MIRLDenseViT has no argument 'windowsize' (did you mean 'win")
    assert all(f' {name},' in code for name in ('global_indices', 'with_cp', 'with_cls_token'))


@pytest.mark.parametrize(
    ('registry', 'config', 'given', 'words'),
    [
        (OPTIMIZERS, dict(type='AdamW', lr='x'), 'params', 'AdamW: lr must be a number, got '),
        (OPTIMIZERS, dict(type='AdamW', lr=-1), 'params', 'AdamW: Invalid learning rate: -1'),
        (OPTIMIZERS, dict(type='AdamW', betas=3), 'params', "AdamW: 'int' object is not subscript"),
        (HOOKS, dict(type='LoggerHook', interval='a'), '', 'LoggerHook: interval must be a number'),
        (HOOKS, dict(type='ParamSchedulerHook', x=1), '', 'ParamSchedulerHook has no arguments'),
        (HOOKS, dict(type='SafeCheckpointHook', intervall=1), '', "(did you mean 'interval'?)"),
        (PARAM_SCHEDULERS, dict(type='LinearRL'), 'optimizer', "(did you mean 'LinearLR'?)"),
        (PARAM_SCHEDULERS, dict(type='LinearRL', convert_to_iter_based=True, epoch_length=1),
         'optimizer', "(did you mean 'LinearLR'?)"),
        (PARAM_SCHEDULERS, dict(type='StepLR', step_size=1, end=0), 'optimizer', 'StepLR: end sh'),
    ],
)  # fmt: skip
def test_values_that_a_class_refuses(registry, config, given, words):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    both = dict(params=parameters, optimizer=torch.optim.SGD(parameters, lr=1))
    code = told(lambda: registry.build(config, default_args={n: both[n] for n in [given] if n}))
    assert code.startswith('error: ') and words in code.replace('ParamScheduler:', 'LR:')
    assert '\n' not in code


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(batch_size='a'), "DataLoader: batch_size must be a number, got 'a'"),
        (dict(batch_size=0), 'DataLoader: batch_size should be a positive integer value, but got'),
        (dict(num_workers=-1), 'DataLoader: num_workers option should be non-negative'),
        (dict(bach_size=1), "DataLoader has no argument 'bach_size' (did you mean 'batch_size'?)"),
        (dict(collate_fn=dict(type='defalt_collate')), 'unknown type: defalt_collate is no funct'),
    ],
)
def test_slips_in_a_loader(settings, words):
    loader = dict(dataset=[1, 2], sampler=dict(type='DefaultSampler'), batch_size=1)
    code = told(lambda: Runner.build_dataloader(loader | settings))
    assert code.startswith(f'error: {words}')


def test_slips_that_a_hook_meets():
    class Averaging(Hook):
        def before_run(self, runner: object) -> None:
            SHELF.build(dict(type='Cup', size=1, colur='blue'))

    runner = object.__new__(Runner)
    runner._hooks = [Averaging()]
    code = told(lambda: runner.call_hook('before_run'))
    assert code.startswith("error: Cup has no argument 'colur' (did you mean 'colour'?)")


@pytest.mark.parametrize(
    ('encoding', 'words'),
    [('ascii', '\\u2501 gr\\xf6\\xdfe'), ('latin-1', '\\u2501 größe'), ('utf-8', '━ größe')],
)
def test_a_terminal_without_our_letters_gets_others(monkeypatch, encoding, words):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, 'stdout', stream)
    one_line(lambda: print('━ größe \udcff.jpg'))
    assert stream.buffer.getvalue() == (words + ' \\udcff.jpg\n').encode(encoding)
