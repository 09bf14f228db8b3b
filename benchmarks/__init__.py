"""Speed and memory against the papers' way of computing; `python -m benchmarks [names]`."""
