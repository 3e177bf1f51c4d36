"""What the driver notes in a run's folder: what was begun, by which code, and what it has used."""

import json
from pathlib import Path

from benchmarks.processes import ROOT
from mirl_mm.files import write_complete

from . import rows
from .grid import VERSION, Run
from .stages import spec

NOTES = 'run.json'
OURS = 'benchmarks/results/'  # what the driver itself changes


def begun(run: Run, folder: Path) -> dict:
    """``spec``, ``cpu_seconds`` by stage and ``code``, the commits; of a new run, none of either.

    Raises:
        ValueError: it was begun with other settings than the grid's, or the notes are broken.
    """
    now = plain(run)
    if not (folder / NOTES).is_file():
        return dict(spec=now, cpu_seconds={}, code=[])
    try:
        found = json.loads((folder / NOTES).read_text())
        was, _, _ = dict(found['spec']), dict(found['cpu_seconds']), list(found['code'])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{folder / NOTES} is not what the driver writes ({error!r}): remove {folder}, or give '
            'another --work-dir'
        ) from error
    if other := rows.difference(was, now):
        raise ValueError(f'{folder} was begun with {other}: remove it, or give another --work-dir')
    return found


def plain(run: Run) -> dict:
    """What a run is, as JSON gives it back."""
    return json.loads(json.dumps(dict(study=VERSION) | spec(run)))


def note_code(run: Run, folder: Path) -> dict:
    """Add the checkout's commit, and whether files are changed, to what has run it; the notes."""
    from mirl_mm.engine.run_facts import git_state

    state = git_state(ROOT) or dict(commit='unknown', changed=[])
    changed = [file for file in state['changed'] if not file.startswith(OURS)]
    code = f'{state["commit"]}{", changed" if changed else ""}'
    notes = begun(run, folder)
    if code not in notes['code']:
        notes['code'].append(code)
    write(notes, folder)
    return notes


def note_cpu(run: Run, folder: Path, stage: str, seconds: float) -> None:
    """CPU seconds of a stage until now, over all its starts."""
    notes = begun(run, folder)
    notes['cpu_seconds'][stage] = round(seconds, 1)
    write(notes, folder)


def write(notes: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_complete(folder / NOTES, json.dumps(notes, indent=1).encode())
