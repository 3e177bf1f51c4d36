"""Hooks, registered in MMEngine's root registry."""

from .checkpoints import ExportEncoderHook, SafeCheckpointHook
from .data import BadImagesHook, CheckLabelsHook, Float32BoxesHook
from .finite import FiniteHook, NonFiniteError
from .health import HealthHook
from .held_out import KNNHook, PanelHook
from .late_losses import LateLossesHook
from .progress import ProgressHook
from .watch import WatchHook
