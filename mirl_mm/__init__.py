"""MIRL for OpenMMLab: pre-train deep plain Vision Transformers and carry them to dense prediction.

Importing this package registers every component in MMEngine's root registries (so the names need no
prefix under any ``default_scope``), makes MMEngine's checkpoint loading safe, and reads images by
one reader (:mod:`mirl_mm.datasets.decode`).
"""

__version__ = '0.1.0'

from . import libraries  # isort: skip  (before any of them is imported)
from . import checkpoint, datasets, engine, measure, models

__all__ = ['__version__', 'checkpoint', 'datasets', 'engine', 'libraries', 'measure', 'models']
