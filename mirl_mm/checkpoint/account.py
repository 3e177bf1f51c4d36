"""What a conversion did, in words."""

from collections import Counter
from collections.abc import Collection

from torch import Tensor

from mirl_mm.models.archs import EncoderArch
from mirl_mm.models.fit import summary

from .reading import CheckpointFile

FORMS = {
    'paddle-mirl': 'official MIRL',
    'mae': 'names of MAE or timm',
    'mirl_mm': 'names of mirl_mm or mmpretrain',
}
PARTS = dict(backbone='encoder', neck='decoders')


def described(file: CheckpointFile) -> str:
    """What kind of file it is, and what it holds beside the weights."""
    parts = [FORMS[file.form], f'{file.layout} layout', f'{len(file.state)} tensors']
    if file.weights != 'plain':
        parts.append(f'{file.weights} weights of a run with EMA')
    if file.beside:
        parts.append(f'beside them {", ".join(file.beside)}')
    return ', '.join(parts)


def by_part(names: Collection[str]) -> str:
    """How many tensors of each part of a model: encoder 148, decoders 192."""
    firsts = [name.split('.')[0] for name in names]
    counts = Counter(PARTS.get(first, first) for first in firsts)
    return ', '.join(f'{part} {number}' for part, number in counts.items())


def counted(names: Collection[str]) -> str:
    """How many, and which."""
    return f'{len(names)}: {summary(list(names))}' if names else 'none'


def timm_call(arch: EncoderArch, converted: dict[str, Tensor]) -> str:
    """The call of ``timm.create_model`` whose model takes the weights, all of them."""
    classes = converted['head.weight'].shape[0] if 'head.weight' in converted else 0
    numbers = dict(
        img_size=224 if arch.img_size is None else arch.img_size[0],
        patch_size=arch.patch_size,
        in_chans=arch.in_channels,
        embed_dim=arch.embed_dims,
        depth=arch.num_layers,
        num_heads='?' if arch.num_heads is None else arch.num_heads,
        mlp_ratio=f'{arch.feedforward_channels / arch.embed_dims:g}',
        num_classes=classes,
        global_pool="'avg'" if 'fc_norm.weight' in converted else "'token'",
    )
    arguments = ', '.join(f'{key}={value}' for key, value in numbers.items())
    return f"timm.create_model('vit_base_patch16_224', {arguments})"
