"""MMEngine's parameter groups, merged: a deep ViT has hundreds of parameters and two settings."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """As MMEngine's default constructor, with one group for all parameters of equal settings.

    MMEngine makes a group of every single parameter; fused and foreach optimizers then work on one
    tensor at a time, and schedulers walk hundreds of groups.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not prefix:  # the call for the whole model, after those for its children
            params[:] = merged(params)


def merged(groups: list[dict]) -> list[dict]:
    """Groups of equal settings as one; parameters and groups keep the order they came in."""
    found = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        one = found.setdefault(tuple(sorted(settings.items())), dict(params=[], **settings))
        one['params'].extend(group['params'])
    return list(found.values())
