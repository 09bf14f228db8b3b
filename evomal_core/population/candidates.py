"""Candidates in the form that the compiled kernels take, shared out among threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.population.steps import Stacked
from evomal_core.primitives import arity

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
    """Whether the kernels have all operations; log each that they lack once."""
    lacking = {name for e in expressions for name in e.nodes} - _operations()
    if new := sorted(lacking - _LACKING):
        _LACKING.update(new)
        log.info("losses with %s are computed by PyTorch, not by kernels", ", ".join(new))
    return not lacking


_LACKING: set[str] = set()


@cache
def _operations() -> frozenset[str]:
    """The nodes that the kernels can compute; an operation of somebody's own is not among them."""
    found = libraries()
    return frozenset() if found is None else frozenset(found[0].OPERATIONS)


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

    def spread(self, work: Callable[[np.ndarray], None]) -> None:
        """Run `work` on all candidates, shared out among as many threads as PyTorch uses."""
        count = len(self.lengths)
        threads = min(torch.get_num_threads(), count)
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
