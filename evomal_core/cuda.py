"""Settings of PyTorch's CUDA libraries within which a result is repeatable, and computed in whole float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Within it, convolutions give the same sums each time, and TF32, of 10 bits, stands for no float32.

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
def without_cudnn() -> Iterator[None]:
    """Within it, recurrent layers are computed without the kernels of cuDNN, which have no second derivative."""
    with _within((torch.backends.cudnn, "enabled", False)):
        yield
