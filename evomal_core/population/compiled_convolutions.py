"""Meta-steps and training of plain convolutional networks for a whole population, by the compiled kernels.

What all candidates share at the initial weights is computed once a meta-step: the forward pass and, for a network
without batch norm, a table of its Jacobian, which takes the place of each candidate's passes there. The table is
multiplied with EIGHT candidates at a time, zeros in the places of missing ones: so a result never depends on the
company of a candidate, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from evomal_core.lazy import LazyModule
from evomal_core.population.candidates import KernelMetaStep, KernelTraining, Spares
from evomal_core.population.convolution_layers import Array, Blocks, Convolution, Dense, Join, Room
from evomal_core.population.convolution_network import Network
from evomal_core.population.networks import ConvolutionStack
from evomal_core.population.rows import Rows

kernels = LazyModule("evomal_core.population.kernels_convolutions")  # which loads Numba

EIGHT = 8
"""Candidates in one product with the table."""
TABLE_ROWS = 32
"""Rows of a block while the table is made."""
TABLE_BYTES = 2**24
"""Largest table: beyond it backward passes are faster."""
BATCH_BYTES = 2**24
"""Room for batches that are laid out for several steps of training at once."""


IGNORING = np.errstate(all="ignore")
"""A diverging candidate is no reason to warn."""


class Table:
    """The Jacobian of each row at the initial weights: numbers for convolutions, two factors for dense layers."""

    def __init__(
        self, network: Network, theta: Array, memos: list[Any], shape: tuple[int, int], room: Room
    ) -> None:
        self.network, (self.rows, self.outputs) = network, shape
        join = next(step.number for step in network.steps if isinstance(step, Join))
        self.front, self.tail = network.steps[:join], network.steps[join + 1 :]
        self.convolutions: list[Any] = [step for step in self.front if isinstance(step, Convolution)]
        self.dense: list[Any] = [step for step in self.tail if isinstance(step, Dense)]
        self.inputs = {step.number: memos[step.number][0] for step in self.dense}
        self.deltas = {
            step.number: room.array(("delta", step.number), (self.outputs, step.layer.outputs[0], self.rows))
            for step in self.dense
        }
        pairs = network.pairs(theta)
        starts = [self._through_tail(c, pairs, memos, room) for c in range(self.outputs)]
        self.weights, self.biases = {}, {}
        for step in self.convolutions:
            size = network.shapes[step.layer.weights]
            channels = self.outputs * size[0]
            weights = room.array(("weights", step.number), (self.rows, channels, math.prod(size[1:])))
            self.weights[step.number] = weights
            self.biases[step.number] = room.array(("biases", step.number), (self.rows, channels))
        for k in range(memos[join] if self.convolutions else 0):
            self._fill(k, memos[join], starts, pairs, memos, room)

    def _through_tail(self, c: int, pairs: list[Any], memos: list[Any], room: Room) -> Array:
        """Cotangents of the first dense layer's inputs from those of one output; keeps those of later layers."""
        d = np.zeros((self.outputs, self.rows), self.network.dtype)
        d[c] = 1
        for step in reversed(self.tail):
            if isinstance(step, Dense):
                self.deltas[step.number][c] = d
            d = step.back(room, pairs[step.number], memos[step.number][0], d, 0, None)
        return None if d is None else d.copy()

    def _fill(
        self, k: int, blocks: int, starts: list[Array], pairs: list[Any], memos: list[Any], room: Room
    ) -> None:
        """The rows of one block in the tables of the convolutions."""
        size = self.rows // blocks
        rows = slice(k * size, (k + 1) * size)
        held = {}
        for step in self.convolutions:
            outputs, *places = step.layer.outputs
            shape = (size, self.outputs * outputs, math.prod(places))
            held[step.number] = room.array(("held", step.number), shape)
        for c, start in enumerate(starts):
            d: Any = np.ascontiguousarray(start[:, rows])
            for step in reversed(self.front):
                if isinstance(step, Convolution):
                    outputs = step.layer.outputs[0]
                    kernels.to_rows(d.reshape(outputs, -1, size), c * outputs, held[step.number])
                d = step.back(room, pairs[step.number], memos[step.number][k], d, k, None)
                if d is None:
                    break
        for step in self.convolutions:
            x, layer = memos[step.number][k], step.layer
            patches = room.array(("patches", step.number), (size, *layer.outputs[1:], x.shape[0], *layer.kernel))
            kernels.row_patches(x, *layer.stride, patches)
            flat = patches.reshape(size, math.prod(layer.outputs[1:]), -1)
            np.matmul(held[step.number], flat, out=self.weights[step.number][rows])
            np.sum(held[step.number], axis=2, out=self.biases[step.number][rows])

    def pull(self, cotangents: Array, count: int, gradients: Array, room: Room) -> None:
        """Gradients (EIGHT, W) from cotangents of the outputs (EIGHT, B, C), of which `count` are there."""
        flat = cotangents.reshape(EIGHT, -1)
        for step in self.convolutions:
            for place, table in self._tables(step):
                part = room.array(("pulled", step.number, place.start), (EIGHT, table.shape[1]))
                np.matmul(flat, table, out=part)
                gradients[:, place] = part
        for step in self.dense:
            w, bias = (self.network.places[n] if n >= 0 else None for n in (step.layer.weights, step.layer.bias))
            deltas, x = self.deltas[step.number], self.inputs[step.number]
            d = room.array(("weighed", step.number), deltas.shape[1:])
            for p in range(count):
                kernels.weigh(np.ascontiguousarray(cotangents[p].T), deltas, d)
                np.matmul(d, x.T, out=gradients[p, w].reshape(len(d), -1))
                if bias is not None:
                    gradients[p, bias] = 0
                    kernels.sums(d, gradients[p, bias])

    def push(self, directions: Array, count: int, changes: Array, room: Room) -> None:
        """Changes of the outputs (EIGHT, B, C) along directions of the weights (EIGHT, W)."""
        flat = changes.reshape(EIGHT, -1)
        flat[:] = 0
        for step in self.convolutions:
            for place, table in self._tables(step):
                part = room.array("pushed", flat.shape)
                np.matmul(np.ascontiguousarray(directions[:, place]), table.T, out=part)
                flat += part
        change = room.array("change", (self.outputs, self.rows))
        for p in range(count):
            change[:] = 0
            pairs = self.network.pairs(directions[p])
            for step in self.dense:
                z = step.push(room, None, self.inputs[step.number], None, 0, pairs[step.number])
                kernels.weigh_back(z, self.deltas[step.number], change)
            changes[p] += change.T

    def _tables(self, step: Convolution) -> list[tuple[slice, Array]]:
        """The places of a convolution's weights and bias with their tables, (B·C, number of them)."""
        places, rows = self.network.places, self.rows * self.outputs
        found = [(places[step.layer.weights], self.weights[step.number].reshape(rows, -1))]
        if step.layer.bias >= 0:
            found.append((places[step.layer.bias], self.biases[step.number].reshape(rows, -1)))
        return found


