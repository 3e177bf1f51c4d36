"""What tools/knn.py does: a config and a checkpoint to accuracies."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.device import get_device
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process
from torch.distributed import destroy_process_group

from mirl_mm.datasets.class_folders import check_classes, class_folders, folders_of
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import has_accelerator, set_launcher, start_gloo, world_size
from mirl_mm.engine.run_facts import environment
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, write_json
from mirl_mm.measure.encoder import load_encoder
from mirl_mm.measure.features import Loading, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import KS, TEMPERATURE, check_ks, evaluate_knn


def run_knn(
    config: str,
    checkpoint: str,
    train: str | None = None,
    val: str | None = None,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    limit: int | None = None,
    out: str | None = None,
    loading: Loading = Loading(),  # noqa: B008 (immutable)
    launcher: str = 'none',
    cfg_options: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Evaluate, print the table and write it as JSON.

    Args:
        config: path of a config with the encoder's arch.
        checkpoint: a file with its weights, or ``random``.
        train: class folders of the images that vote; None takes the config's training images.
        val: class folders of the images to classify; None takes the config's test images.
        ks: numbers of neighbours.
        temperature: of the votes.
        limit: at most so many images of each class.
        out: the JSON to write, if any.
        loading: how images reach the encoder.
        launcher: one of ``adapt.LAUNCHERS``.
        cfg_options: as ``--cfg-options``.

    Returns:
        Accuracies in percent by ``cls_k10`` and the like.

    Raises:
        FileNotFoundError, ValueError: files, folders or settings that cannot be used.
    """
    cfg = load_config(config, cfg_options)
    folders = [given or own for given, own in zip((train, val), folders_of(cfg), strict=True)]
    if None in folders:
        raise UserError(f'{config} names no images: give class folders with --train and --val')
    encoder = load_encoder(cfg, checkpoint)
    pipeline = test_pipeline_of(cfg, encoder.img_size[0])
    sets = [class_folders(folder, pipeline, limit) for folder in folders]
    check_classes(*sets)
    check_ks(ks, len(sets[0]))
    if out:
        check_folder(Path(out).parent)
        if Path(out).is_dir():
            raise OSError(f'cannot write {out}: it is a folder; give --out a file')
    if world_size(launcher, os.environ) > 1:
        set_launcher(cfg, launcher, has_accelerator())
        if has_accelerator():
            init_dist(launcher, **cfg.env_cfg.dist_cfg)
        start_gloo(cfg)
    device = get_device()
    accuracies = evaluate_knn(
        encoder.to(device), preprocessor_of(cfg.model).to(device), *sets, ks, temperature, loading
    )
    main = is_main_process()
    if is_distributed():  # end together: gloo may abort where a process leaves the others early
        barrier()
        destroy_process_group()
    if not main:
        return accuracies
    print(f'{"":>6} ' + ' '.join(f'{f"k={k}":>7}' for k in ks))
    for pool in dict.fromkeys(name.split('_k')[0] for name in accuracies):
        print(f'{pool:>6} ' + ' '.join(f'{accuracies[f"{pool}_k{k}"]:7.2f}' for k in ks))
    if out:
        settings = dict(
            config=config, checkpoint=checkpoint, train=folders[0], val=folders[1], limit=limit,
            temperature=temperature, train_images=len(sets[0]), val_images=len(sets[1]),
            amp=loading.amp,
        )  # fmt: skip
        write_json(out, environment() | dict(settings=settings, top1=accuracies))
    return accuracies
