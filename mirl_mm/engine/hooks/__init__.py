"""Hooks, registered in MMEngine's root registry."""

from .progress import ProgressHook
from .run_summary import RunSummaryHook

__all__ = ['ProgressHook', 'RunSummaryHook']
