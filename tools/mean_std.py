"""Mean and deviation of each channel of a folder's images: ``python tools/mean_std.py FOLDER``."""

import argparse

from mmcv import bgr2rgb

from mirl_mm.datasets import LoadAnyImage
from mirl_mm.datasets.channels import mean_and_std
from mirl_mm.datasets.images import UnlabelledImages
from mirl_mm.datasets.listing import EXTENSIONS
from mirl_mm.errors import UserError, one_line
from mirl_mm.files import some_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Mean and standard deviation of each channel over all pixels of the images of '
        'a folder, in any nesting, as lines for a config. Of more than 5,000 images, 2,000 evenly '
        'chosen ones are read.'
    )
    parser.add_argument('folder', metavar='FOLDER', help='also packed://FOLDER')
    parser.add_argument(
        '--channels',
        type=int,
        metavar='N',
        help='of TIFF, .npy or others with N channels, as they are; without it, of RGB in 8 bits',
    )
    args = parser.parse_args()
    load, channels = LoadAnyImage(channels=args.channels), args.channels is not None
    endings = (*EXTENSIONS, *(['.npy'] if channels else []))
    paths = UnlabelledImages(args.folder, extensions=endings, lazy_init=True).paths()
    if not paths:
        raise UserError(f'no image in {args.folder}; accepted are files in {", ".join(endings)}')
    read = some_of(paths)
    images = (load(dict(img_path=path))['img'] for path in read)
    mean, std = mean_and_std(images if channels else map(bgr2rgb, images))
    if not std.min() > 0:
        same = f'channel {std.argmin()} (from 0 on) is {mean[std.argmin()]:g} everywhere'
        raise UserError(f'{args.folder}: {same}, which says nothing: leave it out of the files')
    print(f'{len(read):,} of {len(paths):,} images, {len(mean)} channels')
    for name, values in (('mean', mean), ('std', std)):
        print(f'{name}=[{", ".join(f"{value:.6g}" for value in values)}],')
    print(f'to_rgb={not channels},  # mmdet and mmseg: bgr_to_rgb')


if __name__ == '__main__':
    one_line(main)
