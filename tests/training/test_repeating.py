"""An iteration that is repeated gives what it gave, and leaves no trace in the run."""

import pytest
import torch
from mmengine.hooks import Hook

from mirl_mm.engine.hooks.finite import find_blame
from mirl_mm.engine.launch import build_runner, training_config
from tests.test_host_reads import ROOT, RUNS, options


class RepeatEach(Hook):
    """Looks for blame behind every iteration."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.losses = []  # of every iteration: as trained, repeated

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with runner.train_loop.repeating(runner.iter) as forward:
            blame = find_blame(runner.model, forward)
        assert (blame.place, blame.bad_gradients) == ('nowhere', 0) and blame.gradients > 100
        self.losses.append((outputs['loss'].item(), blame.losses['loss']))


@pytest.mark.parametrize('name', ['finetune', pytest.param('upernet', marks=pytest.mark.long)])
def test_repeating_is_exact_and_leaves_no_trace(name, tmp_path):
    """Mixed images, drop paths and running averages of BN; groups of two."""
    given = options(name, tmp_path) | {'randomness.seed': 1, 'randomness.diff_rank_seed': True}
    watch, ends = RepeatEach(), []
    for hooks in ([], [watch]):
        given['experiment_name'] = f'{tmp_path.name}-{len(hooks)}'
        work_dir = str(tmp_path / f'run{len(hooks)}')
        cfg, _ = training_config(str(ROOT / 'configs' / RUNS[name]), work_dir, cfg_options=given)
        runner = build_runner(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
        ends.append(runner.model.state_dict())
    assert len(watch.losses) == 10
    for i, (trained, repeated) in enumerate(watch.losses):
        assert (trained == repeated) == (i % 2 == 0), i  # every second one updates the weights
    for key, value in ends[0].items():
        assert torch.equal(ends[1][key], value), key