class ConvolutionMetaStep(KernelMetaStep):
    """A meta-step of the network of one learner."""

    stack: ConvolutionStack

    def __init__(self, stack: ConvolutionStack, *others: Any) -> None:
        super().__init__(stack, *others)
        self.network = Network(stack.layers, stack.theta0)
        self._start, self.rooms = Room(self.network.dtype), Spares(partial(Room, self.network.dtype))

    def compute(
        self, losses: tuple[Any, ...], meta_step: int, theta0: Array, values: Array, gradients: Array
    ) -> None:
        """Write the task losses and their gradients from the initial weights (1, W)."""
        data = self.stack.learner.episode(meta_step, self.config)
        step, task = self.stack.rows([data.steps[0]]), self.stack.rows([data.task])
        with self.population.one_blas_thread():
            shared = _Shared(self.network, theta0[0], step, self._start)
        blocks, labels = self.network.arranged(task.features[0].numpy()), task.y[0, 0].numpy()

        @IGNORING
        def work(candidates: Array) -> None:
            with self.rooms.one() as room:
                for start in range(0, len(candidates), EIGHT):
                    eight = np.ascontiguousarray(candidates[start : start + EIGHT])
                    self._some(eight, losses, shared, blocks, labels, room, values, gradients)

        self.population.spread(work)

    def _some(
        self, chosen: Array, losses: tuple[Any, ...], shared: _Shared, blocks: Blocks, labels: Array, room: Room,
        values: Array, gradients: Array,
    ) -> None:  # fmt: skip
        """The meta-step of at most EIGHT candidates."""
        base, network, compute = self.config.base.unrolled, self.network, self.population.kernels
        count = len(chosen)
        cotangents = room.array("cotangents", (EIGHT, *shared.y.shape))
        cotangents[count:] = 0
        compute.slopes(*losses, shared.logits, shared.y, chosen, cotangents)
        directions = room.array("directions", (EIGHT, network.size))
        directions[count:] = 0
        shared.pull(cotangents, count, directions, room)
        rate = base.first_rate
        theta, cotangent = room.array("theta", (network.size,)), room.array("cotangent", labels.shape)
        for i, p in enumerate(chosen):
            compute.ahead(theta, shared.theta, directions[i], rate, base.weight_decay)
            out, memos = network.forward(theta, blocks, room)
            values[p] = compute.task_loss(
                self.population.kind, np.ascontiguousarray(out.T), labels, self.class_weights[0], cotangent
            )
            network.back(theta, memos, np.ascontiguousarray(cotangent.T), directions[i], room)
        shared.push(directions, count, cotangents, room)
        compute.mixed_products(*losses, shared.logits, shared.y, cotangents, rate, chosen, gradients)


