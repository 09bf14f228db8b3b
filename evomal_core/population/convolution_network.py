"""A plain convolutional network with its derivatives, assembled of `convolution_layers`.

A network's weights are one flat vector; its activations lie in blocks of batch rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomal_core.lazy import LazyModule
from evomal_core.population.convolution_layers import (
    Activation,
    Array,
    Average,
    Blocks,
    Convolution,
    Dense,
    Join,
    Maximum,
    Norm,
    Pair,
    Room,
    Step,
    TanhAverage,
)
from evomal_core.population.convolutions import Layer
from evomal_core.population.steps import Stacked

kernels = LazyModule("evomal_core.population.kernels_convolutions")  # which loads Numba

BLOCK_BYTES = 2**22
"""Room for one layer's values of a block of rows."""

STEPS: dict[str, type[Step]] = {
    "convolution": Convolution,
    "dense": Dense,
    "norm": Norm,
    "tanh": Activation,
    "relu": Activation,
    "average": Average,
    "maximum": Maximum,
}


def _steps(layers: Sequence[Layer]) -> list[Step]:
    """The steps that compute the layers, with a `Join` before the first dense layer or at the end."""
    steps: list[Step] = []
    rest, joined = list(layers), False
    while rest:
        names = tuple(layer.name for layer in rest[:2])
        number, first = len(steps), not any(step.layer.weights >= 0 for step in steps)
        step: Step
        if names == ("tanh", "average"):
            step, used = TanhAverage(number, rest[1], first), 2
        elif names in (("relu", "maximum"), ("maximum", "relu")):
            step, used = Maximum(number, rest[names.index("maximum")], first, floor=0.0), 2
        else:
            if names[0] == "dense" and not joined:
                steps.append(Join(number, rest[0]))
                number, joined = number + 1, True
            step, used = STEPS[names[0]](number, rest[0], first), 1
        before = steps[-1] if steps else None
        in_place = isinstance(step, (Activation, TanhAverage))
        if isinstance(step, Activation):
            step.copies = before is None or isinstance(before, (Activation, Join))
        if isinstance(before, Convolution) and isinstance(step, (Average, Maximum)) and not in_place:
            before.kept = False
        steps.append(step)
        rest = rest[used:]
    normed = False
    for step in steps:
        if isinstance(step, Norm):
            normed = True
        elif not isinstance(step, Activation):  # which pass on what they are given
            step.apart, normed = normed, False
    return steps if joined else [*steps, Join(len(steps), layers[-1])]


Segment = Norm | Join | list[Any]
"""A step that sees all rows, or several through which one block of rows passes after another."""


def _segments(steps: Sequence[Step]) -> list[Segment]:
    segments: list[Segment] = []
    for step in steps:
        if isinstance(step, (Norm, Join)):
            segments.append(step)
        elif segments and isinstance(segments[-1], list):
            segments[-1].append(step)
        else:
            segments.append([step])
    return segments


