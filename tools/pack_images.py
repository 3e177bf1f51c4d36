"""Pack a folder of images for a network file system: ``python tools/pack_images.py FROM TO``."""

import argparse
import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mirl_mm.datasets.listing import is_image, list_files, read_list
from mirl_mm.datasets.packed import Packed
from mirl_mm.datasets.packed.writing import pack_images, verify
from mirl_mm.errors import UserError, one_line, visible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Pack images into a few large tar files, which data_root=packed://TO reads. '
        'Interrupted, it goes on where it stopped.'
    )
    parser.add_argument('source', metavar='FROM', nargs='?', help='folder of the images')
    parser.add_argument('destination', metavar='TO', help='new folder for the packed ones')
    parser.add_argument(
        '--list', metavar='FILE', help='pack the files named there (relative to FROM), one a line'
    )
    parser.add_argument('--shard-mb', type=int, default=512, help='size of a shard (%(default)s)')
    parser.add_argument('--workers', type=int, default=8, help='threads that read (%(default)s)')
    parser.add_argument(
        '--verify', action='store_true', help='read all that is packed in TO and compare'
    )
    return parser.parse_args()


def progress_bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), 'images', TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not sys.stderr.isatty())


def pack(args: argparse.Namespace) -> str:
    if args.source is None:
        raise UserError('FROM, the folder of the images, is missing')
    names = read_list(args.list, is_image) if args.list else list_files(args.source, is_image)
    with progress_bar() as progress:
        task = progress.add_task('', total=len(names))
        done = pack_images(
            args.source,
            args.destination,
            names,
            args.shard_mb << 20,
            args.workers,
            lambda images: progress.advance(task, images),
        )
    kept = f' ({done.kept} were there)' if done.kept else ''
    return (
        f'{done.images:,} images, {done.bytes / 1e6:,.0f} MB, in {done.shards} shards{kept}, read '
        f'back and compared. Use them as data_root=packed://{args.destination}'
    )


def check(folder: str) -> str:
    with progress_bar() as progress:
        task = progress.add_task('', total=len(Packed(folder).index))
        broken = verify(folder, lambda images: progress.advance(task, images))
    if broken:
        print(visible('\n'.join(broken)), file=sys.stderr)
        raise UserError(f'{len(broken)} of the images in {folder} are not what was packed')
    return f'{len(Packed(folder).index):,} images in {folder} are as they were packed'


def main() -> None:
    args = parse_args()
    print(check(args.destination) if args.verify else pack(args))


if __name__ == '__main__':
    one_line(main)
