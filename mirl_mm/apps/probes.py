"""What tools/knn.py and tools/probe_depth.py do: a config and checkpoints to accuracies."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process
from mmengine.fileio import exists
from torch.distributed import destroy_process_group

from mirl_mm.datasets.class_folders import check_classes, class_folders, folders_of
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import has_accelerator, set_launcher, start_gloo, world_size
from mirl_mm.engine.run_facts import environment
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, complete_file, write_json
from mirl_mm.measure.cached import weights_of
from mirl_mm.measure.depth import Probing, depth_features, probed_blocks, probes
from mirl_mm.measure.features import POOLS, Loading, load_encoder, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import TEMPERATURE, check_ks, evaluate_knn, fitting_ks
from mirl_mm.measure.linear import check_enough
from mirl_mm.pictures.charts import depth_charts, draw_charts


def run_knn(
    config: str,
    checkpoint: str,
    train: str | None = None,
    val: str | None = None,
    ks: Sequence[int] | None = None,
    temperature: float = TEMPERATURE,
    limit: int | None = None,
    out: str | None = None,
    loading: Loading = Loading(),  # noqa: B008 (immutable)
    launcher: str = 'none',
    cfg_options: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """What ``tools/knn.py --help`` tells; returns accuracies in % by ``cls_k10`` and so on."""
    cfg = load_config(config, cfg_options)
    pairs = list(zip((train, val), folders_of(cfg), strict=True))
    if absent := [own for given, own in pairs if not given and not (own and exists(own))]:
        there = f' that are there ({", ".join(filter(None, absent))})' if any(absent) else ''
        how = 'give class folders with --train and --val'
        raise UserError(f'{config} names no images{there}: {how}')
    folders = [given or own for given, own in pairs]
    encoder, preprocessor = load_encoder(cfg, checkpoint), preprocessor_of(cfg)
    pipeline = test_pipeline_of(cfg, encoder.img_size)
    sets = [class_folders(folder, pipeline, limit) for folder in folders]
    check_classes(*sets)
    ks, left_out = fitting_ks(ks, len(sets[0]), '--k')
    if out:
        check_folder(Path(out).parent)
        if Path(out).is_dir():
            raise OSError(f'cannot write {out}: it is a folder; give --out a file')
    if world_size(launcher, os.environ) > 1:
        set_launcher(cfg, launcher, has_accelerator())
        if has_accelerator():
            init_dist(launcher, **cfg.env_cfg.dist_cfg)
        start_gloo(cfg)
    vit, preprocessor = encoder.to(get_device()), preprocessor.to(get_device())
    accuracies = evaluate_knn(vit, preprocessor, *sets, ks, temperature, loading)
    main = is_main_process()
    if is_distributed():  # end together: gloo may abort where a process leaves the others early
        barrier()
        destroy_process_group()
    if not main:
        return accuracies
    if left_out:
        print(left_out)
    print(f'{"":>6} ' + ' '.join(f'{f"k={k}":>7}' for k in ks))
    for pool in POOLS:
        print(f'{pool:>6} ' + ' '.join(f'{accuracies[f"{pool}_k{k}"]:7.2f}' for k in ks))
    if out:
        settings = dict(
            config=config, checkpoint=checkpoint, train=folders[0], val=folders[1], limit=limit,
            temperature=temperature, train_images=len(sets[0]), val_images=len(sets[1]),
            amp=loading.amp,
        )  # fmt: skip
        write_json(out, environment() | dict(settings=settings, top1=accuracies))
    return accuracies


def probe_depth(
    cfg: Config,
    checkpoints: Sequence[str],
    train: str,
    val: str,
    out: str | Path,
    every: int = 1,
    limit: int | None = None,
    labels: Sequence[str] | None = None,
    pools: Sequence[str] = ('avg',),
    k: int = 20,
    loading: Loading = Loading(),  # noqa: B008 (immutable)
) -> list[dict]:
    """Probe checkpoints of one arch; write ``depth.csv``, ``.json`` and ``.png``, return the rows.

    A row is a ``label`` and what :func:`mirl_mm.measure.depth.probes` finds. Features are kept in
    ``out/features`` by what they depend on: an interrupted run goes on, and more checkpoints cost
    only themselves. The arguments are as ``tools/probe_depth.py --help`` tells them; by default the
    cls token, to which masked pre-training gives no task, is not probed.
    """
    labels = checkpoint_labels(checkpoints, labels)
    if not pools or set(pools) - set(POOLS):
        raise UserError(f'pools must be some of {", ".join(POOLS)}, got {list(pools)}')
    encoders = [load_encoder(cfg, path) for path in checkpoints]
    blocks = probed_blocks(encoders[0].num_layers, every)
    pipeline = test_pipeline_of(cfg, encoders[0].img_size)
    sets = [class_folders(folder, pipeline, limit) for folder in (train, val)]
    check_classes(*sets)
    check_ks([k], len(sets[0]), '--k')
    check_enough(len(sets[0]))
    check_folder(out := Path(out))
    how = Probing(blocks, pools, pipeline, preprocessor_of(cfg), loading)
    rows, targets = [], [torch.from_numpy(each.get_gt_labels()) for each in sets]
    for label, path, encoder in zip(labels, checkpoints, encoders, strict=True):
        weights = weights_of(path)
        features = [
            depth_features(encoder, weights, images, how, out / 'features', f'{label}, {part}')
            for images, part in zip(sets, ('training', 'validation'), strict=True)
        ]
        for found in probes(features, targets, how, k):
            rows.append(dict(label=label, **found))
            where = f'{label}, block {found["block"]} of {encoder.num_layers}, {found["pool"]}'
            accuracies = f'{k}-NN {found["knn"]:.2f} %, linear {found["linear"]:.2f} %'
            print(f'  {where}: {accuracies}', flush=True)
    settings = dict(
        config=os.path.relpath(cfg.filename), train=train, val=val, every=every,
        checkpoints=dict(zip(labels, checkpoints, strict=True)), limit=limit, k=k,
        classes=len(targets[0].unique()), train_images=len(sets[0]), val_images=len(sets[1]),
        amp=loading.amp,
    )  # fmt: skip
    _write_depth(out, rows, settings)
    return rows


def checkpoint_labels(checkpoints: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """The given labels, or ``folder/stem`` of the paths; UserError where they are not one each."""
    labels = labels or ['/'.join(Path(p).with_suffix('').parts[-2:]) for p in checkpoints]
    if not len(labels) == len(set(labels)) == len(checkpoints):
        wanted = f'{len(checkpoints)} checkpoints need as many different labels'
        raise UserError(f'{wanted}, got {", ".join(labels)}; --labels sets them')
    return list(labels)


def _write_depth(out: Path, rows: Sequence[dict], settings: dict) -> None:
    with complete_file(out / 'depth.csv') as part, part.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(out / 'depth.json', environment() | dict(settings=settings, rows=rows))
    draw_charts(depth_charts(rows, settings['k']), out / 'depth.png')
