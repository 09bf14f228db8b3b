"""Compiled meta-steps and training of recurrent networks, one candidate at a time.

What candidates share, at the initial weights, is made once a meta-step. Each thread has scratch of its own, and a
candidate's result depends on no other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from evomal_core.lazy import LazyModule
from evomal_core.learners import Batch
from evomal_core.population.candidates import KernelMetaStep, KernelTraining, Spares
from evomal_core.population.networks import RecurrentStack
from evomal_core.population.recurrent import RecurrentForm
from evomal_core.population.rows import Rows

kernels = LazyModule("evomal_core.population.kernels_recurrent")  # which loads Numba

STEPS_AT_ONCE = 10
"""Training steps of one candidate after another, while its weights are in the cache."""


@dataclass(frozen=True)
class Letters:
    """A batch: the symbols that occur, and each letter (letters, rows) as a place among them."""

    used: np.ndarray
    letters: np.ndarray

    @classmethod
    def of(cls, x: Tensor) -> Letters:
        """Rows (B, letters) of symbols."""
        used, letters = np.unique(x.numpy(), return_inverse=True)
        return cls(used, np.ascontiguousarray(letters.reshape(x.shape).T))

    def __len__(self) -> int:
        return self.letters.shape[1]


def _batch(stack: RecurrentStack, batch: Batch) -> tuple[Letters, np.ndarray]:
    """A batch in the form that the kernels take, and its labels as numbers (B, C)."""
    return Letters.of(batch[0]), stack.rows([batch]).y[0, 0].contiguous().numpy()


Record = tuple[np.ndarray, ...]
"""Values of a forward pass, kept for the derivatives."""


class Derivatives:
    """A network's predictions and their derivative, transposed and as it is; for one thread at a time."""

    def __init__(self, form: RecurrentForm, dtype: np.dtype) -> None:
        self.form, self.dtype = form, dtype
        self._record: Record = ()
        self._scratch: tuple[np.ndarray, ...] = ()

    def new_record(self, x: Letters) -> Record:
        """Room for what a forward pass of rows like x keeps."""
        letters, rows = x.letters.shape
        units, layers = int(self.form.shape[1]), self.form.layers
        hidden = rows * int(layers[0, 0] + layers[:, 1].sum())
        shapes = ((letters, rows, 4 * units), *[(letters, rows, units)] * 2, (letters + 1, rows, units), (hidden,))
        return tuple(np.empty(shape, self.dtype) for shape in shapes)

    def record(self, x: Letters) -> Record:
        """The same, used again by the next forward pass."""
        if not self._record or self._record[0].shape[:2] != x.letters.shape:
            self._record = self.new_record(x)
        return self._record

    def forward(self, theta: np.ndarray, x: Letters, record: Record) -> np.ndarray:
        """Predictions (B, C), a part of the record."""
        form = self.form
        kernels.forward(form.shape, form.layers, theta, x.used, x.letters, *record)
        outputs = int(form.layers[-1, 1])
        return record[-1][-len(x) * outputs :].reshape(len(x), outputs)

    def pullback(self, theta: np.ndarray, x: Letters, record: Record, change: np.ndarray, out: np.ndarray) -> None:
        """Write the gradient of the weights from the cotangent of the predictions."""
        form, scratch = self.form, self._room(x)
        kernels.pullback(form.shape, form.layers, theta, x.used, x.letters, *record, change, *scratch[:3], out)

    def pushforward(self, theta: np.ndarray, x: Letters, record: Record, direction: np.ndarray) -> np.ndarray:
        """The change (B, C) of the predictions along a direction of the weights."""
        form, scratch = self.form, self._room(x)
        change = np.empty((len(x), int(form.layers[-1, 1])), self.dtype)
        kernels.pushforward(
            form.shape, form.layers, theta, x.used, x.letters, *record, direction, *scratch, change
        )
        return change

    def _room(self, x: Letters) -> tuple[np.ndarray, ...]:
        letters, rows = x.letters.shape
        units, layers = int(self.form.shape[1]), self.form.layers
        if not self._scratch or self._scratch[0].shape[:2] != (letters, rows):
            widest = rows * max(units, int(layers[:, :2].max()))
            shapes = ((letters, rows, 4 * units), (widest,), (widest,), (widest,))
            self._scratch = tuple(np.empty(shape, self.dtype) for shape in shapes)
        return self._scratch


