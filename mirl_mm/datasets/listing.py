"""Which pictures a folder or a list names, and a word on those that are left out.

**Importing this module changes how mmpretrain lists, for the whole process:** CustomDataset, and so
ImageNet, finds class folders, pictures and the lines of a list by the functions below. Its own make
classes of hidden folders, follow links in circles, and end at a blank line.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log
from mmpretrain.datasets import custom
from PIL import Image

from mirl_mm.errors import UserError

EXTENSIONS = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.pbm', '.pnm',
    '.tif', '.tiff', '.gif', '.jp2', '.avif',
)  # fmt: skip
PICTURES = {'', '.heic', '.heif', '.jxl', '.svg', '.dng', '.cr2', '.nef'}  # that Pillow knows not
# Beside what starts with a dot: what systems make, some of it copies of the pictures.
HIDDEN = {'__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN', 'lost+found'}
CIRCLE = 'links in a circle or twice'
LABELLED = re.compile(r'(["\']?)(.*[^\s,;])\1[\s,;]+([+-]?\d{1,18})')  # a quote, path, label
LAST_COLUMN = re.compile(r'(.*[^\s,;])[\s,;]+[^\s,;]*')
Accepts = Callable[[str], bool]
LeftOut = defaultdict[str, list[str]]  # paths by their ending or another reason


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def list_files(root: str | Path, accepts: Accepts) -> list[str]:
    """Paths of the accepted files below a folder, relative to it and sorted.

    Links are followed, but no folder is listed twice. The log is told of what is left out: what is
    hidden, and pictures of other endings.
    """
    left_out: LeftOut = defaultdict(list)
    names = sorted(visible_files(str(root), '', accepts, left_out))
    _tell(root, left_out, accepts)
    return names


def find_folders(root: str, *_) -> tuple[list[str], dict[str, int]]:
    """The class folders, sorted, and their labels; in place of mmpretrain's function."""
    backend = fileio.get_file_backend(root, enable_singleton=True)
    if isinstance(backend, LocalBackend):
        inside, around = _entries(root, '', defaultdict(list)), _around(root)
        names = [name for name, is_folder in inside if is_folder]
        names = [name for name in names if os.path.realpath(os.path.join(root, name)) not in around]
    else:
        names = filter(_is_shown, backend.list_dir_or_file(root, list_file=False))
    return (names := sorted(names)), {name: label for label, name in enumerate(names)}


def get_samples(
    root: str, folder_to_idx: Mapping[str, int] | None, is_valid_file: Accepts, *_
) -> tuple[list, set[str] | None]:
    """Pictures and labels, and the classes without any; in place of mmpretrain's function."""
    if folder_to_idx is None:
        return list_files(root, is_valid_file), None
    left_out: LeftOut = defaultdict(list)
    for name, is_folder in _entries(root, '', left_out) if os.path.isdir(root) else ():
        if is_folder and name not in folder_to_idx:
            left_out[CIRCLE].append(name)
        elif not is_folder and is_valid_file(name) and _is_shown(name):
            left_out['in no class folder'].append(name)
    samples = [
        (path, label)
        for folder, label in sorted(folder_to_idx.items())
        for path in sorted(visible_files(root, f'{folder}/', is_valid_file, left_out))
    ]
    _tell(root, left_out, is_valid_file)
    return samples, folder_to_idx.keys() - {path.partition('/')[0] for path, _ in samples}


def visible_files(root: str, folder: str, accepts: Accepts, left_out: LeftOut) -> Iterator[str]:
    """The accepted files below a folder ('' or 'a/b/') of a root, relative to the root."""
    backend = fileio.get_file_backend(root, enable_singleton=True)
    if isinstance(backend, LocalBackend):
        names = _local_files(root, folder, left_out)
    else:
        inside = backend.join_path(root, folder).rstrip('/')
        below = backend.list_dir_or_file(inside, list_dir=False, recursive=True)
        names = (f'{folder}{name}' for name in below)
    for name in names:
        shown, accepted = '/.' not in f'/{name}', accepts(name)
        if shown and accepted:
            yield name
        elif shown or accepted:
            left_out[os.path.splitext(name)[1].lower() if shown else 'hidden'].append(name)


