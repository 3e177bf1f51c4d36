"""Work in processes of its own, forked from one that has imported everything and computed nothing.

Of a process in which a backward pass has started threads (on the meta device it does), a fork
cannot compute gradients.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from torch.distributed.elastic.utils.distributed import get_free_port

TOOLS = Path(__file__).parents[1] / 'tools'
CLEAN = multiprocessing.get_context('forkserver')
CLEAN.set_forkserver_preload(['mirl_mm.demo', 'mmpretrain', 'tests.processes'])


def in_clean_process(work: Callable, *arguments: object) -> object:
    """What a module's function returns, called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=CLEAN) as pool:
        return pool.submit(work, *arguments).result()


def run_forked(tool: str, *arguments: object, cwd: Path, processes: int = 1) -> list[str]:
    """What each process printed; several get --launcher pytorch and what torchrun tells them."""
    given, where = [tool, *map(str, arguments)], {}
    if processes > 1:
        given += ['--launcher', 'pytorch']
        where = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(get_free_port()))
        where |= dict.fromkeys(('WORLD_SIZE', 'LOCAL_WORLD_SIZE'), str(processes))
    files = [cwd / f'printed_{rank}.txt' for rank in range(processes)]
    started = []
    for rank, file in enumerate(files):
        place = dict(os.environ, **where and dict(where, RANK=str(rank), LOCAL_RANK=str(rank)))
        started.append(CLEAN.Process(target=_tool, args=(given, cwd, place, file)))
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=200)
        process.kill()  # nothing, where it has ended
    printed = [file.read_text() for file in files]
    assert [process.exitcode for process in started] == [0] * processes, printed
    return printed


def _tool(given: list[str], cwd: Path, place: dict[str, str], file: Path) -> None:
    os.environ.clear()
    os.environ.update(place)
    os.chdir(cwd)
    sys.argv = given
    with file.open('w') as printed:
        sys.stdout = sys.stderr = printed
        runpy.run_path(str(TOOLS / given[0]), run_name='__main__')
