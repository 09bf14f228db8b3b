"""Candidates as the compiled kernels take them, shared out among threads; their meta-steps and training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.population.steps import Stacked
from evomal_core.primitives import arity

T = TypeVar("T")
log = logging.getLogger("evomal")


@cache
def libraries() -> Any:
    """The kernels and the BLAS pools to be held to one thread each; None where a library is missing."""
    try:
        import_module("scipy.linalg.cython_blas")  # Numba's products call it
        threadpoolctl = import_module("threadpoolctl")
        kernels = import_module("evomal_core.population.kernels")
    except ImportError:
        return None
    return kernels, threadpoolctl.ThreadpoolController()


def knows(*expressions: Expression) -> bool:
    """Whether the kernels have all operations; log each that they lack once, such as one of somebody's own."""
    found = libraries()
    lacking = {name for e in expressions for name in e.nodes}.difference(found[0].OPERATIONS if found else ())
    if new := sorted(lacking - _LACKING):
        _LACKING.update(new)
        log.info("losses with %s are computed by PyTorch, not by kernels", ", ".join(new))
    return not lacking


_LACKING: set[str] = set()


class Population:
    """Expressions in the form that the kernels take."""

    def __init__(self, expressions: Sequence[Expression], softplus: bool, kind: Kind) -> None:
        self.kernels, self.pools = libraries()
        self.kind = self.kernels.KINDS.index(kind)
        self.softplus = softplus
        self.lengths = np.array([len(e) for e in expressions])
        self.trees = np.zeros((len(expressions), 3, self.lengths.max()), np.int64)
        for tree, expression in zip(self.trees, expressions, strict=True):
            tree[:, : len(expression)] = self._tree(expression)

    def _tree(self, expression: Expression) -> np.ndarray:
        tree = np.zeros((3, len(expression)), np.int64)

        def node(position: int, name: str, children: Sequence[int] = ()) -> int:
            tree[0, position] = self.kernels.OPERATIONS.index(name)
            tree[1 : 1 + arity(name), position] = children
            return position

        expression.fold(node, node)
        return tree

    def losses(self, phi: np.ndarray) -> tuple[Any, ...]:
        """The losses with weights phi (P, E), the first arguments of many kernels."""
        return self.kind, self.softplus, self.trees, self.lengths, phi

    def spread(self, work: Callable[[np.ndarray], None]) -> None:
        """Run `work` on all candidates, shared out among as many threads as PyTorch uses."""
        count = len(self.lengths)
        threads = min(torch.get_num_threads(), count)
        with self.one_blas_thread():
            if threads == 1:
                work(np.arange(count))
                return
            # contiguous parts, since kernels would be compiled once more for views with strides
            list(_executor(threads).map(work, [np.arange(first, count, threads) for first in range(threads)]))

    @contextmanager
    def one_blas_thread(self) -> Iterator[None]:
        """Context manager: one thread for each matrix product, so that threads of candidates don't compete."""
        with self.pools.limit(limits=1, user_api="blas"):
            yield


@cache
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "evomal")


os.register_at_fork(after_in_child=_executor.cache_clear)  # threads do not survive a fork


def padded_weights(phis: Sequence[Tensor], dtype: torch.dtype) -> np.ndarray:
    """The weights phi of each loss, (P, E), padded with ones."""
    padded = torch.ones(len(phis), max(1, *map(len, phis), 1), dtype=dtype)
    for row, phi in zip(padded, phis, strict=True):
        row[: len(phi)] = phi.detach()
    return padded.numpy()


def flat_weights(theta0: Stacked) -> np.ndarray:
    """The initial weights of each task as one vector, (T, W)."""
    return torch.cat([w[:, 0].flatten(1) for w in theta0], dim=1).contiguous().numpy()


class Spares(Generic[T]):
    """Scratch that is lent to one thread at a time, made where none is left."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []

    @contextmanager
    def one(self) -> Iterator[T]:
        """Context manager: scratch that no other thread has meanwhile."""
        spare = self._free.pop() if self._free else self._make()
        yield spare
        self._free.append(spare)


class KernelMetaStep:
    """A `local_search.Step` of one unrolled step of a stack's networks, computed by the kernels."""

    stack: Any

    def __init__(
        self,
        stack: Any,
        expressions: Sequence[Expression],
        softplus: bool,
        config: SearchConfig,
        class_weights: np.ndarray,
    ) -> None:
        self.stack, self.config, self.class_weights = stack, config, class_weights
        self.population = Population(expressions, softplus, stack.kind)
        self.theta0 = flat_weights(stack.theta0)

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss summed over tasks, (P,), and its gradient (P, E)."""
        weights, drawn = phi.contiguous().numpy(), self.stack.initial_vectors(meta_step)
        theta0 = self.theta0 if drawn is None else drawn.numpy()
        values, gradients = np.empty(len(phi), weights.dtype), np.empty_like(weights)
        self.compute(self.population.losses(weights), meta_step, theta0, values, gradients)
        return torch.from_numpy(values), torch.from_numpy(gradients)

    def compute(
        self,
        losses: tuple[Any, ...],
        meta_step: int,
        theta0: np.ndarray,
        values: np.ndarray,
        gradients: np.ndarray,
    ) -> None:
        """Write the task losses and their gradients from the initial weights (T, W)."""
        raise NotImplementedError


class KernelTraining:
    """The networks of a stack for all candidates, in training by the kernels."""

    stack: Any

    def __init__(self, losses: Sequence[Any], stack: Any, steps: Any) -> None:
        """Losses that form a program, a stack that fits the kernels, and `optimisers.KernelSteps`."""
        self.stack, self.steps = stack, steps
        self.population = Population([loss.expression for loss in losses], losses[0].softplus, stack.kind)
        phi = padded_weights([loss.phi for loss in losses], stack.theta0[0].dtype)
        self.losses = self.population.losses(phi)
        self.moving = np.array(["f" in loss.expression.nodes for loss in losses])
        self.theta = np.repeat(flat_weights(stack.theta0)[None], len(losses), axis=0)
        """Weights, (P, T, W)."""
        self.memory = steps.memory(self.theta)
        self.done = 0

    def rows(self, split: str) -> Any:
        """The rows of a part of the tasks."""
        return self.stack.rows([learner.task.parts()[split] for learner in self.stack.learners])

    def errors(self, splits: Sequence[str]) -> dict[str, Tensor]:
        """The performance metric (T, P) of each part."""
        measure, found = self.stack.learners[0].task.measure, {}
        for name in splits:
            rows = self.rows(name)
            y_pred = np.empty((*self.theta.shape[:2], *rows.shape[1:]), self.theta.dtype)
            self.predict(rows, y_pred)
            found[name] = measure(torch.from_numpy(y_pred).transpose(0, 1), rows.labels)
        return found

    def predict(self, rows: Any, y_pred: np.ndarray) -> None:
        """Write the predictions (P, T, B, C) of all networks in evaluation mode."""
        raise NotImplementedError

    def finite(self) -> Tensor:
        """Whether all weights of each network are finite, (T, P)."""
        return torch.from_numpy(np.isfinite(self.theta).all(axis=2).T)