def numbered_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a list, counted from 1, but for blank ones and those that start with ``# ``."""
    if not fileio.isfile(path):
        raise FileNotFoundError(f'no such list of images: {path}; one path a line is accepted')
    try:
        lines = fileio.list_from_file(path, encoding='utf-8-sig')  # a mark at the start goes
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is no text in UTF-8 ({error.reason}): save it as such') from error
    lines = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in lines if line and line[:2] not in ('#', '# ')]


def label_lines(path: str) -> list[str]:
    """Lines as mmpretrain takes them apart: path, blank, label; in place of MMEngine's function."""
    lines = [(line, LABELLED.fullmatch(line)) for _, line in numbered_lines(path)]
    return [f'{found[2]} {found[3]}' if found else line for line, found in lines]


def read_list(path: str | Path, accepts: Accepts) -> list[str]:
    """The accepted paths of a list, one a line and maybe in quotes, without the columns behind.

    The log is told of lines that are left out, those of hidden files among them.
    """
    names, left_out = [], []
    for number, line in (lines := numbered_lines(path)):
        name = line.strip('"\'')
        while name and not accepts(name):  # without its last column
            column = LAST_COLUMN.fullmatch(name)
            name = column[1].strip('"\'') if column else ''
        parts = name.split('/') if name[:1] != '/' else [os.path.basename(name)]
        if name and all(map(_is_shown, parts)):
            names.append(name)
        else:
            left_out.append(f'line {number}, {line!r}')
    if left_out:
        said = f'{len(left_out)} of {len(lines)} lines name no picture that is taken'
        _warn(f'{path}: {said}; the first is {left_out[0]}')
    return names


def _is_shown(name: str) -> bool:
    return name not in HIDDEN and (name[:1] != '.' or name in ('.', '..'))


def _around(folder: str) -> set[str]:
    """The true path of a folder and of all above it."""
    real = Path(folder).resolve()
    return {str(real), *map(str, real.parents)}


def _entries(root: str, folder: str, left_out: LeftOut) -> Iterator[tuple[str, bool]]:
    """What is in a folder of a local root, and whether it is one itself; no hidden folders."""
    with os.scandir(os.path.join(root, folder) or '.') as entries:
        for entry in entries:
            name, link = f'{folder}{entry.name}', entry.is_symlink()  # else is_dir may raise
            if os.path.isdir(entry.path) if link else entry.is_dir():
                if _is_shown(entry.name):
                    yield name, True
                else:
                    left_out['hidden'].append(name)
            elif os.path.isfile(entry.path) if link else entry.is_file():
                yield name, False
            elif link:
                left_out['broken links'].append(name)


def _local_files(root: str, folder: str, left_out: LeftOut) -> Iterator[str]:
    """All files below a folder of a local root, those behind links to folders last."""
    start = os.path.realpath(os.path.join(root, folder))
    folders, links, done = [folder], [], (_around(root) | _around(start)) - {start}
    while folders or links:
        folder = (folders or links).pop()
        real = os.path.realpath(os.path.join(root, folder))
        if real in done:
            left_out[CIRCLE].append(folder)
            continue
        done.add(real)
        for name, is_folder in _entries(root, folder, left_out):
            if not is_folder:
                yield name
            elif os.path.islink(os.path.join(root, name)):
                links.append(f'{name}/')
            else:
                folders.append(f'{name}/')


def _tell(root: str | Path, left_out: LeftOut, accepts: Accepts) -> None:
    known = PICTURES | Image.registered_extensions().keys() if left_out else set()
    said = [
        f'{len(paths)} {why or "without an ending"} ({paths[0]})'
        for why, paths in sorted(left_out.items())
        if why in known or why[0] != '.'
    ]
    if said:
        accepted = ', '.join(sorted(filter(accepts, known)))
        _warn(f'{str(root).rstrip("/")}: left out {", ".join(said)}; accepted are {accepted}')


def _warn(said: str) -> None:
    print_log(said, 'current', logging.WARNING)


custom.find_folders, custom.get_samples = find_folders, get_samples
custom.list_from_file = label_lines
