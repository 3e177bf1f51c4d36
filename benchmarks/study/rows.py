"""The study's results: one JSON line a finished run, in a file that is committed."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import ROOT

from .grid import RUNS, VERSION
from .stages import what

ROWS = Path(__file__).parents[1] / 'results/study/rows.jsonl'
# seconds: as the clock went by beside whatever else there was; cpu_seconds: what the processes used
NOTHING = dict(steps=0, images_per_s=None, seconds=0.0, last_loss=None, held_out_error=None)


def form(run: Mapping, found: Mapping) -> dict:
    """A row, also of the GPU's depth stage: what was run, what it came to, where and with what.

    Args:
        run: ``run`` (its name), ``grid``, ``method``, ``depth``, ``width``, ``data``, ``epochs``,
            ``batch``, ``rate``, ``seed``.
        found: of :data:`NOTHING` what there is, and curves by block in percent.
    """
    from mirl_mm.engine.run_facts import environment, git_state

    here = environment()
    made = dict(device=here['hardware'], versions=here['versions'], date=here['date'])
    made['commit'] = (git_state(ROOT) or {}).get('commit')
    return dict(study=VERSION) | dict(run) | NOTHING | dict(found) | made


def read(file: Path = ROWS) -> dict[str, dict]:
    """The rows by name of the run; none where there is no file yet.

    Raises:
        ValueError: a line that is no row, or one of another version of the grid or of a run.
        OSError: the file cannot be read.
    """
    found = {}
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        where = f'{file}, line {number}'
        try:
            row = json.loads(line)
            name, _ = row['run'], row['study']
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{where} is no row of the study: {error!r}') from error
        check_version(row, where)
        if name not in RUNS:
            raise ValueError(f'{where}: the grid has no run {name}; move the row to another file')
        if other := difference(row, what(RUNS[name])):
            raise ValueError(f'{where}: the run {name} had {other}; move the row to another file')
        found[name] = row
    return found


def difference(found: Mapping, declared: Mapping) -> str:
    """The first setting that is not as the grid declares it; empty where all are."""
    for key, value in declared.items():
        if found.get(key) != value:
            return f'{key} {found.get(key)}, the grid has {value}'
    return ''


def check_version(row: Mapping, where: str) -> None:
    """ValueError for a row of another version of the grid."""
    if row['study'] != VERSION:
        raise ValueError(
            f'{where}: a row of version {row["study"]} of the grid; this is version {VERSION}, and '
            'rows of others are not compared. Move them to another file'
        )


def add(row: dict, file: Path = ROWS) -> None:
    """Put a row at the end, or in the place of the same run's."""
    from mirl_mm.files import write_complete

    with locked(file.parent):
        rows = read(file) | {row['run']: row}
        write_complete(file, ''.join(f'{json.dumps(each)}\n' for each in rows.values()).encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time, also of drivers with other work dirs."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
