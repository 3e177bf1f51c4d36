"""Hooks, registered in MMEngine's root registry."""

from .check_classes import CheckClassesHook
from .check_labels import CheckLabelsHook
from .export_encoder import ExportEncoderHook
from .health import HealthHook
from .knn import KNNHook
from .panel import PanelHook
from .progress import ProgressHook
from .raw_and_ema import RawAndEMAHook
from .results import ResultsHook
from .run_record import RunRecordHook
from .run_summary import RunSummaryHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'CheckClassesHook',
    'CheckLabelsHook',
    'ExportEncoderHook',
    'HealthHook',
    'KNNHook',
    'PanelHook',
    'ProgressHook',
    'RawAndEMAHook',
    'ResultsHook',
    'RunRecordHook',
    'RunSummaryHook',
    'WholeCheckpointHook',
]
