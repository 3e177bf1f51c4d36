"""Before training a classifier: do images, labels and head go together?"""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mirl_mm.datasets.class_folders import check_classes, check_number, class_names, where


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuse class folders of which one is empty, or that differ between training and validation.

    Without it labels shift in silence, since a label is the place of a folder among the others.

    Raises:
        ValueError: at the start; also where the head or the data preprocessor is set to another
            number of classes.
    """

    def before_train(self, runner: Runner) -> None:
        train = runner.train_dataloader.dataset
        check_classes(train, runner.val_dataloader.dataset if runner.val_loop else None)
        names = class_names(train)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for part in ('head', 'data_preprocessor'):
            number = getattr(getattr(model, part, None), 'num_classes', None)
            if names is not None:
                check_number(len(names), where(train), part, number)
