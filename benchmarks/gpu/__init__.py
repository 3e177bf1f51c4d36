"""Everything that one hour on a GPU can tell, ordered by value: ``python -m benchmarks.gpu``."""
