"""Images without labels: those of a folder, of a list, or of any iterable of paths."""

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmengine import fileio
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.base_dataset import expanduser

from mirl_mm.errors import UserError

from .listing import EXTENSIONS, list_files, read_list
from .skipping import SkipUnreadable

Paths = Iterable[str | Path]


@DATASETS.register_module()
class UnlabelledImages(SkipUnreadable, CustomDataset):
    """Every image below a folder, those that a list names, or those of an iterable of paths.

    A subclass for another source overrides :meth:`paths`, and nothing else. FileNotFoundError: the
    folder, the list, or all of the first files are not there.

    Args:
        data_root, data_prefix: the folder, ``data_root/data_prefix``, holds images in any nesting;
            ``packed://FOLDER`` is one that was packed (see packed/).
        ann_file: a list below ``data_root`` instead of all files: one path a line, relative to
            the folder. Columns behind the path (labels) are ignored.
        paths: instead of both, paths of images as they are to be opened; or a function that gives
            them for the folder; or, for a config, its name (``package.module.function``).
        extensions: endings of the files to take from a folder or a list, in any case.
        **kwargs: max_bad_images and max_bad_share of SkipUnreadable; those of BaseDataset.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str = '',
        ann_file: str = '',
        paths: Paths | Callable[[str], Paths] | str | None = None,
        extensions: Sequence[str] = EXTENSIONS,
        **kwargs,
    ) -> None:
        if paths is not None and ann_file:
            raise UserError(f'a list (ann_file={ann_file!r}) and paths are given; one is enough')
        self._paths = paths
        if isinstance(paths, str):
            try:
                self._paths = pkgutil.resolve_name(paths)
            except (ImportError, AttributeError, ValueError) as error:
                wanted = 'paths, a function of a folder that gives them, or its package.module.name'
                said = f'paths={paths!r} names no function ({error}); accepted: {wanted}'
                raise UserError(said) from error
        prefix = dict(img_path=expanduser(data_prefix))
        where = dict(data_root=expanduser(data_root), data_prefix=prefix, ann_file=ann_file)
        super().__init__(**where, with_label=False, extensions=extensions, **kwargs)

    def paths(self) -> Paths:
        """Paths of all images, as they are to be opened."""
        folder = self.img_prefix
        if self._paths is not None:
            return self._paths(folder.rstrip('/')) if callable(self._paths) else self._paths
        if not folder:
            raise UserError('UnlabelledImages needs the folder of the images (data_root) or paths')
        backend = fileio.get_file_backend(folder, enable_singleton=True)
        if not backend.isdir(folder):
            where = f'{folder} (data_root={self.data_root!r})'
            raise FileNotFoundError(f'no such folder of images: {where}{self._accepted}')
        if self.ann_file:
            names = read_list(self.ann_file, self.is_valid_file)
            return [backend.join_path(folder, name) for name in names]
        names = list_files(folder, self.is_valid_file)
        folder = backend.join_path(folder, '')
        return [f'{folder}{name}' for name in names]

    def load_data_list(self) -> list[dict]:
        paths = list(map(str, self.paths()))
        self._paths = ()  # a generator is spent now, and could not be copied
        source = f'folder {self.img_prefix}' if self.img_prefix else 'iterable of paths'
        source = f'list {self.ann_file}' if self.ann_file else source
        if not paths:
            raise UserError(f'no image in the {source}{self._accepted if self.img_prefix else ""}')
        # A look at the first few finds a wrong folder; a look at all may take minutes.
        if not any(fileio.isfile(path) for path in paths[:10]):
            none = f'none of the first {len(paths[:10])} exists; looked for {paths[0]}'
            raise FileNotFoundError(f'the {source} names {len(paths)} images, but {none}')
        return [dict(img_path=path) for path in paths]

    @property
    def _accepted(self) -> str:
        return f'; accepted are files that end in {", ".join(sorted(self.extensions))}'
