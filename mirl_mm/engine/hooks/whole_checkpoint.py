"""Before testing: does the checkpoint hold all of the model?"""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.checkpoint.loading import check_whole


@HOOKS.register_module()
class WholeCheckpointHook(Hook):
    """Refuse a checkpoint that is not all of the model, as an encoder alone lacks the heads.

    tools/test.py adds this hook by itself; a training run may well start from a part.

    Raises:
        ValueError: it names the weights.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_whole(model, checkpoint.get('state_dict', checkpoint), runner._load_from)
