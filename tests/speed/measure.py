"""Timing of interleaved variants in one process, the machine's peak, floating-point operations and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Variant = Callable[[], object]


def interleaved(variants: dict[str, Variant], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round, every variant once a round, after one that is not counted.

    All compute on one thread, so that on an idle machine these are the seconds that pass. On a busy one, waiting
    for a core does not count, and what slows the core itself slows all variants of a round alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            start = time.process_time()
            variant()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def peak_flops(size: int = 1024, rounds: int = 7) -> float:
    """Floating-point operations per second of a large float32 matrix product, the best of several."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return max(2 * size**3 / seconds for seconds in interleaved({"product": lambda: a @ b}, rounds)["product"])


def flops(work: Variant) -> int:
    """Floating-point operations of the matrix products and convolutions in `work`, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_bytes(work: Variant) -> int:
    """The most bytes of CPU tensors that `work` holds at once, beyond those there before."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
