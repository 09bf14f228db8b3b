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

from evomal_core.config import SGD, SearchConfig
from evomal_core.expression import Expression
from evomal_core.kinds import Kind, link
from evomal_core.learners import Batch, Learner
from evomal_core.losses import LearnedLoss
from evomal_core.population.batches import Rows, same_batches, stack_rows
from evomal_core.population.networks import ConvolutionStack, MLPStack, RecurrentStack, Stack
from evomal_core.primitives import arity
from evomal_core.unroll import episode, task_loss
from evomal_core.weighted import class_weights

WIDEST = 256
"""Layers above it gain more from PyTorch's larger products."""
DTYPES = (torch.float32, torch.float64)
STEPS_AT_ONCE = 500
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


class _Population:
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


def _weights_of(losses: Sequence[LearnedLoss], dtype: torch.dtype) -> np.ndarray:
    """The weights phi of each loss, (P, E), padded with ones."""
    width = max(1, *(loss.size for loss in losses), 1)
    padded = torch.ones(len(losses), width, dtype=dtype)
    for row, loss in zip(padded, losses, strict=True):
        row[: loss.size] = loss.phi.detach()
    return padded.numpy()


def _layers(stack: MLPStack) -> np.ndarray:
    """The row of each layer that `kernels` describes."""
    rows, place = [], 0
    for inputs, outputs, has_bias, activation in stack.layers:
        bias = place + inputs * outputs if has_bias else -1
        rows.append((inputs, outputs, place, bias, ["", "relu", "tanh"].index(activation)))
        place += inputs * outputs + (outputs if has_bias else 0)
    return np.array(rows)


def _class_weights(stack: Stack) -> np.ndarray:
    """The weights of the classes in the task loss, (T, classes): all 1 unless it is balanced."""
    found = [class_weights(task_loss(learner), max(2, stack.outputs)) for learner in stack.learners]
    return (
        torch.stack([weights for weights in found if weights is not None]).to("cpu", stack.theta0[0].dtype).numpy()
    )


def _flat_weights(stack: Stack) -> np.ndarray:
    """The initial weights of each task as one vector, (T, W)."""
    return torch.cat([w[:, 0].flatten(1) for w in stack.theta0], dim=1).contiguous().numpy()


def _features(rows: Rows) -> np.ndarray:
    return rows.features[:, 0].contiguous().numpy()


def _labels(rows: Rows) -> np.ndarray:
    return rows.y[:, 0].contiguous().numpy()


class CompiledMetaStep:
    """A `local_search.MetaStep` computed by the kernels."""

    def __init__(
        self, stack: MLPStack, expressions: Sequence[Expression], softplus: bool, config: SearchConfig
    ) -> None:
        self.stack, self.config = stack, config
        self.population = _Population(expressions, softplus, stack.kind)
        self.layers = _layers(stack)
        self.theta = _flat_weights(stack)
        self.class_weights = _class_weights(stack)
        self._held: dict[str, tuple[list[Batch], tuple[np.ndarray, np.ndarray]]] = {}
        self._start: tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]] | None = None

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss summed over tasks, (P,), and its gradient (P, E)."""
        population, base = self.population, self.config.base.unrolled
        episodes = [episode(learner, meta_step, self.config) for learner in self.stack.learners]
        x, y = self._arrays("step", [e.steps[0] for e in episodes])
        x_task, y_task = self._arrays("task", [e.task for e in episodes])
        drawn = self.stack.initial_vectors(meta_step)
        theta0 = self.theta if drawn is None else drawn.numpy()
        f0, hidden, jacobian = self._at_start(theta0, x, y)
        rates = np.array([base.lr * (1 + base.momentum if base.nesterov else 1), base.weight_decay])
        weights = phi.contiguous().numpy()
        values, gradients = np.empty(len(phi), weights.dtype), np.empty_like(weights)

        def work(candidates: np.ndarray) -> None:
            population.kernels.meta_steps(
                population.kind, population.softplus, population.trees, population.lengths, weights,
                self.layers, theta0, f0, y, hidden, jacobian, x_task, y_task, self.class_weights, rates,
                candidates, values, gradients,
            )  # fmt: skip

        with population.one_blas_thread():
            population.spread(work)
        return torch.from_numpy(values), torch.from_numpy(gradients)

    def _arrays(self, key: str, batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """The stacked features and labels; those of the step before if the batches are the same tensors."""
        held = self._held.get(key)
        if held is None or not same_batches(held[0], batches):
            rows = stack_rows(self.stack, batches)
            held = self._held[key] = (batches, (_features(rows), _labels(rows)))
        return held[1]

    def _at_start(self, theta0: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """Values shared by all candidates: f at the initial weights, hidden values, one output's Jacobian."""
        if self._start is not None and self._start[0] is theta0 and self._start[1] is x:
            return self._start[2]
        room, jacobian_room, _ = self.population.kernels._sizes(self.layers, x.shape[1])
        hidden = np.empty((len(x), room), theta0.dtype)
        jacobian = np.empty((len(x), jacobian_room), theta0.dtype)
        with self.population.one_blas_thread():
            self.population.kernels.forward(self.layers, theta0, x, hidden, jacobian)
        logits = torch.from_numpy(hidden[:, room - y[0].size :].reshape(y.shape).copy())
        pieces = link(logits, self.stack.kind).numpy(), hidden, jacobian
        self._start = (theta0, x, pieces)
        return pieces


