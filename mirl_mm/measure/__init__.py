"""Metrics, and what frozen features are worth: k-NN and probes at every depth."""

from mirl_mm.models import ReconstructionError

from .depth import probe_depth
from .knn import evaluate_knn, knn_accuracy
from .linear import ridge_accuracy

__all__ = [
    'ReconstructionError',
    'evaluate_knn',
    'knn_accuracy',
    'probe_depth',
    'ridge_accuracy',
]
