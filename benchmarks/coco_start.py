"""What the checks of a COCO-size annotation file add to the start of a run.

    python -m benchmarks.coco_start --out benchmarks/results/NAME.json

The file is made anew, as large as COCO's train2017: polygons of as many numbers, all of them
sound, and as many pictures, which are links to one. mmdet's parse is ``COCO(ann_file)``, which
every run does anyway. Each figure comes from a process of its own, alternately.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.startup import child
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_json

WIDTH, HEIGHT, CLASSES, SHAPES = 640, 480, 80, 4000
MEASURED = """
import json, resource, sys, time
{statement}
import gc
gc.collect()
before, started = time.process_time(), time.perf_counter()
{call}
spent = dict(cpu=time.process_time() - before, seconds=time.perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB, of kB
print(json.dumps(dict(spent, peak=peak)))
"""
MMDET = ('from mmdet.datasets.api_wrappers import COCO', 'COCO(sys.argv[1])')
OURS = (
    """
import mirl_mm, mmdet.datasets
from mirl_mm.engine.checks import check_data
from mirl_mm.engine.launch import load_config
cfg = load_config(sys.argv[2])
names = tuple(f'class {i}' for i in range(1, 81))
cfg.merge_from_dict({'train_dataloader.dataset.data_root': sys.argv[3], 'work_dir': sys.argv[3],
    'train_dataloader.dataset.ann_file': sys.argv[1],
    'train_dataloader.dataset.data_prefix.img': 'images',
    'train_dataloader.dataset.metainfo': dict(classes=names)})
""",
    "print(check_data(cfg, ['train']))",
)


def shapes(count: int) -> list[tuple[str, str, str]]:
    """Segmentation, area and bbox of generated objects, as text; 12 to 80 numbers a polygon."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        points = int(random.integers(6, 41))
        angles = np.sort(random.uniform(0, 2 * np.pi, points))
        radius = random.uniform(8, 100)
        middle = random.uniform((110, 110), (WIDTH - 110, HEIGHT - 110))
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outline = np.round(middle + radius * random.uniform(0.7, 1, (points, 1)) * circle, 2)
        corner, extent = outline.min(axis=0), np.ptp(outline, axis=0)
        box = np.round([*corner, *extent], 2).tolist()
        parts = [outline, outline[:3]] if len(made) % 10 == 0 else [outline]
        text = json.dumps([part.ravel().tolist() for part in parts])
        made.append((text, f'{radius**2:.4f}', json.dumps(box)))
    return made


def write(file: Path, pictures: Path, images: int, annotations: int) -> None:
    """A sound file in COCO's format, and links to one picture."""
    pictures.mkdir()
    Image.new('RGB', (WIDTH, HEIGHT)).save(pictures.parent / 'one.jpg')
    names = [f'{i:012d}.jpg' for i in range(1, images + 1)]
    for name in names:
        (pictures / name).symlink_to('../one.jpg')
    made = shapes(SHAPES)
    categories = [dict(id=i, name=f'class {i}') for i in range(1, CLASSES + 1)]
    listed = [
        dict(license=3, file_name=name, coco_url=f'http://images.cocodataset.org/{name}',
             height=HEIGHT, width=WIDTH, date_captured='2013-11-14 17:02:52', id=i)
        for i, name in enumerate(names, 1)
    ]  # fmt: skip
    with file.open('w') as stream:
        stream.write(f'{{"images": {json.dumps(listed)}, "annotations": [')
        for i in range(annotations):
            outline, area, box = made[i * 7919 % SHAPES]
            ids = f'"image_id": {i % images + 1}, "bbox": {box}, "category_id": {i % CLASSES + 1}'
            entry = f'"segmentation": {outline}, "area": {area}, "iscrowd": 0, {ids}, "id": {i + 1}'
            stream.write(f'{", " if i else ""}{{{entry}}}')
        stream.write(f'], "categories": {json.dumps(categories)}}}')


def main() -> None:
    parser = argparse.ArgumentParser(description='Time the checks of a COCO-size file.')
    parser.add_argument('--config', default='configs/mask-rcnn/vit-b48_lsj-100e_coco.py')
    parser.add_argument('--images', type=int, default=118_000)
    parser.add_argument('--annotations', type=int, default=860_000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, help='JSON file to write')
    args = parser.parse_args()
    runs: dict[str, list[dict]] = {'mmdet': [], 'ours': []}
    with tempfile.TemporaryDirectory() as root:
        file = Path(root, 'instances.json')
        write(file, Path(root, 'images'), args.images, args.annotations)
        size = file.stat().st_size / 1e6
        for _ in range(args.rounds):
            for name, (statement, call) in (('mmdet', MMDET), ('ours', OURS)):
                run = child(
                    MEASURED.format(statement=statement, call=call), file, args.config, root
                )
                runs[name].append(run)
                print(f'{name:<6} {run["seconds"]:6.2f} s, CPU {run["cpu"]:6.2f} s', flush=True)
    pairs = list(zip(runs['ours'], runs['mmdet'], strict=True))
    found = dict(
        file_mb=round(size),
        medians={
            name: {key: round(statistics.median(run[key] for run in each), 2) for key in each[0]}
            for name, each in runs.items()
        },
        ratios=[round(ours['cpu'] / theirs['cpu'], 3) for ours, theirs in pairs],
    )
    print(json.dumps(found))
    if args.out:
        config = {key: value for key, value in vars(args).items() if key != 'out'}
        write_json(args.out, dict(environment(), config=config, **found))


if __name__ == '__main__':
    main()
