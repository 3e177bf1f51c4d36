"""Every reader of files that come from elsewhere, each with a small sound file."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import tifffile
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import CheckpointLoader
from PIL import Image
from safetensors.torch import save

from mirl_mm.apps.report import write_report
from mirl_mm.apps.report.runs import record_of
from mirl_mm.checkpoint import convert_file, load_weights
from mirl_mm.checkpoint.folders import pixels_of
from mirl_mm.datasets import LoadAnyImage, LoadRandomResizedCrop, UnlabelledImages
from mirl_mm.datasets.class_folders import check_labelled
from mirl_mm.datasets.packed import PackedBackend
from mirl_mm.datasets.packed.writing import pack_images, verify
from mirl_mm.engine.checks import check_data
from mirl_mm.engine.checks.coco_images import seen_size
from mirl_mm.engine.launch import load_config
from mirl_mm.engine.resume import differences, find_checkpoint, is_whole
from mirl_mm.errors import UserError
from mirl_mm.models import MIRLViT
from tests.apps.runs import add_start, train_rows

from . import damage
from .trial import Reader

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TINY = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)
CFG = """default_scope = 'mmpretrain'
model = dict(
    backbone=dict(arch=dict(embed_dims=8, num_heads=2, num_layers=1), img_size=(16, 16)),
    data_preprocessor=dict(mean=[1.5, 2, 3.], std=[-4, 5e1, 6]), type='MIRL')
