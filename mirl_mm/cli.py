"""The command ``mirl``: one name for the files of tools/, which parse their own arguments.

``python -m mirl_mm.cli`` is the same, for launchers that start a module.
"""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location

from mirl_mm.errors import UserError, did_you_mean, one_line
from mirl_mm.files import config_names, shipped

# Command -> its file in tools/, and an example's arguments.
COMMANDS = {
    'train': ('train.py', 'mirl/vit-s54_300e --data /my/pictures'),
    'test': ('test.py', 'mirl/vit-s54_300e work_dirs/vit-s54_300e/epoch_300.pth'),
    'plan': ('plan.py', 'mirl/vit-b48_800e --gpus 8 --gpu H100'),
    'predict': ('predict.py', 'upernet/vit-b48_160k_ade20k-512 iter_160000.pth pictures/'),
    'reconstruct': ('reconstruct.py', 'mirl/vit-s54_300e epoch_300.pth pictures/'),
    'visualize': ('visualize.py', 'mirl/vit-s54_300e epoch_300.pth random pictures/'),
    'probe': ('probe_depth.py', 'mirl/vit-s54_300e epoch_300.pth --train set/train --val set/val'),
    'knn': ('knn.py', 'mirl/vit-s54_300e epoch_300.pth --limit 100'),
    'convert': ('convert_checkpoint.py', 'epoch_300.pth encoder.safetensors --to timm'),
    'export': ('export.py', 'mirl/vit-s54_300e epoch_300.pth encoder.onnx'),
    'report': ('report.py', 'work_dirs/vit-s54_300e work_dirs/vit-b12_300e'),
    'stats': ('mean_std.py', '/my/tiffs --channels 5'),
    'pack': ('pack_images.py', 'in1k/train /network/in1k-train'),
    'demo': ('demo.py', '--work-dir work_dirs/demo'),
}
LISTING = ('configs', 'List the configs whose line has all the words', 'b48 coco')


def overview() -> str:
    """The commands, what each does and an example of it."""
    lines = ['usage: mirl COMMAND ...; mirl COMMAND --help says more\n']
    for name, (file, example) in COMMANDS.items():
        said = ast.get_docstring(ast.parse(shipped(f'tools/{file}').read_text()))
        lines += [f'  {name:<13}{said.partition(": ``")[0]}', f'{"":15}mirl {name} {example}']
    name, what, example = LISTING
    return '\n'.join([*lines, f'  {name:<13}{what}', f'{"":15}mirl {name} {example}'])


def list_configs(words: list[str]) -> str:
    """A line for each config that ships: its name, and the first line of its file."""
    if {'-h', '--help'} & {*words}:
        name, what, example = LISTING
        return f'usage: mirl {name} [WORD ...]\n\n{what}.\n\nexample: mirl {name} {example}'
    names = config_names()
    lines = [f'{n:<40} {p.read_text().partition(chr(10))[0][2:]}' for n, p in names.items()]
    found = [line for line in lines if all(word.lower() in line.lower() for word in words)]
    if not found:
        near = did_you_mean(' '.join(words), names)
        raise UserError(f'no config has {" and ".join(map(repr, words))} in its line{near}')
    return '\n'.join(found)


def run_tool(command: str, arguments: list[str]) -> None:
    """Call a tool's ``main`` with these arguments; its help ends with the command's example."""
    file, example = COMMANDS[command]
    spec = spec_from_file_location(f'mirl_tool_{command}', shipped(f'tools/{file}'))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = [f'mirl {command}', *arguments]
    try:
        module.main()
    except SystemExit as end:
        if not end.code and {'-h', '--help'} & {*arguments}:
            print(f'\nexample: mirl {command} {example}')
        raise


def run() -> None:
    command, *arguments = sys.argv[1:] or ['--help']
    if command in COMMANDS:
        run_tool(command, arguments)
    elif command in ('-h', '--help', 'help'):
        print(overview())
    elif command == 'configs':
        print(list_configs(arguments))
    else:
        accepted = (*COMMANDS, 'configs')
        near = did_you_mean(command, accepted)
        raise UserError(f'no command {command!r}{near}; there are {", ".join(accepted)}')


def main() -> None:
    one_line(run)


if __name__ == '__main__':
    main()
