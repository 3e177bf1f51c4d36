"""Training: hooks, optimizer groups and what the tools do."""

from . import average, hooks, layer_decay, loops, merged_groups, terse

__all__ = ['average', 'hooks', 'layer_decay', 'loops', 'merged_groups', 'terse']
