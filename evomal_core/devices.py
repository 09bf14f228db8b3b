"""Settings of PyTorch's CUDA libraries within which a result is repeatable, and computed in whole float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NoReturn

import torch

Setting = tuple[Any, str, Any]


@contextmanager
def _within(*settings: Setting) -> Iterator[None]:
    before = [getattr(where, name) for where, name, _ in settings]
    for where, name, value in settings:
        setattr(where, name, value)
    try:
        yield
    finally:
        for (where, name, _), value in zip(settings, before, strict=True):
            setattr(where, name, value)


@contextmanager
def repeatable() -> Iterator[None]:
    """Context manager: deterministic cuDNN, and full float32 (no TF32).

    cuDNN would otherwise choose algorithms that add in any order, and round the factors of its products.
    """
    with _within(
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
        (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    ):
        yield


@contextmanager
def plain_torch(device: torch.device) -> Iterator[None]:
    """Context manager: gradients on, autocast off, whatever the caller has set, and repeatable results."""
    plain = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), plain, repeatable():
        yield


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Context manager: recurrent layers without cuDNN, whose kernels have no second derivative."""
    with _within((torch.backends.cudnn, "enabled", False)):
        yield


def check_device(device: str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: the name is unknown or the machine has no such device.
    """
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        _no_device(device, "known are 'cpu' and 'cuda'")
    if chosen.type not in ("cpu", "cuda"):
        _no_device(device, "known are 'cpu' and 'cuda'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        _no_device(device, f"this machine has {torch.cuda.device_count()} CUDA device(s); use device='cpu'")
    return chosen


def _no_device(device: Any, why: str) -> NoReturn:
    raise ValueError(f"can't use device {device!r}: {why}") from None


SMALL = 100_000
"""Weights of a base network up to which one thread is faster than two, whatever else the machine does."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager: compute on one thread, so that rounding does not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(weights: int) -> AbstractContextManager[None]:
    """Context manager: one thread for a network of so few weights, torch's own setting for a larger one."""
    return one_thread() if weights <= SMALL else nullcontext()


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


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on a CUDA device, in its libraries or on the CPU."""
    texts = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
