"""Every kind of run that is struck: the shipped test configs, with less to do.

All have loader workers, checkpoints in the middle of epochs and of accumulated groups, and a fixed
seed, so that an undisturbed run can be repeated to the bit.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mirl_mm.demo.scene_set import SceneSet, write_scenes

from .run import IMAGES, ROOT, small_config, write_images

CLASSES, OF_CLASS = 4, 8


@dataclass(frozen=True)
class Data:
    """What the runs read, in a folder: noise, noise in class folders, scenes with boxes."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / 'images'

    @property
    def classes(self) -> Path:
        return self.folder / 'classes'

    @property
    def scenes(self) -> SceneSet:
        return SceneSet(self.folder / 'scenes')

    def write(self) -> 'Data':
        write_images(self.images)
        for label in range(CLASSES):
            for split, count in (('train', OF_CLASS), ('val', 2)):
                folder = self.classes / split / f'class_{label}'
                write_images(folder, count=count, seed=1 + label)
        write_scenes(self.scenes.root, num_train=8, num_val=2)
        return self


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        name: for the table.
        file: the config below configs/; none where the run is that of run.py.
        batch: images of an iteration, over all processes.
        iterations: of the whole run.
        options: dotted keys that make it small.
        needs: a package that may lack.
    """

    name: str
    file: str
    batch: int
    iterations: int
    options: dict = field(default_factory=dict)
    needs: str = 'mmpretrain'

    @property
    def lacks(self) -> str:
        """Why it cannot run here; empty if it can."""
        return '' if find_spec(self.needs) else f'{self.needs} is not installed: skipped'

    def config(self, data: Data, processes: int = 1, **settings: object) -> Config:
        """The config, with dotted keys to merge at the end (``__`` for dots)."""
        if not self.file:
            images = settings.pop('images', data.images)
            return small_config(images, processes, self.name == 'MIRL', **settings)
        cfg = Config.fromfile(ROOT / 'configs' / self.file)
        options = {
            'default_hooks.logger.interval': 1,
            'default_hooks.checkpoint': dict(by_epoch=False, interval=3, max_keep_ckpts=2),
            'train_dataloader.batch_size': self.batch // processes,
            'train_dataloader.num_workers': 1,
            'train_dataloader.persistent_workers': True,
        }
        for split in ('train', 'val', 'test'):
            if cfg.get(f'{split}_dataloader') is not None:
                options[f'{split}_dataloader.dataset.data_root'] = f'{self._root(data)}/'
        if self.needs == 'mmdet':
            for split in ('val', 'test'):
                options[f'{split}_evaluator.ann_file'] = str(data.scenes.annotations('val'))
        for name in ('progress', 'summary', 'health', 'panel'):
            cfg.default_hooks.pop(name, None)
        changes = {key.replace('__', '.'): value for key, value in settings.items()}
        cfg.merge_from_dict(options | self.options | changes)
        return cfg

    def _root(self, data: Data) -> Path:
        if self.needs == 'mmpretrain':
            return data.images if 'mae' in self.file else data.classes
        return data.scenes.root


_FROM_SCRATCH = {'model.backbone.init_cfg': None}
_DENSE = _FROM_SCRATCH | {'train_cfg.max_iters': 8, 'train_cfg.val_interval': 5}
_EPOCH = CLASSES * OF_CLASS // 4  # iterations

KINDS = {
    kind.name: kind
    for kind in (
        Kind('MIRL', '', 4, 30),
        Kind('MIRL by iterations', '', 4, 30),
        Kind(
            'MAE',
            'mae/vit-test_2e.py',
            batch=4,
            iterations=2 * IMAGES // 4,
            options={
                'train_dataloader.dataset.data_prefix': '',
                'optim_wrapper.accumulative_counts': 4,
            },
        ),
        Kind(
            'fine-tuning',
            'finetune/vit-test_2e_classes.py',
            batch=4,
            iterations=2 * _EPOCH,
            options=_FROM_SCRATCH,
        ),
        Kind(
            'linear probe',
            'linear/vit-test_4e_classes.py',
            batch=4,
            iterations=4 * _EPOCH,
            options=_FROM_SCRATCH,
        ),
        Kind(
            'Mask R-CNN',
            'mask-rcnn/vit-test_20it_scenes.py',
            batch=2,
            iterations=8,
            options=_DENSE | {'default_hooks.checkpoint.save_best': 'coco/segm_mAP'},
            needs='mmdet',
        ),
        Kind(
            'UperNet',
            'upernet/vit-test_20it_scenes.py',
            batch=4,  # its smallest pooling needs two images of a process
            iterations=8,
            options=_DENSE | {'default_hooks.checkpoint.save_best': 'mIoU'},
            needs='mmseg',
        ),
    )
}


def import_all() -> None:
    """Import what runs need, as far as it is installed: once, not in every one that is forked."""
    for name in ('mmpretrain', 'mmdet', 'mmseg'):
        with suppress(ImportError):
            for part in ('models', 'datasets', 'evaluation', 'visualization'):
                import_module(f'{name}.{part}')
