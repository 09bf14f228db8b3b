"""Random generators derived from (seed, purpose, …); no global random state is read or left changed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def check_seed(seed: Any) -> int:
    """The seed, if it is a whole number of at least 0.

    Raises:
        ValueError: it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"a seed is a whole number of at least 0, got {seed!r}")
    return int(seed)


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(seed, "breed", generation)`.

    The same arguments give the same value on every machine and Python version; different purposes
    give independent streams (SHA-256 of the arguments).
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_rng(seed: int, *purpose: str | int) -> random.Random:
    """A `random.Random` for one purpose."""
    return random.Random(derive(seed, *purpose))


def numpy_rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))


def torch_rng(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU torch generator for one purpose; draws are moved to the device, so all devices share them."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def isolated_torch(seed: int, *purpose: str | int) -> Iterator[None]:
    """Run code that draws from torch's global generator (layer initialisation, dropout) on a derived seed.

    The global generators of the CPU and of every CUDA device are put back afterwards.
    """
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices):  # it warns of more than one that are not named
        number = derive(seed, *purpose)
        # without a GPU, `torch.manual_seed` would note a stack trace for each kind of device at every call
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed_all(number)
        yield
