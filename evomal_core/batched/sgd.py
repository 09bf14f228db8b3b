"""A step of stochastic gradient descent on stacks of networks, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evomal_core.batched.factors import Factors, Matrix
from evomal_core.batched.stacks import Stacked
from evomal_core.config import SGD


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
