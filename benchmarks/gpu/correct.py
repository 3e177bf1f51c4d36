"""Stage 1: does a GPU compute what a CPU computes, and how exact is bfloat16?"""

import json
import statistics
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import stall
from benchmarks.partitioned import PartitionedViT
from mirl_mm.checkpoint import convert_official
from mirl_mm.models import MIRLDenseViT
from tests.models.build import images, load, mirl
from tests.models.golden import (
    DATA,
    FEAT,
    GRAD,
    LOSS,
    PRED,
    gradient_errors,
    gradient_norms,
    gradients,
    read,
    read_s54,
    summary,
    weights_from_names,
)

from . import half, ops, resumed, watched_run
from .device import exact_float32
from .pretrain import built
from .stage import Bench, Part
from .tables import ALLOWED

SIZES = {  # of the rehearsal or not
    False: dict(
        half=dict(arch='s12', batch=128, steps=200, every=20),
        run=dict(arch='s12', batch=32, steps=210, watched=10),
        settings=dict(arch='s12', batch=16),
        windows=dict(arch='b12', size=512, batch=2),
        resumed=dict(twice=True, images=256),
        stall=dict(gb=5, rounds=2),
    ),
    True: dict(
        half=dict(arch='test', batch=4, steps=6, every=3),
        run=dict(arch='test', batch=4, steps=26, watched=4),
        settings=dict(arch='test', batch=2),
        windows=dict(arch='test', size=256, batch=1),
        resumed=dict(twice=False, images=96),
        stall=dict(gb=0.01, rounds=1),
    ),
}


def sizes(rehearse: bool) -> dict:
    return SIZES[rehearse]


def parts(rehearse: bool) -> list[Part]:
    size = SIZES[rehearse]
    return [
        Part('golden test float32', partial(golden_test, torch.float32), 10),
        Part('golden test float64', partial(golden_test, torch.float64), 10),
        Part('golden s54 float32', golden_s54, 25, 3),
        Part('settings', partial(settings, size['settings']), 60, 10),
        Part('windows', partial(windows, size['windows']), 15, 10),
        Part('bf16', partial(half.compare, **size['half']), 45, 20),
        Part('run', partial(watched_run.watch, **size['run']), 45, 10),
        Part('resume', partial(resumed.compare, **size['resumed']), 100, 5),
        Part('checkpoint', partial(checkpoint, **size['stall']), 60, 6),
        Part('ops', ops.compare, 10),
    ]


def checkpoint(bench: Bench, gb: float, rounds: int) -> dict:
    """Seconds that a checkpoint stops a run."""
    rows = stall.compare(gb, rounds)
    said = [f'{row["hook"]} {statistics.median(row["stall"]):.2f} s' for row in rows]
    return dict(rows=rows, says=f'{gb:g} GB stop the training: {", ".join(said)}')


def golden_test(dtype: torch.dtype, bench: Bench) -> dict:
    """The official figures of the 12-block model."""
    exact_float32()
    io = {name: tensor.to(bench.device) for name, tensor in read('tiny6_io').items()}
    model = load(mirl(backbone={'arch': 'test'}), read('tiny6_weights')).to(bench.device, dtype)
    imgs = io['imgs'].to(dtype)
    with torch.no_grad():
        taps = model.neck.normed_taps(model.backbone.encode_masked(imgs, io['noise']))
    result = model.reconstruct(imgs, io['noise'])
    result.loss.backward()
    golden = {name: g.to(bench.device) for name, g in read('tiny6_grads').items()}
    errors = gradient_errors(gradients(model), convert_official(golden))
    assert torch.equal(result.mask.float(), io['mask'].float()), 'another mask'
    assert len(errors) == 337
    worst = dict(
        features=max(distance(tap, io[f'feat{g}']) for g, tap in enumerate(taps)),
        predictions=max(distance(p, io[f'pred{g}']) for g, p in enumerate(result.preds)),
        losses=distance(result.pair_losses, io['pair_losses']),
        gradients=max(errors.values()),
    )
    return judged(worst, dtype)