train_dataloader = dict(batch_size=4, dataset=dict(data_root='data/', pipeline=[dict(type='X')]))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, end=3)]
"""


# --- checkpoints ---------------------------------------------------------------------------------


@cache
def encoder() -> MIRLViT:
    torch.manual_seed(0)
    return MIRLViT(TINY, 16, 8, num_segments=1, out_type='raw')


def timm_state() -> dict[str, torch.Tensor]:
    shapes = {
        'cls_token': (1, 1, 8), 'pos_embed': (1, 5, 8), 'patch_embed.proj.weight': (8, 3, 8, 8),
        'patch_embed.proj.bias': (8,), 'norm.weight': (8,), 'norm.bias': (8,),
        'blocks.0.norm1.weight': (8,), 'blocks.0.norm1.bias': (8,),
        'blocks.0.attn.qkv.weight': (24, 8), 'blocks.0.attn.qkv.bias': (24,),
        'blocks.0.attn.proj.weight': (8, 8), 'blocks.0.attn.proj.bias': (8,),
        'blocks.0.norm2.weight': (8,), 'blocks.0.norm2.bias': (8,),
        'blocks.0.mlp.fc1.weight': (16, 8), 'blocks.0.mlp.fc1.bias': (16,),
        'blocks.0.mlp.fc2.weight': (8, 16), 'blocks.0.mlp.fc2.bias': (8,),
        'head.weight': (3, 8), 'head.bias': (3,),
    }  # fmt: skip
    return {name: torch.full(shape, 0.5) for name, shape in shapes.items()}


def content_of_a_run() -> dict:
    state = {f'backbone.{name}': x for name, x in encoder().state_dict().items()}
    state['head.fc.weight'], state['head.fc.bias'] = torch.zeros(3, 8), torch.zeros(3)
    arch = dict(TINY, patch_size=8, img_size=[16, 16], name=None)
    meta = dict(cfg=CFG, epoch=1, iter=2, time='now', arch=arch, run=dict(pairing='none'))
    meta['dataset_meta'] = dict(classes=('a', 'b', 'c'))
    hub = dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))
    return dict(meta=meta, state_dict=state, message_hub=hub, optimizer=dict(param_groups=[]))


def torch_file(folder: Path, zipped: bool = True) -> Path:
    path = folder / 'epoch_1.pth'
    torch.save(content_of_a_run(), path, _use_new_zipfile_serialization=zipped)
    return path


def bare_torch_file(folder: Path, zipped: bool = False) -> Path:
    torch.save(timm_state(), folder / 'timm.pth', _use_new_zipfile_serialization=zipped)
    return folder / 'timm.pth'


def paddle_file(folder: Path) -> Path:
    state = {n: x.t().numpy() if x.ndim == 2 else x.numpy() for n, x in timm_state().items()}
    state = {n: (f'p_{n}', np.ascontiguousarray(x)) for n, x in state.items()}
    (folder / 'b48.pd').write_bytes(pickle.dumps(state, protocol=4))
    return folder / 'b48.pd'


def safetensors_file(folder: Path) -> Path:
    path = folder / 'model.safetensors'
    content = content_of_a_run()
    path.write_bytes(save(content['state_dict'], {'mirl_mm': json.dumps(content['meta'])}))
    return path


def shards(folder: Path) -> Path:
    names, state = ('model-1-of-2.safetensors', 'model-2-of-2.safetensors'), timm_state()
    parts = [dict([*state.items()][part::2]) for part in (0, 1)]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(save(part))
    places = {n: name for name, part in zip(names, parts, strict=True) for n in part}
    path = folder / 'model.safetensors.index.json'
    path.write_text(json.dumps(dict(metadata=dict(total_size=3), weight_map=places)))
    return path


def shard_of_weights(folder: Path) -> Path:
    index, name = folder / 'pytorch_model.bin.index.json', 'pytorch_model-1-of-1.bin'
    torch.save(timm_state(), folder / name)
    index.write_text(json.dumps(dict(weight_map=dict.fromkeys(timm_state(), name))))
    return folder / name


def timm_folder(folder: Path) -> Path:
    (folder / 'model.safetensors').write_bytes(save(timm_state()))
    args = dict(embed_dim=8, depth=1, num_heads=2, patch_size=8, img_size=16, in_chans=3)
    config = dict(architecture='vit_base_patch16_224', model_args=args, num_classes=3)
    config |= dict(global_pool='token', label_names=['a', 'b', 'c'])
    config['pretrained_cfg'] = dict(mean=[0.5] * 3, std=[0.5, 0.2, 1], input_size=[3, 16, 16])
    (folder / 'config.json').write_text(json.dumps(config))
    return folder / 'config.json'


def hub_folder(folder: Path) -> Path:
    convert_file(timm_folder(folder).parent / 'model.safetensors', folder / 'hf', to='hf')
    return folder / 'hf' / 'config.json'


def processor(folder: Path) -> Path:
    return hub_folder(folder).with_name('preprocessor_config.json')


def every(*ways: Callable[[], object]) -> None:
    """All ways to read; raises the first error that is none of ours, or else the first."""
    errors = []
    for way in ways:
        try:
            way()
        except Exception as error:
            errors.append(error)
    for error in sorted(errors, key=lambda error: isinstance(error, UserError | OSError)):
        raise error


def read_weights(path: Path, out: Path) -> None:
    every(
        lambda: load_weights(copy.deepcopy(encoder()), path),
        lambda: CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent'),
        lambda: is_whole(path),
    )


def read_others(path: Path, out: Path) -> None:
    """What is no torch file, or of another arch than the model's; to a file, or to a folder."""
    every(
        lambda: convert_file(path, out / 'new.pth'),
        lambda: path.suffix == '.safetensors' and convert_file(path, out / 'folder', to='timm'),
    )


def read_folder(path: Path, out: Path) -> None:
    pixels_of('', path.parent, 3)
    convert_file(path.parent, out / 'folder', to='hf')


def read_newest(path: Path, out: Path) -> None:
    find_checkpoint(path.parent)


def work_dir(folder: Path) -> Path:
    torch.save(dict(a=torch.ones(1)), folder / 'epoch_1.pth')
    torch.save(dict(a=torch.ones(1)), folder / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    return folder / 'last_checkpoint'


def newest(folder: Path) -> Path:
    return work_dir(folder).with_name('epoch_2.pth')


def config_text(folder: Path) -> Path:
    (folder / 'cfg.txt').write_text(CFG)
    return folder / 'cfg.txt'


def read_config_text(path: Path, out: Path) -> None:
    """A stranger's settings, as a checkpoint's meta holds them; they need not be understood."""
    content, text = content_of_a_run(), path.read_bytes().decode(errors='surrogateescape')
    content['meta']['cfg'] = text
    del content['meta']['arch']
    torch.save(content, file := out / 'run.pth')
    with suppress(SyntaxError):
        differences(text, CFG)
    every(
        lambda: record_of(file, content['meta']),
        lambda: convert_file(file, out / 'folder', to='timm'),
    )


# --- pictures ------------------------------------------------------------------------------------

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (3, 4, 3)), np.ones((4, 4, 1), int))
LOADING = [dict(type='LoadAnyImage')]
PIXELS = PIXELS.astype(np.uint8)  # [12, 16, 3]


