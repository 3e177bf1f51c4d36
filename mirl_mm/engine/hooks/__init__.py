"""Hooks, registered in MMEngine's root registry."""

from .checkpoints import ExportEncoderHook, SafeCheckpointHook
from .data import BadImagesHook, CheckLabelsHook, Float32BoxesHook
from .exact_resume import ExactResumeHook
from .finite import FiniteHook, NonFiniteError
from .health import HealthHook
from .knn import KNNHook
from .late_losses import LateLossesHook
from .panel import PanelHook
from .preempt import Preempted, PreemptHook
from .progress import ProgressHook
from .raw_and_ema import RawAndEMAHook
from .results import ResultsHook
from .run_record import RunRecordHook
from .run_summary import RunSummaryHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'BadImagesHook',
    'CheckLabelsHook',
    'ExactResumeHook',
    'ExportEncoderHook',
    'FiniteHook',
    'Float32BoxesHook',
    'HealthHook',
    'KNNHook',
    'LateLossesHook',
    'NonFiniteError',
    'PanelHook',
    'PreemptHook',
    'Preempted',
    'ProgressHook',
    'RawAndEMAHook',
    'ResultsHook',
    'RunRecordHook',
    'RunSummaryHook',
    'SafeCheckpointHook',
    'WholeCheckpointHook',
]
