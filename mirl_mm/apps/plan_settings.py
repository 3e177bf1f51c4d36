"""Which settings of a detector or segmentor fit into a GPU's memory: estimates."""

import copy

from mirl_mm.measure.memory import StepMemory, probe

from .plan import DENSE_PROBES, Plan, fits

SIZES_GB = (24, 48, 80)
WINDOW = 14  # ViTDet's


def that_fit(plan: Plan) -> dict[str, list[int]]:
    """By setting, the most images per GPU for each of :data:`SIZES_GB`; 0 where none fits.

    From the planned one on, what saves memory is added: checkpointing, windows where there are
    none, images an eighth smaller.
    """
    cfg, size = copy.deepcopy(plan.model.cfg), plan.model.image_size
    per_parameter = 4 * plan.memory.optimizer / plan.memory.gradients
    found = {}

    def add(name: str, memory: StepMemory) -> None:
        found[name] = [fits(memory, plan.extra_bytes, gb) for gb in SIZES_GB]

    def changed() -> StepMemory:
        settings = dict(dtype=plan.model.dtype, image_size=size, scope=plan.model.scope)
        return probe(cfg, DENSE_PROBES, **settings).memory(per_parameter)

    add('as planned', plan.memory)
    if not cfg.backbone.get('with_cp'):
        cfg.backbone.with_cp = True
        add('model.backbone.with_cp=True', changed())
    if not cfg.backbone.get('window_size') and max(size) > WINDOW * cfg.backbone.patch_size:
        cfg.backbone.window_size = WINDOW
        add(f'and model.backbone.window_size={WINDOW}', changed())
    size = tuple(side * 7 // 8 for side in size)
    add(f'and images of {size[0]} x {size[1]} px', changed())
    return found
