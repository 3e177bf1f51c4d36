"""Hooks, registered in MMEngine's root registry."""

from .checkpoints import ExportEncoderHook, SafeCheckpointHook
from .data import BadImagesHook, CheckLabelsHook, Float32BoxesHook
from .finite import FiniteHook, NonFiniteError
from .health import HealthHook
from .late_losses import LateLossesHook
from .learnt import KNNHook, PanelHook
from .progress import ProgressHook
