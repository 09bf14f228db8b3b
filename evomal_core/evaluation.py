"""The losses that a search looked at."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomal_core.losses import Loss


@dataclass(frozen=True)
class Evaluation:
    """One loss that a search looked at.

    `status` is "ok", or why the fitness is inf or borrowed: "rejected" or "rejected early" (rejection
    protocol after or before local search), "equivalent" (gradient equivalence: the fitness is its twin's),
    "diverged" (local search or training left the finite numbers). The loss is a copy of the one given, and fixed:
    `loss.requires_grad_()` makes its weights trainable.
    """

    loss: Loss
    fitness: float
    status: str = "ok"

    def __post_init__(self) -> None:
        if math.isnan(self.fitness):
            raise ValueError("a fitness is never NaN: a failed candidate has fitness inf and a status")
        object.__setattr__(self, "loss", copy.deepcopy(self.loss).requires_grad_(False))

    @classmethod
    def trained(cls, loss: Loss, fitness: float) -> Evaluation:
        """The evaluation of a loss that was trained with: "diverged" where the fitness is inf."""
        return cls(loss, fitness, "ok" if math.isfinite(fitness) else "diverged")

    def rank(self) -> tuple[float, bool, int]:
        """Sort key of evaluations: fitness, whether it is borrowed, complexity."""
        return self.fitness, self.status == "equivalent", self.complexity

    @property
    def complexity(self) -> int:
        """Number of nodes of a symbolic loss, number of weights of another."""
        expression = getattr(self.loss, "expression", None)
        return self.loss.size if expression is None else len(expression)


@dataclass(frozen=True)
class Found:
    """The outcome of a method: what it evaluated, a row for each generation, and the last one."""

    evaluations: Sequence[Evaluation]
    generations: Sequence[dict[str, Any]]
    population: Sequence[Evaluation]


def summary(generation: int, population: Sequence[Evaluation], best: Evaluation) -> dict[str, Any]:
    """The row of a generation: best and mean fitness, and the best formula where losses have one."""
    finite = [entry.fitness for entry in population if math.isfinite(entry.fitness)]
    row = {
        "generation": generation,
        "best_fitness": best.fitness,
        "mean_fitness": sum(finite) / len(finite) if finite else math.inf,
        "finite": len(finite),
    }
    expression = getattr(best.loss, "expression", None)
    return row if expression is None else row | {"best_complexity": best.complexity, "best_loss": str(expression)}
