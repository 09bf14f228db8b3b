"""How many threads to compute on: one for small networks, for which more only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

SMALL = 100_000
"""Weights of a base network up to which one thread is faster than two, whatever else the machine does."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within; rounding then never depends on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(weights: int) -> AbstractContextManager[None]:
    """One thread for a network of so few weights, torch's own setting for a larger one."""
    return one_thread() if weights <= SMALL else nullcontext()
