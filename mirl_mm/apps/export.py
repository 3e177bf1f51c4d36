"""A trained model as a file that runs without this package: ONNX, or a torch.export program.

Shapes: B batch, H x W pixels, L patches, D width, E extra tokens, G segments, F channels.
"""

import json
import os
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import BaseSelfSupervisor, ImageClassifier, MAEViT, VisionTransformer
from torch import Tensor, nn
from torch.export import Dim

from mirl_mm.checkpoint import load_weights
from mirl_mm.checkpoint.reading import class_names, open_checkpoint
from mirl_mm.engine.launch import check_file, load_config
from mirl_mm.errors import CheckpointError, UserError
from mirl_mm.files import check_folder, complete_file
from mirl_mm.measure.features import load_encoder, normalisation_of
from mirl_mm.models import MIRLDenseViT, MIRLViT
from mirl_mm.models.block import BlockSettings, adopt
from mirl_mm.models.fit import summary
from mirl_mm.models.masking import check_image_size

OPSET = 18  # of ONNX
STOCK = (VisionTransformer, MAEViT)  # what MIRLViT computes from the same names
Size = tuple[int, int] | None  # H, W in pixels; None: free


@torch.no_grad()
def export_model(
    config: str,
    checkpoint: str,
    out: str,
    size: Size = None,
    opset: int | None = None,
    cfg_options: dict | None = None,
) -> str:
    """Write a config's model with a checkpoint's weights to ``out``, .onnx or .pt2; returns words.

    The input is ``images`` [B, C, H, W], normalised pixels. B is free; so are H and W, in full
    patches, of an encoder or classifier without ``size``. Outputs: see :class:`Exported`.
    """
    opset = check_out(Path(out), opset)
    cfg = load_config(config, cfg_options, needed=['model'])
    check_file(checkpoint, 'checkpoint')
    module = Exported(load_model(cfg, checkpoint, size), size).eval()
    facts = normalisation_of(cfg)
    facts['channels'] = 'RGB' if facts.pop('to_rgb') else 'as loaded'
    if classes := class_names(open_checkpoint(checkpoint).meta):
        facts['classes'] = classes
    made = write(module, Path(out), opset, {key: json.dumps(x) for key, x in facts.items()})
    form = f'ONNX, opset {opset}' if opset else f'torch {torch.__version__} program'
    sides = '{}x{}'.format(*size) if size else f'any multiples of {module.patch}'
    pixels = f'{facts["channels"]} less {facts["mean"]} over {facts["std"]}'
    return f'{out}: {form}. Images: any batch, {sides} px, {pixels}. Of two: {", ".join(made)}'


