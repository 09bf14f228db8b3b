"""Speed and memory against the papers' way of computing; `python -m tests.speed [names]`."""
