"""Floors, circles and sizes of the package, as docs/architecture.md states them."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from mmengine.registry import HOOKS

import mirl_mm  # noqa: F401

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'architecture.md').read_text()
FILE_LINES, FUNCTION_LINES = 300, 60


def floors_of(page: str) -> dict[str, int]:
    """Room -> its floor, 0 at the top, from the table of floors."""
    table = page.partition('## Floors')[2].partition('\n## ')[0]
    rows = [line.split('|')[1] for line in table.splitlines() if line.startswith('| `')]
    return {room: i for i, row in enumerate(rows) for room in re.findall(r'`(\w+)`', row)}


def limits_of(page: str) -> tuple[int, int]:
    """The most files and the most lines, from one line of the page."""
    found = re.findall(r'At most (\d+) files and ([\d,]+) lines', page)
    assert len(found) == 1
    return int(found[0][0]), int(found[0][1].replace(',', ''))


def files_of(package: Path) -> list[Path]:
    return [
        path
        for path in sorted(package.rglob('*'))
        if path.is_file() and '__pycache__' not in path.parts
    ]


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports_of(path: Path, package: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file names in import statements, wherever they stand.

    The package's own face is none of them: whoever asks it for the version imports nothing else.
    """
    own = module_of(path, package).split('.')
    base = own if path.name == '__init__.py' else own[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            module = '.'.join([*start, *(node.module.split('.') if node.module else [])])
            below = {f'{module}.{name.name}' for name in node.names}
            found |= below & modules or {module}
    return (found & modules) - {package.name}


def graph_of(package: Path) -> dict[str, set[str]]:
    sources = [path for path in files_of(package) if path.suffix == '.py']
    modules = {module_of(path, package) for path in sources}
    return {module_of(path, package): imports_of(path, package, modules) for path in sources}


def room_of(module: str) -> str:
    return module.split('.')[1]


def upward(graph: dict[str, set[str]], floors: dict[str, int]) -> list[str]:
    """Imports that run up, or whose rooms are on no floor."""
    wrong = []
    for module, imported in graph.items():
        for other in sorted(imported) if '.' in module else ():
            rooms = room_of(module), room_of(other)
            if not set(rooms) <= floors.keys() or floors[rooms[0]] > floors[rooms[1]]:
                wrong.append(f'{module} imports {other}')
    return wrong


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def between_rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if '.' in module:
            others = {room_of(other) for other in imported} - {room_of(module)}
            rooms[room_of(module)] = rooms.get(room_of(module), set()) | others
    return rooms


def long_functions(path: Path) -> list[str]:
    return [
        f'{path.name}: {node.name}'
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


PACKAGE = ROOT / 'mirl_mm'
GRAPH = graph_of(PACKAGE)


def test_every_room_has_a_floor():
    rooms = {room_of(module) for module in GRAPH if '.' in module}
    assert rooms == floors_of(PAGE).keys()


def test_no_import_runs_up():
    assert sum(map(len, GRAPH.values())) > 100
    assert upward(GRAPH, floors_of(PAGE)) == []


def test_no_circles():
    assert circle(GRAPH) == []
    assert circle(between_rooms(GRAPH)) == []


def test_the_package_stays_small():
    files = files_of(PACKAGE)
    most_files, most_lines = limits_of(PAGE)
    assert len(files) <= most_files
    assert sum(map(lines_of, files)) <= most_lines


def test_files_and_functions_stay_short():
    files = files_of(PACKAGE)
    assert [path.name for path in files if lines_of(path) > FILE_LINES] == []
    assert [name for p in files if p.suffix == '.py' for name in long_functions(p)] == []


def test_the_page_lists_every_hook():
    ours = {kind for kind in HOOKS.module_dict.values() if kind.__module__.startswith('mirl_mm.')}
    table = PAGE.partition('## Hooks')[2].partition('\n## ')[0]
    assert sorted(re.findall(r'^\| `(\w+)`', table, re.M)) == sorted(h.__name__ for h in ours)
    assert 10 < len(ours) <= 16


@pytest.fixture
def small_house(tmp_path):
    """A package whose lower room looks up, from inside a function, and so closes a circle."""
    package = tmp_path / 'house'
    for name, text in {
        '__init__.py': "__version__ = '1'\nfrom . import attic\n",
        'attic/__init__.py': '',
        'attic/roof.py': 'from house.cellar import wine\nfrom house import __version__\n',
        'cellar/__init__.py': '',
        'cellar/wine.py': 'def drink():\n    from ..attic.roof import tiles\n',
        'cellar/beer.py': 'from . import wine\n',
    }.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_what_stands_wrong_is_found(small_house):
    graph = graph_of(small_house)
    assert graph['house.attic.roof'] == {'house.cellar.wine'}
    assert graph['house.cellar.beer'] == {'house.cellar.wine'}
    assert upward(graph, dict(attic=0, cellar=1)) == ['house.cellar.wine imports house.attic.roof']
    assert len(upward(graph, dict(attic=0))) == 2 + 1  # two that reach the room, one inside it
    assert set(circle(graph)) == {'house.attic.roof', 'house.cellar.wine'}
    assert set(circle(between_rooms(graph))) == {'attic', 'cellar'}


def test_a_long_function_is_found(tmp_path):
    path = tmp_path / 'long.py'
    path.write_text('def short():\n' + '    x = 1\n' * (FUNCTION_LINES - 1))
    assert long_functions(path) == []
    path.write_text('def long():\n' + '    x = 1\n' * FUNCTION_LINES)
    assert long_functions(path) == ['long.py: long']
