"""What updates act on: parameter groups (layer-wise or merged), ZeRO's state, averaged weights.

Layer-wise decay is that of MAE's fine-tuning, https://arxiv.org/abs/2111.06377. The keys of
``paramwise_cfg`` are those of mmpretrain's LearningRateDecayOptimWrapperConstructor, which makes a
group of every single parameter and takes nothing but classifiers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import MomentumAnnealingEMA
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, ZeroRedundancyOptimizer
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from torch import nn
from torch.optim import Optimizer

from mirl_mm.errors import UserError, did_you_mean

from .machine import accumulative_counts

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
STEM = ('pos_embed', 'cls_token', 'register_tokens', 'patch_embed')
RATE = 'layer_decay_rate'
DECAYS = ('norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult')
PARAMWISE = (  # what MMEngine's default constructor reads, with get
    *DECAYS, 'custom_keys', 'bias_lr_mult', 'dwconv_decay_mult', 'dcn_offset_lr_mult',
    'bypass_duplicate', 'part',
)  # fmt: skip


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups of lr = base lr * rate^(last layer - layer), one per layer and weight decay.

    Layer 0 is patch embedding, positions, cls and registers; layer i the i-th block; the last one
    everything behind the blocks (final norms, necks, heads). The backbone says which is which by
    ``get_layer_depth`` and is checked. Parameters that are frozen when the optimizer is built stay
    out. The table of groups is logged once, at INFO.

    ``paramwise_cfg`` has the ``layer_decay_rate``, above 0 and at most 1, and factors on the weight
    decay, of which the first that applies to a parameter counts: ``custom_keys`` (``{part of a
    name: dict(decay_mult=...)}``, the longest match first), ``norm_decay_mult``,
    ``bias_decay_mult``, ``flat_decay_mult`` (1-D parameters).
    """

    def _validate_cfg(self) -> None:
        cfg, known = self.paramwise_cfg, (RATE, *DECAYS, 'custom_keys')
        if unknown := sorted(set(cfg) - set(known)):
            raise UserError(f'paramwise_cfg has {unknown}; known are {", ".join(known)}')
        if not 0 < cfg.get(RATE, 0) <= 1:
            raise UserError(f'{RATE} must be above 0 and at most 1, got {cfg.get(RATE)}')
        for key, setting in cfg.get('custom_keys', {}).items():
            if set(setting) != {'decay_mult'}:
                why = 'it takes decay_mult alone (the learning rate follows from the layer)'
                raise UserError(f'custom_keys[{key!r}] is {setting}; {why}')
        if not all(isinstance(each, int | float) for each in (self.base_lr, self.base_wd)):
            given = f'lr={self.base_lr}, weight_decay={self.base_wd}'
            raise UserError(f'the optimizer needs lr and weight_decay, numbers; got {given}')
        if (factors := sorted(set(cfg) - {RATE})) and not self.base_wd:
            raise UserError(f'{factors} have no effect with weight_decay={self.base_wd}')

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        """Append the groups of a whole model to ``params``, the first layer first."""
        layers, last = layers_of(module)
        rate, custom = self.paramwise_cfg[RATE], self.paramwise_cfg.get('custom_keys', {})
        idle = {*custom, *self.paramwise_cfg} - {RATE, 'custom_keys'}
        groups, frozen = [], 0
        for name, param in module.named_parameters():
            factors = self._decay_factors(name, module, param)
            idle -= factors.keys()
            if not param.requires_grad:
                frozen += param.numel()
                continue
            lr = self.base_lr * rate ** (last - layers[name])
            decay = self.base_wd * next(iter(factors.values()), 1)
            groups.append(dict(params=[param], lr=lr, weight_decay=decay, layer_id=layers[name]))
        if idle:
            nowhere = f'apply to no parameter of {type(module).__name__}'
            raise UserError(f'in paramwise_cfg, {sorted(idle)} {nowhere}')
        groups.sort(key=lambda group: (group['layer_id'], group['weight_decay']))
        params.extend(merged(groups))
        print_log(f'{RATE}={rate}\n{table(params, frozen)}', logger='current')

    def _decay_factors(self, name: str, model: nn.Module, param: nn.Parameter) -> dict[str, float]:
        """The factors that apply to a parameter, by setting; the first one counts."""
        cfg, owner = self.paramwise_cfg, model.get_submodule(name.rpartition('.')[0])
        custom = {key: keyed for key, keyed in cfg.get('custom_keys', {}).items() if key in name}
        longest = sorted(custom, key=lambda key: (-len(key), key))
        applies = (isinstance(owner, NORMS), name.endswith('.bias'), param.ndim == 1)
        kinds = {key: cfg[key] for key in compress(DECAYS, applies) if key in cfg}
        return {key: custom[key]['decay_mult'] for key in longest} | kinds


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """As MMEngine's default constructor, with one group for all parameters of equal settings.

    MMEngine makes a group of every single parameter, hundreds in a deep ViT; fused and foreach
    optimizers then work on one tensor at a time, and schedulers walk hundreds of groups.

    ``paramwise_cfg.part`` is one key more: the name of a part of the model, such as ``backbone``,
    whose parameters get groups of their own, for PartLinearLR.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        if unknown := sorted(self.paramwise_cfg.keys() - set(PARAMWISE)):
            near, known = did_you_mean(unknown[0], PARAMWISE), ', '.join(PARAMWISE)
            raise UserError(f'paramwise_cfg has {unknown}{near}; known are {known}')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        # the call for the whole model, after those for its children
        if part := self.paramwise_cfg.get('part'):
            parts = dict(module.named_children())
            if part not in parts:
                has = f'{type(module).__name__} has {", ".join(parts)}'
                raise UserError(f'paramwise_cfg.part is {part!r}; {has}')
            inside = {id(param) for param in parts[part].parameters()}
            for group in params:
                group['part'] = part if id(group['params'][0]) in inside else None
        params[:] = merged(params)


def merged(groups: list[dict]) -> list[dict]:
    """Groups of equal settings as one; parameters and groups keep the order they came in."""
    found = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        one = found.setdefault(tuple(sorted(settings.items())), dict(params=[], **settings))
        one['params'].extend(group['params'])
    return list(found.values())


def layers_of(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of every parameter by name, and the last layer; a UserError if told wrong."""
    backbone = getattr(model, 'backbone', None)
    who = f'the backbone of {type(model).__name__}, {type(backbone).__name__},'
    if not hasattr(backbone, 'get_layer_depth'):
        raise UserError(f'{who} has no get_layer_depth; MIRLViT and MIRLDenseViT have it')
    names = [name for name, _ in model.named_parameters()]
    told = [backbone.get_layer_depth(name, prefix='backbone.') for name in names]
    layers = {name: layer for name, (layer, _) in zip(names, told, strict=True)}
    totals = sorted({total for _, total in told})
    if len(totals) != 1:
        raise UserError(f'{who} tells different numbers of layers: {totals}')
    last = totals[0] - 1
    own = {layer for name, layer in layers.items() if name.startswith('backbone.')}
    if missing := sorted(set(range(1, last)) - own):
        raise UserError(f'{who} tells {last - 1} blocks, but no parameter is in layers {missing}')
    wrong = []
    for name, layer in layers.items():
        room, _, inner = name.partition('.')
        right = layer == last if room != 'backbone' else not inner.startswith(STEM) or layer == 0
        if not (right and 0 <= layer <= last):
            wrong.append(f'{name}: {layer}')
    if wrong:
        rule = f'{", ".join(STEM)} are 0 and what is outside the backbone is {last}'
        told = f'it tells {", ".join(wrong[:3])}'
        raise UserError(f'{who} tells wrong layers: of 0 to {last}, {rule}; {told}')
    return layers, last


