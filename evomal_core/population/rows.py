"""Batches of several tasks as one, and how their labels are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evomal_core.kinds import Kind
from evomal_core.labels import from_rows


@dataclass
class Rows:
    """A batch of each learner of a stack, the positions of sequences and images beside its rows.

    Attributes:
        features: of the examples, in the form that the stack takes.
        y: labels as numbers (T, 1, B, C), 0 where missing.
        given: labels as they were given, (T, …).
        kind: of the tasks.
        share: of each label in its task's mean, (T, 1, B, C) or (T, 1, B, 1), 0 where missing; None for 1/B.
        weights: as they were given, (T, …).
    """

    features: Tensor
    y: Tensor
    given: Tensor
    kind: Kind
    share: Tensor | None = None
    weights: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, B and C."""
        return self.y.shape[0], self.y.shape[2], self.y.shape[3]

    @property
    def labels(self) -> Tensor:
        """Labels as metrics take them: class indices (T, 1, B), or numbers (T, 1, B, C)."""
        if self.kind != "multiclass":
            return self.y
        return self.given.unsqueeze(1) if self.given.ndim == 2 and self.share is None else self.y.argmax(dim=3)

    def hide(self, predictions: Tensor) -> Tensor:
        """Predictions (T, P, B, C) with 0 where a label is missing."""
        return predictions if self.share is None else torch.where(self.share != 0, predictions, 0.0)

    def averaged(self, values: Tensor) -> Tensor:
        """Values (T, P, B, C) times the share of each label in the mean."""
        if self.share is None:
            return values / self.shape[1]
        return torch.where(self.share != 0, values * self.share, 0.0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over rows of the sum over outputs, (T, P)."""
        if self.share is None:
            return values.sum(dim=(2, 3)) / self.shape[1]
        return self.averaged(values).sum(dim=(2, 3))

    def loss(self, loss: nn.Module, task: int, y_pred: Tensor) -> Tensor:
        """A module's loss of one network's predictions (B, C) on one task."""
        labels = self.given[task]
        index = self.kind == "multiclass" and not labels.is_floating_point()
        shape = (len(labels), y_pred.shape[1], *labels.shape[1:]) if index else labels.shape
        weights = () if self.weights is None else (self.weights[task],)
        value: Tensor = loss(from_rows(y_pred, shape, self.kind), labels, *weights)
        return value


def same_batches(old: Sequence[Sequence[Tensor]], new: Sequence[Sequence[Tensor]]) -> bool:
    """Whether two steps have the very same tensors, as where a batch is the whole training set."""
    return all(a is b for pairs in zip(old, new, strict=True) for a, b in zip(*pairs, strict=True))
