"""mmcv's compiled ops, where they are built: RoIAlign and NMS on the device against the CPU's."""

import torch
from torch import Tensor

from .stage import Bench, LeftOut

MISSING = ('implementation for device', 'not compiled', 'is not implemented')  # in mmcv's errors


def need_ops(device: str) -> None:
    """LeftOut where mmcv has no ops, or none for this device."""
    try:
        from mmcv.ops import nms

        nms(torch.tensor([[0.0, 0, 9, 9]], device=device), torch.ones(1, device=device), 0.5)
    except (ImportError, AttributeError) as error:
        raise LeftOut(f'ops not built: {error}') from error
    except RuntimeError as error:
        if any(words in str(error) for words in MISSING):
            raise LeftOut(f'ops not built for {device}: {str(error)[:200]}') from error
        raise


def compare(bench: Bench) -> dict:
    """Differences in float32; NMS has to keep the same boxes."""
    need_ops(bench.device)
    from mmcv.ops import nms, roi_align

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, 32, 32, generator=generator)
    corners = torch.rand(500, 2, generator=generator) * 300
    boxes = torch.cat([corners, corners + 20 + 150 * torch.rand(500, 2, generator=generator)], 1)
    scores = torch.rand(500, generator=generator)
    rois = torch.cat([torch.arange(500)[:, None] % 2, boxes], dim=1)

    def results(device: str) -> tuple[Tensor, Tensor, Tensor]:
        maps = features.to(device, copy=True).requires_grad_()
        pooled = roi_align(maps, rois.to(device), 7, 1 / 16, 0, 'avg', True)
        pooled.square().sum().backward()
        kept = nms(boxes.to(device), scores.to(device), 0.5)[1]
        return pooled.detach().cpu(), maps.grad.cpu(), kept.cpu()

    pairs = zip(results(bench.device), results('cpu'), strict=True)
    pooled, gradient, kept = pairs
    largest = gradient[1].abs().max().item()
    found = dict(
        roi_align=(pooled[0] - pooled[1]).abs().max().item(),
        roi_align_gradient=(gradient[0] - gradient[1]).abs().max().item() / largest,
        nms_equal=torch.equal(*kept),
    )
    words = 'the same' if found['nms_equal'] else 'OTHER'
    return dict(
        found,
        says=f'RoIAlign differs by {found["roi_align"]:.1e}, its gradient by '
        f'{found["roi_align_gradient"]:.1e} of the largest; NMS keeps {words} boxes',
    )
