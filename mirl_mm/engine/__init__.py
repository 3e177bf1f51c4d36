"""Training: the runner and its loops, optimizer groups, hooks, and what the tools do."""

from . import hooks, loops, optim, resume, run_facts, runner, stopping

__all__ = ['hooks', 'loops', 'optim', 'resume', 'run_facts', 'runner', 'stopping']
