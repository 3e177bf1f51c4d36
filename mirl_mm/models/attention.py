"""Multi-head attention on projected tokens: one call of torch's kernel for every block we have.

Shapes: B batch (or windows), Q queries, M keys, D width of all heads together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def attend(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float = 0.0, fp32: bool = False
) -> Tensor:
    """Every head within its own D/heads features.

    Args:
        q: [B, Q, D].
        k, v: [B, M, D].
        num_heads: heads.
        dropout: share of the attention weights that is zeroed.
        fp32: compute in float32 what comes in half precision. Deep ViTs overflow float16 here
            first (https://github.com/facebookresearch/deit/issues/109).

    Returns:
        [B, Q, D] in the precision of q.
    """
    if fp32 and q.dtype in HALVES:
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), num_heads, dropout).to(q.dtype)
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)
