"""The finalists of a search: its best losses and the known ones, trained again from new initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from evomal_core.evaluation import Evaluation
from evomal_core.filters import Samples, gradient_signature
from evomal_core.learners import Learner, Problem
from evomal_core.losses import LearnedLoss
from evomal_core.tasks import Task
from evomal_core.tuning import Tuning, recorded_steps, tune

DOUBT = 2.0
"""Number of paired standard errors by which a loss that was found must beat the best known one."""


@dataclass(frozen=True)
class Finalist:
    """A loss that was trained again.

    Attributes:
        name: of a known loss; "" if the search found it.
        evaluation: the loss with its fitness in the search; of a known loss, its error here.
        errors: on the validation part at its best learning rate and step, one for each task and initial weights.
        own: the same on validation rows of each start's own, see `fold`.
        lr: that learning rate.
        steps: that step.
    """

    name: str
    evaluation: Evaluation
    errors: np.ndarray
    own: np.ndarray
    lr: float
    steps: int

    @property
    def mean(self) -> float:
        """The mean error."""
        return float(self.errors.mean())

    def recommendation(self, metric: str) -> str:
        """Recommend a loss to train with, in words."""
        loss = self.evaluation.loss
        what = f"the known loss {self.name!r}" if self.name else getattr(loss, "expression", type(loss).__name__)
        return f"recommended is {what}, learning rate {self.lr:.3g}, {self.steps} steps: {metric} {self.mean:.4g}"


def fold(task: Task, number: int, folds: int) -> Task:
    """The task with one of several equally large, disjoint parts of its validation rows as its test part.

    Finalists start from several initial weights, and the errors of each start on rows of its own tell by how much
    errors vary with weights and with rows; a search has seen the same rows again and again. Each part has its
    share of each class.
    """
    held = task.labelled("validation" if task.validation else "train")
    y = held[1]
    order = torch.argsort(y.reshape(len(y), -1)[:, 0], stable=True)
    size = max(1, len(y) // folds)
    rows = order.repeat(1 + folds // len(order))[: size * folds].view(size, folds)[:, number]
    x, y, *weight = (array[rows] for array in held)
    weights = {split: given for split, given in dict(task.sample_weight or {}).items() if split != "test"}
    return replace(task, test=(x, y), sample_weight=weights | ({"test": weight[0]} if weight else {}))


def train_finalists(
    evaluations: Sequence[Evaluation],
    known: Mapping[str, LearnedLoss],
    learners: Sequence[Learner],
    samples: Samples,
    problem: Problem,
    until: float = math.inf,
) -> list[Finalist]:
    """Train the best losses of a search and the known ones at each of `config.finalist_rates`.

    Args:
        evaluations: what the search evaluated; its best come first among the finalists.
        known: the known losses as in textbooks.
        learners: the tasks with new initial weights, and test parts made by `fold`.
        samples: predictions by which equal losses are told, see `gradient_signature`.
        problem: its configuration and training.
        until: the value of `time.monotonic()` after which no more training is begun.

    Raises:
        OutOfTimeError: that time has passed.
    """
    config = problem.config
    entries = {
        _known_name(entry, known) or f"found {number}": entry
        for number, entry in enumerate(distinct(evaluations, samples, config.finalists))
    }
    losses: dict[str, nn.Module] = {**{name: entry.loss for name, entry in entries.items()}, **known}
    record = recorded_steps(config.finalist_steps)
    lrs = [config.base.lr * factor for factor in config.finalist_rates]
    splits = [config.fitness_on, "test"]
    tunings = tune(losses, learners, config.base, lrs, record, problem.train, splits=splits, widen=1, until=until)
    return [_finalist(tuning, tuning.name in known, entries.get(tuning.name)) for tuning in tunings]


def _known_name(entry: Evaluation, known: Mapping[str, LearnedLoss]) -> str:
    """Name of the known loss with the same expression and weights; "" if there is none."""
    loss = entry.loss
    for name, other in known.items():
        if isinstance(loss, LearnedLoss) and loss.expression == other.expression:
            return name if torch.equal(loss.phi.cpu(), other.phi) else ""
    return ""


def _finalist(tuning: Tuning, is_known: bool, entry: Evaluation | None) -> Finalist:
    errors = tuning.errors(tuning.on)
    if entry is None:
        mean = float(errors.mean())
        assert isinstance(tuning.loss, LearnedLoss)
        entry = Evaluation.trained(tuning.loss, mean)
    return Finalist(tuning.name if is_known else "", entry, errors, tuning.errors("test"), tuning.lr, tuning.steps)


def distinct(evaluations: Sequence[Evaluation], samples: Samples, number: int) -> list[Evaluation]:
    """The best trained losses; of those with the same gradient signature only the first."""
    found: dict[object, Evaluation] = {}
    for entry in sorted(evaluations, key=Evaluation.rank):
        if len(found) == number:
            break
        if entry.status == "ok" and np.isfinite(entry.fitness):
            found.setdefault(gradient_signature(entry.loss, samples, signed=True) or id(entry), entry)
    return list(found.values())


def choose(finalists: Sequence[Finalist]) -> Finalist:
    """The best known loss, unless one that was found beats it by more than DOUBT paired standard errors.

    Without known losses the best of the search takes their place. Of several that beat it the best is chosen.
    """
    known = [finalist for finalist in finalists if finalist.name]
    incumbent = min(known, key=lambda f: (not np.isfinite(f.mean), f.mean)) if known else finalists[0]
    better = [f for f in finalists if not f.name and _beats(f, incumbent)]
    return min(better, key=lambda f: f.mean, default=incumbent)


def _beats(other: Finalist, incumbent: Finalist) -> bool:
    """Whether another is better on the validation rows, and on each start's own by more than their spread."""
    if not np.isfinite(other.errors).all():
        return False
    if not np.isfinite(incumbent.errors).all():
        return True
    change = incumbent.own - other.own
    spread = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else 0.0
    return bool(other.mean < incumbent.mean and change.mean() > DOUBT * spread)