def table(groups: list[dict], frozen: int) -> str:
    """The groups as text, one a line."""
    lines = [f'{"layer":>5} {"lr":>10} {"weight decay":>12} {"parameters":>12}']
    for group in groups:
        size = sum(param.numel() for param in group['params'])
        lines.append('{layer_id:5} {lr:10.3e} {weight_decay:12g} {0:12,}'.format(size, **group))
    return '\n'.join([*lines, f'frozen, in no group: {frozen:,} parameters'])


@contextmanager
def gathered_state(optim_wrapper: OptimWrapper) -> Iterator[None]:
    """Inside, the main process has the whole state; all processes enter at once.

    ZeRO gathers its state when asked; MMEngine asks on the main process alone, and would hang.
    """
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        yield
        return
    state = optimizer.state_dict()
    optimizer.state_dict = lambda: state
    try:
        yield
    finally:
        del optimizer.state_dict


def own_part(optimizer: Optimizer) -> Optimizer:
    """The optimizer that updates this process's share of the parameters, without ZeRO itself."""
    return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer


@MODELS.register_module()
class ForeachEMA(MomentumAnnealingEMA):
    """MMEngine's MomentumAnnealingEMA with the same values, args and checkpoints.

    MMEngine reads the buffer ``steps`` for every weight; here the host counts along. EMAHook counts
    iterations: an accumulation of k needs ``interval=k`` and k times the gamma.
    """

    count = 0  # what `steps` holds

    def load_state_dict(self, *args, **kwargs) -> object:
        result = super().load_state_dict(*args, **kwargs)
        self.count = self.steps.item()
        return result

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [(own, source[name].to(own.device)) for name, own in self.avg_parameters.items()]
        if self.count == 0:
            torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        elif self.count % self.interval == 0:
            pairs = [pair for pair in pairs if pair[0].is_floating_point()]
            momentum = max(self.momentum, self.gamma / (self.gamma + self.count))
            torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), momentum)
        if not self.update_buffers:
            for own, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
                own.copy_(buffer)
        self.steps += 1
        self.count += 1


@HOOKS.register_module()
class RawWeightsHook(Hook):
    """In training, validate the raw weights after EMAHook has validated the averaged ones.

    Metrics keep their names for the averaged weights, which are also what a checkpoint's
    ``state_dict`` has and what ``save_best`` goes by (``accuracy/top1``); those of the raw weights
    are ``raw/accuracy/top1``. Warns of an EMAHook that does not average updates.
    """

    priority = 55  # behind EMAHook (50), which puts the raw weights back, before LoggerHook (60)
    training = False  # a loaded checkpoint has one set of weights

    def before_train(self, runner: Runner) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
        if hook is None:
            raise UserError('RawWeightsHook has no effect without an EMAHook in custom_hooks')
        self.training = True
        interval, updates = hook.ema_model.interval, accumulative_counts(runner.cfg)
        if interval != updates:
            often = f'every {interval} iterations, but there is an update every {updates}'
            gamma = getattr(hook.ema_model, 'gamma', None)  # that fits the interval it has
            how = f' and gamma={gamma * updates / interval:g}' if gamma else ''
            runner.logger.warning(f'EMAHook averages {often}: give it interval={updates}{how}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not self.training:
            return
        loop = runner.val_loop
        for index, batch in enumerate(loop.dataloader):
            loop.run_iter(index, batch)
        for name, value in loop.evaluator.evaluate(len(loop.dataloader.dataset)).items():
            runner.message_hub.update_scalar(f'val/raw/{name}', value)
            metrics[f'raw/{name}'] = value

    def after_train(self, runner: Runner) -> None:
        self.training = False
