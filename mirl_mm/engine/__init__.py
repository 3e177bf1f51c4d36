"""Training: the runner and its loops, optimizer groups, hooks, and what the tools do."""

from . import averages, hooks, loops, optim, resume, run_facts, runner, stopping

__all__ = ['averages', 'hooks', 'loops', 'optim', 'resume', 'run_facts', 'runner', 'stopping']
