"""The table of docs/ablations.md: every line builds and trains, and costs what it says."""

import re
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from benchmarks.study.grid import CHANGES
from mirl_mm.engine.launch import load_config
from mirl_mm.measure.rehearsal import build, flops_per_image

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/ablations.md').read_text()
CELLS = [[cell.strip() for cell in line.strip('|').split('|')]
         for line in PAGE.splitlines() if line.startswith('| ')][2:]  # fmt: skip
ROWS = {options.strip('`'): cells for _, options, *cells in CELLS}
BIG, SMALL = ('mirl/vit-b48_300e', 'mirl/vit-test_2e')


def options_of(line: str) -> dict[str, object]:
    """As the tools read them."""
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *line.split()] if line else []).cfg_options


def config(name: str, line: str):
    cfg = load_config(str(ROOT / f'configs/{name}.py'), options_of(line))
    init_default_scope(cfg.default_scope)
    return cfg


def test_the_table_has_what_the_study_measures():
    assert len(ROWS) == 10 and '' in ROWS
    settings = [options_of(line) for line in ROWS]
    for change, options in CHANGES.items():
        depth = options.get('model.neck.decoder_depth')  # whose default differs
        assert options in settings or depth == 2, change


def steps(line: str, number: int = 2) -> list[dict[str, float]]:
    """Logs of the first steps of the test config."""
    cfg = config(SMALL, line)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    imgs = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    before = {name: p.clone() for name, p in model.named_parameters()}
    logs = []
    for _ in range(number):
        torch.manual_seed(2)
        batch = dict(inputs=imgs.byte(), data_samples=None)
        made = model.train_step(batch, wrapper)
        logs.append({name: value.item() for name, value in made.items()})
    for name, p in model.named_parameters():
        assert p.requires_grad != torch.equal(p, before[name]), name
    return logs


NAMES = {
    'model.head.pairing=neighbours': ['pair_0_1', 'pair_2_3', 'pair_4_5'],
    'model.head.pairing=none': [f'pair_{g}' for g in range(6)],
    'model.backbone.num_segments=2': ['pair_0_1'],
    'model.backbone.num_segments=4': ['pair_0_3', 'pair_1_2'],
    'model.head.pairing=none model.neck.context=False': [f'pair_{g}' for g in range(6)],
    'model.head.pairing=none model.backbone.num_segments=1': ['pair_0'],
    'model.head.pairing=none model.backbone.num_segments=3': ['pair_0', 'pair_1', 'pair_2'],
}
SAID = 'model.head.pairing=none model.neck.context=False'  # below the table


@pytest.mark.parametrize('line', [*dict.fromkeys([*ROWS, *NAMES])])
def test_every_line_trains(line):
    """Every trained weight moves within two steps, and their loss falls."""
    first, second = steps(line)
    names = NAMES.get(line, ['pair_0_5', 'pair_1_4', 'pair_2_3'])
    assert list(first) == ['loss', *names]
    assert first['loss'] == pytest.approx(sum(first[name] for name in names) / len(names))
    assert second['loss'] < first['loss']
    assert SAID in PAGE and SAID in NAMES


@pytest.mark.parametrize('line', ROWS)
def test_the_decoders_are_as_large_as_it_says(line):
    model, _ = build(config(BIG, line).model, device='meta')
    found = [sum(p.numel() for p in part.parameters()) for part in (model.neck, model.backbone)]
    assert ROWS[line][0] == f'{found[0] / 1e6:.2f}'
    assert f'encoder has {found[1] / 1e6:.2f} M' in PAGE.replace('\n', ' ')


@pytest.mark.long
def test_the_work_is_what_it_says():
    work = {line: flops_per_image(config(BIG, line).model, 64).training for line in ROWS}
    for line, found in work.items():
        assert ROWS[line][1:] == [f'{found / 1e9:.1f}', f'{found / work[""]:.2f}'], line


@pytest.mark.parametrize('segments', [1, 3])
def test_pairs_of_an_odd_number_of_segments_are_one_line(segments):
    line = f'model.backbone.num_segments={segments}'
    with pytest.raises(ValueError, match=rf'even number of segments, got {segments}; none takes'):
        MODELS.build(config(SMALL, line).model)


def test_a_misspelt_pairing_says_what_there_is():
    known = re.escape("unknown pairing 'neighbors'; known are mirrored, neighbours, none")
    with pytest.raises(ValueError, match=known):
        MODELS.build(config(SMALL, 'model.head.pairing=neighbors').model)
