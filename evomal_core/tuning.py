"""Training losses at several learning rates from several initial weights; the best rate and step of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from evomal_core.config import SGD, Optimizer
from evomal_core.learners import Learner

Curves = dict[str, np.ndarray]
"""Errors of each split by learner and recorded step, (learners, steps)."""
Trainer = Callable[..., list[Curves]]
"""Trains learners with each of some losses, such as `engines.curves_of`."""
POINTS = 20
"""Steps at which errors are measured."""


def recorded_steps(steps: int) -> list[int]:
    """Up to POINTS steps, evenly spread, the last one included; never 0, the untrained network."""
    return sorted(set(np.linspace(0, steps, POINTS + 1).astype(int).tolist()) - {0})


@dataclass
class Tuning:
    """The trainings of one loss: curves by learning rate, the same initial weights and batches at each.

    Attributes:
        name: shown in tables.
        loss: the loss.
        record: the steps after which errors were measured.
        on: the part of the tasks that rate and step are chosen on.
        curves: errors by learning rate.
    """

    name: str
    loss: nn.Module
    record: tuple[int, ...]
    on: str = "validation"
    curves: dict[float, Curves] = field(default_factory=dict)

    def choose(self) -> tuple[float, int]:
        """The learning rate and the place in `record` with the lowest mean error on the part `on`."""
        best = (float("inf"), 0.0, 0)
        for lr in sorted(self.curves):
            means = self.curves[lr][self.on].mean(axis=0)
            place = int(np.nanargmin(means)) if np.isfinite(means).any() else 0
            best = min(best, (float(means[place]), lr, place))
        return (best[1] or min(self.curves)), best[2]

    @property
    def lr(self) -> float:
        """The learning rate that was chosen."""
        return self.choose()[0]

    @property
    def steps(self) -> int:
        """The number of steps that was chosen."""
        return self.record[self.choose()[1]]

    def errors(self, split: str) -> np.ndarray:
        """Errors at the chosen rate and step, one for each learner."""
        lr, place = self.choose()
        return self.curves[lr][split][:, place]

    def trains_as(self, other: Tuning) -> bool:
        """Whether both losses led to the same errors at every rate, split and step."""
        return self.curves.keys() == other.curves.keys() and all(
            np.array_equal(errors, other.curves[lr][split], equal_nan=True)
            for lr, curves in self.curves.items()
            for split, errors in curves.items()
        )


def tune(
    losses: dict[str, nn.Module],
    learners: Sequence[Learner],
    base: SGD | Optimizer,
    lrs: Sequence[float],
    record: Sequence[int],
    train: Trainer,
    *,
    splits: Sequence[str] = ("validation", "test"),
    widen: int = 2,
    until: float = math.inf,
) -> list[Tuning]:
    """Train with each loss at each learning rate, all losses and learners at once.

    Args:
        losses: by name; modules called as `loss(y_pred, y_true)`.
        learners: tasks with initial weights and batches, which all losses and rates share.
        base: the optimiser; its learning rate is replaced.
        lrs: learning rates.
        record: steps after which errors are measured; the last one ends the training.
        train: trains them: `engines.curves_of`.
        splits: the parts to measure; rate and step are chosen on the first.
        widen: how many times a loss whose best rate is the lowest or highest is trained at one more rate beyond.
        until: the value of `time.monotonic()` after which no more training is begun.

    Raises:
        OutOfTimeError: that time has passed.
    """
    record = tuple(sorted(set(record)))
    tunings = [Tuning(name, loss, record, splits[0]) for name, loss in losses.items()]
    ratio = max((b / a for a, b in zip(sorted(lrs), sorted(lrs)[1:], strict=False)), default=3.0)

    def add(some: Sequence[Tuning], lr: float) -> None:
        found = train([t.loss for t in some], learners, base.replace(lr=lr), record, splits, until)
        for tuning, curves in zip(some, found, strict=True):
            tuning.curves[lr] = curves

    for lr in lrs:
        add(tunings, lr)
    for _ in range(widen):
        beyond: dict[float, list[Tuning]] = {}
        for tuning in tunings:
            low, high = min(tuning.curves), max(tuning.curves)
            if tuning.lr in (low, high):
                beyond.setdefault(low / ratio if tuning.lr == low else high * ratio, []).append(tuning)
        for lr, some in beyond.items():
            add(some, lr)
    return tunings
