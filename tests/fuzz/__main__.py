"""One damaged file once more, with the whole traceback: ``python -m tests.fuzz NAME NUMBER``."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .readers import READERS
from .trial import damaged

name, number = sys.argv[1], int(sys.argv[2])
with TemporaryDirectory() as folder:
    for part in ('seed', 'out'):
        Path(folder, part).mkdir()
    path = READERS[name].seed(Path(folder, 'seed'))
    path.write_bytes(damaged(name, number, READERS[name], path.read_bytes()))
    READERS[name].read(path, Path(folder, 'out'))
    print(f'{name}, number {number}: read without a word')
