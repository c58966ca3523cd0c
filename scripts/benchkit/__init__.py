"""Benchmarks against other ways to do the same, in one run on one machine: see docs/bench.md."""
