"""One loss that a search looked at."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

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

    def rank(self) -> tuple[float, bool, int]:
        """Sort key of evaluations: fitness, whether it is borrowed, complexity."""
        return self.fitness, self.status == "equivalent", self.complexity

    @property
    def complexity(self) -> int:
        """Number of nodes of a symbolic loss, number of weights of another."""
        expression = getattr(self.loss, "expression", None)
        return self.loss.size if expression is None else len(expression)
