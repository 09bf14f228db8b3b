"""Steps of the base optimiser for a stack of networks at once, and the form in which the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal_core.config import SGD, Optimizer
from evomal_core.population.steps import Factors, Matrix, Stacked

ELEMENTWISE = frozenset(
    ("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
)
"""Optimisers of `torch.optim` that treat each number alone, so that stacked networks do not disturb each other."""


@dataclass(frozen=True)
class KernelSteps:
    """Steps of SGD or Adam as `kernels.descend` takes them."""

    adam: bool
    settings: np.ndarray
    """Momentum, weight decay and whether Nesterov's; or Adam's beta1, beta2, epsilon, decay of the gradient and
    decay of the weights."""

    def memory(self, theta: np.ndarray) -> np.ndarray:
        """Zeros for what steps remember of weights (…, W): (…, 1, W), or Adam's two moments (…, 2, W)."""
        return np.zeros((*theta.shape[:-1], 2 if self.adam else 1, theta.shape[-1]), theta.dtype)


def kernel_steps(base: SGD | Optimizer) -> KernelSteps | None:
    """The steps of a base optimiser for the kernels, or None if they lack it or one of its options."""
    if isinstance(base, SGD):
        return KernelSteps(False, np.array([base.momentum, base.weight_decay, float(base.nesterov)]))
    options = dict(base.options)
    if base.name == "SGD" and options.keys() <= {"momentum", "weight_decay", "nesterov"}:
        values = [options.get(name, 0.0) for name in ("momentum", "weight_decay", "nesterov")]
        return KernelSteps(False, np.array(values, float))
    if base.name in ("Adam", "AdamW") and options.keys() <= {"betas", "eps", "weight_decay"}:
        (group,) = base.make([torch.zeros(1)]).param_groups  # with the defaults
        decays = (group["weight_decay"], 0.0) if base.name == "Adam" else (0.0, group["weight_decay"])
        return KernelSteps(True, np.array([*group["betas"], group["eps"], *decays], float))
    return None


class SGDSteps:
    """Steps of `torch.optim.SGD` for a stack; gradients may be `Factors`, and are used up."""

    def __init__(self, base: SGD) -> None:
        self.base = base
        self.velocity: Stacked | None = None

    def __call__(self, theta: Stacked, gradient: Sequence[Matrix], rate: float, moving: Tensor | None) -> None:
        """Move weights (T, P, …) in place, of the candidates `moving` (P,), or of all of them if it is None."""
        base = self.base
        if base.momentum and self.velocity is None:
            self.velocity = [torch.zeros_like(w) for w in theta]
        velocity = self.velocity
        whole = [i for i, g in enumerate(gradient) if isinstance(g, Tensor)]
        if whole:
            weights, gradients, velocities = (_pick(stack, whole) for stack in (theta, gradient, velocity))
            _whole(weights, gradients, velocities if velocity else None, base, rate, moving)
        for i, g in enumerate(gradient):
            if isinstance(g, Factors):
                _factored(theta[i], g, velocity[i] if velocity else None, base, rate)

    def keep(self, alive: Tensor, theta: Stacked) -> None:
        """Go on with the candidates `alive`, (P,), whose weights are `theta`."""
        self.velocity = self.velocity and [v[:, alive] for v in self.velocity]


class TorchSteps:
    """Steps of an elementwise optimiser of `torch.optim` for a stack of these weights."""

    def __init__(self, base: Optimizer, theta: Stacked) -> None:
        self.base = base
        self.optimiser = base.make(theta)

    def __call__(self, theta: Stacked, gradient: Sequence[Tensor], rate: float, moving: Tensor | None) -> None:
        """Move weights (T, P, …) in place, of the candidates `moving` (P,), or of all of them if it is None."""
        held = [] if moving is None else [weights[:, ~moving].clone() for weights in theta]
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for weights, part in zip(theta, gradient, strict=True):
            weights.grad = part.expand_as(weights)
        self.optimiser.step()
        for weights in theta:
            weights.grad = None
        if moving is not None:
            for weights, before in zip(theta, held, strict=True):
                weights[:, ~moving] = before

    def keep(self, alive: Tensor, theta: Stacked) -> None:
        """Go on with the candidates `alive`, (P,), whose weights are `theta`."""
        before, self.optimiser = self.optimiser, self.base.make(theta)
        for weights, old in zip(theta, before.param_groups[0]["params"], strict=True):
            if state := before.state.get(old):
                self.optimiser.state[weights] = {
                    name: value[:, alive] if torch.is_tensor(value) and value.shape == old.shape else value
                    for name, value in state.items()
                }


def _pick(stack: Sequence[Any] | None, indices: Sequence[int]) -> list[Any]:
    return [stack[i] for i in indices] if stack else []


def _whole(
    theta: Stacked, gradient: Stacked, velocity: Stacked | None, base: SGD, rate: float, moving: Tensor | None
) -> None:
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
    torch._foreach_add_(theta, step, alpha=-rate)


def _factored(w: Tensor, gradient: Factors, velocity: Tensor | None, base: SGD, rate: float) -> None:
    """A step by a gradient g = leftᵀ·right that is never formed but added where it belongs.

    Nesterov's w' = w − α·(g + λ·w + μ·v') with v' = μ·v + g + λ·w is computed from a = w + α·μ·v, which takes the
    place of w: v' = (μ − λ·α·μ)·v + g + λ·a and w' = a − α·(1 + μ)·v'.
    """
    momentum, decay = base.momentum, base.weight_decay
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
