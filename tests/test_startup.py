"""Pre-training imports no package that it does not need."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
NOT_THERE = ('mmdet', 'mmseg', 'transformers', 'pycocotools', 'timm', 'pandas')
NOT_OURS = (*NOT_THERE, 'matplotlib')  # mmengine's visualizer needs it

# Imports of what is "not there" raise; mmpretrain does without mmdet where it is not installed.
SCRIPT = f"""
import builtins, sys
for name in {NOT_THERE}:
    sys.modules[name] = None
plain, ours = builtins.__import__, []
def watched(name, globals=None, *rest, **kwargs):
    importer = (globals or {{}}).get('__name__') or ''
    if importer.startswith('mirl_mm') and name.partition('.')[0] in {NOT_OURS}:
        ours.append((importer, name))
    return plain(name, globals, *rest, **kwargs)
builtins.__import__ = watched
from mirl_mm.engine.launch import build_runner, training_config
images, work_dir = sys.argv[1:]
data = dict(data_root=images, data_prefix='')
options = {{
    f'{{loader}}.dataset.{{key}}': value
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
    for key, value in data.items()
}}
cfg, notes = training_config('configs/mirl/vit-test_2e.py', work_dir, cfg_options=options)
cfg.train_dataloader.batch_size = 4
cfg.train_cfg.max_epochs = 1
cfg.param_scheduler = None
build_runner(cfg, notes).train()
exec('import matplotlib', dict(__name__='mirl_mm.planted'))
print('trained', ours)
"""


def test_a_whole_run_without_the_packages_it_does_not_need(tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(images / f'{i}.jpg')
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(images), str(tmp_path / 'work')],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("trained [('mirl_mm.planted', 'matplotlib')]")
