"""The meta-step as a CUDA graph: captured at the first step of a generation, replayed at the others.

A meta-step of small networks is hundreds of short kernels, whose launching takes longer than their work. Nothing
but the numbers in phi, the initial weights and the batches changes between the steps of one local search, so they
lie in buffers that stay where they are, and a replay launches all kernels at once.

This has been tested on a simulated device, which records operations and runs them again. It has not yet run on a
GPU; where the host waits for the device within a step, or capturing fails, one line says so and the steps go on
without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from evomal_core.devices import out_of_memory
from evomal_core.population.networks import NotBatchable
from evomal_core.population.rows import Rows
from evomal_core.population.steps import Stacked

log = logging.getLogger("evomal")

WARM_UP = 3
"""Steps on a stream of their own before the capture, in which libraries choose their algorithms."""


@cache
def _stream(device: torch.device) -> Any:
    """A device's stream for all captures: the libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _never_waiting() -> Iterator[None]:
    """Context manager: raise on host–device synchronisation; a capture failing on one leaves bad state."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _copied(batch: Rows) -> Rows:
    """A batch in memory of its own."""
    parts = ("features", "y", "given", "share", "weights")
    kept = {name: part.clone() for name in parts if (part := getattr(batch, name)) is not None}
    return replace(batch, **kept)


class GraphedStep:
    """Replay of a `local_search.MetaStep` by a CUDA graph."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.eager = step.random
        self.graph: Any = None
        self._phi = torch.empty(0)
        self._theta0: Stacked = []
        self._batches: list[Rows] = []
        self._result = (torch.empty(0), torch.empty(0))

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss summed over tasks, (P,), and its gradient (P, E)."""
        theta0 = self.step.stack.initial(meta_step)
        batches, draw = self.step.batches(meta_step)
        if self.graph is None and not self.eager:
            self._capture(phi, theta0, batches, draw)
        if self.eager:
            return self.step.compute(phi, theta0, batches, draw)
        self._phi.copy_(phi)
        torch._foreach_copy_(self._theta0, theta0)
        for held, fresh in zip(self._batches, batches, strict=True):
            held.features.copy_(fresh.features)
            held.y.copy_(fresh.y)
            held.given.copy_(fresh.given)
            for kept, new in ((held.share, fresh.share), (held.weights, fresh.weights)):
                if kept is not None and new is not None:
                    kept.copy_(new)
        self.graph.replay()
        return self._result[0].clone(), self._result[1].clone()

    def _capture(self, phi: Tensor, theta0: Stacked, batches: list[Rows], draw: int) -> None:
        self._phi = phi.clone()
        self._theta0 = [w.clone() for w in theta0]
        self._batches = [_copied(batch) for batch in batches]
        aside, now = _stream(phi.device), torch.cuda.current_stream(phi.device)
        try:
            aside.wait_stream(now)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP - 1):
                    self.step.compute(self._phi, self._theta0, self._batches, draw)
                self.step.forget()  # the pass at the initial weights belongs into the graph: batches change
                with _never_waiting():
                    self.step.compute(self._phi, self._theta0, self._batches, draw)
            now.wait_stream(aside)
            self.step.forget()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._result = self.step.compute(self._phi, self._theta0, self._batches, draw)
            self.graph = graph
        except RuntimeError as error:
            torch.cuda.set_stream(now)
            if out_of_memory(error) or isinstance(error, NotBatchable):
                raise
            log.warning("meta-steps go on without a CUDA graph (%s)", str(error).splitlines()[0])
            self.step.forget()
            self.eager = True
