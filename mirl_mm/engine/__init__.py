"""Training: hooks, optimizer groups and what the tools do."""

from . import hooks, terse

__all__ = ['hooks', 'terse']
