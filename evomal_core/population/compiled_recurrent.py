"""Compiled meta-steps and training of recurrent networks, one candidate at a time.

What candidates share, at the initial weights, is made once a meta-step. Each thread has scratch of its own, and a
candidate's result depends on no other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.learners import Batch
from evomal_core.losses import LearnedLoss
from evomal_core.population.candidates import Population, flat_weights, padded_weights
from evomal_core.population.networks import RecurrentStack
from evomal_core.population.optimisers import KernelSteps
from evomal_core.population.recurrent import Letters, RecurrentDerivatives
from evomal_core.population.rows import Rows

STEPS_AT_ONCE = 10
"""Training steps of one candidate after another, while its weights are in the cache."""


class _Network:
    """A network's derivatives and expression kernels, with scratch for each thread that asks for it."""

    def __init__(self, stack: RecurrentStack, expressions: Sequence[Expression], softplus: bool) -> None:
        self.stack, self.form, self.learner = stack, stack.form, stack.learner
        self.dtype = flat_weights(stack.theta0).dtype
        self.population = Population(expressions, softplus, stack.kind)
        self._free: list[_Scratch] = []

    @contextmanager
    def scratch(self) -> Iterator[_Scratch]:
        """Scratch that no other thread has meanwhile."""
        scratch = self._free.pop() if self._free else _Scratch(self.form.derivatives(self.dtype))
        yield scratch
        self._free.append(scratch)

    def rows(self, batch: Batch) -> tuple[Letters, np.ndarray]:
        """A batch in the form that the kernels take, and its labels as numbers (B, C)."""
        return self.form.prepare(batch[0]), self.stack.rows([batch]).y[0, 0].contiguous().numpy()


class _Scratch:
    """Buffers of one thread."""

    def __init__(self, derivatives: RecurrentDerivatives) -> None:
        self.derivatives = derivatives
        self._records: dict[Any, Any] = {}

    def record(self, x: Letters) -> Any:
        """Room for what a forward pass of rows like x keeps."""
        if len(x) not in self._records:
            self._records = {len(x): self.derivatives.record(x)}
        return self._records[len(x)]


