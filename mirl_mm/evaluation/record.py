"""Results as data: what was measured, where, when and with which versions."""

import json
import platform
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


def write_json(path: str | Path, content: dict) -> None:
    """Write plain data, making the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1) + '\n')
