"""A stage is a list of parts. What a part has found is kept at once: the next call goes on."""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import end
from mirl_mm.engine.run_facts import environment
from mirl_mm.files import write_complete

from .device import description, forget, memory_gb

TRACE = 6000  # characters of a traceback that are kept
SLACK = 60.0  # seconds; a part that takes this and three times what was thought is ended
MARK = '>>> '  # before a line that is for the terminal, not for the log alone
KEPT = ('running', 'spent_s', 'rows', 'failed', 'left_out')


class LeftOut(Exception):
    """A part that has no result here, and why: no failure, and tried again by the next call."""


class Bench(NamedTuple):
    """What a part is told."""

    device: str  # 'cuda' or 'cpu'
    rehearse: bool
    found: dict[str, dict]  # what the stage's parts have found so far, by name
    seconds_left: Callable[[], float]
    data: Path | None = None  # Tiny-ImageNet-100
    epochs: int | None = None  # of the depth study, where they were given


class Part(NamedTuple):
    """One measurement.

    ``run`` returns plain data with ``says``: the result in one line.
    """

    name: str
    run: Callable[[Bench], dict]
    seconds: float = 0  # that it takes on a GPU, roughly
    gb: float = 0  # of the device's memory, roughly
    needs: Callable[[dict[str, dict]], float] | None = None  # seconds, from what was found so far


class Record:
    """The JSON of a stage: where, with which versions and sizes, and a row for every part.

    Attributes:
        rows: results, each a dict with the name of its ``part``.
        failed: traceback, date and call of parts that failed.
        left_out: reasons of parts that were not run.
        running: the part that is under way; of a process that died, the one that killed it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = json.loads(file.read_text()) if file.is_file() else {}
        self.head = {k: v for k, v in content.items() if k not in KEPT}
        self.rows: list[dict] = content.get('rows', [])
        self.failed: dict[str, dict] = content.get('failed', {})
        self.left_out: dict[str, str] = content.get('left_out', {})
        self.spent: float = content.get('spent_s', 0.0)
        self.running: str | None = content.get('running')

    @property
    def found(self) -> dict[str, dict]:
        return {row['part']: row for row in self.rows}

    def missing(self, parts: list[Part], call: str) -> list[Part]:
        """Without a result, and not yet failed in this call; what failed before comes last."""
        found = self.found
        rest = [p for p in parts if p.name not in found]
        rest = [p for p in rest if self.failed.get(p.name, {}).get('call') != call]
        return sorted(rest, key=lambda p: p.name in self.failed)

    def fail(self, name: str, why: str, call: str) -> None:
        self.failed[name] = dict(date=str(date.today()), call=call, error=why[-TRACE:])
        self.running = None
        self.write()

    def write(self) -> None:
        kept = dict(
            running=self.running,
            spent_s=round(self.spent, 1),
            rows=self.rows,
            failed=self.failed,
            left_out=self.left_out,
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.head, **kept}, indent=1)
        write_complete(self.file, f'{text}\n'.encode())


def next_part(parts: list[Part], record: Record, call: str, left: float) -> Part | None:
    """The first missing part that the time is enough for."""
    for part in record.missing(parts, call):
        if seconds_of(part, record) <= left:
            return part
    return None


def seconds_of(part: Part, record: Record) -> float:
    return part.needs(record.found) if part.needs else part.seconds


def run_parts(
    name: str, parts: list[Part], bench: Bench, record: Record, call: str, config: dict
) -> None:
    """Run what has no result yet, as far as the time goes; a failure does not stop the others."""
    record.head = dict(stage=name, rehearsal=bench.rehearse, **environment())
    record.head |= dict(**description(bench.device), config=config)
    record.left_out = {}
    before, started = record.spent, time.monotonic()
    tried: set[str] = set()
    while part := next_part(
        [p for p in parts if p.name not in tried], record, call, bench.seconds_left()
    ):
        tried.add(part.name)
        record.running = part.name
        record.write()
        began = time.monotonic()
        try:
            check_memory(part, bench)
            with at_most(3 * seconds_of(part, record) + SLACK):
                found = part.run(bench._replace(found=record.found))
        except LeftOut as reason:
            record.left_out[part.name] = str(reason)
            say(f'{name}, {part.name}: left out: {reason}')
        except Exception:
            record.fail(part.name, traceback.format_exc(), call)
            say(f'{name}, {part.name}: FAILED: {traceback.format_exc().splitlines()[-1][:200]}')
        else:
            seconds = round(time.monotonic() - began, 1)
            head = dict(part=part.name, date=str(date.today()), took_s=seconds)
            record.rows.append(head | found)
            record.failed.pop(part.name, None)
            say(f'{name}, {part.name}: {found["says"]} ({seconds:.0f} s)')
        record.running = None
        record.spent = before + time.monotonic() - started
        record.write()
        forget(bench.device)  # raises where a failure has left the device unusable


def check_memory(part: Part, bench: Bench) -> None:
    """LeftOut where a part needs more memory than the device has."""
    there = memory_gb(bench.device)
    if not bench.rehearse and part.gb > there:
        raise LeftOut(f'needs about {part.gb:g} GB of memory, and this device has {there:.0f}')


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process if a part hangs; the next one goes on without the part."""

    def late() -> None:
        print(f'ended: it took more than {seconds:.0f} seconds', flush=True)
        end(os.getpid())

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say(line: str) -> None:
    """A line for the terminal; everything else that a stage prints goes to the log alone."""
    print(f'{MARK}{line}', flush=True)
