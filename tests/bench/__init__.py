"""Benchmarks: `make bench`. Figures are ratios from one run, CPU time before wall time."""
