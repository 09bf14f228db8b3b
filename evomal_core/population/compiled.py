"""Where the compiled kernels take over from `batched`, on a CPU: small perceptrons, plain convolutional and
recurrent networks with one unrolled step, and the rejection protocol of any network.

Each candidate is computed on its own, so its result is the same bit by bit whatever it is batched with and
however many threads there are. EVOMAL_KERNELS=0 in the environment switches the kernels off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.learners import Learner
from evomal_core.losses import LearnedLoss
from evomal_core.population.networks import ConvolutionStack, MLPStack, RecurrentStack, Stack
from evomal_core.primitives import arity
from evomal_core.unroll import task_loss
from evomal_core.weighted import class_weights

WIDEST = 256
"""Layers above it gain more from PyTorch's larger products."""
DTYPES = (torch.float32, torch.float64)
_WARNED: WeakSet[Learner] = WeakSet()
"""Learners already told why the kernels do not take their labels."""
log = logging.getLogger("evomal")


@cache
def _libraries() -> Any:
    """The kernels and the BLAS pools to be held to one thread each; None where a library is missing."""
    try:
        import_module("scipy.linalg.cython_blas")  # Numba's products call it
        threadpoolctl = import_module("threadpoolctl")
        kernels = import_module("evomal_core.population.kernels")
    except ImportError:
        return None
    return kernels, threadpoolctl.ThreadpoolController()


def fits(stack: Stack, losses: Sequence[nn.Module] | None = None, config: SearchConfig | None = None) -> bool:
    """Whether the kernels can take a stack, its losses, and the number of unrolled steps."""
    if not all(learner.task.plain for learner in stack.learners):
        return _told(stack)
    if isinstance(stack, MLPStack):
        known = (
            stack.learners[0].task.augment is None  # they read rows of the data themselves
            and all(max(inputs, outputs) <= WIDEST for inputs, outputs, *_ in stack.layers[1:])
        )
    else:
        known = isinstance(stack, ConvolutionStack | RecurrentStack)
    if config is not None and not (config.unroll_steps == 1 and _knows_task_loss(stack)):
        return False
    return known and take(stack.theta0[0], losses or ())


def _told(stack: Stack) -> bool:
    """Log, once for each learner, why the kernels do not take its labels; return False."""
    if stack.learners[0] not in _WARNED:
        _WARNED.add(stack.learners[0])
        log.info("labels with positions, weights, missing or soft classes are computed by PyTorch, not by kernels")
    return False


def _knows_task_loss(stack: Stack) -> bool:
    return all(class_weights(task_loss(learner), stack.outputs) is not None for learner in stack.learners)


def take(numbers: Tensor, losses: Sequence[nn.Module] = ()) -> bool:
    """Whether the kernels can compute with tensors like this one, and with these losses."""
    return (
        os.environ.get("EVOMAL_KERNELS", "1") != "0"
        and not numbers.is_cuda
        and numbers.dtype in DTYPES
        and _libraries() is not None
        and all(isinstance(loss, LearnedLoss) and knows(loss.expression) for loss in losses)
    )


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
    libraries = _libraries()
    return frozenset() if libraries is None else frozenset(libraries[0].OPERATIONS)


def must_compile(stacks: Sequence[Stack], config: SearchConfig) -> bool:
    """Whether a search needs kernels that were never compiled on this machine, which takes up to a minute."""
    fitting = {type(stack) for stack in stacks if fits(stack)}
    needed = {kernel for kind, kernel in KERNELS.items() if kind in fitting}
    if config.rejection_steps and all(take(stack.theta0[0]) for stack in stacks):
        needed.add("kernels.minimise")
    return not all(map(_is_compiled, needed))


KERNELS: dict[type[Stack], str] = {
    MLPStack: "kernels.train",
    ConvolutionStack: "kernels_convolutions.rows_last",
    RecurrentStack: "kernels_recurrent.pullback",
}
"""A kernel that every search with a stack of this kind needs."""


def _is_compiled(name: str) -> bool:
    module, _, function = name.partition(".")
    kernel = getattr(import_module(f"evomal_core.population.{module}"), function)
    folder = kernel.stats.cache_path
    return bool(kernel.signatures) or (folder is not None and any(Path(folder).glob(f"{name}-*.nbi")))


class Population:
    """Expressions in the form that the kernels take."""

    def __init__(self, expressions: Sequence[Expression], softplus: bool, kind: Kind) -> None:
        self.kernels, self.pools = _libraries()
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
        candidates = np.arange(len(self.lengths))
        threads = min(torch.get_num_threads(), len(candidates))
        if threads == 1:
            work(candidates)
            return
        list(_executor(threads).map(work, [candidates[first::threads] for first in range(threads)]))

    @contextmanager
    def one_blas_thread(self) -> Iterator[None]:
        """Context manager: one thread for each matrix product, so that threads of candidates don't compete."""
        with self.pools.limit(limits=1, user_api="blas"):
            yield


@cache
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "evomal")


os.register_at_fork(after_in_child=_executor.cache_clear)  # threads do not survive a fork


def padded_weights(losses: Sequence[LearnedLoss], dtype: torch.dtype) -> np.ndarray:
    """The weights phi of each loss, (P, E), padded with ones."""
    width = max(1, *(loss.size for loss in losses), 1)
    padded = torch.ones(len(losses), width, dtype=dtype)
    for row, loss in zip(padded, losses, strict=True):
        row[: loss.size] = loss.phi.detach()
    return padded.numpy()


def task_class_weights(stack: Stack) -> np.ndarray:
    """The weights of the classes in the task loss, (T, classes): all 1 unless it is balanced."""
    found = [class_weights(task_loss(learner), max(2, stack.outputs)) for learner in stack.learners]
    return (
        torch.stack([weights for weights in found if weights is not None]).to("cpu", stack.theta0[0].dtype).numpy()
    )


def flat_weights(stack: Stack) -> np.ndarray:
    """The initial weights of each task as one vector, (T, W)."""
    return torch.cat([w[:, 0].flatten(1) for w in stack.theta0], dim=1).contiguous().numpy()


def minimise_predictions(
    losses: Sequence[LearnedLoss], y_pred: Tensor, labels: Tensor, config: SearchConfig
) -> Tensor:
    """Run `filters.minimise_predictions` for each loss, all with the same softplus: (P, *y_pred.shape).

    `labels` are numbers in the shape of the predictions.
    """
    population = Population([loss.expression for loss in losses], losses[0].softplus, losses[0].kind)
    phi, y = padded_weights(losses, y_pred.dtype), labels.contiguous().numpy()
    best = np.repeat(y_pred.detach().numpy()[None], len(losses), axis=0)

    def work(candidates: np.ndarray) -> None:
        population.kernels.minimise(
            population.kind, population.softplus, population.trees, population.lengths, phi, y,
            config.rejection_lr, config.rejection_steps, candidates, best,
        )  # fmt: skip

    population.spread(work)
    return torch.from_numpy(best)
