"""A frozen ViT of any checkpoint, and its features over images, on one process or many.

``vit`` is any of mmpretrain's plain ViTs with a cls token, or ours; ``imgs`` are normalised pixels
[B, 3, H, W]. Shapes: N images, B batch, L patches, D width, K blocks, P pools (cls, avg).
"""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.device import get_device
from mmengine.dist import all_gather, get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import to_2tuple
from mmpretrain.models import ClsDataPreprocessor, VisionTransformer
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mirl_mm.checkpoint import load_weights
from mirl_mm.errors import CheckpointError, UserError
from mirl_mm.models.archs import BACKBONE
from mirl_mm.models.fit import summary
from mirl_mm.models.masking import gather_tokens, num_kept, random_masking, sincos_positions
from mirl_mm.models.vit import MIRLViT

POSITIONS = BACKBONE + 'pos_embed'
RANDOM = 'random'  # given as a checkpoint: the encoder as it is before training (seed 0)
POOLS = ('cls', 'avg')  # the cls token, and the average of the patch tokens
Batches = Iterable[tuple[Tensor, Tensor]]  # features [B, ...] and labels [B]


class Loading(NamedTuple):
    """How images reach the encoder."""

    batch_size: int = 128  # of one process
    num_workers: int = 4  # of one process
    amp: bool = False  # encode in bfloat16

    def autocast(self, imgs: Tensor) -> torch.autocast:
        return torch.autocast(imgs.device.type, torch.bfloat16, enabled=self.amp)

    def check(self) -> None:
        """UserError for a size or number that cannot be."""
        if self.batch_size < 1 or self.num_workers < 0:
            given = f'got {self.batch_size} and {self.num_workers}'
            raise UserError(f'a batch size is 1 or more, a number of workers 0 or more; {given}')

    def loader(self, dataset: Dataset, **settings) -> DataLoader:
        """It draws no random number."""
        settings |= dict(num_workers=self.num_workers, generator=torch.Generator())
        return DataLoader(dataset, **settings)


def load_encoder(cfg: Config, checkpoint: str, strict: bool = False) -> VisionTransformer:
    """The backbone of ``cfg.model``, a plain ViT with a cls token, in eval mode on the CPU.

    The checkpoint is a file for :func:`mirl_mm.checkpoint.load_weights` or ``random``; it may be of
    another model (MIRL, MAE, a classifier) with this encoder. Positions that it lacks are the fixed
    sine-cosine ones, as in the official release. Other norms than the config's are a warning, or a
    CheckpointError if ``strict``.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    settings = (cfg.get('model') or {}).get('backbone')
    if settings is None:
        raise UserError('the config has no model.backbone')
    vit = MODELS.build({**settings, 'init_cfg': None})
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        wanted = 'a plain ViT with a cls token (MIRLViT, MAEViT, VisionTransformer)'
        raise UserError(f'model.backbone must be {wanted}, got {type(vit).__name__}')
    vit.eval()  # mmpretrain's returns None
    if checkpoint == RANDOM:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vit.init_weights()
        return vit
    fit = load_weights(vit, checkpoint)
    missing = [name for name in fit.missing if name != POSITIONS]
    unused = [name for name in fit.unused if name.startswith(BACKBONE)]
    if missing or unused:
        fault = f"{checkpoint} is of an encoder with other norms than the config's"
        names = f'{summary(missing)} stay as before training, {summary(unused)} go unused'
        if strict:
            raise CheckpointError(f'{fault}: {names}')
        advice = 'The config that it was trained with gives the features that it was trained for'
        print_log(f'{fault}: {names}. {advice}', level=logging.WARNING)
    if POSITIONS in fit.missing:
        with torch.no_grad():
            vit.pos_embed.copy_(sincos_positions(vit.embed_dims, tuple(vit.patch_resolution), True))
    return vit


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def final_features(vit: VisionTransformer, imgs: Tensor) -> Tensor:
    """What the encoder hands on, [B, P, D]: behind its final norms, as far as it has them."""
    (tokens,) = _tokens(vit, imgs, [vit.num_layers - 1], vit.final_norm)
    cls, average = _pools(vit, tokens)
    if vit.out_type == 'avg_featmap':  # fine-tuned on the average: it has a norm of its own
        average = vit.ln2(average)
    return torch.stack([cls, average], dim=1)


def block_features(vit: VisionTransformer, imgs: Tensor, blocks: Sequence[int]) -> Tensor:
    """Features [B, K, P, D] behind blocks (0-based, ascending)."""
    pools = [torch.stack(_pools(vit, tokens), 1) for tokens in block_tokens(vit, imgs, blocks)]
    return torch.stack(pools, dim=1)


def block_tokens(vit: VisionTransformer, imgs: Tensor, blocks: Sequence[int]) -> Iterator[Tensor]:
    """Tokens [B, E+L, D] behind each of the blocks, as :func:`block_features` takes them.

    A pre-norm ViT reads its token stream through layer norms alone, so tokens pass one here too. It
    has no parameters, also behind the last block: the learned norm would set that block apart.
    """
    for tokens in _tokens(vit, imgs, blocks, final_norm=False):
        yield F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def masked_tokens(
    vit: VisionTransformer, imgs: Tensor, blocks: Sequence[int], noise: Tensor, mask_ratio: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The same where the blocks see V patches alone, without registers: K x [B, 1+V, D].

    And ids_restore and mask, [B, L], as random_masking has them for noise [B, L].
    """
    kept, *masks = random_masking(noise, num_kept(noise.shape[1], mask_ratio))
    places = F.pad(kept + 1, (1, 0))  # of cls, and the kept patches'
    # The one step of any ViT that stands between positions and registers.
    hiding = vit.drop_after_pos.register_forward_hook(lambda *args: gather_tokens(args[2], places))
    with hiding:
        found = [*block_tokens(vit, imgs, blocks)]
    return [torch.cat([x[:, :1], x[:, vit.num_extra_tokens :]], dim=1) for x in found], *masks


