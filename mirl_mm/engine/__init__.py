"""Training: hooks, optimizer groups and what the tools do."""

from . import average, hooks, loops, merged_groups, optim, runner

__all__ = ['average', 'hooks', 'loops', 'merged_groups', 'optim', 'runner']
