"""Layers of a plain convolutional network on a CPU: NumPy's products, compiled kernels between them.

Activations lie in blocks of batch rows, (channels, height, width, rows), rows innermost: a block stays in the
processor's cache from one layer to the next, and each loop over its rows is one over whole vectors. Dense layers
and batch norm see all blocks together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomal_core.lazy import LazyModule
from evomal_core.population.convolutions import Layer

kernels = LazyModule("evomal_core.population.kernels_convolutions")  # which loads Numba

Array = Any
Blocks = list[Array]
"""Values of all rows of a batch, a block of rows in each array."""
Pair = tuple[Array, Array]
"""A layer's weights and bias, or their gradients."""

FEW_INPUTS = 8
"""Channels up to which a convolution is faster without unfolding."""


class Room:
    """Scratch arrays that last from call to call; zero when new."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._arrays: dict[Any, Array] = {}

    def array(self, key: Any, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """The array of this key, made anew if its shape has changed."""
        found = self._arrays.get(key)
        if found is None or found.shape != shape:
            found = self._arrays[key] = np.zeros(shape, dtype or self.dtype)
        return found


@dataclass
class Step:
    """A layer, or several that are computed together, on one block of rows.

    Each has `forward`, which returns its output and what its derivatives need, the memo; `back`, from cotangents
    of its output to those of its input; and `push`, the same for tangents, the other way.
    """

    number: int
    layer: Layer
    first: bool = False
    """Whether no cotangent of its input is needed."""
    kept: bool = True
    """Whether a derivative needs its output, which the next block must then not overwrite."""
    apart: bool = False
    """Whether the cotangents of its input must last until all blocks have theirs: batch norm is before it."""
    copies: bool = False
    """Whether its input must stay as it is."""

    def array(self, room: Room, name: str, k: int, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Scratch for one block."""
        return room.array((self.number, name, k), shape, dtype)