def exact_device() -> str:
    """Where float64 is: the device, but the CPU beside Apple's, which has none."""
    return 'cpu' if get_device() == 'mps' else get_device()


def patch_side(vit: VisionTransformer) -> int:
    """In pixels."""
    return vit.patch_embed.projection.kernel_size[0]


@torch.no_grad()
def attention_rows(
    vit: VisionTransformer, imgs: Tensor, blocks: Sequence[int], token: int
) -> Tensor:
    """Attention [B, K, H, E+L] of one token (0 is cls, E the first patch), in H heads of blocks.

    A row sums to 1 over all tokens, registers among them. Blocks are as :func:`block_features`
    takes them. Only that row is computed, never all tokens times all tokens.
    """
    rows = {}

    def row(block: nn.Module, given: tuple[Tensor]) -> None:
        attn = block.attn
        qkv = attn.qkv(block.ln1(given[0])).unflatten(-1, (3, attn.num_heads, -1))
        scores = torch.einsum('bhd,bnhd->bhn', qkv[:, token, 0], qkv[:, :, 1]).float()
        rows[block] = (scores * attn.head_dims**-0.5).softmax(dim=-1)

    with ExitStack() as end:
        for block in blocks:
            end.enter_context(vit.layers[block].register_forward_pre_hook(row))
        _tokens(vit, imgs, blocks[-1:], final_norm=False)
    return torch.stack([rows[vit.layers[block]] for block in blocks], dim=1)


