import argparse
import os
import pickle
import zipfile
from pathlib import Path

import mmengine.runner.checkpoint
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmpretrain.models import VisionTransformer
from torch.utils.data import DataLoader

from mirl_mm.checkpoint import (
    backbone_state,
    convert_official,
    make_loading_safe,
    read_checkpoint,
    restore_loading,
)
from mirl_mm.checkpoint.safety import in_words
from mirl_mm.models import MIRL
from tests.models.build import images, mirl, reference, small_mirl

DATA = Path(__file__).parents[1] / 'data'
PADDLE_FILE = DATA / 'vit_ft_tiny.pd'


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert expected
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def transposed(state: dict) -> dict:
    """From torch's layout to Paddle's, or back."""
    return {name: t.t() if t.ndim == 2 else t for name, t in state.items()}


# --- every form -----------------------------------------------------------------------------------


def test_official_paddle_file():
    state, info = read_checkpoint(PADDLE_FILE)
    assert info == {'form': 'paddle-mirl', 'layout': 'paddle'}
    assert len(state) == 4 + 6 * 12 + 4  # cls, positions, patches; blocks; fc_norm, head
    assert state['blocks.0.attn.qkv.weight'].shape == (48, 144)
    assert state['head.weight'].shape == (48, 7)
    # The arrays lie in the file byte by byte: find one of them.
    assert state['blocks.5.mlp.fc2.weight'].numpy().tobytes() in PADDLE_FILE.read_bytes()
    assert {t.dtype for t in state.values()} == {torch.float32}