class Convolution(Step):
    """A convolution: directly where the input channels are few, otherwise a product with unfolded patches."""

    @property
    def direct(self) -> bool:
        """Whether `kernels.correlate` takes it."""
        layer = self.layer
        fits = layer.stride == (1, 1) and layer.kernel[1] in kernels.DIRECT_WIDTHS
        return fits and layer.inputs[0] <= FEW_INPUTS and layer.outputs[0] % 2 == 0

    @property
    def pointwise(self) -> bool:
        """Whether each position's output depends on that position only."""
        return self.layer.kernel == (1, 1) and self.layer.stride == (1, 1)

    def forward(self, room: Room, weights: Pair, x: Array, k: int) -> tuple[Array, Array]:
        """Output and padded input."""
        x = self._padded(room, x, "x", k)
        z = self.array(room, "z", k if self.kept else 0, (*self.layer.outputs, x.shape[-1]))
        self._product(room, *weights, x, z)
        return z, x

    def _padded(self, room: Room, x: Array, name: str, k: int) -> Array:
        (channels, height, width), (top, left) = self.layer.inputs, self.layer.padding
        x = x.reshape(channels, height, width, -1)
        if not (top or left):
            return x
        out = self.array(room, name, k, (channels, height + 2 * top, width + 2 * left, x.shape[-1]))
        kernels.pad(x, top, left, out)
        return out

    def _patches(self, room: Room, x: Array) -> Array:
        (channels, rows), (down, right) = (x.shape[0], x.shape[-1]), self.layer.stride
        if self.pointwise:
            return x.reshape(channels, -1)
        shape = (channels, *self.layer.kernel, *self.layer.outputs[1:], rows)
        patches = self.array(room, "patches", 0, shape)
        kernels.unfold(x, down, right, patches)
        return patches.reshape(channels * math.prod(self.layer.kernel), -1)

    def _product(self, room: Room, w: Array, bias: Array, x: Array, z: Array, add: bool = False) -> None:
        """z = w * x + bias, or z += w * x."""
        rows = x.shape[-1]
        if self.direct:
            flat, target = x.reshape(*x.shape[:2], -1), z.reshape(*z.shape[:2], -1)
            kernels.correlate(flat, w, bias, rows, add, target)
            return
        matrix, target = w.reshape(len(w), -1), z.reshape(len(z), -1)
        if add:
            part = self.array(room, "part", 0, target.shape)
            np.matmul(matrix, self._patches(room, x), out=part)
            target += part
        else:
            np.matmul(matrix, self._patches(room, x), out=target)
            kernels.add_bias(target, bias)

    def back(self, room: Room, weights: Pair, x: Array, d: Array, k: int, gradient: Pair | None) -> Array:
        """Cotangents of the input; those of the weights are added to `gradient`."""
        d = d.reshape(*self.layer.outputs, -1)
        flat = d.reshape(len(d), -1)
        if gradient is not None:
            w, bias = gradient
            if self.direct:
                kernels.correlate_weights(x.reshape(*x.shape[:2], -1), d.reshape(*d.shape[:2], -1), d.shape[-1], w)
            else:
                part = self.array(room, "gradient", 0, (len(w), w[0].size))
                np.matmul(flat, self._patches(room, x).T, out=part)
                matrix = w.reshape(part.shape)
                matrix += part
            kernels.sums(flat, bias)
        return None if self.first else self._to_input(room, weights[0], flat, x, k)

    def _to_input(self, room: Room, w: Array, d: Array, x: Array, k: int) -> Array:
        (top, left), kernel = self.layer.padding, self.layer.kernel
        shape = (x.shape[0] * math.prod(kernel), d.shape[1])
        spread = self.array(room, "spread", k if self.apart and self.pointwise else 0, shape)
        np.matmul(w.reshape(len(w), -1).T, d, out=spread)
        if self.pointwise:
            folded = spread.reshape(x.shape)
        else:
            folded = self.array(room, "folded", k if self.apart else 0, x.shape)
            patches = spread.reshape(x.shape[0], *kernel, *self.layer.outputs[1:], x.shape[-1])
            kernels.fold(patches, *self.layer.stride, folded)
        if not (top or left):
            return folded
        out = self.array(room, "cropped", k if self.apart else 0, (*self.layer.inputs, x.shape[-1]))
        kernels.crop(folded, top, left, out)
        return out

    def push(self, room: Room, weights: Pair, x: Array, t: Array, k: int, direction: Pair) -> Array:
        """Tangents of the output."""
        z = self.array(room, "t", k if self.kept else 0, (*self.layer.outputs, x.shape[-1]))
        self._product(room, *direction, x, z)
        if t is not None:
            self._product(room, *weights, self._padded(room, t, "padded t", 0), z, add=True)
        return z


class Dense(Step):
    """A dense layer, on all rows."""

    def forward(self, room: Room, weights: Pair, x: Array, k: int) -> tuple[Array, Array]:
        """Output and input."""
        w, bias = weights
        z = self.array(room, "z", k, (len(w), x.shape[-1]))
        np.matmul(w, x, out=z)
        kernels.add_bias(z, bias)
        return z, x

    def back(self, room: Room, weights: Pair, x: Array, d: Array, k: int, gradient: Pair | None) -> Array:
        """Cotangents of the input; those of the weights are put into `gradient`."""
        if gradient is not None:
            np.matmul(d, x.T, out=gradient[0])
            kernels.sums(d, gradient[1])
        if self.first:
            return None
        delta = self.array(room, "delta", k, x.shape)
        np.matmul(weights[0].T, d, out=delta)
        return delta

    def push(self, room: Room, weights: Pair, x: Array, t: Array, k: int, direction: Pair) -> Array:
        """Tangents of the output."""
        w, bias = direction
        z = self.array(room, "t", k, (len(w), x.shape[-1]))
        np.matmul(w, x, out=z)
        kernels.add_bias(z, bias)
        if t is not None:
            part = self.array(room, "part", k, z.shape)
            np.matmul(weights[0], t, out=part)
            z += part
        return z