def _pools(vit: VisionTransformer, tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens[:, 0], tokens[:, vit.num_extra_tokens :].mean(dim=1)


def _tokens(
    vit: VisionTransformer, imgs: Tensor, blocks: Sequence[int], final_norm: bool
) -> tuple[Tensor, ...]:
    """K x [B, E+L, D] by the stock pass, whatever this ViT is set to return (or to mask)."""
    vit = copy.copy(vit)  # with the same weights, and settings of its own
    vit.out_type, vit.out_indices, vit.final_norm = 'raw', list(blocks), final_norm
    return (MIRLViT if isinstance(vit, MIRLViT) else VisionTransformer).forward(vit, imgs)


def normalisation_of(cfg: Mapping) -> dict:
    """``mean``, ``std`` and ``to_rgb`` of a config's model or beside it; UserError: it has none."""
    given = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if 'mean' not in given or 'std' not in given:
        raise UserError('the config has no model.data_preprocessor with mean and std')
    to_rgb = given.get('to_rgb') or given.get('bgr_to_rgb') or False
    return dict(mean=[*given['mean']], std=[*given['std']], to_rgb=to_rgb)


def preprocessor_of(cfg: Mapping) -> ClsDataPreprocessor:
    """Normalisation as in a config."""
    return ClsDataPreprocessor(**normalisation_of(cfg))


def test_pipeline_of(cfg: dict, img_size: int | tuple[int, int]) -> list[dict]:
    """How the config prepares test images; without a word, at 256/224 of a size, and its centre.

    The short edge becomes that of a square; for a rectangle (height, width), images are stretched.
    """
    for loader in ('test_dataloader', 'val_dataloader'):
        if cfg.get(loader):
            return cfg[loader]['dataset']['pipeline']
    height, width = to_2tuple(img_size)
    large, crop = dict(type='ResizeEdge', scale=round(height * 256 / 224), edge='short'), height
    if height != width:
        crop = width, height
        large = dict(type='Resize', scale=tuple(round(side * 256 / 224) for side in crop))
    return cfg.get('test_pipeline') or [
        dict(type='LoadImageFromFile', imdecode_backend='pillow'),
        dict(large, backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=crop),
        dict(type='PackInputs'),
    ]


test_pipeline_of.__test__ = False  # not one of pytest's


@torch.no_grad()
def batches(
    dataset: Dataset, encode: Callable[[Tensor], Tensor], preprocessor: nn.Module, loading: Loading
) -> Batches:
    """Features [B, ...] float16 and labels [B] of this process's images, on the CPU.

    Process r of R has images r, r + R, ...; where they do not go round, the first ones come again,
    so that all processes have equally many. No random number is used up.
    """
    for imgs, samples in loaded(dataset, preprocessor, loading):
        with loading.autocast(imgs):
            features = encode(imgs)
        labels = torch.cat([sample.gt_label for sample in samples])
        yield features.to('cpu', torch.float16), labels.cpu()


def loaded(
    dataset: Dataset, preprocessor: nn.Module, loading: Loading
) -> Iterator[tuple[Tensor, list[DataSample]]]:
    """Normalised images [B, 3, H, W] of this process, as :func:`batches` deals them out."""
    # With a seed of its own, since else a random number is drawn.
    sampler = DefaultSampler(dataset, shuffle=False, seed=0, round_up=True)
    settings = dict(batch_size=loading.batch_size, sampler=sampler, collate_fn=default_collate)
    for data in map(preprocessor, loading.loader(dataset, **settings)):
        yield data['inputs'], data['data_samples']


def extract(dataset: Dataset, found: Batches, title: str) -> tuple[Tensor, Tensor]:
    """Features [N, ...] and labels [N] of all processes, in the dataset's order, on each of them.

    ``found`` is this process's share, as :func:`batches` gives it; the title is for the progress.
    """

    def gathered(own: Sequence[Tensor]) -> Tensor:
        parts = all_gather(torch.cat(own))  # R x [n, ...]; first come all processes' first images
        return torch.stack(parts, dim=1).flatten(0, 1)[: len(dataset)]

    features, labels = zip(*progress(found, len(dataset), title), strict=True)
    return gathered(features), gathered(labels)


def progress(found: Batches, total: int, title: str, done: int = 0) -> Batches:
    """Pass batches on; on the first process, a line every ten seconds and at the end.

    ``total`` counts the images of all processes, ``done`` those that were there before.
    """
    started = shown = time.perf_counter()
    first = done
    for batch in found:
        done = min(done + len(batch[1]) * get_world_size(), total)
        now = time.perf_counter()
        if is_main_process() and (now - shown >= 10 or done == total):
            rate = max(done - first, 1) / (now - started)
            counts = f'{done:,}/{total:,} images, {rate:.0f} images/s'
            print(f'  {title}: {counts}, about {(total - done) / rate:.0f} s left', flush=True)
            shown = now
        yield batch
