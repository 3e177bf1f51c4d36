"""Training: hooks, optimizer groups and what the tools do."""

from . import hooks, layer_decay, loops, merged_groups, terse

__all__ = ['hooks', 'layer_decay', 'loops', 'merged_groups', 'terse']
