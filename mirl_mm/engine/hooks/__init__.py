"""Hooks, registered in MMEngine's root registry."""

from .checkpoints import ExportEncoderHook, SafeCheckpointHook
from .data import BadImagesHook, CheckLabelsHook, Float32BoxesHook
from .finite import FiniteHook, NonFiniteError
from .health import HealthHook
from .knn import KNNHook
from .late_losses import LateLossesHook
from .panel import PanelHook
from .progress import ProgressHook

__all__ = [
    'BadImagesHook',
    'CheckLabelsHook',
    'ExportEncoderHook',
    'FiniteHook',
    'Float32BoxesHook',
    'HealthHook',
    'KNNHook',
    'LateLossesHook',
    'NonFiniteError',
    'PanelHook',
    'ProgressHook',
    'SafeCheckpointHook',
]
