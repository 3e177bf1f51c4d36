"""What exported files of one encoder compute, and how fast, on a CPU.

    python -m benchmarks.export --threads 1 --clock cpu --out benchmarks/results/export_cpu.json

S-12 at 224 px with random weights and positions: torch as it is, its torch.export program, and its
ONNX file in onnxruntime, alternately, at two batch sizes; and the largest difference from torch, at
the table's size and at 160 x 288 px. Under 4 minutes on one thread.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.timing import add_options, alternate, save, show, summarise, use_threads
from mirl_mm.apps.export import export_model
from mirl_mm.engine.launch import load_config
from mirl_mm.measure.features import RANDOM, load_encoder

CONFIG = 'mirl/vit-s12_300e'
SIZES = ((224, 224), (160, 288))
Run = Callable[[Tensor], tuple[Tensor, Tensor]]  # images to cls and patches


def encoder() -> nn.Module:
    """As it is before training, with positions that are not smooth."""
    vit = load_encoder(load_config(CONFIG), RANDOM)
    torch.manual_seed(0)
    nn.init.normal_(vit.pos_embed, std=0.5)
    nn.init.normal_(vit.cls_token)
    vit.out_type = 'raw'
    return vit


def runs_of(vit: nn.Module, folder: Path, threads: int) -> dict[str, Run]:
    """Torch, and what reads each of the two files."""
    checkpoint = folder / 'encoder.pth'
    torch.save({f'backbone.{name}': x for name, x in vit.state_dict().items()}, checkpoint)
    for name in ('encoder.pt2', 'encoder.onnx'):
        print(export_model(CONFIG, str(checkpoint), str(folder / name)), flush=True)
    program = torch.export.load(folder / 'encoder.pt2').module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / 'encoder.onnx', options)

    def eager(images: Tensor) -> tuple[Tensor, Tensor]:
        (tokens,) = vit(images)
        return tokens[:, 0], tokens[:, 1:]

    def exported(images: Tensor) -> tuple[Tensor, Tensor]:
        found = program(images)
        return found['cls'], found['patches']

    def onnx(images: Tensor) -> tuple[Tensor, Tensor]:
        cls, patches = session.run(['cls', 'patches'], dict(images=images.numpy()))
        return torch.from_numpy(cls), torch.from_numpy(patches)

    return {'torch': eager, 'torch.export': exported, 'onnxruntime': onnx}


def difference(runs: dict[str, Run]) -> dict[str, dict[str, float]]:
    """The largest from torch, by name and size, and the largest value of all."""
    found: dict[str, dict[str, float]] = {name: {} for name in runs}
    for height, width in SIZES:
        images = torch.randn(3, 3, height, width)
        wanted = runs['torch'](images)
        for name, run in runs.items():
            pairs = zip(run(images), wanted, strict=True)
            worst = max(float((one - other).abs().max()) for one, other in pairs)
            found[name][f'{height}x{width}'] = worst
        print(f'{height}x{width}: values up to {max(x.abs().max() for x in wanted):.2f}')
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description='Rates and differences of exported files.')
    parser.add_argument('--batches', type=int, nargs=2, default=[1, 8])
    add_options(parser)
    args = parser.parse_args()
    use_threads(args)
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of(encoder(), Path(folder), torch.get_num_threads())
        result = dict(difference=difference(runs), batches={})
        for batch in args.batches:
            images = torch.randn(batch, 3, *SIZES[0])
            steps = {name: lambda run=run, x=images: run(x) for name, run in runs.items()}
            found = summarise(alternate(steps, args.rounds), 'torch', clock=args.clock)
            show(found)
            rates = {name: round(batch / each, 2) for name, each in found['medians'].items()}
            result['batches'][batch] = dict(found, images_per_second=rates)
    versions = dict(onnxruntime=onnxruntime.__version__)
    save(args, dict(result, arch='s12', onnx=versions))


if __name__ == '__main__':
    main()
