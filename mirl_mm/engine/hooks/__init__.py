"""Hooks, registered in MMEngine's root registry."""

from .check_classes import CheckClassesHook
from .check_labels import CheckLabelsHook
from .export_encoder import ExportEncoderHook
from .knn import KNNHook
from .progress import ProgressHook
from .raw_and_ema import RawAndEMAHook
from .run_summary import RunSummaryHook
from .whole_checkpoint import WholeCheckpointHook

__all__ = [
    'CheckClassesHook',
    'CheckLabelsHook',
    'ExportEncoderHook',
    'KNNHook',
    'ProgressHook',
    'RawAndEMAHook',
    'RunSummaryHook',
    'WholeCheckpointHook',
]
