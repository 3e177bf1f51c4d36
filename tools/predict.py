"""Draw what a trained model sees: ``python tools/predict.py CONFIG CKPT PICTURES``."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

from rich.live import Live

from mirl_mm.apps import add_cfg_options
from mirl_mm.apps.predict import predict_pictures
from mirl_mm.engine.hooks.progress import clock, duration
from mirl_mm.engine.hooks.progress import one_line as progress_line
from mirl_mm.errors import one_line, visible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw boxes and masks (a detector), the classes of the pixels (a segmentor) or '
        'the label (a classifier), and write them to files.'
    )
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('checkpoint', metavar='CKPT', help='checkpoint of a training run')
    parser.add_argument('pictures', metavar='IMAGE_OR_FOLDER', help='any images')
    drawings = parser.add_mutually_exclusive_group()
    drawings.add_argument(
        '--out', metavar='DIR', default='predictions', help='folder of the drawings (predictions)'
    )
    drawings.add_argument(
        '--no-pictures', dest='out', action='store_const', const=None, help='no drawings'
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='of a detector, the lowest score drawn (0.3)'
    )
    parser.add_argument(
        '--results',
        metavar='PATH',
        help="all that is found: a detector's COCO results (FILE.json), a classifier's five best "
        "labels (FILE.csv), a segmentor's index masks (a folder of PNGs)",
    )
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='pictures at once')
    add_cfg_options(parser, 'settings that override the config, as in model.test_cfg.mode=whole')
    return parser.parse_args()


def shown_on(live: Live) -> Callable[[int, int], None]:
    """Where it is, for a terminal."""
    started = time.perf_counter()

    def show(done: int, total: int) -> None:
        nonlocal started
        started, fields = started if done else time.perf_counter(), []
        if done:
            rate = done / (time.perf_counter() - started)
            left = (total - done) / rate
            ends = f'until {clock(datetime.now(), left)}'
            fields = [f'left {duration(left)}', ends, f'{rate:.1f} pictures/s']
        line = progress_line(f'picture {done}/{total}', fields, done, total, live.console)
        live.update(line, refresh=True)

    return show


def main() -> None:
    options = vars(parse_args())
    with ExitStack() as stack:
        if sys.stdout.isatty():  # no thread that refreshes: the loader forks
            live = Live(transient=True, auto_refresh=False)
            options['progress'] = shown_on(stack.enter_context(live))
        for line in predict_pictures(**options):
            print(visible(line), flush=True)


if __name__ == '__main__':
    one_line(main)
