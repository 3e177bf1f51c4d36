"""The golden figures of tests/data, and how near to them ours have to be on a CPU."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirl_mm.checkpoint import convert_official

DATA = Path(__file__).parents[1] / 'data'
LOSS = {torch.float32: 1e-6, torch.float64: 1e-9}
PRED = {torch.float32: 2e-6, torch.float64: 1e-9}
FEAT = {torch.float32: 5e-6, torch.float64: 1e-9}
GRAD = {
    torch.float32: 2e-5,
    torch.float64: 1e-7,
}  # relative L2; the golden ones are rounded to 6e-8


def read(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f'{name}.npz') as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def read_s54() -> dict[str, np.ndarray]:
    with np.load(DATA / 's54.npz') as arrays:
        return {key: arrays[key] for key in arrays.files}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradient_errors(ours: dict[str, Tensor], golden: dict[str, Tensor]) -> dict[str, float]:
    """Relative L2 distance of every gradient."""
    return {
        name: ((ours[name].double() - grad).norm() / grad.norm()).item()
        for name, grad in golden.items()
    }


def gradient_norms(
    model: torch.nn.Module, state: dict[str, Tensor], names: Iterable[str]
) -> dict[str, float]:
    """L2 norms by our names, in the order of these official ones, whose weights are in state."""
    # Convert one at a time, beside the one that tells the layout.
    probe = {'blocks.0.attn.qkv.weight': state['blocks.0.attn.qkv.weight']}
    ours, norms = gradients(model), {}
    for name in map(str, names):
        our_name = list(convert_official({**probe, name: state[name]}))[-1]
        norms[our_name] = ours[our_name].double().norm().item()
    return norms


def weights_from_names(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The golden run's rule: a parameter's name seeds its values. In torch's layout."""
    state = {}
    for name, paddle_shape in shapes.items():
        shape = paddle_shape[::-1] if len(paddle_shape) == 2 else paddle_shape
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.02
        if len(shape) == 1 and name.endswith(('.weight', '.weight_g')):
            values += 1  # LayerNorms and gains
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def summary(tensor: Tensor) -> dict[str, object]:
    """What the golden run kept of S-54's tensors; float32 numbers."""
    flat = tensor.numpy().ravel()
    return {
        'mean': flat.mean(dtype=np.float64),
        'std': flat.std(dtype=np.float64),
        'first32': flat[:32],
        'strided64': flat[:: flat.size // 64][:64],
    }