class Network:
    """A plain network as a function of one flat vector of weights, on batches in blocks of rows."""

    def __init__(self, layers: Sequence[Layer], theta0: Stacked) -> None:
        self.steps: list[Any] = _steps(layers)
        self.segments = _segments(self.steps)
        self.norms = [step for step in self.steps if isinstance(step, Norm)]
        self.dtype = theta0[0].numpy().dtype
        self.shapes = [tuple(w.shape[2:]) for w in theta0]
        ends = np.cumsum([math.prod(shape) for shape in self.shapes]).tolist()
        self.places = [slice(end - math.prod(s), end) for s, end in zip(self.shapes, ends, strict=True)]
        self.size = ends[-1]
        widest = max(math.prod(layer.outputs) for layer in layers)
        self.rows_at_once = max(1, BLOCK_BYTES // (widest * self.dtype.itemsize))

    def pairs(self, flat: Array) -> list[Any]:
        """Views of each step's weights and bias, or None; in place of a bias that a layer lacks, zeros."""
        return [self._pair(step, flat) for step in self.steps]

    def _pair(self, step: Step, flat: Array) -> Pair | None:
        layer = step.layer
        if layer.weights < 0 or isinstance(step, Join):
            return None
        w = flat[self.places[layer.weights]].reshape(self.shapes[layer.weights])
        return w, np.zeros(len(w), self.dtype) if layer.bias < 0 else flat[self.places[layer.bias]]

    def block(self, rows: int, most: int | None = None) -> int:
        """Rows of a block: the largest divisor of `rows` within the cache, unless that is a very small one."""
        most = min(most or self.rows_at_once, self.rows_at_once)
        size = next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)
        return size if 4 * size >= min(rows, most) else rows

    def arranged(self, x: Array, most: int | None = None) -> Blocks:
        """Rows (B, …) as blocks of (…, rows)."""
        size = self.block(len(x), most)
        out = np.empty((len(x) // size, x[0].size, size), self.dtype)
        kernels.rows_last(np.ascontiguousarray(x).reshape(len(out), size, -1), out)
        return list(out)

    def forward(
        self, theta: Array, blocks: Blocks, room: Room, running: Blocks | None = None, fixed: bool = False
    ) -> tuple[Array, list[Any]]:
        """Outputs (C, B), and each step's memo: one a block, or one of all rows.

        `running` holds (2, C) for each batch norm: means and variances, which are moved, or used if `fixed`.
        """
        pairs, memos = self.pairs(theta), []
        statistics = iter(running or [None] * len(self.norms))
        for segment in self.segments:
            if isinstance(segment, Norm):
                blocks, memo = segment.forward(room, pairs[segment.number], blocks, next(statistics), fixed)
                memos.append(memo)
            elif isinstance(segment, Join):
                memos.append(len(blocks))
                blocks = segment.forward(room, blocks)
            else:
                found: list[Any] = [[] for _ in segment]
                outputs = []
                for k, h in enumerate(blocks):
                    for step, memo in zip(segment, found, strict=True):
                        h, kept = step.forward(room, pairs[step.number], h, k)
                        memo.append(kept)
                    outputs.append(h)
                blocks, memos = outputs, memos + found
        return blocks[0], memos

    def back(self, theta: Array, memos: list[Any], delta: Array, gradient: Array, room: Room) -> None:
        """gradient = cotangents of the weights from those of the outputs (C, B), which are overwritten."""
        gradient[:] = 0
        pairs, found = self.pairs(theta), self.pairs(gradient)
        blocks: Blocks = [delta]
        for segment in reversed(self.segments):
            if isinstance(segment, Norm):
                n = segment.number
                blocks = segment.back(room, pairs[n], memos[n], blocks, found[n])
            elif isinstance(segment, Join):
                blocks = segment.back(room, blocks[0], memos[segment.number])
            else:
                before: Any = []
                for k, d in enumerate(blocks):
                    for step in reversed(segment):
                        n = step.number
                        d = step.back(room, pairs[n], memos[n][k], d, k, found[n])
                        if d is None:  # there are no weights before it
                            break
                    before.append(d)
                blocks = before
            if blocks[0] is None:
                return

    def push(self, theta: Array, memos: list[Any], direction: Array, room: Room) -> Array:
        """Tangents of the outputs (C, B) along a direction of the weights."""
        pairs, along = self.pairs(theta), self.pairs(direction)
        blocks: Any = None
        for segment in self.segments:
            if isinstance(segment, Norm):
                n = segment.number
                blocks = segment.push(room, pairs[n], memos[n], blocks, along[n])
            elif isinstance(segment, Join):
                blocks = blocks and segment.forward(room, blocks, "joined t")
            else:
                outputs = []
                for k, t in enumerate(blocks or [None] * len(memos[segment[0].number])):
                    for step in segment:
                        n = step.number
                        t = step.push(room, pairs[n], memos[n][k], t, k, along[n])
                    outputs.append(t)
                blocks = None if outputs[0] is None else outputs
        return blocks[0]
