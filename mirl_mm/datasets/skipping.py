"""Images that cannot be read: take the next one, count, stop where they are too many."""

import logging
from pathlib import Path

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mirl_mm.errors import BadImagesError, UserError

_WORKERS = 256  # workers that count for themselves


class SkipUnreadable(BaseDataset):
    """A dataset, to be mixed into another, that replaces images that cannot be read.

    The first transform of the pipeline reads the file, with an exception for a broken one. Where it
    fails, the next readable image of the dataset is taken, the same one every time, and the failure
    is logged. With ``test_mode`` the failure is raised.

    More than `max_bad_images` are a BadImagesError: counted over all workers of a process, each
    image once; BadImagesHook counts over all processes. `max_bad_share` of all replaces the number.
    """

    def __init__(
        self, *args, max_bad_images: int = 100, max_bad_share: float | None = None, **kwargs
    ) -> None:
        if max_bad_images < 0:
            raise UserError(f'max_bad_images must be 0 or more, got {max_bad_images}')
        if max_bad_share is not None and not 0 <= max_bad_share <= 1:
            raise UserError(f'max_bad_share must be from 0 to 1, got {max_bad_share}')
        self.max_bad_images, self.max_bad_share = max_bad_images, max_bad_share
        self._list, self._listed_before = None, frozenset()
        super().__init__(*args, **kwargs)

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
        """Add each unreadable image to a file, once: its path, a tab and what is wrong.

        To be called before workers start.
        """
        self._list = Path(path)
        if self._list.is_file():
            lines = self._list.read_text(errors='replace').splitlines()
            self._listed_before = frozenset(line.partition('\t')[0] for line in lines)

    @property
    def limit(self) -> int:
        share = self.max_bad_share
        return self.max_bad_images if share is None else int(share * len(self))

    @property
    def limit_name(self) -> str:
        """The setting that :attr:`limit` comes from."""
        share = self.max_bad_share
        return f'max_bad_images={self.limit}' if share is None else f'max_bad_share={share:g}'

    def prepare_data(self, idx: int) -> dict | None:
        """Image ``idx`` through the pipeline, or the next one (round the end) that can be read."""
        if self.test_mode:
            return super().prepare_data(idx)
        load, *augment = self.pipeline.transforms
        for step in range(len(self)):
            index = (idx + step) % len(self)
            if self._bad[index]:
                continue
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
        raise BadImagesError(f'none of the {len(self)} images can be read: {self._path(idx)}, ...')

    def _path(self, index: int) -> str:
        return self.get_data_info(index)['img_path']

    def _mark_bad(self, index: int, error: Exception) -> None:
        number = int((self._bad > 0).sum()) + 1
        self._bad[index] = number
        cause, path = error.__cause__ or error, self._path(index)  # which need not name the file
        what = f'{type(cause).__name__}: {cause}'.replace(f': {path!r}', '')
        if self._list is not None and path not in self._listed_before:
            line = ' '.join(f'{path}\t{what}'.splitlines()) + '\n'
            with self._list.open('ab', buffering=0) as file:  # one write: processes do not mix
                file.write(line.encode())
        said = f'unreadable image {number}, at most {self.limit} are skipped: {path} ({what})'
        print_log(said, 'current', logging.ERROR)  # no warning: all processes but one mute it
        if number > self.limit:
            last = ', '.join(map(self._path, self._bad.topk(min(number, 5)).indices.tolist()))
            said = f'{number} images cannot be read, {self.limit_name}; the last: {last}'
            raise BadImagesError(f'{said}. {path} ({what})') from error
