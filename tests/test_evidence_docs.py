"""docs/evidence.md: what would have to be run, and what it takes at least."""

import re
from pathlib import Path

import pytest

from mirl_mm.engine.launch import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/evidence.md').read_text()
PART = PAGE.partition('## What would have to be run')[2].partition('\n## ')[0]
CELL = re.compile(r'\d\.\d\d, .+')
ROWS = {cells[0]: cells[1:] for line in PART.splitlines() if line.startswith('| ')
        if CELL.fullmatch((cells := line.strip('| ').split(' | '))[-1])}  # fmt: skip
MORE = {'model.backbone.arch.num_layers': 24}


def runs() -> list[tuple[str, dict, float]]:
    """Config, options and hours of every cell."""
    made, before = [], ''
    for depth, cells in ROWS.items():
        for column, cell in enumerate(cells):
            hours, _, said = cell.partition(', ')
            options = MORE if said == 'the same with 24 layers' else {}
            name = said.strip('`') if not options else before
            before = name if column == 1 else before
            cfg = load_config(name, options)
            arch = cfg.model.backbone.arch
            blocks = arch.num_layers if isinstance(arch, dict) else int(arch.removeprefix('b'))
            assert blocks == int(depth), (name, depth)
            made.append((name, options, float(hours)))
    return made


def test_the_runs_are_configs_of_their_depths_and_add_up():
    assert list(ROWS) == ['12', '24', '48']
    found = runs()
    assert len(found) == 9 and '--cfg-options model.backbone.arch.num_layers=24' in PART
    tunings = sum(hours for name, _, hours in found if name.startswith('finetune/'))
    whole = sum(hours for *_, hours in found) + tunings  # once after MIRL and once after MAE
    said = f'Together {whole:.1f} hours, or {8 * whole:.0f} of one GPU, for one seed'
    assert said in PART and f'and {3 * 8 * whole:.0f} for three' in PART


@pytest.mark.long
def test_they_take_what_the_plan_says():
    from mirl_mm.apps.plan import plan

    for name, options, hours in runs():
        planned = plan(name, gpus=8, gpu='H100', cfg_options=options)
        assert f'{planned.run.days * 24:.2f}' == f'{hours:.2f}', name
