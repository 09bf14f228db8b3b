"""The tests, and in `speed` the benchmarks."""
