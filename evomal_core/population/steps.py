"""Stacked matrix products, and weights kept as factors: a gradient has no higher rank than its batch has rows.

After one step theta' − theta = −α·Δᵀ·X for a linear layer with inputs X (B, i) and cotangents Δ (B, o), so
X'·theta'ᵀ = X'·thetaᵀ − α·(X'·Xᵀ)·Δ, exactly. For a wide layer this spares forming theta' for each candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The matrices scale·base + leftᵀ·right, (T, P, o, i); left is (T, P, B, o), right (T, P or 1, B, i)."""

    left: Tensor
    right: Tensor
    base: Tensor | None = None
    scale: float = 1.0

    @staticmethod
    def pay(rows: int, inputs: int, outputs: int) -> bool:
        """Whether factors of so many rows take less work than the matrix itself."""
        return inputs * outputs > rows * (inputs + outputs)


Matrix = Tensor | Factors


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b over (T, P, ·, ·), where either may have P = 1; with one b for all, as one larger product."""
    p, q = a.shape[1], b.shape[1]
    if p == q:
        return a @ b
    if q == 1 and a.is_contiguous():
        folded = a.reshape(a.shape[0], p * a.shape[2], a.shape[3]) @ b[:, 0]
        return folded.view(a.shape[0], p, a.shape[2], b.shape[3])
    return a @ b if q == 1 else a.expand(-1, q, -1, -1) @ b


def product_each(a: Tensor, b: Tensor) -> Tensor:
    """a @ b over (P, ·, ·), where either may have P = 1."""
    return product(a.unsqueeze(0), b.unsqueeze(0))[0]


def through(activation: str, change: Tensor, output: Tensor) -> Tensor:
    """A tangent or cotangent times the slope of an activation ("relu", "tanh" or none), which its output tells."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(change, output.expand_as(change), 0)
    return change * (1 - output * output) if activation == "tanh" else change


def times_transposed(x: Tensor, w: Matrix) -> Tensor:
    """x @ wᵀ: (T, P, B, i) → (T, P, B, o)."""
    if isinstance(w, Tensor):
        return product(x, w.mT)
    change = product(product(x, w.right.mT), w.left)
    return change if w.base is None else change.add_(product(x, w.base.mT), alpha=w.scale)


def times(delta: Tensor, w: Matrix) -> Tensor:
    """delta @ w: (T, P, B, o) → (T, P, B, i)."""
    if isinstance(w, Tensor):
        return product(delta, w)
    change = product(product(delta, w.left.mT), w.right)
    return change if w.base is None else change.add_(product(delta, w.base), alpha=w.scale)


def descended(w: Tensor, gradient: Matrix, rate: float, decay: float) -> Matrix:
    """w − rate·(gradient + decay·w), as factors where the gradient is given as factors."""
    if isinstance(gradient, Tensor):
        return torch.add(w * (1 - rate * decay) if decay else w, gradient, alpha=-rate)
    return Factors(-rate * gradient.left, gradient.right, w, 1 - rate * decay)


Stacked = list[Tensor]
"""Weights, or their gradients, in the order of the network's parameters; each (T, P, …)."""
