"""What a pre-trained model of grid ``tiny`` comes to, apart from the probes with images.

python -m benchmarks.study.measure CONFIG CHECKPOINT --images DIR --scenes DIR --out FILE
    [--every N] [--cfg-options ...]
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from benchmarks.images import normalised, read_folders
from mirl_mm.apps.scenes import read_scenes
from mirl_mm.engine.launch import load_config
from mirl_mm.files import write_complete
from mirl_mm.measure.cached import weights_of
from mirl_mm.measure.depth import Probing, probed_blocks
from mirl_mm.measure.features import Loading, preprocessor_of
from mirl_mm.measure.segment import segment_curves

from .results import history, read, summary_of

EXTENT = (176, 240)  # pixels that scenes are brought to: 360 x 480 are 2.0 times as large


def measured(cfg: Config, checkpoint: Path, images: Path, scenes: Path, every: int = 1) -> dict:
    """Steps, rate, losses and held-out error of the training; mIoU behind blocks.

    Args:
        cfg: of the run.
        checkpoint: its last, or what :mod:`draw` has written.
        images: class folders of held-out images.
        scenes: CamVid.
        every: so many blocks, to the last.
    """
    init_default_scope(cfg.default_scope)
    content = read(checkpoint)
    model = MODELS.build(cfg.model)
    model.load_state_dict(content['state_dict'])
    model.eval()
    found = dict(segment=segmented(model.backbone, cfg, checkpoint, scenes, every))
    if 'message_hub' not in content:
        return found
    held = read_folders(images, cfg.model.backbone.img_size, 'cpu').images
    error = held_out_error(model, held)
    return trained(content, cfg) | dict(held_out_error=round(error, 5)) | found


def segmented(
    vit: VisionTransformer, cfg: Config, checkpoint: Path, folder: Path, every: int
) -> list[float]:
    """mIoU in percent behind blocks, on CamVid's scenes: training -> test."""
    scenes = read_scenes(str(folder), vit, EXTENT, 'test')
    blocks = probed_blocks(vit.num_layers, every)
    how = Probing(blocks, (), (), preprocessor_of(cfg), Loading(num_workers=0))
    with tempfile.TemporaryDirectory() as kept:
        curve, *_ = segment_curves(vit, scenes, how, Path(kept), weights_of(checkpoint), 'CamVid')
    return [round(value, 2) for value in curve.values.tolist()]


def trained(content: Mapping, cfg: Config) -> dict:
    """Steps, rate and losses of the whole training."""
    losses, times = history(content)
    by_epoch = losses.reshape(content['meta']['epoch'], -1).mean(axis=1)
    found = summary_of(losses, times, cfg.train_dataloader.batch_size)
    return found | dict(loss_by_epoch=[round(float(loss), 4) for loss in by_epoch])


@torch.no_grad()
def held_out_error(model: nn.Module, images: Tensor, batch: int = 500) -> float:
    """Masked squared error on per-patch normalised pixels, the same masks for every model."""
    total = 0.0
    for i in range(0, len(images), batch):
        torch.manual_seed(i)  # both methods draw their noise [B, L] first
        part = images[i : i + batch]
        total += model.loss(normalised(part), None)['loss'].item() * len(part)
    return total / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description='What a pre-trained model comes to.')
    parser.add_argument('config')
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('--images', type=Path, required=True, metavar='DIR')
    parser.add_argument('--scenes', type=Path, required=True, metavar='DIR')
    parser.add_argument('--every', type=int, default=1, metavar='N')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    cfg = load_config(args.config, args.cfg_options)
    found = measured(cfg, args.checkpoint, args.images, args.scenes, args.every)
    write_complete(args.out, f'{json.dumps(found)}\n'.encode())


if __name__ == '__main__':
    main()