class _Shared:
    """Values shared by the candidates of one meta-step at the initial weights."""

    @IGNORING
    def __init__(self, network: Network, theta: Array, rows: Rows, room: Room) -> None:
        self.network, self.theta = network, theta
        self.y = rows.y[0, 0].numpy()
        tabulated = _tabulated(network, self.y.shape)
        blocks = network.arranged(rows.features[0].numpy(), TABLE_ROWS if tabulated else None)
        out, self.memos = network.forward(theta, blocks, room)
        self.logits = np.ascontiguousarray(out.T)[None]
        self.table = Table(network, theta, self.memos, self.y.shape, room) if tabulated else None

    def pull(self, cotangents: Array, count: int, gradients: Array, room: Room) -> None:
        """Gradients (EIGHT, W) from cotangents of the outputs (EIGHT, B, C), of which `count` are there."""
        if self.table is not None:
            self.table.pull(cotangents, count, gradients, room)
            return
        for p in range(count):
            d = np.ascontiguousarray(cotangents[p].T)
            self.network.back(self.theta, self.memos, d, gradients[p], room)

    def push(self, directions: Array, count: int, changes: Array, room: Room) -> None:
        """Changes of the outputs (EIGHT, B, C) along directions of the weights (EIGHT, W)."""
        if self.table is not None:
            self.table.push(directions, count, changes, room)
            return
        for p in range(count):
            changes[p] = self.network.push(self.theta, self.memos, directions[p], room).T


def _tabulated(network: Network, shape: tuple[int, ...]) -> bool:
    """Whether a table saves time: not with batch norm, whose rows depend on each other, and not if it is large."""
    convolutions = [step.layer for step in network.steps if isinstance(step, Convolution)]
    size = sum(math.prod(network.shapes[layer.weights]) for layer in convolutions)
    return not network.norms and size * math.prod(shape) * network.dtype.itemsize <= TABLE_BYTES


