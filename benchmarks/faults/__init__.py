"""Kill, fill, cut, spoil: what a training run survives. ``python -m benchmarks.faults``."""