class RecurrentMetaStep(KernelMetaStep):
    """A meta-step of the network of one learner."""

    stack: RecurrentStack

    def __init__(self, stack: RecurrentStack, *others: Any) -> None:
        super().__init__(stack, *others)
        self.derivatives = Spares(partial(Derivatives, stack.form, self.theta0.dtype))
        self._start: Record = ()

    def compute(
        self,
        losses: tuple[Any, ...],
        meta_step: int,
        theta0: np.ndarray,
        values: np.ndarray,
        gradients: np.ndarray,
    ) -> None:
        """Write the task losses and their gradients from the initial weights (1, W)."""
        base, compute = self.config.base.unrolled, self.population.kernels
        data, weights, rate = self.stack.learner.episode(meta_step, self.config), theta0[0], base.first_rate
        x, y = _batch(self.stack, data.steps[0])
        same = all(a is b for a, b in zip(data.steps[0], data.task, strict=True))
        x_task, y_task = (x, y) if same else _batch(self.stack, data.task)
        with self.population.one_blas_thread(), self.derivatives.one() as f:
            start = self._start = self._start or f.new_record(x)
            logits = f.forward(weights, x, start)

        def work(candidates: np.ndarray) -> None:
            with self.derivatives.one() as f:
                gradient, theta = np.empty_like(weights), np.empty_like(weights)
                cotangent, after = np.empty_like(y), np.empty_like(y_task)
                for one in candidates[:, None]:  # arrays of one number each
                    compute.slopes(*losses, logits[None], y, one, cotangent[None])
                    f.pullback(weights, x, start, cotangent, gradient)
                    compute.ahead(theta, weights, gradient, rate, base.weight_decay)
                    record = f.record(x_task)
                    predictions = f.forward(theta, x_task, record)
                    values[one] = compute.task_loss(
                        self.population.kind, predictions, y_task, self.class_weights[0], after
                    )
                    f.pullback(theta, x_task, record, after, gradient)
                    change = f.pushforward(weights, x, start, gradient)
                    compute.mixed_products(*losses, logits[None], y, change[None], rate, one, gradients)

        self.population.spread(work)


class RecurrentTraining(KernelTraining):
    """The networks of one learner."""

    stack: RecurrentStack

    def __init__(self, losses: Sequence[Any], stack: RecurrentStack, steps: Any) -> None:
        super().__init__(losses, stack, steps)
        self.derivatives = Spares(partial(Derivatives, stack.form, self.theta.dtype))

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        end = self.done + len(rates)
        while self.done < end:
            stop = min(end, self.done + STEPS_AT_ONCE)
            batches = [_batch(self.stack, self.stack.learner.batch(number)) for number in range(self.done, stop)]
            self.population.spread(partial(self._train, batches, rates[self.done - end :]))
            self.done = stop

    def _train(
        self, batches: list[tuple[Letters, np.ndarray]], rates: Sequence[float], candidates: np.ndarray
    ) -> None:
        """Steps of the candidates on these batches, one candidate after another."""
        compute, steps = self.population.kernels, self.steps
        with self.derivatives.one() as f:
            for p in candidates:
                theta, gradient = self.theta[p, 0], np.empty_like(self.theta[p, 0])
                if not (self.moving[p] and np.isfinite(theta).all()):
                    continue
                for number, ((x, y), rate) in enumerate(zip(batches, rates, strict=False), start=self.done):
                    record, cotangent = f.record(x), np.empty_like(y)
                    logits = f.forward(theta, x, record)
                    compute.slopes(*self.losses, logits[None], y, np.array([p]), cotangent[None])
                    f.pullback(theta, x, record, cotangent, gradient)
                    compute.descend(theta, self.memory[p, 0], gradient, steps.adam, steps.settings, rate, number)

    def predict(self, rows: Rows, y_pred: np.ndarray) -> None:
        """Write the predictions (P, 1, B, C) of all networks, a batch of rows at a time."""
        size = self.stack.learner.batch_size
        parts = [Letters.of(x) for x in rows.features[0].split(size)]

        def work(candidates: np.ndarray) -> None:
            with self.derivatives.one() as f:
                for p in candidates:
                    for number, x in enumerate(parts):
                        logits = f.forward(self.theta[p, 0], x, f.record(x))
                        y_pred[p, 0, number * size : number * size + len(x)] = logits

        self.population.spread(work)
