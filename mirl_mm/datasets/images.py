"""Folders and lists of images without labels, as they are found: some of them broken.

Images are BGR, [H, W, 3], as everywhere in OpenMMLab.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmengine import fileio
from mmengine.fileio import BaseStorageBackend, LocalBackend
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.base_dataset import expanduser
from mmpretrain.datasets.custom import get_samples
from torch.utils.data import get_worker_info

from mirl_mm.errors import BadImagesError, UserError

from .listing import CACHE, list_files, read_list

_WORKERS = 256  # workers that count for themselves
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff')


@DATASETS.register_module()
class UnlabelledImages(CustomDataset):
    """Every image below a folder, or those that a list names.

    The first transform of the pipeline reads the file (LoadAnyImage, or another that raises an
    exception for a broken file; OpenCV decodes a truncated JPEG in silence). Where it fails, the
    next readable image of the dataset is taken, the same one every time, and the failure is
    logged. With ``test_mode`` the failure is raised.

    Args:
        data_root: Folder of the images, in any nesting (ImageNet's ``train``, for instance), or
            ``packed://FOLDER`` (see packed.py).
        data_prefix: Folder of the images below ``data_root``.
        ann_file: A list below ``data_root`` instead of all files: one path a line, relative to
            the folder. A label behind the path is ignored.
        extensions: Endings of the files to take, in any case.
        max_bad_images: How many images may be unreadable. One more stops the run with a
            BadImagesError. Counted over all workers of a process, each image once; BadImagesHook
            counts over all processes.
        max_bad_share: The same as a share of all images, from 0 to 1; replaces max_bad_images.
        list_cache: Folder where lists of 10,000 files and more are remembered, so that the next
            start looks at the folders' modification times alone. None: list anew at every start.
        **kwargs: As in mmpretrain's BaseDataset.

    Raises:
        FileNotFoundError: The folder or the list, or all of the first files of the list, are not
            there.
        ValueError: There is no image in the folder or in the list.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str = '',
        ann_file: str = '',
        extensions: Sequence[str] = EXTENSIONS,
        max_bad_images: int = 100,
        max_bad_share: float | None = None,
        list_cache: str | None = CACHE,
        **kwargs,
    ) -> None:
        if not data_root and not data_prefix:
            raise UserError(
                'UnlabelledImages needs the folder of the images as data_root (or '
                'data_prefix); both are empty'
            )
        if max_bad_images < 0:
            raise UserError(f'max_bad_images must be 0 or more, got {max_bad_images}')
        if max_bad_share is not None and not 0 <= max_bad_share <= 1:
            raise UserError(f'max_bad_share must be from 0 to 1, got {max_bad_share}')
        self.max_bad_images, self.max_bad_share = max_bad_images, max_bad_share
        self._list, self._listed_before = None, frozenset()
        self.list_cache = list_cache
        super().__init__(
            data_root=expanduser(data_root),
            data_prefix=data_prefix,
            ann_file=ann_file,
            with_label=False,
            extensions=extensions,
            **kwargs,
        )

    def full_init(self) -> None:
        super().full_init()
        # 0: not known to be bad; n: the n-th bad image. Shared, since workers are processes.
        self._bad = torch.zeros(len(self), dtype=torch.int32).share_memory_()
        # How often each worker gave another image instead (a slot of its own: nothing is lost).
        self._replaced = torch.zeros(_WORKERS, dtype=torch.int64).share_memory_()

    def bad_images(self) -> list[int]:
        """Indices of the images that could not be read, as far as they have been met."""
        return self._bad.nonzero().flatten().tolist()

    def replaced(self) -> int:
        """How often another image was given for one that could not be read."""
        return int(self._replaced.sum())

    def list_bad_images(self, path: str | Path) -> None:
        """From now on, add each unreadable image to a file: its path, a tab and what is wrong.

        To be called before workers start. What is in the file already is not added again.
        """
        self._list = Path(path)
        if self._list.is_file():
            lines = self._list.read_text().splitlines()
            self._listed_before = frozenset(line.partition('\t')[0] for line in lines)

    @property
    def limit(self) -> int:
        """How many images may be unreadable."""
        if self.max_bad_share is None:
            return self.max_bad_images
        return int(self.max_bad_share * len(self))

    @property
    def limit_name(self) -> str:
        """The setting that :attr:`limit` comes from."""
        if self.max_bad_share is None:
            return f'max_bad_images={self.max_bad_images}'
        return f'max_bad_share={self.max_bad_share:g}'

    def load_data_list(self) -> list[dict]:
        """Paths of all images, sorted or in the order of the list."""
        backend = fileio.get_file_backend(self.img_prefix, enable_singleton=True)
        if not backend.isdir(self.img_prefix):
            raise FileNotFoundError(
                f'no such folder of images: {self.img_prefix} '
                f'(data_root={self.data_root!r}){self._accepted()}'
            )
        if self.ann_file:
            names = read_list(self.ann_file, self.is_valid_file)
            paths = [backend.join_path(self.img_prefix, name) for name in names]
        else:
            folder = backend.join_path(self.img_prefix, '')
            paths = [f'{folder}{name}' for name in self._found(backend)]
        if not paths:
            where = f'list {self.ann_file}' if self.ann_file else f'folder {self.img_prefix}'
            raise UserError(f'no image in the {where}{self._accepted()}')
        # A look at the first few finds a wrong folder; a look at all may take minutes.
        if self.ann_file and not any(backend.isfile(path) for path in paths[:10]):
            raise FileNotFoundError(
                f'the list {self.ann_file} names {len(paths)} images, but none '
                f'of the first {len(paths[:10])} exists; looked for {paths[0]}'
            )
        return [dict(img_path=path) for path in paths]

    def _found(self, backend: BaseStorageBackend) -> list[str]:
        """Paths relative to the folder, sorted."""
        if not isinstance(backend, LocalBackend):
            return get_samples(self.img_prefix, None, self.is_valid_file, backend)[0]
        kind = ' '.join(sorted(self.extensions))
        return list_files(self.img_prefix, self.is_valid_file, kind, self.list_cache)

    def _accepted(self) -> str:
        return f'; accepted are files that end in {", ".join(sorted(self.extensions))}'

    def prepare_data(self, idx: int) -> dict | None:
        """Image ``idx`` through the pipeline, or the next one that can be read."""
        if self.test_mode:
            return super().prepare_data(idx)
        load, *augment = self.pipeline.transforms
        for index in self._from(idx):
            try:
                results = load(self.get_data_info(index))
            except ImportError:
                raise  # no decoder: not the image's fault
            except Exception as error:  # decoders raise whatever they like
                self._mark_bad(index, error)
                continue
            if index != idx:
                worker = get_worker_info()
                self._replaced[worker.id % _WORKERS if worker else 0] += 1
            for transform in augment:
                results = None if results is None else transform(results)
            return results
        raise RuntimeError(f'none of the {len(self)} images of {self.img_prefix} can be read')

    def _from(self, idx: int) -> Iterator[int]:
        """``idx`` and all that follow it, round the end, but the images known to be bad."""
        for step in range(len(self)):
            index = (idx + step) % len(self)
            if not self._bad[index]:
                yield index

    def _mark_bad(self, index: int, error: Exception) -> None:
        number = int((self._bad > 0).sum()) + 1
        self._bad[index] = number
        path = self.get_data_info(index)['img_path']
        what = f'{type(error).__name__}: {error}'
        if self._list is not None and path not in self._listed_before:
            line = ' '.join(f'{path}\t{what}'.splitlines()) + '\n'
            with self._list.open('ab', buffering=0) as file:  # one write: processes do not mix
                file.write(line.encode())
        # An error, not a warning: mmengine mutes warnings on every process but the first.
        print_log(
            f'unreadable image {number}, at most {self.limit} are skipped: {path} ({what})',
            logger='current',
            level=logging.ERROR,
        )
        if number > self.limit:
            last = self._bad.topk(min(number, 5)).indices.tolist()
            paths = ', '.join(self.get_data_info(i)['img_path'] for i in last)
            raise BadImagesError(
                f'{number} images cannot be read, {self.limit_name}; the last: {paths}. '
                f'{path} ({what})'
            ) from error
