"""Meta-steps and training of small perceptrons for a whole population, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.kinds import link
from evomal_core.learners import Batch
from evomal_core.losses import LearnedLoss
from evomal_core.population.candidates import Population, flat_weights, padded_weights
from evomal_core.population.networks import MLPStack
from evomal_core.population.optimisers import KernelSteps
from evomal_core.population.rows import Rows, same_batches

STEPS_AT_ONCE = 500


def _layers(stack: MLPStack) -> np.ndarray:
    """The row of each layer that `kernels` describes."""
    rows, place = [], 0
    for inputs, outputs, has_bias, activation in stack.layers:
        bias = place + inputs * outputs if has_bias else -1
        rows.append((inputs, outputs, place, bias, ["", "relu", "tanh"].index(activation)))
        place += inputs * outputs + (outputs if has_bias else 0)
    return np.array(rows)


def _features(rows: Rows) -> np.ndarray:
    return rows.features[:, 0].contiguous().numpy()


def _labels(rows: Rows) -> np.ndarray:
    return rows.y[:, 0].contiguous().numpy()


class PerceptronMetaStep:
    """A `local_search.MetaStep` computed by the kernels."""

    def __init__(
        self,
        stack: MLPStack,
        expressions: Sequence[Expression],
        softplus: bool,
        config: SearchConfig,
        class_weights: np.ndarray,
    ) -> None:
        self.stack, self.config = stack, config
        self.population = Population(expressions, softplus, stack.kind)
        self.layers = _layers(stack)
        self.theta = flat_weights(stack.theta0)
        self.class_weights = class_weights
        self._held: dict[str, tuple[list[Batch], tuple[np.ndarray, np.ndarray]]] = {}
        self._start: tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]] | None = None

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss summed over tasks, (P,), and its gradient (P, E)."""
        population, base = self.population, self.config.base.unrolled
        episodes = [learner.episode(meta_step, self.config) for learner in self.stack.learners]
        x, y = self._arrays("step", [e.steps[0] for e in episodes])
        x_task, y_task = self._arrays("task", [e.task for e in episodes])
        drawn = self.stack.initial_vectors(meta_step)
        theta0 = self.theta if drawn is None else drawn.numpy()
        f0, hidden, jacobian = self._at_start(theta0, x, y)
        rates = np.array([base.first_rate, base.weight_decay])
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
            rows = self.stack.rows(batches)
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


class PerceptronTraining:
    """The networks of a stack for all candidates, trained by the kernels."""

    def __init__(self, population: Sequence[nn.Module], stack: MLPStack, steps: KernelSteps) -> None:
        losses = [loss for loss in population if isinstance(loss, LearnedLoss)]
        self.stack, self.steps = stack, steps
        self.population = Population([loss.expression for loss in losses], losses[0].softplus, stack.kind)
        self.layers, self.phi = (
            _layers(stack),
            padded_weights([loss.phi for loss in losses], stack.theta0[0].dtype),
        )
        self.moving = np.array(["f" in loss.expression.nodes for loss in losses])
        self.theta = np.repeat(flat_weights(stack.theta0)[None], len(losses), axis=0)
        self.memory = steps.memory(self.theta)
        self.done = 0
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._labels: dict[str, Tensor] = {}

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        for start in range(0, len(rates), STEPS_AT_ONCE):
            self._advance(np.array(rates[start : start + STEPS_AT_ONCE]))

    def _advance(self, rates: np.ndarray) -> None:
        population, done, stop = self.population, self.done, self.done + len(rates)
        x, y = self._part("train")
        orders = np.stack([self._orders(learner, x.shape[1], stop) for learner in self.stack.learners])

        def work(candidates: np.ndarray) -> None:
            population.kernels.train(
                population.kind, population.softplus, population.trees, population.lengths, self.phi,
                self.layers, x, y, orders, self.steps.adam, self.steps.settings, rates, done, self.moving,
                candidates, self.theta, self.memory,
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
            rows = self.stack.rows([learner.task.parts()[name] for learner in self.stack.learners])
            self._rows[name] = _features(rows), _labels(rows)
            self._labels[name] = rows.labels
        return self._rows[name]

    def _orders(self, learner: Any, rows: int, stop: int) -> np.ndarray:
        """The row numbers of each batch, (steps, B)."""
        steps = range(self.done, stop)
        if learner.batch_size >= rows:
            return np.broadcast_to(np.arange(rows), (len(steps), rows)).copy()
        return np.stack([learner.batch_rows(step).numpy() for step in steps])
