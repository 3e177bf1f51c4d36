"""tools/setup_env.sh without a network: what it refuses, runs, and leaves alone.

It runs in a copy of the checkout where Python is a small shell script that notes its calls.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ['awk', 'bash', 'cat', 'cksum', 'cp', 'df', 'dirname', 'grep', 'mkdir', 'rm', 'sh']
COMMANDS += ['tail', 'tr']

# A Python of version $VERSION that fails when its arguments contain $BREAKS; `-m venv` copies it.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
    *version_info*) echo "$VERSION"; exit ;;
    *"${BREAKS:-nothing breaks}"*) exit 1 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools/setup_env.sh', tmp_path / 'tools')
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    commands = tmp_path / 'commands'
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).symlink_to(shutil.which(name))
    for name in ('python3', 'c++'):
        add_command(tmp_path, name, FAKE_PYTHON)
    return tmp_path


def add_command(checkout, name, text):
    path = checkout / 'commands' / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def set_up(checkout, *args, **env):
    """Run the script with the commands of `checkout` alone: how it ended, and Python's calls."""
    calls = checkout / 'calls'
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ['bash', 'tools/setup_env.sh', *args],
        cwd=checkout,
        env={'PATH': str(checkout / 'commands'), 'VERSION': '3.11', **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, calls.read_text() if calls.exists() else ''


def refusal(checkout, *args, **env):
    """The one sentence with which the script refuses to start; nothing may have been installed."""
    done, calls = set_up(checkout, *args, **env)
    assert done.returncode == 1
    assert done.stdout == ''
    assert '-m' not in calls
    assert not (checkout / '.venv').exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith('setup: ') and line.endswith('.')
    return line


@pytest.mark.parametrize('version', ['3.9', '3.13', '2.7'])
def test_refuses_other_pythons(checkout, version):
    assert '3.10, 3.11 or 3.12' in refusal(checkout, VERSION=version)


def test_refuses_a_named_python_of_another_version(checkout):
    add_command(checkout, 'old', '#!/bin/sh\necho 3.9\n')
    assert 'PYTHON=old' in refusal(checkout, PYTHON='old')
    assert 'PYTHON=missing' in refusal(checkout, PYTHON='missing')


def test_refuses_an_unknown_stack(checkout):
    assert 'maintained or upstream' in refusal(checkout, 'forked')


@pytest.mark.parametrize(
    ('breaks', 'package'), [('ensurepip', 'python3-venv'), ('Python.h', 'python3-dev')]
)
def test_refuses_half_a_python(checkout, breaks, package):
    assert package in refusal(checkout, BREAKS=breaks)


def test_refuses_without_a_compiler(checkout):
    (checkout / 'commands/c++').unlink()
    assert 'build-essential' in refusal(checkout)
    assert 'clang' in refusal(checkout, CXX='clang')


def test_light_needs_neither_compiler_nor_headers(checkout):
    (checkout / 'commands/c++').unlink()
    done, calls = set_up(checkout, 'maintained', '1', BREAKS='Python.h')
    assert (done.returncode, done.stderr) == (0, '')
    assert 'Python.h' not in calls


def test_refuses_another_light(checkout):
    assert "unknown LIGHT '2'" in refusal(checkout, 'maintained', '2')


def test_refuses_a_full_disk(checkout):
    df = '#!/bin/sh\necho Filesystem\necho /dev/disk 99999999 0 {} 1% /\n'
    add_command(checkout, 'df', df.format(12 * 2**20 - 1))
    assert '12 GB' in refusal(checkout) and '11 GB' in refusal(checkout)
    add_command(checkout, 'df', df.format(12 * 2**20))
    assert set_up(checkout)[0].returncode == 0


@pytest.mark.parametrize(
    ('stack', 'venv', 'mmcv'),
    [('maintained', '.venv', 'onedl-mmcv'), ('upstream', '.venv-upstream', 'mmcv')],
)
def test_sets_up_once(checkout, stack, venv, mmcv):
    before = {path.name for path in checkout.iterdir()}
    done, calls = set_up(checkout, stack)
    assert (done.returncode, done.stderr) == (0, '')
    steps = [line[:5] for line in done.stdout.splitlines()[1:-1]]
    assert steps == ['[1/5]', '[2/5]', '[3/5]', '[4/5]', '[5/5]']
    order = ['-m venv', 'requirements/torch.txt', f' {mmcv}==', 'requirements/runtime.txt', '-e .']
    positions = [calls.index(text) for text in order]
    assert positions == sorted(positions)
    assert {path.name for path in checkout.iterdir()} == before | {venv, 'calls'}

    done, calls = set_up(checkout, stack)
    assert (done.returncode, done.stdout, done.stderr, calls) == (0, '', '', '')


@pytest.mark.parametrize(
    ('stack', 'venv', 'mmcv', 'taken'),
    [
        ('maintained', '.venv-light', ' onedl-mmcv==', ['onedl-mmengine', 'onedl-mmpretrain']),
        ('upstream', '.venv-upstream-light', ' mmcv-lite==', ['mmengine', 'mmpretrain']),
    ],
)
def test_light_stands_beside_the_full_environment(checkout, stack, venv, mmcv, taken):
    set_up(checkout, stack)
    before = {path.name for path in checkout.iterdir()}
    done, calls = set_up(checkout, stack, '1')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.splitlines()[0].startswith(f'Setting up {venv}, once: about 3 min')
    assert {path.name for path in checkout.iterdir()} == before | {venv}
    (build,) = (line for line in calls.splitlines() if mmcv in line)
    assert '--no-cache-dir' in build and '--no-build-isolation' not in build  # which brings its ops
    (others,) = (line for line in calls.splitlines() if 'requirements/runtime.txt' in line)
    assert [word.partition('==')[0] for word in others.split() if '==' in word] == taken
    assert 'mmdet' not in calls and 'mmseg' not in calls and 'mmcv.ops' not in calls

    assert set_up(checkout, stack, '1')[1] == ''
    assert set_up(checkout, stack)[1] == ''  # the full one is as it was


def test_make_takes_the_environment_of_stack_and_light():
    outside = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'LIGHT', 'STACK')  # of the make that runs tests
    environ = {name: value for name, value in os.environ.items() if name not in outside}

    def python_of(*settings):
        command = ['make', '--dry-run', '--always-make', 'demo', *settings]
        shown = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        return shown.stdout.split()

    full, light = python_of(), python_of('LIGHT=1')
    assert '.venv/bin/python' in full and '.venv-light/bin/python' in light
    assert '.venv-upstream-light/bin/python' in python_of('LIGHT=1', 'STACK=upstream')
    assert light[light.index('tools/setup_env.sh') + 1 :][:2] == ['"maintained"', '1']


