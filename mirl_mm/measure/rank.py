"""Patch tokens behind blocks without labels: their rank, how alike they are, what a block changes.

All from sums of products, so that no tokens are kept. Shapes: F parts of the images, K blocks,
L patches, D width.
"""

import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmpretrain.datasets import CustomDataset
from mmpretrain.models import VisionTransformer
from torch import Tensor
from torch.utils.data import Subset

from mirl_mm.errors import UserError

from .curves import Curve, mean, parts_of
from .depth import Probing
from .features import block_tokens, exact_device, loaded, patch_side, progress

TOKENS = 16384
EPS = 1e-7
PARTS = 4  # there are 2*K*(D+1)^2 sums of each


@torch.no_grad()
def rank_curves(
    vit: VisionTransformer, images: CustomDataset, how: Probing, title: str
) -> list[Curve]:
    """Of patch tokens as block_tokens has them, in images spread evenly over the dataset.

    ``rank`` is the effective one, at most D; ``cosine`` the mean between different patches of an
    image; ``cka`` the linear one with the probed block before, nan for the first. UserError: one
    image alone, which has no spread.
    """
    patches = images[0]['inputs'][0].numel() // patch_side(vit) ** 2
    number = min(-(-TOKENS // patches), len(images))
    if number < 2:
        raise UserError(f'rank takes 2 images or more, got {number}')
    if number * patches < TOKENS:
        few = f'{number} images have {number * patches:,} patch tokens, not {TOKENS:,}'
        print(f'  {title}, rank: {few}', flush=True)
    size = -(-number // PARTS)  # a batch is a part
    order = [i * len(images) // number for part in range(PARTS) for i in range(part, number, PARTS)]
    vit, norm = vit.to(get_device()), how.preprocessor.to(get_device())
    found = loaded(Subset(images, order), norm, how.loading._replace(batch_size=size))
    depth, width, extra = len(how.blocks), vit.embed_dims + 1, vit.num_extra_tokens
    places, cosines = range(0, number, size), torch.empty(number, depth)
    exact = dict(dtype=torch.float64, device=exact_device())
    sums = torch.full((len(places), 2, depth, width, width), torch.nan, **exact)
    for part, (imgs, _) in enumerate(progress(found, number, f'{title}, rank')):
        before = None
        with how.loading.autocast(imgs):
            for k, tokens in enumerate(block_tokens(vit, imgs, how.blocks)):
                tokens = tokens[:, extra:].to(exact['device']).double()
                cosines[places[part] :][: len(imgs), k] = cosine(tokens)
                x = F.pad(tokens, (0, 1), value=1).flatten(0, 1)
                sums[part, 0, k] = x.T @ x  # with that 1, also their sum and number
                if before is not None:
                    sums[part, 1, k] = before.T @ x
                before = x
    vit.cpu()
    curves = Curve.of('rank', sums[:, 0], effective_rank), Curve.of('cka', sums, cka)
    return [*curves, Curve.of('cosine', parts_of(cosines), mean)]


def effective_rank(sums: Tensor) -> Tensor:
    """RankMe (https://arxiv.org/abs/2210.02885) of centred tokens, from :func:`centred`'s sums.

    [..., D+1, D+1] -> [...]: the exponential of the entropy of p = s / sum(s) + 1e-7. The singular
    values s are roots of eigenvalues, which make rounding larger: the sums are to be float64.
    """
    s = torch.linalg.eigvalsh(centred(sums)).clamp(min=0).sqrt()  # [..., D], ascending
    s = s[..., -int(sums[..., -1, -1].min()) :]  # no more than there are tokens
    p = s / s.sum(dim=-1, keepdim=True) + EPS
    return (-p * p.log()).sum(dim=-1).exp()


def cka(sums: Tensor) -> Tensor:
    """Linear CKA (https://arxiv.org/abs/1905.00414) of each block with the one before it.

    [2, K, D+1, D+1] -> [K]: sums of a block with itself, and with the one before it.
    """
    own, cross = torch.linalg.matrix_norm(centred(sums))
    return cross.square() / (own * own.roll(1))


def centred(sums: Tensor) -> Tensor:
    """Sums of products of tokens with a 1 behind them, [..., D+1, D+1], of centred [..., D, D]."""
    return sums[..., :-1, :-1] - sums[..., :-1, -1:] * sums[..., -1:, :-1] / sums[..., -1:, -1:]


def cosine(tokens: Tensor) -> Tensor:
    """The mean cosine between different tokens of an image: [B, L, D] -> [B]."""
    unit, length = F.normalize(tokens.double(), dim=-1), tokens.shape[1]
    return (unit.sum(dim=1).square().sum(dim=-1) - length) / (length * (length - 1))