class CompiledTraining:
    """The networks of a stack for all candidates, trained by the kernels."""

    def __init__(self, population: Sequence[nn.Module], stack: MLPStack, base: SGD) -> None:
        losses = [loss for loss in population if isinstance(loss, LearnedLoss)]
        self.stack, self.base = stack, base
        self.population = _Population([loss.expression for loss in losses], losses[0].softplus, stack.kind)
        self.layers, self.phi = _layers(stack), _weights_of(losses, stack.theta0[0].dtype)
        self.moving = np.array(["f" in loss.expression.nodes for loss in losses])
        self.theta = np.repeat(_flat_weights(stack)[None], len(losses), axis=0)
        self.velocity = np.zeros_like(self.theta)
        self.done = 0
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._labels: dict[str, Tensor] = {}

    def advance(self, step: int) -> None:
        """Train up to `step`."""
        population, base = self.population, self.base
        x, y = self._part("train")
        rates = np.array([base.lr, base.momentum, base.weight_decay])
        while self.done < step:
            stop = min(step, self.done + STEPS_AT_ONCE)
            orders = np.stack([self._orders(learner, x.shape[1], stop) for learner in self.stack.learners])
            first = self.done == 0

            def work(candidates: np.ndarray, orders: np.ndarray = orders, first: bool = first) -> None:
                population.kernels.train(
                    population.kind, population.softplus, population.trees, population.lengths, self.phi,
                    self.layers, x, y, orders, rates, base.nesterov, first, self.moving, candidates,
                    self.theta, self.velocity,
                )  # fmt: skip

            with population.one_blas_thread():
                population.spread(work)
            self.done = stop

    def errors(self, splits: Sequence[str]) -> dict[str, Tensor]:
        """The performance metric (T, P) of each part."""
        found = {}
        for name in splits:
            x, labels = self._part(name)[0], self._labels[name]
            outputs = self.stack.layers[-1][1]
            y_pred = np.empty((*self.theta.shape[:2], x.shape[1], outputs), self.theta.dtype)

            def work(candidates: np.ndarray, x: np.ndarray = x, y_pred: np.ndarray = y_pred) -> None:
                self.population.kernels.predict(self.layers, self.theta, x, candidates, y_pred)

            with self.population.one_blas_thread():
                self.population.spread(work)
            found[name] = self.stack.learners[0].task.measure(torch.from_numpy(y_pred).transpose(0, 1), labels)
        return found

    def finite(self) -> Tensor:
        """Whether all weights of each network are finite, (T, P)."""
        return torch.from_numpy(np.isfinite(self.theta).all(axis=2).T)

    def _part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self._rows:
            rows = stack_rows(self.stack, [learner.task.parts()[name] for learner in self.stack.learners])
            self._rows[name] = _features(rows), _labels(rows)
            self._labels[name] = rows.labels
        return self._rows[name]

    def _orders(self, learner: Any, rows: int, stop: int) -> np.ndarray:
        """The row numbers of each batch, (steps, B)."""
        steps = range(self.done, stop)
        if learner.batch_size >= rows:
            return np.broadcast_to(np.arange(rows), (len(steps), rows)).copy()
        return np.stack([learner.batch_rows(step).numpy() for step in steps])


def minimise_predictions(
    losses: Sequence[LearnedLoss], y_pred: Tensor, labels: Tensor, config: SearchConfig
) -> Tensor:
    """Run `filters.minimise_predictions` for each loss, all with the same softplus: (P, *y_pred.shape).

    `labels` are numbers in the shape of the predictions.
    """
    population = _Population([loss.expression for loss in losses], losses[0].softplus, losses[0].kind)
    phi, y = _weights_of(losses, y_pred.dtype), labels.contiguous().numpy()
    best = np.repeat(y_pred.detach().numpy()[None], len(losses), axis=0)

    def work(candidates: np.ndarray) -> None:
        population.kernels.minimise(
            population.kind, population.softplus, population.trees, population.lengths, phi, y,
            config.rejection_lr, config.rejection_steps, candidates, best,
        )  # fmt: skip

    population.spread(work)
    return torch.from_numpy(best)