class Exported(nn.Module):
    """A model and its named outputs.

    Of a pre-training: ``cls`` [B, D] and ``patches`` [B, L, D], both normed, and ``tap_1`` to
    ``tap_G``, the patches where each segment ends (the last one is ``patches``). Of a classifier:
    ``logits`` [B, classes]. Of a segmentor: ``logits`` [B, classes, H, W]. Of a detector, what its
    heads read: ``level_1`` [B, F, h, w], the finest, and so on.
    """

    def __init__(self, model: nn.Module, size: Size) -> None:
        super().__init__()
        vit = getattr(model, 'backbone', model)
        if type(vit) in STOCK:
            vit.__class__, vit.num_registers, vit.num_segments = MIRLViT, 0, 2
            vit.patch_size = vit.patch_embed.projection.kernel_size[0]
        self.model, self.patch = revert_sync_batchnorm(model), vit.patch_size
        adopt(vit.layers, BlockSettings())  # neither compiled nor recomputed
        vit.patch_embed.adaptive_padding = None
        if model is vit:
            length = vit.num_layers // vit.num_segments
            vit.out_type, vit.out_indices = 'raw', [*range(length - 1, vit.num_layers, length)]
        self.free = {0: Dim('batch')}
        # To trace with: free sides are others than the table's, and differ.
        sides = size or [self.patch * (n + i) for i, n in enumerate(vit.patch_resolution, start=1)]
        self.example = torch.ones(2, vit.patch_embed.projection.in_channels, *sides)
        if size:
            check_image_size(size, self.patch)
            grid = tuple(side // self.patch for side in size)
            vit.pos_embed, vit.patch_resolution = nn.Parameter(vit.positions(grid)), grid
        else:
            self.free |= {2: self.patch * Dim('rows'), 3: self.patch * Dim('columns')}
            vit.positions = partial(interpolated, vit)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised [B, C, H, W] -> outputs by name."""
        for side in (2, 3):  # fails at other sizes, of which the patches would leave out the rest
            patches = (images.shape[side] // self.patch, self.patch)
            images = images.unflatten(side, patches).flatten(side, side + 1)
        model, shape = self.model, tuple(images.shape[2:])
        if isinstance(model, MIRLViT):
            outs = model(images)  # G x [B, E+L, D]; the last one is normed
            taps = [tokens[:, model.num_extra_tokens :] for tokens in outs]
            named = {f'tap_{number}': tap for number, tap in enumerate(taps, start=1)}
            return dict(cls=outs[-1][:, 0], patches=taps[-1], **named)
        if isinstance(model, ImageClassifier):
            return dict(logits=model(images))
        if hasattr(model, 'encode_decode'):
            meta = dict(img_shape=shape, pad_shape=shape)
            return dict(logits=model.encode_decode(images, [meta]))
        return {f'level_{number}': x for number, x in enumerate(model.extract_feat(images), 1)}


def load_model(cfg: Config, checkpoint: str, size: Size) -> nn.Module:
    """The encoder of a pre-training, or another config's whole model, with all its weights."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    name, dense = type(model).__name__, cfg.get('default_scope') in ('mmdet', 'mmseg')
    vit = getattr(model, 'backbone', None)
    kinds = (BaseSelfSupervisor, ImageClassifier, *[nn.Module] * dense)
    if not isinstance(model, kinds) or type(vit) not in (MIRLViT, MIRLDenseViT, *STOCK):
        accepted = 'a pre-training, a classifier, a segmentor or a detector'
        on = 'a MIRLViT, a MIRLDenseViT, or a VisionTransformer or MAEViT of mmpretrain'
        given = f'{name} with the backbone {type(vit).__name__} is not exported'
        raise UserError(f'{given}; accepted is {accepted}, and as its backbone {on}')
    if isinstance(model, BaseSelfSupervisor):
        return load_encoder(cfg, checkpoint, strict=True)
    if hasattr(model, 'encode_decode') and model.test_cfg.mode == 'slide':
        whole = 'give --cfg-options model.test_cfg.mode=whole'
        raise UserError(f'a segmentor that slides over an image is no one program; {whole}')
    if dense and not size:
        raise UserError(f'{name} is exported for one size of images; give --size HEIGHT WIDTH')
    if missing := load_weights(model, checkpoint).missing:
        raise CheckpointError(f'{checkpoint} does not fit this {name}: it lacks {summary(missing)}')
    return model


def interpolated(vit: MIRLViT, grid: tuple[int, int]) -> Tensor:
    """As MIRLViT's positions, but never without the interpolation, which is exact at scale 1."""
    cls, table = vit.pos_embed.tensor_split([int(vit.cls_token is not None)], dim=1)
    table = table.unflatten(1, tuple(vit.patch_resolution)).permute(0, 3, 1, 2)
    table = F.interpolate(table, grid, mode=vit.interpolate_mode, align_corners=False)
    return torch.cat([cls, table.flatten(2).transpose(1, 2)], dim=1)


def check_out(out: Path, opset: int | None) -> int | None:
    """The opset, if the file is ONNX; UserError for what cannot be written."""
    if out.suffix not in ('.onnx', '.pt2'):
        raise UserError(f'{out} must end in .onnx (ONNX) or .pt2 (a program of torch.export)')
    check_folder(out.parent, 'OUT')
    if out.suffix == '.pt2' and opset is not None:
        raise UserError(f'--opset {opset} is for ONNX; {out} is a program of torch.export')
    if out.suffix == '.pt2':
        return None
    try:
        onnx, _ = map(import_module, ('onnx', 'onnxscript'))
    except ImportError as error:
        how = 'pip install onnx onnxscript onnxruntime (the extra export), or write a .pt2 file'
        raise UserError(f'ONNX needs onnx and onnxscript ({error}); {how}') from error
    opset, most = OPSET if opset is None else opset, onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= most:
        raise UserError(f'--opset must be {OPSET} to {most} (onnx {onnx.__version__}), got {opset}')
    return opset


def write(module: Exported, out: Path, opset: int | None, facts: dict[str, str]) -> list[str]:
    """The file, whole or not at all; says what the module makes of its example.

    Weights of 2 GB and more, too many for an .onnx file, stand beside it in ``OUT.data``.
    """
    shapes = {name: [*x.shape] for name, x in module(module.example).items()}
    program = torch.export.export(module, (module.example,), dynamic_shapes=(module.free,))
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # it names folders of this machine
    with TemporaryDirectory(dir=out.parent) as folder:
        if opset:
            names = dict(input_names=['images'], output_names=[*shapes])
            onnx = torch.onnx.export(program, verbose=False, opset_version=opset, **names)
            name_sides(onnx.model.graph)
            onnx.model.metadata_props.update(facts)
            onnx.save(Path(folder, out.name))
        else:
            torch.export.save(program, Path(folder, out.name), extra_files=facts)
        for part in sorted(Path(folder).iterdir(), reverse=True):  # the data, then what names them
            with complete_file(out.with_name(part.name)) as whole:
                os.replace(part, whole)
    return [f'{name} {shape}' for name, shape in shapes.items()]


def name_sides(graph: object) -> None:
    """``batch``, ``height`` and ``width`` for torch's own symbols in an ONNX graph (onnx_ir's)."""
    named = zip(map(str, graph.inputs[0].shape), ('batch', '', 'height', 'width'), strict=True)
    names = {symbol: name for symbol, name in named if not symbol.isdigit()}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        for i, length in enumerate(value.shape or ()):
            value.shape[i] = names.get(str(length), length)
