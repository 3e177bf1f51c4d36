"""Make the README's pictures: ``make pictures [CKPT=FILE] [CONFIG=CONFIG]``."""

import argparse
from pathlib import Path

from PIL import Image

from mirl_mm.errors import UserError, one_line

from . import curve, depth, features, method, page, strip, svg

ROOT = Path(__file__).parents[2]
OUT, DEMO = ROOT / 'docs/images', Path('work_dirs/demo')
DRAWN = dict(method=method.draw, depth=depth.draw, blocks=curve.draw)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the README's pictures.")
    parser.add_argument(
        '--checkpoint',
        type=Path,
        metavar='FILE',
        help="what paints the strip and has the features, in a run's folder (the demo's last)",
    )
    config = ROOT / 'configs/demo/mirl_12-blocks.py'
    parser.add_argument('--config', default=str(config), help="the checkpoint's (the demo's)")
    parser.add_argument(
        '--picture', type=Path, metavar='FILE', help='an image of your own for both'
    )
    parser.add_argument('--out', type=Path, default=OUT, metavar='DIR', help='docs/images')
    return parser.parse_args()


def drawings() -> dict[str, str]:
    """The text of every SVG, by file name."""
    return {
        f'{name}-{kind}.svg': draw(theme)
        for name, draw in DRAWN.items()
        for kind, theme in svg.THEMES.items()
    }


def last_checkpoint(run: Path = DEMO) -> Path:
    """What the demo has trained."""
    note = run / 'last_checkpoint'
    if not note.is_file():
        wanted = 'CKPT=FILE names one, and `make demo` trains one'
        raise UserError(f'no checkpoint in {run} to paint with; {wanted}')
    return Path(note.read_text())


def save(picture: Image.Image, file: Path) -> None:
    picture.save(file, optimize=True)
    print(file)


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in drawings().items():
        (args.out / name).write_text(text)
        print(args.out / name)
    checkpoint = args.checkpoint or last_checkpoint()
    shown = args.picture or strip.photograph()
    columns = strip.columns_of(args.config, str(checkpoint), shown)
    save(strip.strip(columns), args.out / 'strip.png')
    rows = features.rows_of(args.config, str(checkpoint), shown)
    save(rows.quantize(128), args.out / 'features.png')
    command = page.browser()
    if command is None:
        print(f'report.png is left as it is: no {" or ".join(page.BROWSERS)} on PATH to draw it')
        return
    shown = page.shot(command, checkpoint.parent)
    save(shown.quantize(256), args.out / 'report.png')  # flat colours: a third of the size


if __name__ == '__main__':
    one_line(main)
