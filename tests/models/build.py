"""Models for the tests of this folder."""

import torch
from mmengine.registry import DefaultScope

from mirl_mm.checkpoint import convert_official
from mirl_mm.models import MIRL
from tests.reference import Reference, randomise

TINY = {
    'img_size': (64, 64),
    'patch': 16,
    'width': 48,
    'depth': 12,
    'heads': 4,
    'decoder_width': 32,
    'decoder_depth': 1,
    'decoder_heads': 4,
}


def numbers(**changes) -> dict:
    """The numbers of the golden tiny case, some of them changed, as the reference takes them."""
    return {**TINY, **changes}


def reference(**changes) -> Reference:
    """A reference with random parameters."""
    return randomise(Reference(**numbers(**changes)))


def mirl(
    backbone: dict | None = None, neck: dict | None = None, head: dict | None = None, **changes
) -> MIRL:
    """MIRL with the numbers of a reference; the three dicts override arguments of its parts."""
    n = numbers(**changes)
    arch = {
        'embed_dims': n['width'],
        'num_layers': n['depth'],
        'num_heads': n['heads'],
        'feedforward_channels': 4 * n['width'],
    }
    segments = n.get('segments', 6)
    # Whatever scope a Runner of another test has left behind.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MIRL(
            backbone={
                'type': 'MIRLViT',
                'arch': arch,
                'img_size': n['img_size'],
                'patch_size': n['patch'],
                'num_segments': segments,
                'mask_ratio': n.get('mask_ratio', 0.75),
                **(backbone or {}),
            },
            neck={
                'type': 'MIRLNeck',
                'embed_dim': n['width'],
                'num_segments': segments,
                'decoder_embed_dim': n['decoder_width'],
                'decoder_depth': n['decoder_depth'],
                'decoder_num_heads': n['decoder_heads'],
                'patch_size': n['patch'],
                'context': n.get('context', True),
                **(neck or {}),
            },
            head={
                'type': 'MIRLHead',
                'patch_size': n['patch'],
                'pairing': n.get('pairing', 'mirrored'),
                **(head or {}),
            },
        )


def small_mirl(**changes) -> MIRL:
    """A quick one, freshly initialised: 4 blocks of width 24 in 2 segments, 4 x 4 patches of 8."""
    torch.manual_seed(0)
    small = {
        'img_size': (32, 32),
        'patch': 8,
        'width': 24,
        'depth': 4,
        'heads': 2,
        'segments': 2,
        'decoder_width': 16,
        'decoder_heads': 2,
    }
    model = mirl(**{**small, **changes})
    model.init_weights()
    return model


def load(model: MIRL, state: dict) -> MIRL:
    """The model with weights of official names; positions may be absent, nothing else."""
    missing, unexpected = model.load_state_dict(convert_official(state), strict=False)
    assert set(missing) <= {'backbone.pos_embed'}, missing
    assert not unexpected, unexpected
    return model


def images(batch: int, height: int, width: int | None = None, seed: int = 0) -> torch.Tensor:
    """Smooth noise in normalised pixels, [batch, 3, height, width]."""
    width = width or height
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, height // 4, width // 4, generator=generator)
    fine = 0.2 * torch.randn(batch, 3, height, width, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear') + fine


def assert_as_reference(found, expected) -> None:
    """A reconstruction equals that of the plain equations, in float64."""
    for left, right in zip(found.preds, expected.preds, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    for field in ('target', 'pair_losses', 'loss'):
        left, right = getattr(found, field), getattr(expected, field)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


def assert_same_gradients(ours, plain) -> dict:
    """Behind a backward pass, of every trainable parameter; the plain model's, under our names."""
    golden = convert_official({n: p.grad for n, p in plain.named_parameters() if p.requires_grad})
    trainable = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert trainable.keys() == golden.keys()
    for name, grad in trainable.items():
        assert (grad - golden[name]).norm() < 1e-10 * golden[name].norm(), name
    return golden
