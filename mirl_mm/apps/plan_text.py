"""A plan in words, what else would fit, and the command that follows from it."""

import copy

from mmengine.config import Config

from mirl_mm.engine.launch import load_config
from mirl_mm.engine.machine import accumulative_counts
from mirl_mm.engine.run_facts import table
from mirl_mm.measure.rehearsal import SHARE, StepMemory, probe

from .plan import DENSE_PROBES, GIGA, Plan, Run, fits

ALONE = 'without validation and checkpoints'
FLOOR = 'a floor of eager steps: every kernel at the peak rates of the data sheet, and no waiting'
SIZES_GB = (24, 48, 80)
WINDOW = 14  # ViTDet's


def describe(plan: Plan, config: str, cfg_options: dict | None = None) -> str:
    """Rows of text; `config` and `cfg_options` are what the plan was made from."""
    run, memory, flops = plan.run, plan.memory, plan.flops
    batch, fitting = run.batch, []
    for name, images in that_fit(plan).items() if plan.model.dense else ():
        parts = [f'{n or "none"} in {gb} GB' for n, gb in zip(images, SIZES_GB, strict=True)]
        fitting.append(f'{name}: {", ".join(parts)}')
    exact = batch.effective == plan.recipe_batch
    rows = [
        *plan.parameters,
        ('training step', f'{flops.training / GIGA:,.4g} GFLOP an image '
         f'({flops.forward / GIGA:,.4g} forward)'),
        ('', 'counted: products and attention, a multiply-add as two; not what is recomputed'),
        *[('', 'of regions the heads alone, not how they are found, pooled and compared')]
        * ('roi_head' in plan.model.cfg),
        ('encoder, whole image', f'{plan.linear_macs / GIGA:,.3f} G multiply-adds in linear layers '
         'alone (what papers print as GFLOPs)'),
        ('memory, estimated', f'{(memory.fixed + plan.extra_bytes) / GIGA:,.3g} GB + '
         f'{memory.per_image / GIGA:,.3g} GB an image: at most {run.largest:,} images in '
         f'{run.memory_gb:g} GB, {1 - SHARE:.0%} left over'),
        *zip(('images that fit', *[''] * len(fitting)), fitting, strict=False),
        ('effective batch', f'{batch.effective:,} = {batch.per_gpu} x {batch.gpus} GPUs x '
         f'{batch.accumulation} accumulated'
         + ('' if exact else f'; the recipe has {plan.recipe_batch:,}')),
        ('peak memory, estimated', f'{plan.peak_bytes / GIGA:,.3g} GB per GPU'),
        ('kernels of a step',
         f'{run.step.kernels:,}, which move {run.step.bytes / GIGA:,.3g} GB at least'),
        ('length', f'{plan.length}: {run.updates:,} updates, {run.images_seen:,} images seen'),
        (f'rate, {run.gpu}', rate(plan, run)),
        ('', 'as given' if plan.measured else FLOOR),
        ('time', f'{"" if plan.measured else "at least "}{duration(run.days)}, {ALONE}'),
        *((f'{other.gpu}, {other.memory_gb:g} GB',
           f'{rate(plan, other)}: {duration(other.days)}, {ALONE}') for other in plan.others),
        ('command', command(plan, config, cfg_options)),
    ]  # fmt: skip
    return table(rows)


def rate(plan: Plan, run: Run) -> str:
    """Images per second of a GPU and of all."""
    both = run.rate, run.rate * run.batch.gpus
    own, whole = (f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}' for rate in both)
    return f'{"" if plan.measured else "at most "}{own} images/s per GPU, {whole} in all'


def duration(days: float) -> str:
    """In the largest unit of which there is one, of days two."""
    if days >= 2:
        return f'{days:.3g} days'
    units = {'h': days * 24, 'min': days * 1440, 's': days * 86400}
    unit = next((unit for unit, number in units.items() if number >= 1), 's')
    return f'{units[unit]:.3g} {unit}'


def that_fit(plan: Plan) -> dict[str, list[int]]:
    """By setting, the most images per GPU for each of :data:`SIZES_GB`; 0 where none fits.

    From the planned one on, what saves memory is added: checkpointing, windows where there are
    none, images an eighth smaller.
    """
    cfg, size = copy.deepcopy(plan.model.cfg), plan.model.image_size
    per_parameter = 4 * plan.memory.optimizer / plan.memory.gradients

    def fitting(memory: StepMemory | None = None) -> list[int]:
        if memory is None:
            settings = plan.model.sizes | dict(dtype=plan.model.dtype, image_size=size)
            memory = probe(cfg, DENSE_PROBES, **settings).memory(per_parameter)
        return [fits(memory, plan.extra_bytes, gb) for gb in SIZES_GB]

    found = {'as planned': fitting(plan.memory)}
    if not cfg.backbone.get('with_cp'):
        cfg.backbone.with_cp = True
        found['model.backbone.with_cp=True'] = fitting()
    if not cfg.backbone.get('window_size') and max(size) > WINDOW * cfg.backbone.patch_size:
        cfg.backbone.window_size = WINDOW
        found[f'and model.backbone.window_size={WINDOW}'] = fitting()
    size = tuple(side * 7 // 8 for side in size)
    found[f'and images of {size[0]} x {size[1]} px'] = fitting()
    return found


def command(plan: Plan, config: str, cfg_options: dict | None = None) -> str:
    """How to start the run that was planned."""
    batch, options = plan.run.batch, dict(cfg_options or {})
    options['train_dataloader.batch_size'] = batch.per_gpu
    options['optim_wrapper.accumulative_counts'] = batch.accumulation
    options |= followers(load_config(config, cfg_options), batch.accumulation)
    scale = '' if batch.effective == plan.recipe_batch else ' --auto-scale-lr'
    given = ' '.join(f'{key}={value}' for key, value in options.items())
    return f'tools/dist_train.sh {config} {batch.gpus}{scale} --cfg-options {given}'


def followers(cfg: Config, accumulation: int) -> dict[str, object]:
    """What counts iterations, not updates: EMAHook's settings and, where given, all lengths."""
    options, before = {}, accumulative_counts(cfg)

    def scaled(value: int) -> int:
        return round(value / before * accumulation)

    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if 'EMAHook' in str(hook.get('type')) and hook.get('interval', 1) == before:
            options[f'custom_hooks.{i}.interval'] = accumulation
            if 'gamma' in hook:
                options[f'custom_hooks.{i}.gamma'] = scaled(hook['gamma'])
    if 'max_iters' not in cfg.train_cfg or accumulation == before:
        return options
    for key in ('max_iters', 'val_interval'):
        if key in cfg.train_cfg:
            options[f'train_cfg.{key}'] = scaled(cfg.train_cfg[key])
    for i, scheduler in enumerate(cfg.param_scheduler):
        given = filter(scheduler.get, ('begin', 'end', 'T_max'))
        options |= {f'param_scheduler.{i}.{key}': scaled(scheduler[key]) for key in given}
        if 'milestones' in scheduler:
            steps = ','.join(str(scaled(step)) for step in scheduler.milestones)
            options[f'param_scheduler.{i}.milestones'] = f'[{steps}]'
    return options
