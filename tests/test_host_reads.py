"""Away from log lines an iteration of training reads nothing from the device.

Real runs of ten iterations with all default hooks, and a log line behind the last one. What others
read by themselves is listed in READ, and in docs/speed.md.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirl_mm.demo.scene_set import write_scenes
from mirl_mm.engine.launch import build_runner, training_config
from tests.class_folders import write_classes
from tests.host_reads import HostReads, reads_of

ROOT = Path(__file__).parents[1]
RUNS = {
    'mirl': 'mirl/vit-test_2e.py',
    'mae': 'mae/vit-test_2e.py',
    'finetune': 'finetune/vit-test_2e_classes.py',
    'linear': 'linear/vit-test_4e_classes.py',
    'mask-rcnn': 'mask-rcnn/vit-test_20it_scenes.py',
    'upernet': 'upernet/vit-test_20it_scenes.py',
}
READ = {
    'mirl': set(),
    'mae': set(),
    'finetune': set(),
    'linear': {  # no fused LARS
        'mirl_mm/engine/hooks/finite.py: _before_update',
        'mmpretrain/engine/optimizers/lars.py: step',
    },
    'mask-rcnn': {
        'mmcv/ops/nms.py: forward',
        'mmdet/models/dense_heads/anchor_head.py: _get_targets_single',
        'mmdet/models/dense_heads/rpn_head.py: _bbox_post_process',
        'mmdet/models/losses/cross_entropy_loss.py: _expand_onehot_labels',
        'mmdet/models/losses/smooth_l1_loss.py: forward',
        'mmdet/models/roi_heads/bbox_heads/bbox_head.py: loss',
        'mmdet/models/roi_heads/roi_extractors/single_level_roi_extractor.py: forward',
        'mmdet/models/task_modules/assigners/max_iou_assigner.py: assign_wrt_overlaps',
        'mmdet/models/task_modules/samplers/base_sampler.py: sample',
        'mmdet/models/task_modules/samplers/random_sampler.py: _sample_neg',
        'mmdet/models/task_modules/samplers/random_sampler.py: _sample_pos',
        'mmdet/models/utils/misc.py: unmap',
        'mmdet/structures/mask/mask_target.py: mask_target_single',
        'mmdet/structures/mask/structures.py: crop_and_resize',
        'mmengine/model/utils.py: stack_batch',  # sizes of images, on the host
        'mmengine/optim/optimizer/optimizer_wrapper.py: backward',  # through indices of booleans
    },
    'upernet': {
        'mirl_mm/engine/hooks/data.py: check_labels',  # masks, on the host
        'mmseg/models/losses/accuracy.py: accuracy',
    },
}


def options(name: str, tmp_path: Path) -> dict:
    """Ten iterations with a log line behind the tenth."""
    found = {
        'default_hooks.logger.interval': 10,
        'default_hooks.progress.lines': 1,
        'default_hooks.panel': None,
        'experiment_name': tmp_path.name,
        'param_scheduler': None,
    }
    if name in ('finetune', 'linear'):
        for split, count in (('train', 20), ('val', 2)):
            write_classes(tmp_path / split, ('blue', 'green', 'grey', 'red'), count)
        found |= {'train_cfg.max_epochs': 1, 'model.backbone.init_cfg': None}
        root = str(tmp_path)
    else:
        root = f'{write_scenes(tmp_path / "set", num_train=20, num_val=2).root}/'
        if name in ('mirl', 'mae'):
            found |= {'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 2}
        else:
            found |= {'train_cfg.max_iters': 10, 'model.backbone.init_cfg': None}
            found |= {'visualizer.name': tmp_path.name}  # they are global, by name
            found |= dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
        if name == 'mask-rcnn':
            found |= {'model.train_cfg.rpn_proposal.max_per_img': 50}
            found |= {'model.train_cfg.rcnn.sampler.num': 32}
    splits = dict(mirl=('train', 'val', 'test'), finetune=('train', 'val'), linear=('train', 'val'))
    splits = splits.get(name, ('train',))
    return found | {f'{split}_dataloader.dataset.data_root': root for split in splits}


@pytest.mark.parametrize('name', RUNS)
def test_nothing_is_read_away_from_log_lines(name, tmp_path):
    config = str(ROOT / 'configs' / RUNS[name])
    cfg, _ = training_config(config, str(tmp_path / 'run'), cfg_options=options(name, tmp_path))
    runner = build_runner(cfg)
    *away, last = reads_of(runner)
    assert len(away) == 9
    assert set().union(*away) == READ[name]
    assert last['mirl_mm/engine/hooks/late_losses.py: settle'] >= 1  # the counter sees
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 10 and all(loss > 0 for loss in losses)


def test_the_list_is_in_the_docs():
    text = (ROOT / 'docs/speed.md').read_text()
    for place in set().union(*READ.values()):
        file = place.partition(':')[0].rpartition('/')[2]
        assert f'`{file}`' in text, file


READERS = {
    'item': lambda x: x.sum().item(),
    'truth': lambda x: bool((x > 0).any()),
    'list': Tensor.tolist,
    'array': Tensor.numpy,
    'nonzero': torch.nonzero,
    'select': lambda x: torch.masked_select(x, x > 0),
    'index': lambda x: x[x > 0],
    'assign': lambda x: x.clone().index_put_((x > 0,), torch.tensor(0.0)),
    'unique': torch.unique,
    'equal': lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize('reader', READERS)
def test_the_counter_sees(reader):
    with HostReads() as reads:
        READERS[reader](torch.ones(3))
    assert sum(reads.found.values()) == 1
    with HostReads() as reads:
        x = torch.ones(3)
        torch.where(x > 0, x, -x)[torch.arange(2)].sum()
    assert not reads.found