class ConvolutionTraining(KernelTraining):
    """The network of one learner."""

    stack: ConvolutionStack

    def __init__(self, losses: Sequence[Any], stack: ConvolutionStack, steps: Any) -> None:
        super().__init__(losses, stack, steps)
        self.network = Network(stack.layers, stack.theta0)
        norms: list[Any] = [stack.learner.network.get_submodule(n.layer.statistics) for n in self.network.norms]
        self.running: list[Blocks] = [
            [np.stack([norm.running_mean.numpy(), norm.running_var.numpy()]) for norm in norms] for _ in losses
        ]
        """Running means and variances (2, C) of each candidate's batch norms."""
        self.rooms = Spares(partial(Room, self.network.dtype))

    def state(self) -> dict[str, Any]:
        """State for `resume`."""
        running = [[torch.from_numpy(part) for part in parts] for parts in self.running]
        arrays = {"theta": torch.from_numpy(self.theta[:, 0]), "memory": torch.from_numpy(self.memory[:, 0])}
        return {**arrays, "running": running, "done": self.done}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state of a training with the same losses."""
        self.theta, self.memory = state["theta"].numpy()[:, None], state["memory"].numpy()[:, None]
        self.running = [[part.numpy() for part in parts] for parts in state["running"]]
        self.done = state["done"]

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        learner, end = self.stack.learner, self.done + len(rates)
        while self.done < end:
            x, _ = learner.batch(self.done)
            together = max(1, BATCH_BYTES // (x[0].numel() * len(x) * self.network.dtype.itemsize))
            stop = min(end, self.done + together)
            rows = [self.stack.rows([learner.batch(number)]) for number in range(self.done, stop)]
            batches = [(self.network.arranged(r.features[0].numpy()), r.y[0, 0].numpy()) for r in rows]
            self.population.spread(partial(self._train, batches, rates[self.done - end :]))
            self.done = stop

    @IGNORING
    def _train(self, batches: list[tuple[Blocks, Array]], rates: Sequence[float], candidates: Array) -> None:
        """Steps of the candidates on these batches, one batch after another."""
        compute, network, steps = self.population.kernels, self.network, self.steps
        with self.rooms.one() as room:
            gradient = room.array("weights' gradient", (network.size,))
            going = [
                p for p in candidates if np.isfinite(self.theta[p]).all() and (self.moving[p] or network.norms)
            ]
            for number, ((blocks, y), rate) in enumerate(zip(batches, rates, strict=False), start=self.done):
                cotangents = room.array("cotangents", (1, *y.shape))
                for p in going:
                    theta = self.theta[p, 0]
                    out, memos = network.forward(theta, blocks, room, self.running[p])
                    if not self.moving[p]:
                        continue
                    logits = np.ascontiguousarray(out.T)[None]
                    compute.slopes(*self.losses, logits, y, np.array([p]), cotangents)
                    network.back(theta, memos, np.ascontiguousarray(cotangents[0].T), gradient, room)
                    compute.descend(theta, self.memory[p, 0], gradient, steps.adam, steps.settings, rate, number)

    def predict(self, rows: Rows, y_pred: Array) -> None:
        """Write the predictions (P, 1, B, C) of all networks in evaluation mode."""
        x = rows.features[0].numpy()
        size = min(len(x), self.network.rows_at_once)

        @IGNORING
        def work(candidates: Array) -> None:
            with self.rooms.one() as room:
                for start in range(0, len(x), size):
                    some = x[start : start + size]
                    padded = np.concatenate([some, np.zeros((size - len(some), *x.shape[1:]), x.dtype)])
                    blocks = self.network.arranged(padded)
                    for p in candidates:
                        out, _ = self.network.forward(self.theta[p, 0], blocks, room, self.running[p], True)
                        y_pred[p, 0, start : start + size] = out.T[: len(some)]

        self.population.spread(work)
