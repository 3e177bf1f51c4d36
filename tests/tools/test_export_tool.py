"""tools/export.py as users start it."""

import torch
from mmengine.registry import MODELS, init_default_scope

from mirl_mm.engine.launch import load_config
from tests.processes import run_forked

CONFIG = 'mae/vit-test_2e'


def test_one_line_on_what_was_written(tmp_path):
    cfg = load_config(CONFIG)
    init_default_scope('mmpretrain')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'epoch_2.pth')
    arguments = (CONFIG, 'epoch_2.pth', 'new/encoder.pt2', '--size', 32, 48)
    (printed,) = run_forked('export.py', *arguments, cwd=tmp_path)
    (line,) = [line for line in printed.splitlines() if line.startswith('new/')]
    assert line.startswith('new/encoder.pt2: torch ') and 'any batch, 32x48 px, RGB less' in line
    assert line.endswith(
        'Of two: cls [2, 48], patches [2, 6, 48], tap_1 [2, 6, 48], tap_2 [2, 6, 48]'
    )
    found = torch.export.load(tmp_path / 'new/encoder.pt2').module()(torch.zeros(5, 3, 32, 48))
    assert found['cls'].shape == (5, 48)