def test_a_changed_pin_installs_again(checkout):
    set_up(checkout)
    with open(checkout / 'requirements/test.txt', 'a') as file:
        file.write('six==1.17.0\n')
    done, calls = set_up(checkout)
    assert done.returncode == 0
    assert 'requirements/test.txt' in calls and '-m venv' not in calls


def test_a_failed_step_is_shown_and_tried_again(checkout):
    done, _ = set_up(checkout, BREAKS='--no-build-isolation onedl-mmcv')
    assert done.returncode == 1
    assert '[3/5]' in done.stdout and '[4/5]' not in done.stdout
    assert '.venv/setup.log' in done.stderr
    done, calls = set_up(checkout)
    assert done.returncode == 0
    assert '-m venv' not in calls
    assert set_up(checkout)[1] == ''


def test_an_interrupted_environment_gets_its_pip(checkout):
    set_up(checkout, BREAKS='-m pip')
    done, calls = set_up(checkout, BREAKS='pip --disable-pip-version-check --version')
    assert done.returncode == 0
    assert '-m ensurepip' in calls and '-m venv' not in calls


def test_an_environment_whose_python_is_gone(checkout):
    set_up(checkout)
    (checkout / '.venv/bin/python').unlink()
    (checkout / '.venv/pyvenv.cfg').touch()
    done, _ = set_up(checkout)
    assert done.returncode == 1
    assert 'remove .venv' in done.stderr


def test_ops_that_do_not_import_are_built_again(checkout):
    # reading a script from standard input is how the ops are tried
    add_command(checkout, 'python3', FAKE_PYTHON.replace('case', '[ "$*" = - ] && exit 1\ncase', 1))
    done, calls = set_up(checkout)
    assert done.returncode == 1
    assert '--no-cache-dir --force-reinstall --no-deps onedl-mmcv==' in calls


def test_an_environment_keeps_its_python(checkout):
    set_up(checkout)
    add_command(checkout, 'other', '#!/bin/sh\necho 3.12\n')
    done, _ = set_up(checkout, PYTHON='other')
    assert done.returncode == 1
    assert 'remove it' in done.stderr
    assert set_up(checkout, PYTHON='python3')[0].returncode == 0


def test_pins_of_both_stacks():
    def pins(name):
        lines = (ROOT / 'requirements' / name).read_text().splitlines()
        return dict(line.split('==') for line in lines if line and not line.startswith('#'))

    for name in ('mminstall.txt', 'upstream.txt'):
        stack = pins(name)
        assert stack['opencv-python'] == stack['opencv-python-headless']  # they own the same files
        assert int(stack['setuptools'].split('.')[0]) < 81
    assert pins('mminstall.txt')['numpy'] > '2' > pins('upstream.txt')['numpy']


def test_package_names_no_stack():
    """An environment of one's own may hold either stack: pip must not change it."""
    names = (ROOT / 'requirements/runtime.txt').read_text()
    listed = [line for line in names.splitlines() if line and not line.startswith('#')]
    assert 'numpy' in listed
    assert not [line for line in listed if 'mm' in line or 'torch' in line or 'onedl' in line]