def picture(
    name: str, image: np.ndarray | Image.Image = PIXELS, **settings
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        picture.save(folder / name, **settings)
        return folder / name

    return write


def tiff(**settings) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pixels = np.stack([PIXELS[..., 0]] * 5, -1).astype(settings.pop('dtype', np.uint8))
        tifffile.imwrite(folder / 'a.tif', pixels, photometric='minisblack', **settings)
        return folder / 'a.tif'

    return write


def array(folder: Path) -> Path:
    np.save(folder / 'a.npy', np.stack([PIXELS[..., 0]] * 5, -1).astype(np.float32))
    return folder / 'a.npy'


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[274] = 6
    return tags


@cache
def loaders(channels: int | None) -> list:
    crop = partial(LoadRandomResizedCrop, 8, flip_prob=0.5, channels=channels)
    return [LoadAnyImage(channels=channels), crop(), crop(reducing_gap=1.0)]


def read_picture(path: Path, out: Path, channels: tuple = (None, 3)) -> None:
    every(
        *(
            partial(load.transform, dict(img_path=str(path)))
            for number in channels
            for load in loaders(number)
        ),
        lambda: seen_size(path),
    )


read_colours = partial(read_picture, channels=(None,))
read_bands = partial(read_picture, channels=(5,))


# --- packed pictures, lists, annotations, masks ---------------------------------------------------


def packed(name: str, folder: Path) -> Path:
    pictures = folder.parent / 'pictures'
    for i in range(3):
        (pictures / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 4), (i, i, i)).save(pictures / 'ab'[i % 2] / f'{i}.png')
    pack_images(pictures, folder, shard_bytes=2000)
    return folder / name


def read_packed(path: Path, out: Path) -> None:
    """The folder as a dataset, as a backend, and by its own check."""

    def listed() -> None:
        backend, folder = PackedBackend(), f'packed://{path.parent}'
        for name in sorted(backend.list_dir_or_file(folder, list_dir=False, recursive=True)):
            backend.get(f'{folder}/{name}')

    every(
        listed,
        lambda: verify(path.parent),
        lambda: UnlabelledImages(f'packed://{path.parent}', pipeline=LOADING),
        lambda: PackedBackend().get(f'packed://{path.parent}/a/0.png'),
    )


def pack_again(path: Path, out: Path) -> None:
    """Into a copy with the damaged file."""
    shutil.copytree(path.parent, out / 'again', copy_function=shutil.copy)
    pack_images(out.with_name('pictures'), out / 'again', shard_bytes=2000)
    assert verify(out / 'again') == []


def picture_list(folder: Path) -> Path:
    for i in range(3):
        Image.new('RGB', (4, 4)).save(folder / f'{i} é.png')
    (folder / 'list.txt').write_text('# pictures\n0 é.png 0\n"1 é.png", 1\n\n2 é.png\t0\n')
    return folder / 'list.txt'


def read_list(path: Path, out: Path) -> None:
    settings = dict(data_root=str(path.parent), ann_file=path.name, pipeline=LOADING)
    labelled = dict(settings, type='CustomDataset', data_prefix='')

    def classes() -> None:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            check_labelled(dict(head=dict(num_classes=2)), dict(train=labelled))
            DATASETS.build(labelled)

    every(lambda: UnlabelledImages(**settings), classes)


def read_bad_list(path: Path, out: Path) -> None:
    UnlabelledImages(str(path.parent), pipeline=LOADING).list_bad_images(path)


