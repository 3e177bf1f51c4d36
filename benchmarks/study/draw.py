"""An encoder as it is before training, as a checkpoint: the study's zero.

python -m benchmarks.study.draw CONFIG --out FILE --cfg-options randomness.seed=N [KEY=VALUE ...]
"""

import argparse
import logging
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mirl_mm.engine.launch import load_config
from mirl_mm.files import complete_file


def drawn(config: str, options: dict) -> nn.Module:
    """The config's model with the weights that its seed draws."""
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(cfg.randomness.seed)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description='A model as it is before training.')
    parser.add_argument('config')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # MMEngine says lines for every parameter
    model = drawn(args.config, args.cfg_options)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(args.out) as part:
        torch.save(dict(state_dict=model.state_dict()), part)


if __name__ == '__main__':
    main()
