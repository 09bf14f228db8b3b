"""Losses that account for class frequencies: class-weighted and logit-adjusted cross-entropy.

A symbolic loss treats all outputs alike, so these are modules of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evomal_core.kinds import Kind
from evomal_core.losses import TaskLoss
from evomal_core.tasks import Task


class WeightedCrossEntropy(TaskLoss):
    """Cross-entropy with a weight for each class: 1/B Σ_b w_{y_b}·(−ln p_{b, y_b}).

    The option `class_weight` of a loss divides by the sum of a batch's weights instead of B.

    Args:
        kind: "binary" or "multiclass".
        weights: one for each class, (classes,); two for a binary task.
    """

    def __init__(self, kind: Kind, weights: Tensor) -> None:
        super().__init__(kind)
        self.weights: Tensor
        self.register_buffer("weights", weights)

    def _structure(self) -> dict[str, Any]:
        raise TypeError("a loss with weights of classes belongs to its task and can't be saved")

    def of_logits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for logits and labels as numbers, both (rows, outputs)."""
        weights = self.weights.to(logits.dtype)
        if self.kind == "binary":
            weights = weights[0] + (weights[1] - weights[0]) * y
        return weights * super().of_logits(logits, y)


class LogitAdjusted(TaskLoss):
    """Logit-adjusted cross-entropy (Menon et al. 2021): that of logits + ln π, with π the shares of the classes.

    Args:
        kind: "binary" or "multiclass".
        priors: the share of each class in the training rows, (classes,).
    """

    def __init__(self, kind: Kind, priors: Tensor) -> None:
        super().__init__(kind)
        shift = torch.log(priors) if kind == "multiclass" else torch.log(priors[1] / priors[0])
        self.shift: Tensor
        self.register_buffer("shift", shift)

    def _structure(self) -> dict[str, Any]:
        raise TypeError("a loss with shares of classes belongs to its task and can't be saved")

    def of_logits(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for logits and labels as numbers, both (rows, outputs)."""
        return super().of_logits(logits + self.shift.to(logits.dtype), y)


def class_weights(loss: Any, classes: int) -> Tensor | None:
    """The weights of the classes, (classes,), in a task loss of closed form; None for a loss of another form."""
    if isinstance(loss, WeightedCrossEntropy):
        return loss.weights
    return torch.ones(classes) if type(loss) is TaskLoss and not loss.options else None


def class_shares(task: Task) -> Tensor:
    """The share of each class in the training rows, (classes,); classes without rows count as half a row."""
    labels = task.labels("train")
    y = labels.y if labels.weight is None else labels.y * labels.weight
    sums = y.sum(dim=0).double()
    if task.kind == "binary":
        rows = torch.ones_like(labels.y) if labels.weight is None else labels.weight
        sums = torch.stack((rows.sum() - sums.sum(), sums.sum()))
    counts = sums.clamp(min=0.5)
    return (counts / counts.sum()).float()


def balanced_cross_entropy(task: Task) -> WeightedCrossEntropy:
    """Cross-entropy in which each class has the same total weight, rows / (classes · rows of the class)."""
    shares = class_shares(task)
    return WeightedCrossEntropy(task.kind, 1 / (len(shares) * shares))
