"""Hooks, registered in MMEngine's root registry."""

from .bad_images import BadImagesHook
from .check_classes import CheckClassesHook
from .check_labels import CheckLabelsHook
from .exact_resume import ExactResumeHook
from .export_encoder import ExportEncoderHook
from .finite import FiniteHook, NonFiniteError
from .float32_boxes import Float32BoxesHook
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
from .safe_checkpoint import SafeCheckpointHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'BadImagesHook',
    'CheckClassesHook',
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