def coco(folder: Path) -> Path:
    (folder / 'pictures').mkdir()
    for i in (1, 2):
        Image.new('RGB', (60, 40)).save(folder / f'pictures/{i}.jpg')

    def entry(number: int, image: int, category: int, **more) -> dict:
        outline = [[5, 5, 25, 5, 25, 15, 5, 15]]
        place = dict(image_id=image, category_id=category, bbox=[5, 5, 20, 10])
        return dict(id=number, **place, area=200, iscrowd=0, segmentation=outline) | more

    rle = dict(iscrowd=1, segmentation=dict(counts=[100, 50, 2250], size=[40, 60]))
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=60, height=40) for i in (1, 2)],
        annotations=[entry(1, 1, 3), entry(2, 2, 7), entry(3, 2, 7, **rle)],
        categories=[dict(id=3, name='box'), dict(id=7, name='disc')],
    )
    (folder / 'own.json').write_text(json.dumps(content))
    return folder / 'own.json'


@cache
def recipe(name: str) -> Config:
    return load_config(str(CONFIGS / name))


def read_coco(path: Path, out: Path) -> None:
    cfg = copy.deepcopy(recipe('mask-rcnn/vit-test_20it_scenes.py'))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        place = dict(data_root=str(path.parent), ann_file='own.json')
        place |= dict(metainfo=dict(classes=('box', 'disc')), data_prefix=dict(img='pictures'))
        cfg[loader].dataset.merge(place)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(path)
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 2
    cfg.work_dir = str(out)
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_data(cfg, ['train'])
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        for i in range(len(dataset)):
            dataset[i]


def mask(folder: Path) -> Path:
    for kind in ('images/train', 'masks/train'):
        (folder / kind).mkdir(parents=True)
    Image.fromarray(PIXELS).save(folder / 'images/train/0.jpg')
    values = np.resize(np.repeat([0, 1, 2], 2), PIXELS.shape[:2]).astype(np.uint8)
    Image.fromarray(values).save(folder / 'masks/train/0.png')
    return folder / 'masks/train/0.png'


def read_mask(path: Path, out: Path) -> None:
    cfg = copy.deepcopy(recipe('upernet/vit-test_20it_scenes.py'))
    cfg.train_dataloader.dataset.data_root = f'{path.parents[2]}/'
    cfg.train_dataloader.dataset.metainfo = dict(classes=('background', 'disc', 'ring'))
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = 3
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_data(cfg, ['train'])


# --- configs, and what runs leave -----------------------------------------------------------------


def config_file(folder: Path) -> Path:
    text = (CONFIGS / 'mirl/vit-test_2e.py').read_text()
    text = text.replace("'../_base_", f"'{CONFIGS}/_base_")
    (folder / 'own.py').write_text(text)
    return folder / 'own.py'


def read_own_config(path: Path, out: Path) -> None:
    load_config(str(path))


def run_folder(name: str, folder: Path) -> Path:
    log = add_start(folder, '20260101_000000', train_rows(0, 40))
    tested = dict(accuracy=50.0, step=0)
    (log / '20260101_000000.json').write_text(json.dumps(tested))
    row = dict(label='a', block=1, knn=50.0, knn_error=1.0, pool='cls', shots=None)
    depth = dict(rows=[row, dict(row, block=2)], summary=[dict(sentence='It is so.')])
    (folder / 'depth.json').write_text(json.dumps(depth))
    return next(folder.rglob(name))


def read_run(path: Path, out: Path) -> None:
    folder = next(folder for folder in path.parents if folder.name == 'seed')
    every(
        lambda: write_report(folder, out / 'page.html'),
        lambda: record_of(folder / 'epoch_1.pth', dict(iter=20, epoch=1)),
    )


PNG_16 = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
PALETTE = Image.fromarray(PIXELS).quantize(8)

