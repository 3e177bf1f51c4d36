"""MIRL.loss() paints masked patches alone; that must change nothing but the time it takes."""

import pytest
import torch

from .build import mirl


@pytest.mark.parametrize('decoder_depth', [1, 2])
def test_loss_and_gradients_are_those_of_reconstruct(decoder_depth):
    torch.manual_seed(0)
    model = mirl(decoder_depth=decoder_depth, segments=4).double()
    model.init_weights()
    imgs = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    results = []
    for run in (lambda: model.reconstruct(imgs), lambda: model.loss(imgs)):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)  # the same masks
        result = run()
        loss = result['loss'] if isinstance(result, dict) else result.loss
        loss.backward()
        results.append((result, loss, {n: p.grad for n, p in model.named_parameters()}))
    (whole, loss, grads), (logs, fast_loss, fast_grads) = results
    assert fast_loss.item() == pytest.approx(loss.item(), rel=1e-13)
    assert list(logs) == ['loss', 'pair_0_3', 'pair_1_2']
    assert [logs['pair_0_3'].item(), logs['pair_1_2'].item()] == pytest.approx(
        whole.pair_losses.tolist(), rel=1e-13
    )
    for name, grad in grads.items():
        if grad is None:
            assert fast_grads[name] is None, name
        else:
            torch.testing.assert_close(fast_grads[name], grad, rtol=1e-9, atol=1e-14, msg=name)


def test_chosen_patches_are_painted_as_in_the_whole():
    torch.manual_seed(0)
    model = mirl().double()
    model.init_weights()
    features = model.backbone.encode_masked(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    ids = torch.tensor([[15, 0, 7], [3, 3, 9]])
    for whole, part in zip(model.neck(features), model.neck(features, ids), strict=True):
        for b in range(2):
            torch.testing.assert_close(part[b], whole[b, ids[b]], rtol=1e-10, atol=1e-13)