class RecurrentMetaStep:
    """A `local_search.MetaStep` of one unrolled step, computed by the kernels."""

    def __init__(
        self,
        stack: RecurrentStack,
        expressions: Sequence[Expression],
        softplus: bool,
        config: SearchConfig,
        class_weights: np.ndarray,
    ) -> None:
        self.stack, self.config = stack, config
        self.network = _Network(stack, expressions, softplus)
        self.theta = flat_weights(stack.theta0)[0]
        self.class_weights = class_weights[0]
        self._start: Any = None

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss, (P,), and its gradient (P, E)."""
        network, base = self.network, self.config.base.unrolled
        population, kernels = network.population, network.population.kernels
        data = network.learner.episode(meta_step, self.config)
        x, y = network.rows(data.steps[0])
        same = all(a is b for a, b in zip(data.steps[0], data.task, strict=True))
        x_task, y_task = (x, y) if same else network.rows(data.task)
        rate = base.first_rate
        drawn = self.stack.initial_vectors(meta_step)
        weights, theta0 = phi.contiguous().numpy(), self.theta if drawn is None else drawn[0].numpy()
        values, gradients = np.empty(len(phi), weights.dtype), np.zeros_like(weights)

        losses = (population.kind, population.softplus, population.trees, population.lengths, weights)

        def work(candidates: np.ndarray) -> None:
            with network.scratch() as scratch:
                f = scratch.derivatives
                gradient, theta = np.empty_like(theta0), np.empty_like(theta0)
                cotangent, after = np.empty_like(y), np.empty_like(y_task)
                for one in candidates[:, None]:  # arrays of one number each
                    kernels.slopes(*losses, logits[None], y, one, cotangent[None])
                    f.pullback(theta0, x, start, cotangent, gradient)
                    kernels.ahead(theta, theta0, gradient, rate, base.weight_decay)
                    record = scratch.record(x_task)
                    predictions = f.forward(theta, x_task, record)
                    values[one] = kernels.task_loss(
                        population.kind, predictions, y_task, self.class_weights, after
                    )
                    f.pullback(theta, x_task, record, after, gradient)
                    change = f.pushforward(theta0, x, start, gradient)
                    kernels.mixed_products(*losses, logits[None], y, change[None], rate, one, gradients)

        with population.one_blas_thread():
            with network.scratch() as scratch:
                start = self._start = self._start or scratch.derivatives.record(x)
                logits = scratch.derivatives.forward(theta0, x, start)
            population.spread(work)
        return torch.from_numpy(values), torch.from_numpy(gradients)


class RecurrentTraining:
    """The networks of one learner for all candidates, trained by the kernels."""

    def __init__(self, population: Sequence[nn.Module], stack: RecurrentStack, steps: KernelSteps) -> None:
        losses = [loss for loss in population if isinstance(loss, LearnedLoss)]
        self.stack, self.steps = stack, steps
        self.network = _Network(stack, [loss.expression for loss in losses], losses[0].softplus)
        self.phi = padded_weights([loss.phi for loss in losses], stack.theta0[0].dtype)
        self.moving = np.array(["f" in loss.expression.nodes for loss in losses])
        self.theta = np.repeat(flat_weights(stack.theta0), len(losses), axis=0)
        self.memory = steps.memory(self.theta)
        self.done = 0

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        network, end = self.network, self.done + len(rates)
        while self.done < end:
            stop = min(end, self.done + STEPS_AT_ONCE)
            batches = [network.rows(network.learner.batch(number)) for number in range(self.done, stop)]

            def work(candidates: np.ndarray, batches: list[Any] = batches) -> None:
                with network.scratch() as scratch:
                    for p in candidates:
                        if self.moving[p] and np.isfinite(self.theta[p]).all():
                            self._train(p, batches, rates[self.done - end :], scratch)

            with network.population.one_blas_thread():
                network.population.spread(work)
            self.done = stop

    def _train(
        self, p: int, batches: list[tuple[Letters, np.ndarray]], rates: Sequence[float], scratch: _Scratch
    ) -> None:
        """Steps of one candidate."""
        population, steps, f = self.network.population, self.steps, scratch.derivatives
        kernels, theta, gradient = population.kernels, self.theta[p], np.empty_like(self.theta[p])
        losses = (population.kind, population.softplus, population.trees, population.lengths, self.phi)
        for number, ((x, y), rate) in enumerate(zip(batches, rates, strict=False), start=self.done):
            record, cotangent = scratch.record(x), np.empty_like(y)
            logits = f.forward(theta, x, record)
            kernels.slopes(*losses, logits[None], y, np.array([p]), cotangent[None])
            f.pullback(theta, x, record, cotangent, gradient)
            kernels.descend(theta, self.memory[p], gradient, steps.adam, steps.settings, rate, number)

    def errors(self, splits: Sequence[str]) -> dict[str, Tensor]:
        """The performance metric (1, P) of each part."""
        found = {}
        for name in splits:
            rows = self.stack.rows([self.network.learner.task.parts()[name]])
            found[name] = self.network.learner.task.measure(self._predictions(rows), rows.labels)
        return found

    def _predictions(self, rows: Rows) -> Tensor:
        """Predictions (1, P, B, C) of all networks, a batch of rows at a time."""
        network, size = self.network, self.network.learner.batch_size
        parts = [network.form.prepare(x) for x in rows.features[0].split(size)]
        found = np.empty((len(self.theta), *rows.shape[1:]), self.theta.dtype)

        def work(candidates: np.ndarray) -> None:
            with network.scratch() as scratch:
                for p in candidates:
                    for number, x in enumerate(parts):
                        logits = scratch.derivatives.forward(self.theta[p], x, scratch.record(x))
                        found[p, number * size : number * size + len(x)] = logits

        with network.population.one_blas_thread():
            network.population.spread(work)
        return torch.from_numpy(found).unsqueeze(0)

    def finite(self) -> Tensor:
        """Whether all weights of each network are finite, (1, P)."""
        return torch.from_numpy(np.isfinite(self.theta).all(axis=1))[None]