READERS = {
    'torch': Reader(torch_file, read_weights, count=40),
    'torch, pickle': Reader(
        torch_file, read_weights, damage.in_zip('data.pkl', damage.in_pickle), count=40
    ),
    'torch, old': Reader(partial(torch_file, zipped=False), read_weights, count=40),
    'torch, old, pickle': Reader(
        partial(bare_torch_file, zipped=False), read_weights, damage.in_old_torch, count=40
    ),
    'Paddle': Reader(
        paddle_file, read_others, damage.either(damage.of_bytes, damage.in_pickle), count=60
    ),
    'safetensors': Reader(safetensors_file, read_weights, count=40),
    'safetensors, header': Reader(safetensors_file, read_others, damage.in_safetensors, count=60),
    'safetensors, meta': Reader(safetensors_file, read_others, damage.in_meta, count=40),
    'shard of weights': Reader(
        shard_of_weights, read_others, damage.in_zip('data.pkl', damage.in_pickle), count=50
    ),
    'index of shards': Reader(shards, read_others, damage.of_json),
    'timm folder': Reader(timm_folder, read_folder, damage.of_json, count=60),
    'transformers folder': Reader(hub_folder, read_folder, damage.of_json, count=50),
    'preprocessor': Reader(processor, read_folder, damage.of_json, count=20, refuses=False),
    'last_checkpoint': Reader(work_dir, read_newest, damage.of_text, refuses=False),
    'newest checkpoint': Reader(newest, read_newest, refuses=False),
    'config in a checkpoint': Reader(config_text, read_config_text, damage.of_text, count=60),
    'JPEG': Reader(picture('a.jpg', exif=exif()), read_colours),
    'JPEG, progressive': Reader(picture('a.jpg', progressive=True), read_picture),
    'PNG': Reader(picture('a.png', exif=exif()), read_colours, damage.in_png, count=60),
    'PNG, 16 bit': Reader(
        picture('a.png', PNG_16), partial(read_picture, channels=(None, 1)), damage.in_png, count=50
    ),
    'PNG, palette': Reader(picture('a.png', PALETTE), read_picture, damage.in_png),
    'WebP': Reader(picture('a.webp'), read_picture),
    'BMP': Reader(picture('a.bmp'), read_picture),
    'GIF': Reader(picture('a.gif', PALETTE), read_picture),
    'PPM': Reader(picture('a.ppm'), read_picture),
    'JPEG 2000': Reader(picture('a.jp2'), read_picture),
    'TIFF': Reader(picture('a.tif', compression='tiff_lzw'), read_colours),
    'TIFF, 5 channels': Reader(tiff(), read_bands),
    'TIFF, 5 channels, 16 bit': Reader(tiff(dtype=np.uint16), read_bands),
    'TIFF, packed tiles': Reader(tiff(tile=(16, 16), compression='zlib'), read_bands),
    'npy': Reader(array, read_bands, damage.either(damage.of_bytes, damage.in_numpy)),
    'shard': Reader(partial(packed, 'shard-00000.tar'), read_packed, count=80),
    'index of packed': Reader(
        partial(packed, 'index.npy'), read_packed, damage.either(damage.of_bytes, damage.in_numpy)
    ),
    'manifest of packed': Reader(
        partial(packed, 'manifest.json'), read_packed, damage.of_json, count=60
    ),
    'part of packed': Reader(
        partial(packed, 'shard-00000.npy'),
        pack_again,
        damage.either(damage.of_bytes, damage.in_numpy),
        count=20,
        refuses=False,
    ),
    'list of pictures': Reader(picture_list, read_list, damage.of_text, count=60),
    'list of bad pictures': Reader(
        picture_list, read_bad_list, damage.of_text, count=60, refuses=False
    ),
    'COCO': Reader(coco, read_coco, damage.of_json, dense=True, count=40),
    'mask': Reader(mask, read_mask, damage.in_png, dense=True, count=80),
    'config': Reader(config_file, read_own_config, damage.of_text, acts='.*', count=40),
    'scalars.json': Reader(
        partial(run_folder, 'scalars.json'), read_run, damage.of_json_lines, count=12, refuses=False
    ),
    'run.json': Reader(
        partial(run_folder, 'run.json'), read_run, damage.of_json, count=20, refuses=False
    ),
    'test result': Reader(
        partial(run_folder, '2026*.json'), read_run, damage.of_json, count=12, refuses=False
    ),
    'depth.json': Reader(partial(run_folder, 'depth.json'), read_run, damage.of_json, count=20),
}