class Activation(Step):
    """tanh or ReLU, in place; its output is its memo."""

    def forward(self, room: Room, weights: None, x: Array, k: int) -> tuple[Array, Array]:
        """Output, twice."""
        if self.copies:
            source, x = x, self.array(room, "z", k, x.shape)
            x[...] = source
        (kernels.tanh if self.layer.name == "tanh" else kernels.relu)(x.reshape(-1))
        return x, x

    def _through(self, change: Array, output: Array) -> Array:
        through = kernels.tanh_through if self.layer.name == "tanh" else kernels.relu_through
        through(change.reshape(-1), output.reshape(-1))
        return change

    def back(self, room: Room, weights: None, output: Array, d: Array, k: int, gradient: None) -> Array:
        """Cotangents of the input, in place."""
        return self._through(d, output)

    def push(self, room: Room, weights: None, output: Array, t: Array, k: int, direction: None) -> Array:
        """Tangents of the output, in place."""
        return t if t is None else self._through(t, output)


class Average(Step):
    """2×2 average pooling."""

    def _pooled(self, room: Room, name: str, k: int, x: Array) -> Array:
        return self.array(room, name, k, (*self.layer.outputs, x.shape[-1]))

    def forward(self, room: Room, weights: None, x: Array, k: int) -> tuple[Array, Any]:
        """Output; there is no memo."""
        out = self._pooled(room, "out", k, x)
        kernels.average(x.reshape(*self.layer.inputs, -1), out)
        return out, None

    def _before(self, room: Room, d: Array, k: int) -> tuple[Array, Array]:
        d = d.reshape(*self.layer.outputs, -1)
        return d, self.array(room, "delta", k if self.apart else 0, (*self.layer.inputs, d.shape[-1]))

    def back(self, room: Room, weights: None, memo: Any, d: Array, k: int, gradient: None) -> Array:
        """Cotangents of the input."""
        d, out = self._before(room, d, k)
        kernels.average_back(d, out)
        return out

    def push(self, room: Room, weights: None, memo: Any, t: Array, k: int, direction: None) -> Array:
        """Tangents of the output."""
        if t is None:
            return None
        out = self._pooled(room, "t", k, t)
        kernels.average(t.reshape(*self.layer.inputs, -1), out)
        return out


class TanhAverage(Average):
    """tanh and 2×2 average pooling after it; what tanh gave is the memo."""

    def forward(self, room: Room, weights: None, x: Array, k: int) -> tuple[Array, Any]:
        """Output and what tanh gave."""
        z, out = x.reshape(*self.layer.inputs, -1), self._pooled(room, "out", k, x)
        kernels.tanh_average(z, out)
        return out, z

    def back(self, room: Room, weights: None, memo: Any, d: Array, k: int, gradient: None) -> Array:
        """Cotangents of the input."""
        d, out = self._before(room, d, k)
        kernels.tanh_average_back(d, memo, out)
        return out

    def push(self, room: Room, weights: None, memo: Any, t: Array, k: int, direction: None) -> Array:
        """Tangents of the output."""
        if t is None:
            return None
        out = self._pooled(room, "t", k, t)
        kernels.tanh_average_push(t.reshape(memo.shape), memo, out)
        return out


@dataclass
class Maximum(Average):
    """2×2 maximum pooling, with a ReLU before or after it if `floor` is 0; its memo says which was the largest."""

    floor: float = -math.inf

    def forward(self, room: Room, weights: None, x: Array, k: int) -> tuple[Array, Any]:
        """Output and the places of the maxima."""
        out = self._pooled(room, "out", k, x)
        at = self.array(room, "at", k, out.shape, np.int32)
        kernels.maximum(x.reshape(*self.layer.inputs, -1), room.dtype.type(self.floor), at, out)
        return out, at

    def back(self, room: Room, weights: None, memo: Any, d: Array, k: int, gradient: None) -> Array:
        """Cotangents of the input."""
        d, out = self._before(room, d, k)
        kernels.maximum_back(d, memo, out)
        return out

    def push(self, room: Room, weights: None, memo: Any, t: Array, k: int, direction: None) -> Array:
        """Tangents of the output."""
        if t is None:
            return None
        out = self._pooled(room, "t", k, t)
        kernels.maximum_push(t.reshape(*self.layer.inputs, -1), memo, out)
        return out


