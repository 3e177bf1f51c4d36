"""The demo: from pictures to painted pictures, boxes and masks, in minutes on a CPU."""

import math
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.runner import Runner

from mirl_mm.apps.report import write_report
from mirl_mm.apps.report.runs import read_runs
from mirl_mm.engine.launch import build_runner, load_config, training_config
from mirl_mm.engine.machine import in_processes, spare_cores
from mirl_mm.files import some_of
from mirl_mm.models.segments import unwrapped
from mirl_mm.pictures.charts import charts_of, draw_charts
from mirl_mm.pictures.panel import paint, panel, write_picture

from .scene_set import write_scenes
from .transfer import ROOTS, SEEDS, run_transfer, told

PANEL_IMAGES = 8
UNLABELLED = 2000  # scenes to pre-train on; a few others have labels


def run_demo(
    config: str,
    transfer: Mapping[str, str],
    data: str | None = None,
    work_dir: str = 'work_dirs/demo',
    scenes_dir: str = 'data/scenes',
    cfg_options: dict | None = None,
    transfer_options: dict | None = None,
) -> dict[str, Path]:
    """Pre-train with MIRL and look at it; then detect and segment, with the encoder and without.

    `config` is the pre-training's, `transfer` has ``detection``'s and ``segmentation``'s; their
    options are as of ``--cfg-options``. `data` is a folder of pictures without labels, for
    pre-training alone; None generates scenes in `scenes_dir`. Returns what was written, by name.
    """
    started, scenes, folder = time.perf_counter(), None, Path(work_dir)
    options = dict(cfg_options or {})
    if data is None:
        print(f'Drawing scenes in {scenes_dir} ...', flush=True)
        scenes = write_scenes(scenes_dir, num_unlabelled=UNLABELLED)
        options = {key: f'{scenes.root}/' for key in ROOTS} | options
    batch = load_config(config, options).train_dataloader.batch_size
    number = math.gcd(batch, 1 << spare_cores(4).bit_length() - 1)  # 4, 2 or 1: more do not pay
    options['train_dataloader.batch_size'] = batch // number
    print(f'Pre-training, processes: {number}', flush=True)

    def pretrain(rank: int, number: int) -> None:
        kind = 'none' if number == 1 else 'pytorch'
        runner = build_runner(
            *training_config(config, work_dir, launcher=kind, cfg_options=options, data=data)
        )
        runner.train()
        if rank == 0:
            draw(runner)

    in_processes(number, pretrain)
    files = dict(encoder='encoder.pth', curve='loss.png', panel='panel.png')
    written = {name: folder / file for name, file in files.items()}
    written['checkpoint'] = Path((folder / 'last_checkpoint').read_text())
    runs = [folder]
    if scenes is None:
        print('Detection and segmentation are left out: they need labels, which pictures have not.')
    elif lacking := [name for name in ('mmcv._ext', 'mmdet', 'mmseg') if find_spec(name) is None]:
        why = f'no {", ".join(lacking)} here; `make demo` adds what they need'
        print(f'Detection and segmentation are left out: {why}.')
    else:
        encoder, tuning = str(written['encoder']), transfer_options or {}
        scores, pages, tuned = run_transfer(transfer, encoder, scenes, folder, tuning)
        written |= pages
        runs += tuned
        print(told(scores, scenes, {} if cfg_options or transfer_options else SEEDS))
    written['report'] = write_report(runs, folder / 'report.html')
    print(f'Done in {time.perf_counter() - started:.0f} s:')
    for name, path in written.items():
        print(f'  {name:<12} {os.path.relpath(path)}')
    return written


@torch.no_grad()
def draw(runner: Runner) -> None:
    """Write the loss curve and the panel of some held-out images, under their fixed masks."""
    model, loader = unwrapped(runner.model).eval(), runner.val_dataloader
    folder = Path(runner.work_dir)
    batch = some_of(loader.dataset, PANEL_IMAGES)
    preprocessor = model.data_preprocessor
    columns = paint(model, preprocessor(loader.collate_fn(batch)))
    charts = {chart['title']: chart for chart in charts_of(read_runs([folder]))}
    draw_charts([charts['Loss'], charts['Loss of each pair of segments']], folder / 'loss.png')
    write_picture(panel(columns, preprocessor.mean, preprocessor.std, zoom=2), folder / 'panel.png')
