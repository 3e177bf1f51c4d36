"""model-index.yml: against the configs and their table, and by name in mmpretrain."""

import re
import warnings
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.apis.model import ModelHub

from mirl_mm.apps.plan import linear_macs
from mirl_mm.errors import UserError
from mirl_mm.models.hub import TASKS
from mirl_mm.models.mirl import MIRL

ROOT = Path(__file__).parents[2]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
FILES = {path: yaml.safe_load((ROOT / path).read_text()) for path in INDEX}
ENTRIES = [entry for file in FILES.values() for entry in file['Models']]
NAMES = [entry['Name'] for entry in ENTRIES]


def rows() -> dict[str, list[str]]:
    """Config -> its other cells, of the tables in configs/README.md."""
    found = re.findall(r'^\| \[(\S+\.py)\]\(\S+\) \| (.*) \|$', readme(), re.M)
    return {f'configs/{path}': cells.split(' | ') for path, cells in found}


def readme() -> str:
    return (ROOT / 'configs' / 'README.md').read_text()


def test_every_config_is_in_the_index_once():
    paths = [path.relative_to(ROOT) for path in (ROOT / 'configs').glob('[!_]*/*.py')]
    runs = [
        str(p) for p in paths if p.parent.name not in ('demo', 'small') and 'vit-test' not in p.name
    ]
    assert len(runs) > 20
    assert sorted(entry['Config'] for entry in ENTRIES) == sorted(runs)
    assert len(set(NAMES)) == len(NAMES)
    assert set(INDEX) == {f'{Path(run).parent}/metafile.yml' for run in runs}


@pytest.mark.parametrize('entry', ENTRIES, ids=NAMES)
def test_an_entry_says_what_its_config_is(entry):
    folder, name = Path(entry['Config']).parent.name, Path(entry['Config']).stem
    assert entry['Name'] == f'mirl_{"" if folder == "mirl" else f"{folder}_"}{name}'
    assert (
        entry['In Collection'] == FILES[f'configs/{folder}/metafile.yml']['Collections'][0]['Name']
    )
    assert 'Weights' not in entry
    _, length, batch, _, published = rows()[entry['Config']]
    said = entry['Metadata']
    number, unit = length.split()
    assert (said[unit.capitalize()], said['Batch Size']) == (int(number), int(batch))
    top1 = re.match(r'[\d.]+(?= %)', published) if folder == 'finetune' else None
    assert bool(entry['Results']) == bool(top1)
    for result in entry['Results'] or ():
        assert result['Metrics'] == {'Top 1 Accuracy': float(top1[0])}
        assert result['Source'].startswith('published (') and 'not repeated' in result['Source']
    assert set(entry.get('Downstream', ())) <= set(NAMES)

    cfg = Config.fromfile(ROOT / entry['Config'])
    pytest.importorskip(cfg.default_scope)
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    assert said['Parameters'] == sum(p.numel() for p in model.parameters())
    macs = linear_macs(model.backbone, (224, 224)) if folder in TASKS else None
    assert said.get('FLOPs') == macs


def test_downstream_starts_from_the_encoder_that_is_left():
    starts = {}
    for entry in ENTRIES:
        init = Config.fromfile(ROOT / entry['Config']).model.backbone.get('init_cfg') or {}
        start = init.get('checkpoint') or ''
        if start.startswith('work_dirs/'):  # of others' weights nothing is in the index
            starts.setdefault('mirl_' + Path(start).parent.name, set()).add(entry['Name'])
    named = {e['Name']: set(e['Downstream']) for e in ENTRIES if 'Downstream' in e}
    assert named == starts and len(named) > 3


def test_names_in_mmpretrain():
    names = [e['Name'] for e in ENTRIES if Path(e['Config']).parent.name in TASKS]
    assert mmpretrain.list_models('mirl*') == sorted(names)
    assert mmpretrain.list_models('mirl*') == sorted(names)  # files are read once
    assert 'vit-base-p16_mae-300e-pre_8xb128-coslr-100e_in1k' in mmpretrain.list_models()
    found = mmpretrain.list_models('mirl*', task='Image Classification')
    assert found == [name for name in sorted(names) if 'finetune' in name]
    assert ModelHub.get('mirl_mae_vit-b12_300e').config.model.type == 'MAE'


def test_a_model_by_its_name():
    with warnings.catch_warnings(), torch.device('meta'):
        warnings.simplefilter('error', UserWarning)
        model = mmpretrain.get_model('mirl_vit-s12_300e')
    assert type(model) is MIRL and len(model.backbone.layers) == 12
    with pytest.raises(UserError, match=r"no weights of mirl_vit-s12_300e .*pretrained='FILE'"):
        mmpretrain.get_model('mirl_vit-s12_300e', pretrained=True)


def test_a_model_by_its_name_with_weights_of_a_file(tmp_path):
    first = mmpretrain.get_model('mirl_vit-s12_300e')
    torch.nn.init.constant_(first.backbone.ln1.bias, 0.5)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'own.pth')
    again = mmpretrain.get_model('mirl_vit-s12_300e', pretrained=str(tmp_path / 'own.pth'))
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