class Norm(Step):
    """Batch norm, on all blocks."""

    def forward(
        self, room: Room, weights: Pair, blocks: Blocks, running: Array | None, fixed: bool
    ) -> tuple[Blocks, Any]:
        """Outputs, and the normalised inputs with their scale.

        `running` (2, C) holds means and variances, which are moved, or used instead of the batch's if `fixed`.
        """
        flats = [h.reshape(self.layer.outputs[0], -1) for h in blocks]
        mean, variance = self._statistics(room, flats, running) if running is None or not fixed else running
        scale = 1 / np.sqrt(variance + room.dtype.type(self.layer.eps))
        hats, outs = [], []
        for k, h in enumerate(flats):
            hats.append(self.array(room, "hat", k, h.shape))
            outs.append(self.array(room, "out", k, h.shape))
            kernels.normalise(h, mean, scale, *weights, hats[k], outs[k])
        return [out.reshape(*self.layer.outputs, -1) for out in outs], (hats, scale)

    def _statistics(self, room: Room, flats: Blocks, running: Array | None) -> Pair:
        size = sum(h.shape[1] for h in flats)
        mean, square = np.zeros(len(flats[0]), room.dtype), np.zeros(len(flats[0]), room.dtype)
        for h in flats:
            kernels.sums(h, mean)
        mean /= size
        for h in flats:
            kernels.square_sums(h, mean, square)
        if running is not None:
            for old, new in zip(running, (mean, square / (size - 1)), strict=True):
                old += room.dtype.type(self.layer.momentum) * (new - old)
        return mean, square / size

    def back(self, room: Room, weights: Pair, memo: Any, blocks: Blocks, gradient: Pair | None) -> Blocks:
        """Cotangents of the inputs; those of the weights are added to `gradient`."""
        hats, scale = memo
        flats = [d.reshape(hat.shape) for d, hat in zip(blocks, hats, strict=True)]
        assert gradient is not None
        a, size = weights[0] * scale, sum(d.shape[1] for d in flats)
        for d, hat in zip(flats, hats, strict=True):
            kernels.correlations(d, hat, *gradient)
        b, c = (-a * total / size for total in gradient)
        return self._combined(room, "delta", flats, hats, (a, b, c))

    def push(self, room: Room, weights: Pair, memo: Any, blocks: Blocks | None, direction: Pair) -> Blocks:
        """Tangents of the outputs."""
        hats, scale = memo
        if blocks is None:
            blocks = [np.zeros_like(hat) for hat in hats]
        flats = [t.reshape(hat.shape) for t, hat in zip(blocks, hats, strict=True)]
        a, size = weights[0] * scale, sum(t.shape[1] for t in flats)
        along, mean = np.zeros_like(a), np.zeros_like(a)
        for t, hat in zip(flats, hats, strict=True):
            kernels.correlations(t, hat, along, mean)
        b, c = direction[0] - a * along / size, direction[1] - a * mean / size
        return self._combined(room, "t", flats, hats, (a, b, c))

    def _combined(self, room: Room, name: str, flats: Blocks, hats: Blocks, factors: tuple[Array, ...]) -> Blocks:
        outs = [self.array(room, name, k, hat.shape) for k, hat in enumerate(hats)]
        for x, hat, out in zip(flats, hats, outs, strict=True):
            kernels.combine(x, hat, *factors, out)
        return [out.reshape(*self.layer.outputs, -1) for out in outs]


class Join(Step):
    """The end of blocks: values (features, rows) of all rows."""

    def forward(self, room: Room, blocks: Blocks, name: str = "joined") -> Blocks:
        """One block of all rows."""
        if len(blocks) == 1:
            return [blocks[0].reshape(-1, blocks[0].shape[-1])]
        rows = blocks[0].shape[-1]
        joined = self.array(room, name, 0, (blocks[0].size // rows, rows * len(blocks)))
        for k, block in enumerate(blocks):
            joined[:, k * rows : (k + 1) * rows] = block.reshape(-1, rows)
        return [joined]

    def back(self, room: Room, whole: Array, count: int) -> Blocks:
        """`count` blocks of (features, rows)."""
        rows = whole.shape[1] // count
        if count == 1:
            return [whole]
        blocks = [self.array(room, "split", k, (len(whole), rows)) for k in range(count)]
        for k, block in enumerate(blocks):
            block[...] = whole[:, k * rows : (k + 1) * rows]
        return blocks
