"""bfloat16 blocks: what they compute, how far it is from float32, and when they step aside."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mirl_mm.models.half import Layers
from mirl_mm.models.head import MIRLResidualLoss
from mirl_mm.models.masking import sincos_positions
from mirl_mm.models.segments import parameter_segments
from tests.models.build import images, mirl, small_mirl


def layers(*found: nn.Module, dtype: torch.dtype = torch.bfloat16, like: Tensor | None = None):
    with torch.autocast('cpu', dtype):
        return Layers(torch.ones(1) if like is None else like, found)


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def test_a_linear_layer_by_hand():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(3, 6, requires_grad=True)
    half = x.bfloat16()
    out = layers(layer)(layer, half)
    wanted = F.linear(rounded(x), rounded(layer.weight), rounded(layer.bias))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, rtol=2**-7, atol=2**-7)
    grad = torch.randn(3, 4).bfloat16()
    out.backward(grad)
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    torch.testing.assert_close(
        layer.weight.grad, grad.float().T @ rounded(x), rtol=2**-7, atol=0.02
    )
    torch.testing.assert_close(layer.bias.grad, grad.float().sum(0), rtol=2**-7, atol=0.02)


def test_a_norm_by_hand():
    """Its input goes on as it is, and both ways lead a gradient back."""
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(32), torch.randn(5, 32, requires_grad=True)
    nn.init.normal_(norm.weight)
    onward, normed = layers(norm).norm(norm, x)
    assert (onward.dtype, normed.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(onward, x)
    (onward.sin().sum() + normed.float().square().sum()).backward()
    found = x.grad, norm.weight.grad, norm.bias.grad

    y = x.detach().requires_grad_()
    norm.zero_grad()
    (y.sin().sum() + norm(y).square().sum()).backward()
    for one, other in zip(found, (y.grad, norm.weight.grad, norm.bias.grad), strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize('used', ['onward', 'normed'])
def test_one_way_alone_may_be_used(used):
    norm, x = nn.LayerNorm(8), torch.randn(2, 8, requires_grad=True)
    onward, normed = layers(norm).norm(norm, x)
    (onward if used == 'onward' else normed).float().sum().backward()
    assert x.grad.dtype == torch.float32
    if used == 'onward':
        assert torch.equal(x.grad, torch.ones(2, 8))


def test_weights_are_cast_by_one_kernel():
    linear, norm = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)
    token = nn.Parameter(torch.randn(1, 4))
    copied = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copied.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with torch.autocast('cpu', torch.bfloat16), Watch():
        run = Layers(token, (linear, norm), token)
    assert copied.count('_foreach_copy_') == 1 and '_to_copy' not in copied
    assert run.weights(linear)[1] is None
    assert torch.equal(run.cast(token).float(), rounded(token))
    assert run.cast(torch.ones(2)).dtype == torch.bfloat16


def test_layers_run_as_they_are_elsewhere():
    linear, norm, x = nn.Linear(4, 4), nn.LayerNorm(4), torch.randn(2, 4)
    for run in (Layers(x, (linear, norm)), layers(linear, norm, dtype=torch.float16)):
        assert torch.equal(run(linear, x), linear(x))
        onward, normed = run.norm(norm, x)
        assert onward is x and torch.equal(normed, norm(x))
        assert run.weights(linear) == (linear.weight, linear.bias)
        assert run.cast(x) is x
    assert Layers(x.to('meta'), (linear,)).copies == {}


class Adapted(nn.Linear):
    """A layer that somebody has put in another's place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_a_layer_of_another_kind_is_called():
    linear = Adapted(4, 4)
    run, x = layers(linear), torch.randn(2, 4)
    assert torch.equal(run(linear, x), linear(x))


@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook'])
def test_a_layer_with_a_hook_is_called(register):
    model, heard = small_mirl(), []
    block = model.backbone.layers[1]
    for layer in (block.ln1, block.attn.qkv, block.ffn.layers[1], model.neck.decoders[0].embed):
        getattr(layer, register)(lambda module, *_: heard.append(module))
    with torch.autocast('cpu', torch.bfloat16):
        model.loss(images(2, 32))
    assert len(heard) == 4


@pytest.mark.parametrize('decoder_depth', [1, 2])
@pytest.mark.parametrize('with_cp', [False, True])
def test_loss_and_gradients_of_every_part_are_near_float32(decoder_depth, with_cp):
    model = small_mirl(
        width=96, heads=4, decoder_width=64, decoder_heads=4, decoder_depth=decoder_depth,
        backbone=dict(with_cp=with_cp), neck=dict(with_cp=with_cp),
    )  # fmt: skip
    imgs, parts = images(8, 32), parameter_segments(model)

    def step(half: bool) -> tuple[float, dict[str, Tensor]]:
        torch.manual_seed(1)
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            loss = model.loss(imgs)['loss']
        loss.backward()
        found: dict[str, list] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                found.setdefault(parts[name], []).append(parameter.grad.flatten().clone())
        return loss.item(), {part: torch.cat(each) for part, each in found.items()}

    (loss, wanted), (half_loss, found) = step(False), step(True)
    assert loss != half_loss and abs(loss - half_loss) < 2e-3 * loss
    assert {'stem', 'segment_0', 'segment_1', 'decoder_1'} <= found.keys()
    for part, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - wanted[part]).norm() < 0.04 * wanted[part].norm(), part


def test_the_stream_stays_in_float32():
    model = small_mirl()
    with torch.autocast('cpu', torch.bfloat16):
        features = model.backbone.encode_masked(images(2, 32))
        preds = model.neck.paint_masked(features)
    assert {features.stem.dtype, *(tap.dtype for tap in features.taps)} == {torch.float32}
    assert {pred.dtype for pred in preds} == {torch.bfloat16}


def test_the_residual_losses_gradient():
    torch.manual_seed(0)
    main, residual, target = torch.randn(3, 2, 5, 7, dtype=torch.float64).unbind()
    inputs = [each.clone().requires_grad_() for each in (main, residual, target)]
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.float64)
    loss = MIRLResidualLoss()
    assert torch.autograd.gradcheck(lambda *each: loss(*each, mask), inputs)
    half = [each.bfloat16().requires_grad_() for each in (main, residual)]
    loss(*half, target.float(), mask.float()).sum().backward()
    assert torch.equal(half[0].grad, half[1].grad) and half[0].grad.dtype == torch.bfloat16


def test_under_a_gpus_autocast():
    """On tensors that say they are on a GPU, whose autocast would norm in float32."""
    norms: list[torch.dtype] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket is torch.ops.aten.native_layer_norm:
                norms.append(result[0].dtype)
            return result

    sincos_positions.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device('cuda'):
            model = mirl()
            torch.set_autocast_dtype('cuda', torch.bfloat16)
            torch.set_autocast_enabled('cuda', True)  # torch.autocast asks for a real one
            with Watch():
                loss = model.loss(torch.empty(2, 3, 64, 64))['loss']
    finally:
        torch.set_autocast_enabled('cuda', False)
        sincos_positions.cache_clear()  # what was made on the way has no contents
    assert (loss.device.type, loss.dtype) == ('cuda', torch.float32)
    # the encoder's final norm is mmpretrain's; blocks, stem, segments and decoders are ours
    assert norms.count(torch.float32) == 1
    assert norms.count(torch.bfloat16) == 12 * 2 + 1 + 5 + 6 * (4 + 1)
