"""A plan in words, and the command that follows from it."""

from mmengine.config import Config

from mirl_mm.engine.adapt import accumulative_counts
from mirl_mm.engine.hooks.run_summary import table
from mirl_mm.engine.launch import load_config

from .memory import SHARE
from .plan import GIGA, Plan


def describe(plan: Plan, config: str, cfg_options: dict | None = None) -> str:
    """Rows of text; `config` and `cfg_options` are what the plan was made from."""
    batch, memory = plan.batch, plan.memory
    fixed = (memory.fixed + plan.extra_bytes) / GIGA
    exact = batch.effective == plan.recipe_batch
    how = f'{batch.per_gpu} x {batch.gpus} GPUs x {batch.accumulation} accumulated'
    rows = [
        *plan.parameters,
        (
            'training step',
            f'{plan.training_flops / GIGA:,.4g} GFLOP an image '
            f'({plan.forward_flops / GIGA:,.4g} forward)',
        ),
        ('', 'counted: matrix products and attention, a multiply-add as two; not recomputation'),
        (
            'encoder, whole image',
            f'{plan.linear_macs / GIGA:,.3f} G multiply-adds in linear layers alone (what papers '
            'print as GFLOPs)',
        ),
        (
            'memory, estimated',
            f'{fixed:,.3g} GB + {memory.per_image / GIGA:,.3g} GB an image: at most '
            f'{plan.largest:,} images, {1 - SHARE:.0%} left over',
        ),
        (
            'effective batch',
            f'{batch.effective:,} = {how}'
            + ('' if exact else f'; the recipe has {plan.recipe_batch:,}'),
        ),
        ('peak memory, estimated', f'{plan.peak_bytes / GIGA:,.3g} GB per GPU'),
        ('length', f'{plan.length}: {plan.updates:,} updates, {plan.images_seen:,} images seen'),
        (
            'rate',
            f'{plan.speed.images:,.0f} images/s per GPU, {plan.speed.images * batch.gpus:,.0f} in '
            f'all ({plan.speed.source})',
        ),
        ('time', f'{plan.days:,.3g} days, without validation and checkpoints'),
        ('command', command(plan, config, cfg_options)),
    ]
    return table(rows)


def command(plan: Plan, config: str, cfg_options: dict | None = None) -> str:
    """How to start the run that was planned."""
    options = dict(cfg_options or {})
    options['train_dataloader.batch_size'] = plan.batch.per_gpu
    options['optim_wrapper.accumulative_counts'] = plan.batch.accumulation
    options |= ema_options(load_config(config, cfg_options), plan.batch.accumulation)
    words = ['tools/dist_train.sh', config, str(plan.batch.gpus)]
    if plan.batch.effective != plan.recipe_batch:
        words.append('--auto-scale-lr')
    return ' '.join(
        [*words, '--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    )


def ema_options(cfg: Config, accumulation: int) -> dict[str, object]:
    """EMAHook counts iterations, so its settings follow the accumulation."""
    options: dict[str, object] = {}
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if hook.get('type') == 'EMAHook' and hook.get('interval', 1) == accumulative_counts(cfg):
            options[f'custom_hooks.{i}.interval'] = accumulation
            if 'gamma' in hook:
                gamma = hook['gamma'] / hook.get('interval', 1) * accumulation
                options[f'custom_hooks.{i}.gamma'] = round(gamma)
    return options
