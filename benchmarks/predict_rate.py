"""Pictures per second of tools/predict.py beside those of the bare model, alternately.

    python -m benchmarks.predict_rate CONFIG [OPTION ...] --out benchmarks/results/NAME.json

The pictures are those of benchmarks.loader, 500x375 JPEGs in one folder. The bare model gets
batches that were read before; predict_pictures reads, predicts and writes results, without
drawings, from the moment at which its model is loaded. Weights are random.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope

from benchmarks.loader import write_pictures
from benchmarks.timing import Spent, add_out, save, timed, use_threads
from mirl_mm.apps.predict import TASKS, predict_pictures, read
from mirl_mm.engine.launch import load_config


def checkpoint_of(cfg: Config, path: Path) -> str:
    """Random weights, with names of classes."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    head = cfg.model.get('roi_head', {}).get('bbox_head') or cfg.model.get('decode_head')
    number = (head or cfg.model.head).num_classes
    names = [f'class {i}' for i in range(number)]
    meta = dict(dataset_meta=dict(classes=names, palette=[(i, 0, 0) for i in range(number)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def predict(given: Mapping[str, object]) -> Spent:
    """From the loaded model on; CPU time is that of the process with the model."""
    started = []

    def progress(done: int, total: int) -> None:
        started.append(Spent(time.perf_counter(), time.process_time()))

    list(predict_pictures(**given, progress=progress))
    return Spent(time.perf_counter() - started[0].wall, time.process_time() - started[0].cpu)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[Spent]]:
    """What each run spent, a value a round."""
    pictures = folder / 'pictures'
    pictures.mkdir()
    write_pictures(pictures, args.pictures)
    options = {'model.backbone.init_cfg': None, **(args.options or {})}
    cfg = load_config(args.config, options)
    module, kind, ending = TASKS[cfg.default_scope]
    given = dict(
        config=args.config,
        checkpoint=checkpoint_of(cfg, folder / 'model.pth'),
        pictures=str(pictures),
        out=None,
        results=str(folder / f'found{ending}'),
        batch_size=args.batch_size,
    )
    inferencer = getattr(import_module(module), kind)(cfg, given['checkpoint'])
    paths = sorted(pictures.iterdir())
    chunks = [paths[i : i + args.batch_size] for i in range(0, len(paths), args.batch_size)]
    batches = [
        pseudo_collate([data for _, _, data in read(inferencer.pipeline, False, chunk)])
        for chunk in chunks
    ]
    runs = {'bare model': lambda: timed(lambda: [inferencer.forward(batch) for batch in batches])}
    for workers in args.workers:
        more = dict(cfg_options=options | {'test_dataloader.num_workers': workers})
        runs[f'predict, {workers} workers'] = partial(predict, given | more)
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            spent[name].append(run())
            rates = ', '.join(
                f'{clock} {args.pictures / x:.1f}' for clock, x in spent[name][-1]._asdict().items()
            )
            print(f'{name:<20} pictures/s: {rates}', flush=True)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description='Pictures per second of predict_pictures.')
    parser.add_argument('config')
    parser.add_argument('options', nargs='*', action=DictAction, metavar='KEY=VALUE')
    parser.add_argument('--pictures', type=int, default=1000)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    add_out(parser)
    args = parser.parse_args()
    use_threads(args)
    with tempfile.TemporaryDirectory() as folder:
        spent = measure(args, Path(folder))
    result = {}
    for clock in ('wall', 'cpu'):
        seconds = {name: [getattr(x, clock) for x in each] for name, each in spent.items()}
        bare = seconds['bare model']
        result[clock] = {
            name: dict(
                pictures_per_second=round(args.pictures / statistics.median(each), 2),
                share_of_the_bare_model=round(
                    statistics.median(b / x for b, x in zip(bare, each, strict=True)), 3
                ),
            )
            for name, each in seconds.items()
        }
    print(result)
    save(args, result)


if __name__ == '__main__':
    main()
