"""Numbers from a model: what its frozen features are worth, and what a step of it costs."""

from .knn import evaluate_knn, knn_accuracy
from .linear import ridge_accuracy

__all__ = ['evaluate_knn', 'knn_accuracy', 'ridge_accuracy']
