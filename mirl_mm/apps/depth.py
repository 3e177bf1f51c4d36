"""What tools/probe_depth.py does: what checkpoints know behind every n-th block, task by task."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmpretrain.models import VisionTransformer

from mirl_mm.datasets import UnlabelledImages
from mirl_mm.datasets.class_folders import train_and_val
from mirl_mm.engine.run_facts import environment
from mirl_mm.errors import UserError
from mirl_mm.files import check_folder, complete_file, write_json
from mirl_mm.measure.cached import weights_of
from mirl_mm.measure.curves import Curve
from mirl_mm.measure.depth import Probing, classify_curves, drawn, probed_blocks
from mirl_mm.measure.features import POOLS, Loading, load_encoder, preprocessor_of, test_pipeline_of
from mirl_mm.measure.knn import check_ks
from mirl_mm.measure.linear import check_enough
from mirl_mm.measure.paint import paint_curves
from mirl_mm.measure.rank import rank_curves
from mirl_mm.measure.segment import segment_curves
from mirl_mm.pictures.charts import MEASURES, depth_charts, draw_charts

from .scenes import read_scenes

TAKES = dict(  # what has an effect on a task; of NEEDED it must have these
    classify=('train', 'val', 'limit', 'val_limit', 'pools', 'k', 'shots', 'draws'),
    segment=('segment_data', 'segment_size'),
    paint=('train', 'val', 'paint_steps'),
    rank=('val',),
)
NEEDED = ('train', 'val', 'segment_data')
DEFAULTS = dict(pools=('avg',), k=20, draws=5, paint_steps=2000)
MASK_RATIO = 0.75  # of painting, where the encoder has none of its own
COLUMNS = ('label', 'task', 'block', 'pool', 'shots')  # the first ones
Task = tuple[Callable[..., list[Curve]], Sequence, dict]  # with its data and settings


def probe_depth(
    cfg: Config,
    checkpoints: Sequence[str],
    train: str | None,
    val: str | None,
    out: str | Path,
    every: int = 1,
    limit: int | None = None,
    labels: Sequence[str] | None = None,
    pools: Sequence[str] | None = None,
    k: int | None = None,
    loading: Loading = Loading(),  # noqa: B008 (immutable)
    tasks: Sequence[str] = ('classify',),
    val_limit: int | None = None,
    shots: Sequence[int] | None = None,
    draws: int | None = None,
    segment_data: str | None = None,
    segment_size: tuple[int, int] | None = None,
    paint_steps: int | None = None,
) -> list[dict]:
    """Probe checkpoints of one arch; write ``depth.csv``, ``.json`` and ``.png``, return the rows.

    A row has ``label``, ``task``, ``block`` (from 1), for some ``pool`` and ``shots``, and what was
    measured there, with standard errors. What passes over images found is kept in ``out/cache`` by
    what it depends on: an interrupted run goes on, and more checkpoints cost only themselves. The
    arguments are as ``tools/probe_depth.py --help`` tells them; by default the cls token, to which
    masked pre-training gives no task, is not probed.
    """
    given = dict(train=train, val=val, limit=limit, val_limit=val_limit, shots=shots, draws=draws,
                 segment_data=segment_data, segment_size=segment_size, pools=pools, k=k,
                 paint_steps=paint_steps)  # fmt: skip
    given = check_given(tasks, given)
    loading.check()
    pools, k, labels = given['pools'], given['k'], checkpoint_labels(checkpoints, labels)
    encoders = [load_encoder(cfg, path) for path in checkpoints]
    vit, depth = encoders[0], encoders[0].num_layers
    pipeline, blocks = test_pipeline_of(cfg, vit.img_size), probed_blocks(depth, every)
    how = Probing(blocks, pools, pipeline, preprocessor_of(cfg), loading)
    ready = {task: prepared(task, given, vit, how) for task in dict.fromkeys(tasks)}
    check_folder(out := Path(out))
    rows, summary = [], []
    for label, path, encoder in zip(labels, checkpoints, encoders, strict=True):
        weights = weights_of(path)
        for task, (curves_of, data, more) in ready.items():
            title = f'{label}, {task}'
            curves = curves_of(encoder, *data, how, out / 'cache', weights, title=title, **more)
            rows += (found := rows_of(curves, blocks, label=label, task=task))
            for row in found:
                values = ', '.join(f'{name} {row[name]:.4g}' for name in MEASURES if name in row)
                print(f'  {title}, block {row["block"]} of {depth}{apart(row)}: {values}')
            summary += summaries(curves, blocks, vit, k, label=label, task=task)
    print(*(each['sentence'] for each in summary), sep='\n', flush=True)
    settings = dict(
        config=os.path.relpath(cfg.filename), every=every, amp=loading.amp, tasks=list(ready),
        checkpoints=dict(zip(labels, checkpoints, strict=True)), **given,
    )  # fmt: skip
    _write_depth(out, dict(settings=settings, rows=rows, summary=summary))
    return rows


def check_given(tasks: Sequence[str], given: Mapping[str, object]) -> dict:
    """What is given, and DEFAULTS for what is None.

    UserError for no or unknown tasks, what they lack, and settings without effect on them.
    """
    if not tasks or set(tasks) - set(TAKES):
        raise UserError(f'tasks must be some of {", ".join(TAKES)}, got {list(tasks)}')
    there = {name for name, value in given.items() if value is not None}
    for name in given:
        takers, option = [task for task in TAKES if name in TAKES[task]], name.replace('_', '-')
        asking = [task for task in takers if task in tasks]
        if asking and name in NEEDED and name not in there:
            raise UserError(f'the task {asking[0]} needs --{option}')
        if name in there and not asking:
            said = f'--{option} is for {" and ".join(takers)}'
            raise UserError(f'{said}, but --tasks is {", ".join(tasks)}')
    if 'draws' in there and 'shots' not in there:
        raise UserError('--draws is for --shots, which is not given')
    found = {**given} | {name: x for name, x in DEFAULTS.items() if given[name] is None}
    if not found['pools'] or set(found['pools']) - set(POOLS):
        raise UserError(f'pools must be some of {", ".join(POOLS)}, got {list(found["pools"])}')
    return found


def checkpoint_labels(checkpoints: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """The given labels, or ``folder/stem`` of the paths; UserError where they are not one each."""
    labels = labels or ['/'.join(Path(p).with_suffix('').parts[-2:]) for p in checkpoints]
    if not len(labels) == len(set(labels)) == len(checkpoints):
        wanted = f'{len(checkpoints)} checkpoints need as many different labels'
        raise UserError(f'{wanted}, got {", ".join(labels)}; --labels sets them')
    return list(labels)


def prepared(task: str, given: Mapping, vit: VisionTransformer, how: Probing) -> Task:
    """A task with its data, which are looked at."""
    if task == 'classify':
        settings = {name: given[name] for name in ('train', 'val', 'limit', 'val_limit')}
        sets = train_and_val(pipeline=how.pipeline, **settings)
        check_ks([given['k']], len(sets[0]), '--k')
        check_enough(len(sets[0]))
        few = drawn(sets[0], given['shots'] or (), given['draws'])
        return classify_curves, sets, dict(k=given['k'], few=few)
    if task == 'segment':
        return segment_curves, [read_scenes(given['segment_data'], vit, given['segment_size'])], {}
    folders = [given[part] for part in ('train', 'val') if part in TAKES[task]]
    images = [UnlabelledImages(data_root=each, pipeline=how.pipeline) for each in folders]
    if task == 'paint':
        ratio = getattr(vit, 'mask_ratio', MASK_RATIO)
        return paint_curves, images, dict(mask_ratio=ratio, steps=given['paint_steps'])
    return (lambda vit, images, how, *_, title: rank_curves(vit, images, how, title)), images, {}


def rows_of(curves: Sequence[Curve], blocks: Sequence[int], **whose) -> list[dict]:
    """A row for each block of curves that nothing sets apart, with what is finite there."""
    rows: dict[tuple, dict] = {}
    for curve in curves:
        for block, *pair in zip(blocks, curve.values, curve.errors, strict=True):
            at = dict(block=block + 1, **curve.where)
            found = zip((curve.name, f'{curve.name}_error'), pair, strict=True)
            row = rows.setdefault((*at.items(),), whose | at)
            row |= {name: float(value) for name, value in found if value.isfinite()}
    return list(rows.values())


def summaries(
    curves: Sequence[Curve], blocks: Sequence[int], vit: VisionTransformer, k: int, **whose
) -> Iterator[dict]:
    """Of each curve with a spread the best block and the fall behind it, and a sentence on them."""
    start, depth = ', '.join(whose.values()), vit.num_layers
    if whose['task'] == 'rank':  # https://arxiv.org/abs/2210.02885
        last, width = float(curves[0].values[-1]), vit.embed_dims
        said = f'effective rank {last:.1f} of the width {width} behind the last block'
        said += '; it compares runs of one method, so no block is called the best'
        found = dict(measure='rank', last=last, width=width)
        return (yield whose | found | dict(sentence=f'{start}: {said}'))
    told = curves if len(blocks) > 1 else ()
    for curve in (curve for curve in told if curve.without.isfinite().all()):
        found = curve.summary(blocks)
        digits, bad = (4, 'the error rises') if curve.less else (2, 'the curve falls')
        numbers = {name: f'{found[name]:.{digits}f}' for name in found if 'block' not in name}
        said = f'best behind block {found["best_block"]} of {depth}, {{best}} +- {{error}}'
        if 'shots' in curve.where:  # draws say nothing of the images that are classified
            found = {key: x for key, x in found.items() if 'fall' not in key}
            said += '; the last block has {last}'
        elif found['best_block'] < depth:
            verdict = bad if found['falls'] else 'no fall beyond its spread'
            much = '{fall} +- {fall_error} ' + ('more' if curve.less else 'less')
            said += f'; the last block has {{last}}, {much}: {verdict}'
        what = MEASURES[curve.name].format(k=k) + apart(curve.where)
        said = f'{start}, {what}: {said.format_map(numbers)}'
        yield whose | dict(curve.where, measure=curve.name, **found, sentence=said)


def apart(where: Mapping) -> str:
    """What sets a row or curve apart, for the eye."""
    return ''.join(f', {name} {where[name]}' for name in ('pool', 'shots') if name in where)


def _write_depth(out: Path, found: Mapping) -> None:
    rows = found['rows']
    with complete_file(out / 'depth.csv') as part, part.open('w', newline='') as file:
        names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    write_json(out / 'depth.json', environment() | found)
    draw_charts(depth_charts(rows, found['settings']['k']), out / 'depth.png')
