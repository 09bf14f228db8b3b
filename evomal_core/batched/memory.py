"""Freed memory that stays with the process, so that tensors of megabytes don't cost page faults at every step."""

from __future__ import annotations

from functools import cache

import torch

LARGEST = 31 * 2**20
"""Bytes just below the 32 MiB up to which glibc adapts."""


@cache
def keep_freed_memory() -> None:
    """Make glibc keep up to 62 MiB of freed memory for the next tensor, for the rest of the process.

    It gives blocks above a threshold back to the system at once, and that threshold grows to the largest block
    freed so far (`man mallopt`, M_MMAP_THRESHOLD): so one large block is allocated, never touched, and freed.
    Elsewhere this does nothing.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
