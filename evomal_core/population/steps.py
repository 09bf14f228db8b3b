"""Stacked matrix products, and weights kept as factors: a gradient has no higher rank than its batch has rows.

After one step theta' − theta = −α·Δᵀ·X for a linear layer with inputs X (B, i) and cotangents Δ (B, o), so
X'·theta'ᵀ = X'·thetaᵀ − α·(X'·Xᵀ)·Δ, exactly. For a wide layer this spares forming theta' for each candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomal_core.config import SGD


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


def sgd_in_place(
    theta: Stacked, gradient: Sequence[Matrix], velocity: Stacked | None, base: SGD, moving: Tensor | None
) -> Stacked | None:
    """One step of `torch.optim.SGD` on all networks; see `SGD`.

    Args:
        theta: Weights, each (T, P, …).
        gradient: Of the weights; used up.
        velocity: What the step before returned; None at first.
        base: Learning rate, momentum, and weight decay.
        moving: Which of the P candidates move at all, (P,); None for all of them.

    Returns:
        The velocity; None without momentum.
    """
    if base.momentum and velocity is None:
        velocity = [torch.zeros_like(w) for w in theta]
    whole = [i for i, g in enumerate(gradient) if isinstance(g, Tensor)]
    if whole:
        weights, gradients, velocities = (_pick(stack, whole) for stack in (theta, gradient, velocity))
        _whole(weights, gradients, velocities if velocity else None, base, moving)
    for i, g in enumerate(gradient):
        if isinstance(g, Factors):
            _factored(theta[i], g, velocity[i] if velocity else None, base)
    return velocity


def _pick(stack: Sequence[Any] | None, indices: Sequence[int]) -> list[Any]:
    return [stack[i] for i in indices] if stack else []


def _whole(theta: Stacked, gradient: Stacked, velocity: Stacked | None, base: SGD, moving: Tensor | None) -> None:
    if base.weight_decay:
        torch._foreach_add_(gradient, theta, alpha=base.weight_decay)
    step = gradient
    if velocity is not None:
        torch._foreach_mul_(velocity, base.momentum)
        torch._foreach_add_(velocity, gradient)
        step = velocity
        if base.nesterov:
            torch._foreach_add_(gradient, velocity, alpha=base.momentum)
            step = gradient
    if moving is not None:
        step = [torch.where(moving.view(1, -1, *[1] * (s.ndim - 2)), s, 0.0) for s in step]
    torch._foreach_add_(theta, step, alpha=-base.lr)


def _factored(w: Tensor, gradient: Factors, velocity: Tensor | None, base: SGD) -> None:
    """A step by a gradient g = leftᵀ·right that is never formed but added where it belongs.

    Nesterov's w' = w − α·(g + λ·w + μ·v') with v' = μ·v + g + λ·w is computed from a = w + α·μ·v, which takes the
    place of w: v' = (μ − λ·α·μ)·v + g + λ·a and w' = a − α·(1 + μ)·v'.
    """
    rate, momentum, decay = base.lr, base.momentum, base.weight_decay
    weights, left = w.flatten(0, 1), gradient.left.mT.flatten(0, 1)
    right = gradient.right.expand(*gradient.left.shape[:2], -1, -1).flatten(0, 1)
    if velocity is None:
        weights.baddbmm_(left, right, beta=1 - rate * decay, alpha=-rate)
        return
    v = velocity.flatten(0, 1)
    ahead = rate * momentum if base.nesterov else 0.0
    weights.add_(v, alpha=ahead)
    v.baddbmm_(left, right, beta=momentum - decay * ahead)
    v.add_(weights, alpha=decay)
    weights.add_(v, alpha=-(rate + ahead))
