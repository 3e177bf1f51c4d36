"""A screenshot of the report page about a run."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from mirl_mm.apps.report import write_report
from mirl_mm.errors import UserError

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
QUIET = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run')
QUIET += ('--disable-background-networking', '--hide-scrollbars')
SIZE = 1100, 1500  # pixels
# The table of what was run comes first and fills a screen; curves and paintings are what is shown.
WITHOUT = '<style>section:has(#overview), section:has(#results) {display: none}</style>'


def browser() -> str | None:
    return next((found for found in map(shutil.which, BROWSERS) if found), None)


def shot(command: str, run: Path) -> Image.Image:
    """The page about a run's folder from its curves on, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(run, Path(folder) / 'report.html')
        page.write_text(page.read_text() + WITHOUT)
        picture = Path(folder) / 'page.png'
        options = [f'--user-data-dir={folder}/browser', f'--screenshot={picture}']
        options.append('--window-size={},{}'.format(*SIZE))
        done = subprocess.run(
            [command, *QUIET, *options, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode or not picture.is_file():
            last = (done.stderr.strip().splitlines() or ['nothing'])[-1]
            raise UserError(f'{command} made no picture of the report page; it said: {last}')
        with Image.open(picture) as opened:
            return opened.convert('RGB')
