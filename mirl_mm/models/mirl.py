"""Masked Image Residual Learning, in the order of the paper's figure.

Reference: Guoxi Huang, Hongtao Fu, Adrian G. Bors, "Masked Image Residual Learning for Scaling
Deeper Vision Transformers", NeurIPS 2023, https://arxiv.org/abs/2309.14136.

Shapes: B batch, L patches, K kept patches, G segments, P pairs of them, p patch side in pixels.
"""

from dataclasses import dataclass

import torch
from mmengine.registry import MODELS
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mirl_mm.errors import UserError

from .archs import DECODERS
from .masking import fixed_noise, gather_tokens, masked_ids, unpatchify

Samples = list[DataSample] | None


@MODELS.register_module()
class MIRL(BaseSelfSupervisor):
    """A masked image, a segmented encoder, one decoder per segment, and pairs that share the work.

    Args are those of mmpretrain's BaseSelfSupervisor; backbone, neck and head are MIRLViT, MIRLNeck
    and MIRLHead. What the encoder knows (width, segments, patch size, channels, and the decoders'
    sizes of an arch of the table) is the default of neck and head. Positions stay fixed.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        data_preprocessor: dict | nn.Module | None = None,
        **kwargs,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):  # by its full name, for any default_scope
            scoped = dict(type='mmpretrain.SelfSupDataPreprocessor')
            data_preprocessor = scoped | (data_preprocessor or {})
        if not isinstance(backbone, nn.Module):
            backbone = MODELS.build(backbone)
        known = known_sizes(backbone)
        if not isinstance(neck, nn.Module):
            arch = backbone.arch_settings
            decoders = {size: arch[size] for size in DECODERS if size in arch}
            neck = dict(decoders | known['neck'], **neck)
        if not isinstance(head, nn.Module):
            head = dict(known['head'], **head)
        super().__init__(backbone, neck, head, data_preprocessor=data_preprocessor, **kwargs)
        for part, sizes in known.items():
            for name, size in sizes.items():
                if size != (other := getattr(getattr(self, part), name)):
                    both = f'{size} and {other}'
                    raise UserError(f'{name} of backbone and {part} must be equal, got {both}')
        self.head.pairs(self.neck.num_segments)  # refuses a number that it cannot pair
        self.backbone.pos_embed.requires_grad_(False)

    def reconstruct(self, imgs: Tensor, noise: Tensor | None = None) -> 'Reconstruction':
        """Mask, encode, paint, compare: images [B, 3, H, W] that are already normalised.

        Of the noise [B, L], the smallest of a row stay visible; None draws it.
        """
        features = self.backbone.encode_masked(imgs, noise)  # stem, G taps
        preds = self.neck(features)  # G x [B, L, p*p*3]: shallow = main, deep = residual
        target = self.head.target(imgs)  # [B, L, p*p*3], and the statistics of each patch
        compared = self.head.compare(preds, target.patches, features.mask)  # every pair's sum
        return Reconstruction(
            preds,
            *target,
            features.mask,
            features.ids_restore,
            *compared,
            self.pairs,
            features.grid,
            self.head.patch_size,
        )

    def loss(self, inputs: Tensor, data_samples: Samples = None) -> dict[str, Tensor]:
        """``loss`` to descend on, and ``pair_g_h``: the squared error of decoders g and h together.

        The numbers of :meth:`reconstruct`, but only masked patches are painted and compared.
        """
        features = self.backbone.encode_masked(inputs)
        preds = self.neck.paint_masked(features)  # G x [B, L-K, p*p*3]
        ids = masked_ids(features.ids_restore, features.stem.shape[1] - 1)  # [B, L-K]
        target = gather_tokens(self.head.target(inputs).patches, ids)
        losses, errors = self.head.compare(preds, target, torch.ones_like(target[..., 0]))
        named = zip(self.pair_names, errors.detach().mean(dim=0), strict=True)
        return dict(loss=losses.mean(), **dict(named))

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Samples = None) -> list[DataSample]:
        """The data samples with ``recon_error`` and ``pair_g_h``, under masks of the images."""
        samples = data_samples or [DataSample() for _ in inputs]
        noise = fixed_noise(inputs, samples, self.backbone.patch_size)
        errors = self.reconstruct(inputs, noise).pair_errors
        for sample, row in zip(samples, errors, strict=True):
            sample.set_field(row.mean(), 'recon_error')
            for name, value in zip(self.pair_names, row, strict=True):
                sample.set_field(value, name)
        return samples

    def forward(self, inputs: Tensor, data_samples: Samples = None, mode: str = 'tensor'):
        """As BaseSelfSupervisor's, and ``mode='predict'`` for validation and tools/test.py."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    @property
    def pairs(self) -> list[tuple[int, ...]]:
        """Segments (main, residual) that paint together, or (main,) without pairs."""
        return self.head.pairs(self.neck.num_segments)

    @property
    def pair_names(self) -> list[str]:
        """Names of the pairs in logs and metrics, such as ``pair_0_5``, or ``pair_0`` alone."""
        return ['_'.join(map(str, ('pair', *pair))) for pair in self.pairs]


def known_sizes(backbone: nn.Module) -> dict[str, dict[str, int]]:
    """What neck and head have to know of the encoder."""
    channels = backbone.patch_embed.projection.in_channels
    patches = dict(patch_size=backbone.patch_size, in_channels=channels)
    encoder = dict(embed_dim=backbone.embed_dims, num_segments=backbone.num_segments)
    return dict(neck=encoder | patches, head=patches)


@dataclass
class Reconstruction:
    """Everything a pass produced. Tensors carry gradients (errors if they are the loss)."""

    preds: tuple[Tensor, ...]  # G x [B, L, p*p*3]
    target: Tensor  # [B, L, p*p*3]
    patch_mean: Tensor  # [B, L, 1]
    patch_std: Tensor  # [B, L, 1]
    mask: Tensor  # [B, L], 0 kept, 1 masked
    ids_restore: Tensor  # [B, L]
    losses: Tensor  # [B, P], what the loss module gives for every pair of every image
    pair_errors: Tensor  # [B, P], masked squared error, whatever the loss is
    pairs: list[tuple[int, ...]]  # P segments (main, residual), or (main,)
    grid: tuple[int, int]  # (h, w) patches
    patch_size: int

    @property
    def pair_losses(self) -> Tensor:
        """[P], the mean over the batch (every image has as many masked patches)."""
        return self.losses.mean(dim=0)

    @property
    def loss(self) -> Tensor:
        """The mean over all, a scalar."""
        return self.losses.mean()

    def images(self) -> dict[str, list[Tensor]]:
        """The painted pictures: ``main``, ``residual`` and ``sum``, each P x [B, 3, H, W].

        In normalised pixels. Every picture has the statistics of the true patches put back, so
        ``sum`` is ``main + residual`` less one patch mean; those are 0 and 1 where the head has
        ``norm_pix=False``. Segments that paint alone have a ``main`` each, and nothing else.
        """
        painted = dict(main=[], residual=[], sum=[])
        for parts in ([self.preds[g] for g in pair] for pair in self.pairs):
            parts += [parts[0] + parts[1]] if len(parts) == 2 else []
            for kind, pred in zip(painted, parts, strict=False):
                pixels = pred * self.patch_std + self.patch_mean
                painted[kind].append(unpatchify(pixels, self.grid, self.patch_size))
        return painted
