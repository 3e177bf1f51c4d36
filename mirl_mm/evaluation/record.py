"""Results as data: what was measured, where, when and with which versions."""

import json
import platform
import tempfile
from datetime import date
from importlib import import_module
from pathlib import Path

import torch

PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mirl_mm')


def environment() -> dict:
    """Date, hardware and versions."""
    cuda = torch.cuda.is_available()
    return dict(
        date=str(date.today()),
        hardware=torch.cuda.get_device_name() if cuda else f'{platform.machine()} CPU',
        threads=torch.get_num_threads(),
        versions={name: import_module(name).__version__ for name in PACKAGES},
    )


def check_folder(path: str | Path) -> None:
    """Make a folder for results, before they are computed.

    Raises:
        OSError: it cannot be made, or files cannot be written into it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(f'cannot write to {path} ({error.strerror}); choose another --out') from error


def write_json(path: str | Path, content: dict) -> None:
    """Write plain data, making the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1) + '\n')
