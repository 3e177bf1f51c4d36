"""Bring a checkpoint into another form: ``python tools/convert_checkpoint.py SRC DST``."""

import argparse
from functools import partial

from mirl_mm.apps.report.runs import record_of
from mirl_mm.checkpoint import convert_file
from mirl_mm.checkpoint.convert import TARGETS
from mirl_mm.errors import one_line, visible
from mirl_mm.models.archs import ARCHS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Bring a checkpoint into another form. Read are official Paddle files, those '
        "of MAE, timm and transformers, MMEngine's and safetensors; no code in them is executed."
    )
    parser.add_argument(
        'source', metavar='SRC', help='checkpoint file to read, or a folder with config.json'
    )
    parser.add_argument(
        'destination',
        metavar='DST',
        help='file to write: safetensors if it ends in .safetensors, else a torch file; a new '
        'folder for hf, and for timm where it ends in neither .pth nor .safetensors',
    )
    parser.add_argument(
        '--to',
        choices=TARGETS,
        default='mirl',
        help='mirl: all weights that fit, for this package and mmpretrain; backbone: the '
        "encoder alone, without prefix; mae: MAE's whole checkpoint, for mmpretrain's MAE "
        "(configs/mae); timm: encoder and classifier under timm's names, or a folder for "
        'local-dir: and the hub; hf: a folder for from_pretrained of transformers',
    )
    parser.add_argument(
        '--arch', metavar='NAME', help=f'refuse another arch than this one of {", ".join(ARCHS)}'
    )
    parser.add_argument(
        '--config', metavar='CONFIG', help="hold the file against this config's model instead"
    )
    parser.add_argument(
        '--raw', action='store_true', help='of a run with EMA: the raw weights, not the averaged'
    )
    parser.add_argument(
        '--licence',
        metavar='NAME',
        default='other',
        help='of the weights, for the card of a folder',
    )
    parser.add_argument(
        '--channels',
        type=int,
        metavar='N',
        help="make the encoder's patch projection for N channels of its three for RGB, by timm's "
        'rule: 1 is their sum, more repeat them, times 3 / N; decoders are left behind',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    lines = convert_file(**vars(args), record=partial(record_of, args.source))
    print(visible('\n'.join(lines)))


if __name__ == '__main__':
    one_line(main)
