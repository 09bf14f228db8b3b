"""Losses as curves: values and gradients on a grid, and what a softmax makes of a loss of single outputs."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch

from evomal_core.losses import Loss


def value_and_slope(loss: Loss, f: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """M(y, f) and ∂M/∂f of one output, in float64: two arrays of the common shape of f and y.

    f are predictions, or for a classification probabilities, and y labels. A loss that ignores f has the slope 0.
    """
    exact = deepcopy(loss).double().cpu()
    f, y = np.broadcast_arrays(np.asarray(f, dtype=float), np.asarray(y, dtype=float))
    points = torch.tensor(f.reshape(-1, 1)).requires_grad_()
    values = exact.elementwise(points, torch.tensor(y.reshape(-1, 1)))
    slopes = torch.zeros_like(points)
    if values.requires_grad:
        (found,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
        slopes = slopes if found is None else found
    return values.detach().numpy().reshape(f.shape), slopes.numpy().reshape(f.shape)


def effective_loss(loss: Loss, p: Any, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Value of a loss behind a softmax when the true class has probability p, and its slope.

    The classes' probabilities sum to 1. Where the others share the rest equally, the loss of an example is
    M(1, p) + (C − 1)·M(0, (1 − p)/(C − 1)), GECCO Eq. 2. The share of the wrong classes matters: label
    smoothing is monotone in each output, and has its minimum below p = 1 only by their terms.

    The slope is the derivative with respect to p, the probabilities of the true class, of any shape.
    """
    p = np.asarray(p, dtype=float)
    right, right_slope = value_and_slope(loss, p, 1.0)
    wrong, wrong_slope = value_and_slope(loss, (1 - p) / (classes - 1), 0.0)
    return right + (classes - 1) * wrong, right_slope - wrong_slope
