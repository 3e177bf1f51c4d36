"""The largest pre-training batch of every arch by a GPU's memory: an estimate, nothing is trained.

    python -m benchmarks.largest_batch --out benchmarks/results/NAME.json

See mirl_mm/measure/rehearsal.py for what is counted and what room is left. One GPU, bfloat16,
AdamW, with and without checkpointing of encoder and decoder blocks.
"""

import argparse
from pathlib import Path

from mmengine.config import Config

from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json
from mirl_mm.measure.rehearsal import probe, usable
from mirl_mm.models.archs import ARCHS

ROOT = Path(__file__).parents[1]
MEMORY_GB = (24, 40, 80, 141)
SETTINGS = {'plain': dict(), 'with_cp': dict(with_cp=True)}


def largest(arch: str, schedule: str = '300e') -> dict[str, dict]:
    """By setting: bytes for any batch, bytes for every image, and the largest batches."""
    found = {}
    for name, settings in SETTINGS.items():
        cfg = Config.fromfile(ROOT / f'configs/mirl/vit-{arch}_{schedule}.py').model
        cfg.pop('data_preprocessor')
        cfg.backbone.update(settings)
        cfg.neck.update(settings)
        memory = probe(cfg).memory()
        found[name] = dict(
            fixed_gb=round(memory.fixed / 1e9, 3),
            per_image_gb=round(memory.per_image / 1e9, 4),
            largest={str(gb): memory.largest_batch(usable(gb)) for gb in MEMORY_GB},
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='The largest batch by memory, estimated.')
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    archs = {}
    for arch in (arch for arch in ARCHS if arch != 'test'):
        archs[arch] = largest(arch)
        for name, found in archs[arch].items():
            print(arch, name, found, flush=True)
    if args.out:
        write_json(args.out, dict(environment(), archs=archs))


if __name__ == '__main__':
    main()
