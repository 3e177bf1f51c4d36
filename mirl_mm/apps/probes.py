"""What tools/knn.py does: a config and a checkpoint to accuracies."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.device import get_device
from mmengine.dist import init_dist, is_main_process
from mmengine.fileio import exists

from mirl_mm.datasets.class_folders import folders_of, train_and_val
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import has_accelerator, set_launcher, start_gloo, world_size
from mirl_mm.engine.run_facts import environment
from mirl_mm.engine.stopping import follow_launcher, leave_group
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, write_json
from mirl_mm.measure.features import POOLS, Loading, load_encoder, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import TEMPERATURE, evaluate_knn, fitting_ks


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
    val_limit: int | None = None,
) -> dict[str, float]:
    """What ``tools/knn.py --help`` tells; returns accuracies in % by ``cls_k10`` and so on."""
    follow_launcher()
    loading.check()
    cfg = load_config(config, cfg_options)
    pairs = list(zip((train, val), folders_of(cfg), strict=True))
    if absent := [own for given, own in pairs if not given and not (own and exists(own))]:
        there = f' that are there ({", ".join(filter(None, absent))})' if any(absent) else ''
        how = 'give class folders with --train and --val'
        raise UserError(f'{config} names no images{there}: {how}')
    folders = [given or own for given, own in pairs]
    encoder, preprocessor = load_encoder(cfg, checkpoint), preprocessor_of(cfg)
    pipeline = test_pipeline_of(cfg, encoder.img_size)
    sets = train_and_val(*folders, pipeline, limit, val_limit)
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
    leave_group()
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
            amp=loading.amp, val_limit=val_limit,
        )  # fmt: skip
        write_json(out, environment() | dict(settings=settings, top1=accuracies))
    return accuracies