@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_paddle_file_of_either_numpy(tmp_path, core):
    arrays = {
        'blocks.0.norm1.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
        'steps': np.array([3, 5], dtype=np.int64),
        'half': np.array([0.5], dtype=np.float16),
    }
    content = {
        'model': {name: (f'linear_{name}', array) for name, array in arrays.items()},
        'epoch': 7,
        'args': argparse.Namespace(lr=1.0),
    }
    written = pickle.dumps(content, protocol=3)  # its names stand in plain lines
    native = b'numpy._core' if b'numpy._core' in written else b'numpy.core'
    assert native + b'.multiarray\n_reconstruct' in written
    path = tmp_path / 'checkpoint.pdparams'
    path.write_bytes(written.replace(native + b'.', core.encode() + b'.'))
    state, info = read_checkpoint(str(path))
    assert info == {'form': 'paddle-mirl', 'layout': 'paddle'}
    assert_same(state, {name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
def test_mae_file(tmp_path, zipped):
    state = reference().state_dict()
    content = {
        'model': state,
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'epoch': 3,
        'args': argparse.Namespace(lr=0.1, data_path='somewhere', device='cuda'),
    }
    torch.save(content, tmp_path / 'mae.pth', _use_new_zipfile_serialization=zipped)
    found, info = read_checkpoint(tmp_path / 'mae.pth')
    assert info == {'form': 'mae', 'layout': 'torch'}
    assert_same(found, state)


def test_bare_state_dicts(tmp_path):
    model = small_mirl()
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    found, info = read_checkpoint(tmp_path / 'model.pth')
    assert info == {'form': 'mirl_mm', 'layout': 'torch'}
    assert_same(found, model.state_dict())
    torch.save(model.backbone.state_dict(), tmp_path / 'backbone.pth')
    found, info = read_checkpoint(tmp_path / 'backbone.pth')
    assert info == {'form': 'mirl_mm', 'layout': 'torch'}
    assert_same(found, model.backbone.state_dict())


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> tuple[MIRL, Path]:
    """A model and its checkpoint after three iterations of MMEngine's own training loop."""
    work_dir = tmp_path_factory.mktemp('trained')
    runner = Runner(
        model=small_mirl(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(
            images(6, 32),
            batch_size=2,
            collate_fn=lambda parts: {'inputs': torch.stack(parts), 'data_samples': None},
        ),
        train_cfg={'by_epoch': False, 'max_iters': 3},
        optim_wrapper=OptimWrapper(torch.optim.AdamW(small_mirl().parameters(), lr=1e-3)),
        param_scheduler={'type': 'CosineAnnealingLR', 'T_max': 3, 'by_epoch': False},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}},
        default_scope='mmpretrain',
        experiment_name='test_checkpoint',
        log_level='ERROR',
    )
    runner.message_hub.update_info('best', np.float64(0.25))
    runner.message_hub.update_info('count', np.int64(4))
    return runner.train(), work_dir / 'iter_3.pth'


def of_other_numpy(path: Path, core: str, new: Path) -> str:
    """Copy a torch file so that its pickle asks for numpy's functions under another name."""
    seen = 0
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, 'w') as out:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith('data.pkl'):
                for name in (b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n'):
                    seen += content.count(name)
                    content = content.replace(name, b'c%s.multiarray\n' % core.encode())
            out.writestr(item.filename, content)
    assert seen  # the names are there
    return str(new)


def test_mmengine_file(trained):
    model, path = trained
    found, info = read_checkpoint(path)
    assert info == {'form': 'mirl_mm', 'layout': 'torch'}
    assert_same(found, model.state_dict())


@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_mmengine_loads_the_files_of_either_numpy(trained, tmp_path, core):
    model, path = trained
    path = of_other_numpy(path, core, tmp_path / 'other.pth')
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    losses = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(losses, HistoryBuffer)
    assert losses.data[0].shape == (3,)
    assert losses.current() > 0
    assert losses.mean() == pytest.approx(losses.data[0].mean())
    assert content['message_hub']['runtime_info']['best'] == 0.25
    assert content['message_hub']['runtime_info']['count'] == 4
    assert content['meta']['iter'] == 3
    assert content['optimizer']['param_groups'][0]['betas'] == (0.9, 0.999)

    other = small_mirl()
    load_checkpoint(other, path, strict=True)
    assert_same(other.state_dict(), model.state_dict())
    found, _ = read_checkpoint(path)
    assert_same(found, model.state_dict())


# --- what is not read -----------------------------------------------------------------------------


class Evil:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def crime(tmp_path) -> Path:
    """A file that exists once a hostile pickle was executed."""
    return tmp_path / 'executed'


def hostile(kind: str, crime: Path) -> tuple[Evil, str]:
    """An object to pickle, and the name it asks for."""
    if kind == 'system':
        return Evil(os.system, f'touch {crime}'), f'{os.system.__module__}.system'
    return Evil(eval, f'open({str(crime)!r}, "w").close()'), 'builtins.eval'


@pytest.mark.parametrize('kind', ['system', 'eval'])
def test_the_weapon_works(kind, crime):
    pickle.loads(pickle.dumps(hostile(kind, crime)[0]))
    assert crime.exists()


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', ['system', 'eval'])
def test_hostile_paddle_file(tmp_path, crime, kind, protocol):
    evil, asks_for = hostile(kind, crime)
    path = tmp_path / 'evil.pd'
    path.write_bytes(pickle.dumps({'model': {'a': (1, 2)}, 'args': evil}, protocol=protocol))
    with pytest.raises(ValueError, match='refused') as error:
        read_checkpoint(path)
    name = asks_for.replace('builtins', '__builtin__') if protocol == 2 else asks_for
    assert name in str(error.value)
    assert 'numpy.ndarray' in str(error.value)  # what is accepted
    assert str(path) in str(error.value)
    assert not crime.exists()


READERS = {
    'read_checkpoint': read_checkpoint,
    'CheckpointLoader': lambda path: CheckpointLoader.load_checkpoint(path, map_location='cpu'),
    'CheckpointLoader, no device': CheckpointLoader.load_checkpoint,
    'load_checkpoint': lambda path: load_checkpoint(small_mirl(), path, map_location='cpu'),
}


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
@pytest.mark.parametrize('kind', ['system', 'eval'])
@pytest.mark.parametrize('reader', READERS)
def test_hostile_torch_file(tmp_path, crime, reader, kind, zipped):
    evil, asks_for = hostile(kind, crime)
    path = str(tmp_path / 'evil.pth')
    content = {'state_dict': small_mirl().state_dict(), 'meta': evil}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match='refused') as error:
        READERS[reader](path)
    assert f'It asks for {asks_for.removeprefix("builtins.")}.' in str(error.value)
    assert path in str(error.value)
    assert not crime.exists()


def builtins_dict() -> Evil:
    """A file's way to the functions of Python itself, given getattr."""
    return Evil(getattr, Evil(getattr, getattr, '__self__'), '__dict__')


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (Evil(getattr, 'text', 'upper'), "getattr('text', 'upper')"),
        (Evil(getattr, HistoryBuffer, '__init__'), "'__init__')"),
        (builtins_dict(), "'__self__')"),
    ],
    ids=['text', 'private', 'builtins'],
)
def test_getattr_serves_log_buffers_alone(tmp_path, reader, value, words):
    path = str(tmp_path / 'getattr.pth')
    torch.save({'state_dict': small_mirl().state_dict(), 'meta': value}, path)
    with pytest.raises(ValueError, match='only the methods of HistoryBuffer are known') as error:
        READERS[reader](path)
    assert words in str(error.value)


