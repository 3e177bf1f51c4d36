"""A windowed plain ViT in the manner of ViTDet, as a peer: every block cuts and glues for itself.

Reference: "Exploring Plain Vision Transformer Backbones for Object Detection",
https://arxiv.org/abs/2203.16527. The map is padded to a multiple of the window in every windowed
block, cut, attended to, glued and cropped. As there, no cls token; unlike there, no relative
positions, which would make it slower still.

Shapes: B batch, h x w patches, D width, s patches of a window's side.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mirl_mm.models import MIRLDenseViT


class PartitionedViT(nn.Module):
    """The blocks of an encoder, windows in ViTDet's way."""

    def __init__(self, encoder: MIRLDenseViT) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, imgs: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] -> one map [B, D, h, w], of the last block."""
        encoder = self.encoder
        x, grid = encoder.patch_embed(imgs)
        x = (x + encoder.positions(grid)[:, encoder.num_extra_tokens :]).unflatten(
            1, tuple(grid)
        )  # [B, h, w, D]
        for i, block in enumerate(encoder.layers):
            size = 0 if i in encoder.global_indices else encoder.window_size
            x = x + attention(block, block.ln1(x), size)
            x = block.ffn(block.ln2(x), identity=x)
        return (encoder.ln1(x).permute(0, 3, 1, 2),)


def attention(block: nn.Module, x: Tensor, size: int) -> Tensor:
    """Self-attention on [B, h, w, D]: in windows of size x size patches, or global for 0."""
    if not size:
        return block.attn(x.flatten(1, 2)).view_as(x)
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    cut = padded.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
    windows = cut.flatten(0, 2).flatten(1, 2)  # [B*windows, s*s, D]
    out = block.attn(windows).view(cut.shape).transpose(2, 3).reshape(padded.shape)
    return out[:, :height, :width]