def golden_s54(bench: Bench) -> dict:
    """The official figures of S-54 at full size, as far as they were kept."""
    exact_float32()
    golden = read_s54()
    shapes = json.loads((DATA / 's54_shapes.json').read_text())
    state = weights_from_names({n: s for n, s in shapes.items() if 'pos_embed' not in n})
    arch = dict(width=384, decoder_width=384, decoder_heads=12)
    model = load(mirl(backbone={'arch': 's54'}, img_size=224, **arch), state).to(bench.device)
    imgs, noise = (torch.from_numpy(golden[key]).to(bench.device) for key in ('imgs', 'noise'))
    with torch.no_grad():
        taps = model.neck.normed_taps(model.backbone.encode_masked(imgs, noise))
    result = model.reconstruct(imgs, noise)
    result.loss.backward()

    def furthest(kind: str, tensors: list[Tensor]) -> float:
        return max(
            distance(torch.as_tensor(value), torch.as_tensor(golden[f'{kind}{g}_{name}_f64']))
            for g, tensor in enumerate(tensors)
            for name, value in summary(tensor.detach().cpu()).items()
        )

    norms = gradient_norms(model, state, golden['grad_names'])
    wanted = golden['grad_l2_f64'].tolist()
    assert len(norms) == len(wanted) == 841
    worst = dict(
        features=furthest('feat', taps),
        predictions=furthest('pred', list(result.preds)),
        losses=distance(result.pair_losses.cpu(), torch.from_numpy(golden['pair_losses_f64'])),
        gradients=max(abs(n - w) / w for n, w in zip(norms.values(), wanted, strict=True)),
    )
    return judged(worst, torch.float32)


def distance(one: Tensor, other: Tensor) -> float:
    return (one.detach().double() - other.double()).abs().max().item()


def judged(worst: dict[str, float], dtype: torch.dtype) -> dict:
    """Distances beside the CPU's tolerances, and whether all are within ten of them."""
    limits = dict(zip(worst, (FEAT[dtype], PRED[dtype], LOSS[dtype], GRAD[dtype]), strict=True))
    most = max(worst[key] / limits[key] for key in worst)
    return dict(
        worst=worst,
        cpu_tolerances=limits,
        of_tolerance=round(most, 3),
        within=most <= ALLOWED,
        says=f'{"within" if most <= ALLOWED else "NOT WITHIN"} {ALLOWED} times the tolerances of a '
        f'CPU: {most:.2f} times at most',
    )


def settings(size: dict, bench: Bench) -> dict:
    """Compiled and checkpointed models against the plain one, in float32."""
    exact_float32()
    models = built(size['arch'], bench, ['compiled', 'checkpointed'])
    side = models['mirl'].backbone.img_size[0]
    imgs = images(size['batch'], side).to(bench.device)
    found = {name: loss_and_gradients(model, imgs) for name, model in models.items()}
    loss, grads = found.pop('mirl')
    differences = {
        name: dict(
            loss=abs(other - loss) / loss,
            gradients=max(
                ((theirs[key] - g).norm() / g.norm()).item() for key, g in grads.items() if g.any()
            ),
        )
        for name, (other, theirs) in found.items()
    }
    words = (f'{n} {d["gradients"]:.1e}' for n, d in differences.items())
    return dict(
        relative=differences,
        says=f'largest relative difference of a gradient in float32: {", ".join(words)}',
    )


def loss_and_gradients(model: nn.Module, imgs: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Under the masks of seed 0; gradients of key biases, which are noise around 0, left out."""
    torch.manual_seed(0)
    loss = model.loss(imgs)['loss']
    loss.backward()
    return loss.item(), {
        name: grad
        for name, grad in gradients(model).items()
        if not name.endswith(('qkv.bias', 'kv.bias'))
    }


def windows(size: dict, bench: Bench) -> dict:
    """Our windows against blocks that each cut for themselves, where both are the same function."""
    exact_float32()
    vit = MIRLDenseViT(size['arch'], window_size=8, with_cls_token=False)
    vit.init_weights()
    vit.to(bench.device)
    imgs = images(size['batch'], size['size']).to(bench.device)
    (ours,), (theirs,) = vit(imgs), PartitionedViT(vit)(imgs)
    apart = (distance(ours, theirs)) / theirs.abs().max().item()
    return dict(relative=apart, says=f'maps differ by {apart:.1e} of the largest value, float32')
