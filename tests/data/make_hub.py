"""Small random models of transformers and timm, as their own files, and what they compute.

python tests/data/make_hub.py tests/data/hub     writes a folder a family: weights, config.json and
                                                 features.npz
python tests/data/make_hub.py --check DIR        loads a folder that tools/convert_checkpoint.py
                                                 wrote, and compares with its features.npz (imgs,
                                                 cls and patches behind the last norm)

Needs an environment of its own with torch, timm and transformers 5: mmpretrain, which the tests
import, breaks beside transformers 5.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

WIDTH, DEPTH, HEADS, HIDDEN, PATCH, SIZE, OTHER = 24, 2, 4, 48, 4, 16, (20, 28)
HUB = dict(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIZE,
    patch_size=PATCH,
)  # fmt: skip
MAE = dict(
    decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
    decoder_intermediate_size=32, norm_pix_loss=True,
)  # fmt: skip
MLP = dict(intermediate_size=HIDDEN)
HUBS = {  # class of transformers, its config's settings, how it is saved
    'hf_mae': ('ViTMAEForPreTraining', MLP | MAE, {}),
    'hf_vit_shards': ('ViTModel', MLP, dict(max_shard_size='25KB')),
    'hf_vit_classifier': ('ViTForImageClassification', MLP | dict(num_labels=5), {}),
    'hf_dinov2': ('Dinov2Model', dict(mlp_ratio=2), {}),
    'hf_dinov2_registers': ('Dinov2WithRegistersModel', dict(mlp_ratio=2), {}),
}
TIMM = dict(
    img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2.0,
    num_classes=0,
)  # fmt: skip
DINOV2 = dict(init_values=1e-5)
TIMMS = {  # architecture and arguments
    'timm_augreg': ('vit_base_patch16_224', dict(num_classes=5)),
    'timm_mae': ('vit_base_patch16_224', {}),
    'timm_dinov2': ('vit_base_patch14_dinov2', DINOV2),
    'timm_dinov2_registers': ('vit_base_patch14_reg4_dinov2', DINOV2),
    'timm_clip': ('vit_base_patch16_clip_224', {}),
}


def randomize(model: nn.Module) -> None:
    """All parameters random, norms, layer scales and biases too: no zero or one hides a mistake."""
    for name, x in model.named_parameters():
        one = 'norm' in name and name.endswith('weight')
        nn.init.normal_(x, mean=float(one), std=0.3 if x.ndim < 4 else 0.1)


@contextmanager
def without_antialias() -> Iterator[None]:
    """Positions are resized by plain bicubic interpolation, which is this project's rule."""
    interpolate = F.interpolate
    F.interpolate = lambda *args, antialias=False, **kwargs: interpolate(*args, **kwargs)
    try:
        yield
    finally:
        F.interpolate = interpolate


def tokens_of(model: nn.Module, imgs: Tensor, any_size: bool = True) -> Tensor:
    """[B, E+L, D], normed; E are cls and registers."""
    if hasattr(model, 'forward_features'):
        return model.forward_features(imgs)
    encoder = getattr(model, model.base_model_prefix, model)
    kind, options = encoder.config.model_type, {}
    if kind == 'vit_mae':  # all patches, in their order
        encoder.config.mask_ratio = 0.0
        patches = imgs[0, 0].numel() // encoder.config.patch_size**2
        options['noise'] = torch.arange(patches).expand(len(imgs), -1).float()
    if 'dinov2' not in kind:  # which takes any size as it is
        options['interpolate_pos_encoding'] = any_size
    return encoder(imgs, **options).last_hidden_state


def cls_and_patches(model: nn.Module, imgs: Tensor, end: str = '') -> dict[str, np.ndarray]:
    tokens = tokens_of(model, imgs)
    patches = imgs[0, 0].numel() // PATCH**2
    return {f'cls{end}': tokens[:, 0].numpy(), f'patches{end}': tokens[:, -patches:].numpy()}


@torch.no_grad()
def write_features(model: nn.Module, folder: Path) -> None:
    """At the table's size, and at another by this project's rule (2) and by the library's (own)."""
    imgs, others = torch.randn(2, 3, SIZE, SIZE), torch.randn(1, 3, *OTHER)
    found = dict(imgs=imgs.numpy(), imgs2=others.numpy())
    if folder.name == 'hf_mae':
        noise = torch.rand(2, (SIZE // PATCH) ** 2)
        out = model(imgs, noise=noise)
        found |= dict(noise=noise.numpy(), pred=out.logits.numpy(), mask=out.mask.numpy())
        found |= dict(loss=out.loss.numpy())
    elif folder.name in ('hf_vit_classifier', 'timm_augreg'):
        out = model(imgs)
        found |= dict(logits=getattr(out, 'logits', out).numpy())
    found |= cls_and_patches(model, imgs) | cls_and_patches(model, others, '_own')
    with without_antialias():
        found |= cls_and_patches(model, others, '2')
    np.savez_compressed(folder / 'features.npz', **found)
    apart = np.abs(found['patches_own'] - found['patches2']).max()
    print(f'{folder.name}: the other size by plain interpolation is {apart:.1e} apart')


def make_hub(folder: Path) -> None:
    """A model of transformers; its features are those of the model that its files give back."""
    name, settings, saving = HUBS[folder.name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**HUB | settings)).eval()
    randomize(model)
    model.save_pretrained(folder, **saving)
    if folder.name == 'hf_mae':  # on the Hub stands what version 4 wrote
        path, new, old = folder / 'model.safetensors', 'decoder_encoder.layer.', 'decoder_layers.'
        state = {n.replace(new, old): x for n, x in load_file(path).items()}
        save_file(state, path, {'format': 'pt'})
    again, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not (info['missing_keys'] or info['unexpected_keys']), info
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    write_features(again.eval(), folder)


def make_timm(folder: Path) -> None:
    architecture, settings = TIMMS[folder.name]
    arguments = TIMM | settings
    model = timm.create_model(architecture, **arguments, dynamic_img_size=True).eval()
    randomize(model)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    write_features(model, folder)


@torch.no_grad()
def check(folder: Path) -> None:
    """Load a written folder as its users do, and print the largest difference of its features."""
    given = np.load(folder / 'features.npz')
    if 'model_type' in json.loads((folder / 'config.json').read_text()):
        print(f'{AutoConfig.from_pretrained(folder).architectures} by AutoModel')
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        print(
            {key: f'{len(names)}: {sorted(names)[0]}, ...' for key, names in info.items() if names}
        )
    else:
        model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    tokens = tokens_of(model.eval(), torch.from_numpy(given['imgs']), any_size=False)
    patches = given['patches'].shape[1]
    for name, found in dict(cls=tokens[:, 0], patches=tokens[:, -patches:]).items():
        apart = (found - torch.from_numpy(given[name])).abs().max()
        print(f'{folder}: {name} differ by at most {apart:.1e}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, help='to write, or with --check to load')
    parser.add_argument('--check', action='store_true', help='load a folder that was written')
    args = parser.parse_args()
    if args.check:
        return check(args.folder)
    for seed, name in enumerate([*HUBS, *TIMMS]):
        torch.manual_seed(seed)
        (args.folder / name).mkdir(parents=True, exist_ok=True)
        (make_hub if name in HUBS else make_timm)(args.folder / name)


if __name__ == '__main__':
    main()
