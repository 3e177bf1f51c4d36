"""What the wheel and the sdist carry, and that an installed wheel trains."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
SHIPPED = 'mirl_mm/shipped/'
BUILD = 'from setuptools import build_meta; print(build_meta.build_{}({!r}))'


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tracked() -> list[str]:
    """Files that git tracks and that are there."""
    if not (ROOT / '.git').exists():
        pytest.skip('no git checkout')
    names = run('git', 'ls-files', cwd=ROOT).splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def build(kind: str, source: Path, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    printed = run(sys.executable, '-c', BUILD.format(kind, str(out)), cwd=source)
    return out / printed.splitlines()[-1]


def files_in(wheel: Path) -> dict[str, bytes]:
    """Name -> content, without the list of all and the metadata's folder."""
    with zipfile.ZipFile(wheel) as opened:
        return {n: opened.read(n) for n in opened.namelist() if '.dist-info/' not in n}


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Sdist and wheel, built in a copy of what git tracks, with files beside that must not ship."""
    source = tmp_path_factory.mktemp('source')
    for name in tracked():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    for name in ('configs/mirl/notes.txt', 'tools/weights.pth', 'mirl_mm/notes.txt', 'notes.txt'):
        (source / name).write_text('not ours')
    out = source.with_name('dist')
    return build('sdist', source, out), build('wheel', source, out)


def test_the_wheel_carries_package_configs_and_tools_and_nothing_else(built):
    files = tracked()
    ours = [name for name in files if name.startswith('mirl_mm/')]
    mapped = [name for name in files if name.startswith(('configs/', 'tools/', 'model-index.yml'))]
    assert len(ours) > 70 and len(mapped) > 70 and 'model-index.yml' in mapped
    content = files_in(built[1])
    assert sorted(content) == sorted([*ours, *(SHIPPED + name for name in mapped)])
    for name in mapped:
        assert content[SHIPPED + name] == (ROOT / name).read_bytes()


def test_every_package_is_listed():
    tomllib = pytest.importorskip('tomllib')  # Python 3.11
    listed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['packages']
    found = find_packages(str(ROOT), include=['mirl_mm*'])
    assert len(found) > 10 and listed == sorted([*found, 'mirl_mm.shipped'])


def test_a_wheel_built_from_the_sdist_is_equal(built, tmp_path):
    sdist, wheel = built
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path, filter='data')
    again = build('wheel', next(tmp_path.iterdir()), tmp_path / 'dist')
    assert again.name == wheel.name and files_in(again) == files_in(wheel)


def test_an_installed_wheel_trains_by_one_command(built, tmp_path):
    site, images = tmp_path / 'site', tmp_path / 'images'
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 72, 72, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(images / f'{i}.jpg')
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install', '--no-index']
    run(*pip, '--no-deps', '--target', site, built[1], cwd=tmp_path)
    options = ['train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', 'param_scheduler=None']
    run(site / 'bin/mirl', 'train', 'mirl/vit-test_2e', '--work-dir', 'run', '--data', images,
        '--cfg-options', *options, cwd=tmp_path, PYTHONPATH=str(site))  # fmt: skip
    facts = json.loads(next(tmp_path.glob('run/*/run.json')).read_text())
    assert facts['config'] == str(site / SHIPPED / 'configs/mirl/vit-test_2e.py')
    assert facts['command'].startswith('mirl train mirl/vit-test_2e --work-dir run ')
    assert (tmp_path / 'run/encoder.pth').is_file()
