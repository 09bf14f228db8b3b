"""Meta-steps and training of small perceptrons for a whole population, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evomal_core.kinds import link
from evomal_core.learners import Learner
from evomal_core.population.candidates import KernelMetaStep, KernelTraining
from evomal_core.population.networks import MLPStack
from evomal_core.population.rows import Rows

STEPS_AT_ONCE = 500


def _layers(stack: MLPStack) -> np.ndarray:
    """The row of each layer that `kernels` describes."""
    rows, place = [], 0
    for inputs, outputs, has_bias, activation in stack.layers:
        bias = place + inputs * outputs if has_bias else -1
        rows.append((inputs, outputs, place, bias, ["", "relu", "tanh"].index(activation)))
        place += inputs * outputs + (outputs if has_bias else 0)
    return np.array(rows)


def _arrays(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Features (T, B, inputs) and labels (T, B, C)."""
    return rows.features[:, 0].contiguous().numpy(), rows.y[:, 0].contiguous().numpy()


class PerceptronMetaStep(KernelMetaStep):
    """A meta-step of the perceptrons of all tasks."""

    stack: MLPStack

    def __init__(self, stack: MLPStack, *others: Any) -> None:
        super().__init__(stack, *others)
        self.layers = _layers(stack)
        self._start: tuple[np.ndarray, Rows, tuple[np.ndarray, ...]] | None = None

    def compute(
        self,
        losses: tuple[Any, ...],
        meta_step: int,
        theta0: np.ndarray,
        values: np.ndarray,
        gradients: np.ndarray,
    ) -> None:
        """Write the task losses and their gradients from the initial weights (T, W)."""
        base = self.config.base.unrolled
        episodes = [learner.episode(meta_step, self.config) for learner in self.stack.learners]
        step = self.stack.held_rows("step", [e.steps[0] for e in episodes])
        (_, y), (x_task, y_task) = _arrays(step), _arrays(self.stack.held_rows("task", [e.task for e in episodes]))
        f0, hidden, jacobian = self._at_start(theta0, step)
        rates = np.array([base.first_rate, base.weight_decay])

        def work(candidates: np.ndarray) -> None:
            self.population.kernels.meta_steps(
                *losses, self.layers, theta0, f0, y, hidden, jacobian, x_task, y_task, self.class_weights, rates,
                candidates, values, gradients,
            )  # fmt: skip

        self.population.spread(work)

    def _at_start(self, theta0: np.ndarray, rows: Rows) -> tuple[np.ndarray, ...]:
        """Values shared by all candidates: f at the initial weights, hidden values, one output's Jacobian."""
        if self._start is not None and self._start[0] is theta0 and self._start[1] is rows:
            return self._start[2]
        x, y = _arrays(rows)
        room, jacobian_room, _ = self.population.kernels._sizes(self.layers, x.shape[1])
        hidden = np.empty((len(x), room), theta0.dtype)
        jacobian = np.empty((len(x), jacobian_room), theta0.dtype)
        with self.population.one_blas_thread():
            self.population.kernels.forward(self.layers, theta0, x, hidden, jacobian)
        logits = torch.from_numpy(hidden[:, room - y[0].size :].reshape(y.shape).copy())
        pieces = link(logits, self.stack.kind).numpy(), hidden, jacobian
        self._start = (theta0, rows, pieces)
        return pieces


class PerceptronTraining(KernelTraining):
    """The perceptrons of all tasks."""

    stack: MLPStack

    def __init__(self, losses: Sequence[Any], stack: MLPStack, steps: Any) -> None:
        super().__init__(losses, stack, steps)
        self.layers = _layers(stack)
        self._parts: dict[str, Rows] = {}

    def rows(self, split: str) -> Rows:
        """The rows of a part of the tasks, kept."""
        if split not in self._parts:
            self._parts[split] = super().rows(split)
        return self._parts[split]

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        x, y = _arrays(self.rows("train"))
        for start in range(0, len(rates), STEPS_AT_ONCE):
            some = np.array(rates[start : start + STEPS_AT_ONCE])
            steps = range(self.done, self.done + len(some))
            orders = np.stack([_orders(learner, x.shape[1], steps) for learner in self.stack.learners])
            self._advance(x, y, orders, some)
            self.done = steps.stop

    def _advance(self, x: np.ndarray, y: np.ndarray, orders: np.ndarray, rates: np.ndarray) -> None:
        def work(candidates: np.ndarray) -> None:
            self.population.kernels.train(
                *self.losses, self.layers, x, y, orders, self.steps.adam, self.steps.settings, rates, self.done,
                self.moving, candidates, self.theta, self.memory,
            )  # fmt: skip

        self.population.spread(work)

    def predict(self, rows: Rows, y_pred: np.ndarray) -> None:
        """Write the predictions (P, T, B, C) of all networks."""
        x, _ = _arrays(rows)
        self.population.spread(
            lambda candidates: self.population.kernels.predict(self.layers, self.theta, x, candidates, y_pred)
        )


def _orders(learner: Learner, rows: int, steps: range) -> np.ndarray:
    """The row numbers of each batch, (steps, B)."""
    if learner.batch_size >= rows:
        return np.broadcast_to(np.arange(rows), (len(steps), rows)).copy()
    return np.stack([learner.batch_rows(step).numpy() for step in steps])
