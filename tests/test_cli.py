"""The command ``mirl`` and configs by name."""

import ast
import re
import sys
from pathlib import Path

import pytest

from mirl_mm import cli
from mirl_mm.checkpoint.loading import config_shapes
from mirl_mm.engine.launch import load_config
from mirl_mm.files import config_names, find_config, shipped

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'


@pytest.fixture
def mirl(monkeypatch, tmp_path, capsys):
    """Runs the command in an empty folder; returns what it printed, and how it ended."""

    def mirl(*arguments: str) -> tuple[str, object]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['mirl', *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return capsys.readouterr().out, end.code
        return capsys.readouterr().out, 0

    return mirl


def test_every_tool_has_a_command_and_every_command_a_tool():
    tools = {path.name for path in (ROOT / 'tools').glob('*.py')}
    commands = [file for file, _ in cli.COMMANDS.values()]
    # torchrun.py is for dist_train.sh and dist_test.sh
    assert len(tools) > 10 and sorted(tools) == sorted([*commands, 'torchrun.py'])


def test_the_overview_has_a_line_and_an_example_of_every_command(mirl):
    out, code = mirl('--help')
    assert code == 0 and mirl() == (out, 0) and mirl('-h') == (out, 0)
    rows = re.findall(r'^  (\w+) +(\S.+)\n +mirl (\w+) \S', out, re.M)
    assert [row[0] for row in rows] == [*cli.COMMANDS, 'configs'] == [row[2] for row in rows]
    assert 'Train a model' in rows[0] and not any('python' in row[1] for row in rows)


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_help_ends_with_an_example_whose_options_and_configs_exist(mirl, command):
    example = cli.COMMANDS[command][1]
    out, code = mirl(command, '--help')
    assert code == 0 and out.startswith(f'usage: mirl {command} ')
    assert out.endswith(f'\nexample: mirl {command} {example}\n')
    described = out.partition('\nexample')[0]
    assert set(re.findall(r'--[\w-]+', example)) <= set(re.findall(r'--[\w-]+', described))
    for name in re.findall(r'(?<!\S)(?:mirl|upernet|mask-rcnn)/\S+', example):
        assert name in config_names()


def test_configs_are_listed_with_their_first_lines(mirl):
    out, code = mirl('configs')
    lines, names = out.splitlines(), {line.split()[0] for line in out.splitlines()}
    paths = [p for p in CONFIGS.glob('*/*.py') if p.parent.name != '_base_']
    assert code == 0 and len(lines) == len(paths) > 30
    assert names == {f'{path.parent.name}/{path.stem}' for path in paths}
    assert 'mirl/vit-s54_300e' in names
    assert re.search(r'^mirl/vit-s54_300e +MIRL, ViT-S-54, 300 epochs on ImageNet-1k\.$', out, re.M)


def test_configs_are_filtered_by_words(mirl):
    out, _ = mirl('configs', 'b48', 'COCO')
    assert [line.split()[0] for line in out.splitlines()] == [
        'mask-rcnn/vit-b48_cascade-lsj-100e_coco',
        'mask-rcnn/vit-b48_lsj-100e-soft-nms_coco',
        'mask-rcnn/vit-b48_lsj-100e_coco',
    ]
    assert mirl('configs', '--help')[0].endswith('example: mirl configs b48 coco\n')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['trian'], "error: no command 'trian' (did you mean 'train'?); there are train, test, "),
        (['configs', 'zzz'], "error: no config has 'zzz' in its line"),
        (['configs', 'mae/vit-s54_30e'], "(did you mean 'mae/vit-s54_300e'?)"),
        (['plan', 'nowhere'], 'error: no such config file: nowhere; looked in '),
        (['plan', 'mirl/vit-s54_30e'], "vit-s54_30e (did you mean 'mirl/vit-s54_300e'?)"),
        (['train', 'vit-s12_30e'], "vit-s12_30e (did you mean 'vit-s12_300e'?)"),
        (
            ['train', 'vit-test_2e'],
            "config 'vit-test_2e' is one of several: say mae/vit-test_2e or mirl/vit-test_2e",
        ),
    ],
)
def test_slips_are_one_line(mirl, tmp_path, arguments, message):
    _, code = mirl(*arguments)
    assert message in code and '\n' not in code
    assert not list(tmp_path.iterdir())


def test_a_tool_ends_with_its_own_codes(mirl):
    assert mirl('plan')[1] == 2  # argparse's: CONFIG is missing


def test_a_config_by_name_is_the_file_that_ships():
    assert load_config('vit-s12_300e').filename == str(CONFIGS / 'mirl/vit-s12_300e.py')
    by_path = config_shapes(str(CONFIGS / 'mirl/vit-test_2e.py'))
    assert config_shapes('mirl/vit-test_2e') == by_path


@pytest.mark.parametrize(
    'name', ['mirl/vit-s54_300e', 'mirl/vit-s54_300e.py', 'configs/mirl/vit-s54_300e.py']
)
def test_names_go_without_path_and_ending(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(CONFIGS / 'mirl/vit-s54_300e.py')


def test_an_existing_path_wins_and_a_file_beside_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / 'mirl/vit-s54_300e.py'
    own.parent.mkdir()
    own.touch()
    assert find_config('mirl/vit-s54_300e.py') == 'mirl/vit-s54_300e.py'
    with pytest.raises(FileNotFoundError, match=re.escape(f"did you mean '{own}'?")):
        find_config(str(own.with_name('vit-s54_3e.py')))


def test_what_ships_is_the_checkout_s_here():
    assert shipped('tools') == ROOT / 'tools'
    assert [name for name in config_names() if '_base_' in name] == []


def test_the_page_has_the_commands_and_their_examples():
    page = (ROOT / 'docs/commands.md').read_text()
    rows = re.findall(r'^\| `mirl (\w+) (.*?)` \|', page, re.M)
    examples = {name: example for name, (_, example) in cli.COMMANDS.items()}
    assert dict(rows) == examples | {cli.LISTING[0]: cli.LISTING[2]}


def test_the_module_is_a_program():
    tree = ast.parse(Path(cli.__file__).read_text())
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main()"