def test_what_getattr_gives_cannot_be_called(tmp_path):
    path = str(tmp_path / 'call.pth')
    torch.save({'a': torch.ones(1), 'b': Evil(HistoryBuffer.register_statistics, 'mean')}, path)
    with pytest.raises(ValueError, match=r'refused.*reduce'):
        read_checkpoint(path)


def test_every_loader_of_mmengine_is_safe():
    assert {'', 'http://', 'https://', 'pavi://', 's3://'} & CheckpointLoader._schemes.keys()
    assert '' in CheckpointLoader._schemes
    assert all(loader.is_safe for loader in CheckpointLoader._schemes.values())


class Odd:
    """A class of the user's own."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.fixture
def odd_file(tmp_path) -> str:
    path = str(tmp_path / 'odd.pth')
    torch.save({'state_dict': small_mirl().state_dict(), 'meta': {'odd': Odd(3)}}, path)
    return path


@pytest.fixture
def users_globals():
    """What the test adds is gone afterwards."""
    before = torch.serialization.get_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize('reader', READERS)
def test_the_user_lets_a_class_in(odd_file, users_globals, reader):
    name = f'{Odd.__module__}.Odd'
    with pytest.raises(ValueError, match='refused') as error:
        READERS[reader](odd_file)
    assert f'It asks for {name}.' in str(error.value)
    assert f'torch.serialization.add_safe_globals([{name}]) lets it in' in str(error.value)
    torch.serialization.add_safe_globals([Odd])
    assert READERS[reader](odd_file)
    content = CheckpointLoader.load_checkpoint(odd_file, map_location='cpu', logger='silent')
    assert content['meta']['odd'].number == 3


def test_what_the_user_added_stays_also_where_it_is_among_ours(odd_file, users_globals):
    own = [Odd, np.ndarray, argparse.Namespace]
    torch.serialization.add_safe_globals(own)
    before = set(torch.serialization.get_safe_globals())
    assert before >= set(own)
    CheckpointLoader.load_checkpoint(odd_file)
    read_checkpoint(odd_file)
    assert set(torch.serialization.get_safe_globals()) == before


def test_mmengines_own_loading_can_be_restored(odd_file, tmp_path, crime):
    safe = dict(CheckpointLoader._schemes)
    path = str(tmp_path / 'evil.pth')
    torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': hostile('eval', crime)[0]}, path)
    try:
        restore_loading()
        restore_loading()
        schemes = CheckpointLoader._schemes
        assert schemes.keys() == safe.keys()
        assert {loader.__module__ for loader in schemes.values()} == {'mmengine.runner.checkpoint'}
        assert not any(hasattr(loader, 'is_safe') for loader in schemes.values())
        with pytest.raises(ValueError, match='refused'):
            read_checkpoint(odd_file)  # ours stay safe
        if hasattr(mmengine.runner.checkpoint, 'get_torch_safe_globals'):  # the maintained one
            assert getattr in mmengine.runner.checkpoint.get_torch_safe_globals()
            content = CheckpointLoader.load_checkpoint(odd_file, map_location='cpu')
            assert content['meta']['odd'].number == 3
            CheckpointLoader.load_checkpoint(path)
            assert crime.exists()
    finally:
        make_loading_safe()
    crime.unlink(missing_ok=True)
    make_loading_safe()
    test_every_loader_of_mmengine_is_safe()
    assert getattr(mmengine.runner.checkpoint, 'get_torch_safe_globals', list) is list
    with pytest.raises(ValueError, match='refused'):
        CheckpointLoader.load_checkpoint(path)
    assert not crime.exists()


@pytest.mark.parametrize('value', [None, '0', '1'])
def test_the_switch_of_torch_is_put_back(tmp_path, monkeypatch, crime, value):
    switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    if value is None:
        monkeypatch.delenv(switch, raising=False)
    else:
        monkeypatch.setenv(switch, value)
    good, bad = tmp_path / 'good.pth', tmp_path / 'bad.pth'
    torch.save({'a': torch.ones(1)}, good)
    torch.save({'a': hostile('eval', crime)[0]}, bad)
    assert read_checkpoint(good)[0]['a'] == 1
    assert os.environ.get(switch) == value
    with pytest.raises(ValueError, match='refused'):
        CheckpointLoader.load_checkpoint(str(bad))
    assert os.environ.get(switch) == value
    assert not crime.exists()


@pytest.mark.parametrize('part', [0.0001, 0.01, 0.3, 0.7, 0.95, 0.9999])
def test_files_cut_short(tmp_path, part):
    torch.save({'state_dict': small_mirl().state_dict()}, tmp_path / 'whole.pth')
    for whole in (PADDLE_FILE, tmp_path / 'whole.pth'):
        content = whole.read_bytes()
        path = tmp_path / f'part{whole.suffix}'
        path.write_bytes(content[: int(len(content) * part)])
        assert 0 < path.stat().st_size < len(content)
        with pytest.raises(ValueError) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value)


def test_damaged_torch_files(tmp_path):
    """Whatever byte of the pickle is wrong, it is read or refused in words."""
    path = tmp_path / 'whole.pth'
    torch.save({'a': torch.ones(2), 'b': [1, 'text']}, path)
    with zipfile.ZipFile(path) as whole:
        items = {name: whole.read(name) for name in whole.namelist()}
    (pickled,) = [name for name in items if name.endswith('data.pkl')]
    content = items[pickled]
    refused = 0
    for place in range(2, len(content)):
        damaged = content[:place] + bytes([content[place] ^ 0x21]) + content[place + 1 :]
        with zipfile.ZipFile(path, 'w') as out:
            for name, data in items.items():
                out.writestr(name, damaged if name == pickled else data)
        try:
            read_checkpoint(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > len(content) / 4


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as out:
        out.writestr('word/document.xml', 'text')


NO_CHECKPOINTS = {
    'empty': (lambda path: path.touch(), 'not a checkpoint'),
    'text': (lambda path: path.write_text('version https://git-lfs'), 'not a checkpoint'),
    'picture': (
        lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n' + b'0' * 50),
        'not a checkpoint',
    ),
    'zip': (zip_of_text, 'cannot be read as a torch file'),
    'pickled list': (lambda path: path.write_bytes(pickle.dumps([1])), 'holds a list, not a dict'),
    'saved list': (lambda path: torch.save([1], path), 'holds a list, not a dict'),
    'no tensors': (
        lambda path: torch.save({'epoch': 3}, path),
        "no tensors; its keys are .'epoch'",
    ),
}


@pytest.mark.parametrize('kind', NO_CHECKPOINTS)
def test_not_a_checkpoint(tmp_path, kind):
    write, words = NO_CHECKPOINTS[kind]
    write(tmp_path / 'file')
    with pytest.raises(ValueError, match=words) as error:
        read_checkpoint(tmp_path / 'file')
    assert str(tmp_path / 'file') in str(error.value)


LOADERS = {name: READERS[name] for name in ('CheckpointLoader', 'load_checkpoint')}
NO_TORCH_FILES = {
    'empty': (lambda path: path.touch(), 'not a checkpoint'),
    'text': (lambda path: path.write_text('hello, world'), "it starts with b'hello, wo'"),
    'Paddle': (lambda path: path.write_bytes(PADDLE_FILE.read_bytes()), 'convert_checkpoint.py'),
    'zip': (zip_of_text, 'cannot be read as a torch file'),
}


@pytest.mark.parametrize('kind', NO_TORCH_FILES)
@pytest.mark.parametrize('loader', LOADERS)
def test_mmengine_says_what_is_no_torch_file(tmp_path, loader, kind):
    write, words = NO_TORCH_FILES[kind]
    write(tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=words) as error:
        LOADERS[loader](str(tmp_path / 'file.pth'))
    assert str(tmp_path / 'file.pth') in str(error.value)
    with pytest.raises(FileNotFoundError, match=r'nothing\.pth'):
        LOADERS[loader](str(tmp_path / 'nothing.pth'))


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
@pytest.mark.parametrize('part', [0.1, 0.5, 0.9999])
def test_mmengine_says_which_file_is_cut_short(tmp_path, part, zipped):
    path = tmp_path / 'cut.pth'
    torch.save({'a': torch.ones(5000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    for loader in LOADERS.values():
        with pytest.raises(ValueError, match='it may be cut short') as error:
            loader(str(path))
        assert str(path) in str(error.value) and len(str(error.value)) < len(str(path)) + 200


def test_what_is_no_damage_is_not_called_so(tmp_path):
    def out_of_memory(filename):
        raise RuntimeError('CUDA out of memory')

    path = tmp_path / 'good.pth'
    torch.save({'a': torch.ones(1)}, path)
    with pytest.raises(RuntimeError, match='CUDA out of memory'):
        in_words(out_of_memory)(str(path))


def test_missing_file(tmp_path):
    for path in (tmp_path / 'nothing.pth', tmp_path):
        with pytest.raises(FileNotFoundError, match=f'no checkpoint at {path}'):
            read_checkpoint(path)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [{}, {'segments': 2, 'decoder_depth': 2}])
def test_converted_names_are_all_of_ours(size):
    state = reference(**size).state_dict()
    converted = convert_official(state)
    expected = mirl(**size).state_dict()
    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in expected.items()}
    tables = [name for name in state if name.startswith('decoder_pos_embed')]
    assert len(converted) == len(state) - len(tables)
    assert len(tables) == size.get('segments', 6)


def test_layouts_give_equal_results():
    state = reference(decoder_width=48).state_dict()  # so that decoder_embed is square
    assert_same(convert_official(transposed(state)), convert_official(state))
    assert not torch.equal(state['decoder_embed0.weight'], state['decoder_embed0.weight'].t())


def test_positions_may_be_absent():
    state = reference().state_dict()
    without = {name: t for name, t in state.items() if 'pos_embed' not in name}
    assert len(state) - len(without) == 7
    converted = convert_official(state)
    positions = converted.pop('backbone.pos_embed')
    assert torch.equal(positions, state['pos_embed'])
    assert_same(convert_official(without), converted)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('paddle', [False, True])
def test_dtypes_are_kept(dtype, paddle):
    state = {name: t.to(dtype) for name, t in reference().state_dict().items()}
    converted = convert_official(transposed(state) if paddle else state)
    assert {t.dtype for t in converted.values()} == {dtype}


@pytest.mark.parametrize('paddle', [False, True])
def test_conversion_is_linear(paddle):
    one, two = (
        {name: torch.randn(t.shape) for name, t in reference().state_dict().items()}
        for _ in range(2)
    )
    if paddle:
        one, two = transposed(one), transposed(two)
    mixed = convert_official({name: 2 * one[name] - 3 * two[name] for name in one})
    left, right = convert_official(one), convert_official(two)
    assert_same(mixed, {name: 2 * left[name] - 3 * right[name] for name in left})


def test_gradients_flow_through():
    """The gradient of a conversion is the conversion of the gradient."""
    state = transposed(reference().state_dict())
    state = {name: t.detach().clone().requires_grad_() for name, t in state.items()}
    converted = convert_official(state)
    weights = {name: torch.randn(t.shape) for name, t in converted.items()}
    sum((converted[name] * weights[name]).sum() for name in converted).backward()
    grads = {name: t.grad for name, t in state.items() if t.grad is not None}
    dropped = {name for name in state if name.startswith('decoder_pos_embed')}
    assert grads.keys() == state.keys() - dropped
    assert_same(convert_official(grads), weights)


@pytest.mark.parametrize(
    'name',
    [
        'teacher.blocks.0.norm1.weight',
        'blocks.0.norm3.weight',
        'blocks.0.attn.kv.weight',
        'blocks.0.norm1.running_mean',
        'decoder_blocks0.0.norm5.bias',
        'decoder_blocks.0.norm1.bias',
        'decoder_pred0.weight',
        'mask_token',
        'layers.0.ln1.weight',
    ],
)
def test_unknown_names(name):
    state = {'blocks.0.attn.qkv.weight': torch.zeros(6, 2), name: torch.zeros(2)}
    with pytest.raises(ValueError, match='not a name of the official MIRL; known are') as error:
        convert_official(state)
    assert repr(name) in str(error.value)


def test_a_state_without_attention_has_no_layout():
    with pytest.raises(ValueError, match=r"'blocks.0.attn.qkv.weight' is missing.*'cls_token'"):
        convert_official({'cls_token': torch.zeros(1, 1, 4)})


def test_backbone_state():
    model = mirl(backbone={'arch': 'test'})
    state = backbone_state({**model.state_dict(), 'head.fc.weight': torch.zeros(7, 48)})
    assert_same(state, model.backbone.state_dict())
    arch = {'embed_dims': 48, 'num_layers': 12, 'num_heads': 4, 'feedforward_channels': 192}
    stock = VisionTransformer(arch, img_size=64)
    assert stock.state_dict().keys() == state.keys()
    stock.load_state_dict(state, strict=True)
    with pytest.raises(ValueError, match=r"starts with 'backbone.'.*'cls_token'"):
        backbone_state(state)
