"""Forward pass and derivatives of plain convolutional networks, written by hand in PyTorch, for many candidates.

Activations are (P, channels, height, width, B): candidates, and batch rows innermost, so that a convolution is one
matrix product for each candidate, flattening is a view, and pooling adds whole vectors. P is 1 for what all
candidates share. Weights are a pair (weight, bias) for each layer that has any, with a leading axis P.

This is what a GPU computes; on a CPU the compiled kernels are faster (`convolution_network`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evomal_core.population.convolutions import Layer
from evomal_core.population.steps import product_each, through

Weights = Mapping[int, tuple[Tensor, Tensor | None]]
"""Weight and bias of each layer, by its number."""
Kept = list[Any]
"""Values of a forward pass that each layer keeps for its derivatives."""


class _Convolution:
    """A convolution as a product of its weights with patches of its input, (P, K, positions · B)."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def forward(self, h: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
        patches = self.patches(h)
        out = product_each(w.flatten(2), patches)
        if b is not None:
            out = out + b.unsqueeze(2)
        return self._shaped(out), patches

    def gradients(self, delta: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias from the cotangents of the output."""
        rows = self.rows(delta)
        return product_each(rows, patches.mT).view(len(rows), *self._weight_shape()), rows.sum(dim=2)

    def back(self, delta: Tensor, patches: Tensor, w: Tensor) -> Tensor:
        """Cotangents of the input."""
        return self.scattered(product_each(w.flatten(2).mT, self.rows(delta)))

    def push(self, tangent: Tensor | None, patches: Tensor, w: Tensor, dw: Tensor, db: Tensor | None) -> Tensor:
        """Tangents of the output from those of the input, which may have none, and of the weights."""
        out = product_each(dw.flatten(2), patches)
        if db is not None:
            out = out + db.unsqueeze(2)
        if tangent is not None:
            out = out + product_each(w.flatten(2), self.patches(tangent))
        return self._shaped(out)

    def rows(self, delta: Tensor) -> Tensor:
        """Changes of the output as (P, channels, positions · B)."""
        return delta.reshape(len(delta), self.layer.outputs[0], -1)

    def patches(self, h: Tensor) -> Tensor:
        """The patches that each position sees."""
        (top, left), (high, wide), (down, right) = self.layer.padding, self.layer.kernel, self.layer.stride
        padded = functional.pad(h, (0, 0, left, left, top, top)) if top or left else h
        windows = padded.unfold(2, high, down).unfold(3, wide, right)  # (P, C, y, x, B, high, wide)
        positions = self.layer.outputs[1] * self.layer.outputs[2]
        ordered = windows.permute(0, 1, 5, 6, 2, 3, 4)
        return ordered.reshape(len(h), self.layer.inputs[0] * high * wide, positions * h.shape[-1])

    def scattered(self, patches: Tensor) -> Tensor:
        """The transpose of `patches`: each entry is added to where it was taken from."""
        (top, left), (high, wide), (down, right) = self.layer.padding, self.layer.kernel, self.layer.stride
        channels, height, width = self.layer.inputs
        _, y, x = self.layer.outputs
        windows = patches.view(len(patches), channels, high, wide, y, x, -1)
        whole = patches.new_zeros(len(patches), channels, height + 2 * top, width + 2 * left, windows.shape[-1])
        for i in range(high):
            for j in range(wide):
                whole[:, :, i : i + down * y : down, j : j + right * x : right] += windows[:, :, i, j]
        return whole[:, :, top : top + height, left : left + width]

    def _shaped(self, out: Tensor) -> Tensor:
        return out.view(len(out), *self.layer.outputs, -1)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.layer.outputs[0], self.layer.inputs[0], *self.layer.kernel)


class _Dense(_Convolution):
    """A dense layer: one patch, the whole input."""

    def patches(self, h: Tensor) -> Tensor:
        """The input as (P, features, B)."""
        return h.reshape(len(h), -1, h.shape[-1])

    def scattered(self, patches: Tensor) -> Tensor:
        """The same backwards."""
        return patches

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.layer.outputs[0], self.layer.inputs[0])


class _Activation:
    """Hyperbolic tangent or ReLU, whose output tells its slope."""

    def __init__(self, layer: Layer) -> None:
        self.name = layer.name

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.tanh(h) if self.name == "tanh" else torch.relu(h)
        return out, out

    def back(self, delta: Tensor, out: Tensor) -> Tensor:
        """A cotangent, or a tangent, times the slope."""
        return through(self.name, delta, out)

    push = back


class _Average:
    """Means of 2×2 pixels; an odd last row or column is left out."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def forward(self, h: Tensor) -> tuple[Tensor, None]:
        return _windows(h).mean(dim=2), None

    def back(self, delta: Tensor, _: None) -> Tensor:
        return _unwindowed((delta / 4).unsqueeze(2).expand(-1, -1, 4, -1, -1, -1), self.layer.inputs)

    def push(self, tangent: Tensor, _: None) -> Tensor:
        return self.forward(tangent)[0]


class _Maximum:
    """The largest of 2×2 pixels, the first of equal ones, as in PyTorch; NaN is larger than any number."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        windows = _windows(h)
        best, at = windows[:, :, 0], torch.zeros_like(windows[:, :, 0], dtype=torch.int8)
        for place in (1, 2, 3):
            pixel = windows[:, :, place]
            larger = (pixel > best) | pixel.isnan()
            best, at = torch.where(larger, pixel, best), at.masked_fill(larger, place)
        return best, torch.stack([at == place for place in range(4)], dim=2)

    def back(self, delta: Tensor, chosen: Tensor) -> Tensor:
        return _unwindowed(torch.where(chosen, delta.unsqueeze(2), 0.0), self.layer.inputs)

    def push(self, tangent: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen, _windows(tangent), 0.0).sum(dim=2)


class _Norm:
    """Batch norm in training mode: by the mean and variance of the batch, for each channel."""

    def __init__(self, layer: Layer) -> None:
        self.eps = layer.eps

    def forward(self, h: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        variance, mean = torch.var_mean(h, dim=PIXELS, correction=0, keepdim=True)
        scale = torch.rsqrt(variance + self.eps)
        standard = (h - mean) * scale
        out = standard * _channels(w)
        return out if b is None else out + _channels(b), (standard, scale, mean, variance)

    def gradients(self, delta: Tensor, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return (delta * kept[0]).sum(dim=PIXELS), delta.sum(dim=PIXELS)

    def back(self, delta: Tensor, kept: tuple[Tensor, ...], w: Tensor) -> Tensor:
        return self._centred(delta, kept) * _channels(w)

    def push(
        self, tangent: Tensor | None, kept: tuple[Tensor, ...], w: Tensor, dw: Tensor, db: Tensor | None
    ) -> Tensor:
        out = kept[0] * _channels(dw)
        if db is not None:
            out = out + _channels(db)
        return out if tangent is None else out + self._centred(tangent, kept) * _channels(w)

    def _centred(self, change: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
        """The derivative of the standardised input, which is symmetric, times a change of it."""
        standard, scale, *_ = kept
        along = (change * standard).mean(dim=PIXELS, keepdim=True)
        return (change - change.mean(dim=PIXELS, keepdim=True) - standard * along) * scale


PIXELS = (2, 3, 4)
"""The axes of an activation that batch norm averages over: pixels and rows."""
KINDS: dict[str, Any] = {
    "convolution": _Convolution,
    "dense": _Dense,
    "tanh": _Activation,
    "relu": _Activation,
    "average": _Average,
    "maximum": _Maximum,
    "norm": _Norm,
}


class ConvolutionAlgebra:
    """A plain network's forward pass, pullback and pushforward."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.parts = [KINDS[layer.name](layer) for layer in layers]
        self.rows_apart = not any(layer.name == "norm" for layer in layers)
        """Whether a row's output depends on that row alone."""

    def weights(self, theta: Sequence[Tensor]) -> Weights:
        """Pairs of weights by layer, from the network's parameters, each (P, …)."""
        return {
            number: (theta[layer.weights], theta[layer.bias] if layer.bias >= 0 else None)
            for number, layer in enumerate(self.layers)
            if layer.weights >= 0
        }

    def parameters(self, found: Mapping[int, tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Gradients in the order of the network's parameters, from pairs by layer."""
        ordered = {}
        for number, (by_weight, by_bias) in found.items():
            layer = self.layers[number]
            ordered[layer.weights] = by_weight
            if layer.bias >= 0:
                ordered[layer.bias] = by_bias
        return [ordered[index] for index in sorted(ordered)]

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Kept]:
        """The output (P, C, B) of rows (B, …), and what the derivatives need."""
        h, kept = x.movedim(0, -1).unsqueeze(0), []
        for number, (layer, part) in enumerate(zip(self.layers, self.parts, strict=True)):
            h = h.reshape(len(h), *layer.inputs, h.shape[-1])
            h, held = part.forward(h, *weights.get(number, ()))
            kept.append(held)
        return h.flatten(1, -2), kept

    def cotangents(self, weights: Weights, kept: Kept, delta: Tensor) -> dict[int, Tensor]:
        """Cotangents of the output of each layer that has weights, from those of the network's (P, C, B)."""
        found = {}
        for number in range(len(self.layers) - 1, -1, -1):
            layer, part = self.layers[number], self.parts[number]
            delta = delta.reshape(len(delta), *layer.outputs, delta.shape[-1])
            if number in weights:
                found[number] = delta
                if number > min(weights):
                    delta = part.back(delta, kept[number], weights[number][0])
            else:
                delta = part.back(delta, kept[number])
            if len(found) == len(weights):
                return found
        return found

    def pullback(self, weights: Weights, kept: Kept, delta: Tensor) -> list[Tensor]:
        """Gradients of the parameters from cotangents of the output (P, C, B)."""
        deltas = self.cotangents(weights, kept, delta)
        return self.parameters({n: self.parts[n].gradients(d, kept[n]) for n, d in deltas.items()})

    def pushforward(self, weights: Weights, kept: Kept, direction: Weights) -> Tensor:
        """Tangents of the output (P, C, B) along a direction of the weights."""
        tangent: Tensor | None = None
        for number, (layer, part) in enumerate(zip(self.layers, self.parts, strict=True)):
            if tangent is not None:
                tangent = tangent.reshape(len(tangent), *layer.inputs, tangent.shape[-1])
            if number in weights:
                tangent = part.push(tangent, kept[number], weights[number][0], *direction[number])
            elif tangent is not None:
                tangent = part.push(tangent, kept[number])
        assert tangent is not None
        return tangent.flatten(1, -2)


class Jacobian:
    """The derivative of each row's outputs at weights that all candidates share, in a network without batch norm.

    It is made by one pullback with C · B cotangents in place of P, and gives each candidate's pullback and
    pushforward by products. Of convolutions it holds numbers, of dense layers the two factors of an outer product.
    """

    def __init__(self, algebra: ConvolutionAlgebra, weights: Weights, kept: Kept, shape: tuple[int, int]) -> None:
        self.algebra, self.weights = algebra, weights
        self.outputs, self.rows = outputs, rows = shape
        some = next(iter(weights.values()))[0]
        each = torch.eye(outputs, dtype=some.dtype, device=some.device).unsqueeze(2).expand(-1, -1, rows)
        self.table: dict[int, tuple[Tensor, Tensor]] = {}
        for number, delta in algebra.cotangents(weights, kept, each).items():
            part, layer = algebra.parts[number], algebra.layers[number]
            deltas, patches = part.rows(delta), kept[number][0]
            if isinstance(part, _Dense):
                self.table[number] = deltas, patches  # (C, o, B) and (i, B)
                continue
            positions = math.prod(layer.outputs[1:])
            by_row = deltas.view(outputs, -1, positions, rows).permute(3, 0, 1, 2).flatten(1, 2)
            entries = by_row @ patches.view(-1, positions, rows).permute(2, 1, 0)  # (B, C·o, K)
            sums = by_row.sum(dim=2).view(rows, outputs, -1)
            self.table[number] = _by_output(entries, rows, outputs), _by_output(sums, rows, outputs)

    def pullback(self, delta: Tensor) -> list[Tensor]:
        """Gradients of the parameters from cotangents (P, C, B)."""
        flat, found = delta.reshape(len(delta), -1), {}
        for number, (first, second) in self.table.items():
            if isinstance(self.algebra.parts[number], _Dense):
                rows = torch.einsum("pcb,cob->pob", delta, first)
                found[number] = (product_each(rows, second.mT.unsqueeze(0)), rows.sum(dim=2))
            else:
                weight = self.weights[number][0]
                found[number] = ((flat @ first).view(len(delta), *weight.shape[1:]), flat @ second)
        return self.algebra.parameters(found)

    def pushforward(self, direction: Weights) -> Tensor:
        """Tangents of the output (P, C, B) along a direction of the weights."""
        total: Tensor | None = None
        for number, (first, second) in self.table.items():
            dw, db = direction[number]
            if isinstance(self.algebra.parts[number], _Dense):
                change = product_each(dw, second.unsqueeze(0))
                change = change if db is None else change + db.unsqueeze(2)
                part = torch.einsum("pob,cob->pcb", change, first)
            else:
                flat = dw.flatten(1) @ first.mT
                flat = flat if db is None else flat + db @ second.mT
                part = flat.view(-1, self.outputs, self.rows)
            total = part if total is None else total + part
        assert total is not None
        return total


def _by_output(rows_first: Tensor, rows: int, outputs: int) -> Tensor:
    """(B, C·o, K) or (B, C, o) as (C·B, ·): a row of the table for each output of each batch row."""
    return rows_first.reshape(rows, outputs, -1).transpose(0, 1).reshape(outputs * rows, -1)


def _channels(values: Tensor) -> Tensor:
    """(P, C) as factors of an activation."""
    return values[:, :, None, None, None]


def _windows(h: Tensor) -> Tensor:
    """(P, C, H, W, B) as the pixels of windows of 2×2, (P, C, 4, H/2, W/2, B)."""
    height, width = h.shape[2] // 2 * 2, h.shape[3] // 2 * 2
    return torch.stack([h[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)], dim=2)


def _unwindowed(windows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of `_windows`."""
    _, height, width = shape
    whole = windows.new_zeros(len(windows), windows.shape[1], height, width, windows.shape[-1])
    for place, (i, j) in enumerate((i, j) for i in (0, 1) for j in (0, 1)):
        whole[:, :, i : height // 2 * 2 : 2, j : width // 2 * 2 : 2] = windows[:, :, place]
    return whole
