"""The result of a search: the best loss, all that were tried, and how the search went."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from evomal_core.checks import is_number
from evomal_core.compare import Comparison, compare
from evomal_core.evaluation import Evaluation
from evomal_core.finalists import Finalist
from evomal_core.kinds import TASK_LOSSES
from evomal_core.lazy import LazyModule
from evomal_core.learners import Problem
from evomal_core.losses import Loss

if TYPE_CHECKING:
    import pandas as pd

else:
    pd = LazyModule("pandas", "evomal[paper]")


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search; in Jupyter it shows the best losses by complexity.

    Attributes:
        method: name of the search method.
        evaluations: every distinct loss that was evaluated, in order.
        generations: one row a generation: best and mean fitness, and counts: cached + rejected early + rejected
            + equivalent + evaluated are the population, of which new ones were optimised (tuned) or skipped
            by local search; of the evaluated some diverged, and those not already in local search were trained.
        population: the last generation, from which another search can go on.
        seconds: wall-clock seconds by phase.
        engine: the engine of the local search, or "none".
        task_loss_fitness: the fitness that the task loss itself has, to compare with; None if it was not measured.
        stopped: why the search ended before its last generation ("time limit", "Ctrl-C", or that no better loss
            was found for long); empty if it did not.
        again: goes on with the search for some generations, see `extend`.
        metric: what fitness is.
        problem: the tasks, network and configuration, for `compare`.
        finalists: the losses that were trained again after the search, the best of the search first.
        chosen: the finalist to use, which may be a known loss, with its learning rate and steps.
    """

    method: str
    evaluations: Sequence[Evaluation]
    generations: Sequence[dict[str, Any]]
    population: Sequence[Evaluation] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    engine: str = "none"
    task_loss_fitness: float | None = None
    stopped: str = ""
    again: Callable[..., SearchResult] | None = field(default=None, repr=False, compare=False)

    metric: str = ""
    problem: Problem | None = field(default=None, repr=False, compare=False)
    finalists: Sequence[Finalist] = ()
    chosen: Finalist | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"again": None, "problem": None}  # they hold the data and the model

    def extend(
        self, generations: int, *, time_limit: float | None = None, patience: int | None = None
    ) -> SearchResult:
        """Go on with the search; the result is that of a search of so many generations from the start.

        A search that was stopped goes on from its last whole generation. The extension of a search with a
        checkpoint is kept in its folder, too: the same calls resume both.

        Args:
            generations: how many more.
            time_limit: as for `learn_loss`.
            patience: as for `learn_loss`.

        Raises:
            ValueError: the method has no generations, or the result was pickled and no longer has its data;
                `learn_loss(..., initial=result)` starts from its losses.
        """
        if self.method in ("baseline", "ml3"):
            raise ValueError(f"method {self.method!r} evaluates one loss and has no generations to add")
        if self.again is None:
            raise ValueError(
                "this result no longer has its data and network; give it to learn_loss(..., initial=result)"
            )
        if not is_number(generations, Integral) or generations < 1:
            raise ValueError(f"generations is a whole number of at least 1, got {generations!r}")
        return self.again(int(generations), time_limit=time_limit, patience=patience)

    @property
    def best_evaluation(self) -> Evaluation:
        """The evaluation of the finalist that was chosen; without finalists that of lowest fitness.

        Of equals it is one that was trained with, and the simplest of those.
        """
        return self.chosen.evaluation if self.chosen else min(self.evaluations, key=Evaluation.rank)

    @property
    def best(self) -> Loss:
        """A copy of the best loss found; its weights are fixed, `loss.requires_grad_()` makes them trainable.

        Raises:
            RuntimeError: no candidate trained a network without diverging.
        """
        winner = self.best_evaluation
        if math.isinf(winner.fitness):
            raise RuntimeError(
                f"{self.method} found no usable loss: all {len(self.evaluations)} candidates were rejected or "
                f"diverged, or their {self.metric or 'metric'} is not finite; try a larger population, more "
                "generations, or a smaller base learning rate"
            )
        return copy.deepcopy(winner.loss)

    @property
    def fitness(self) -> float:
        """The lowest fitness found (mean error after the partial training session)."""
        return min(entry.fitness for entry in self.evaluations)

    def compare(self, **options: Any) -> Comparison:
        """The best loss beside its rivals, each at its best learning rate and step; see `compare.compare`.

        Raises:
            ValueError: the result was not made by `learn_loss` in this process, or a task lacks a validation or
                test part.
        """
        if self.problem is None:
            raise ValueError("this result lacks its tasks and network; call compare on what learn_loss returned")
        return compare(self.best, self.problem, **options)

    @property
    def history(self) -> pd.DataFrame:
        """The generations as a table."""
        return pd.DataFrame(self.generations)

    def front(self) -> list[Evaluation]:
        """Copies of the losses trained with that no simpler one matches in fitness, simplest first."""
        front: list[Evaluation] = []
        trained = [entry for entry in self.evaluations if entry.status == "ok"]
        for candidate in sorted(trained, key=lambda e: (e.complexity, e.fitness)):
            if math.isfinite(candidate.fitness) and (not front or candidate.fitness < front[-1].fitness):
                front.append(candidate)
        return [replace(entry) for entry in front]

    def table(self) -> pd.DataFrame:
        """The front as a table: complexity, fitness, score and formula.

        The score is what a node gained, −Δ ln(fitness) / Δ complexity (Cranmer 2023, PySR).
        """
        return pd.DataFrame(self._rows(), columns=["complexity", "fitness", "score", "loss"])

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        previous: Evaluation | None = None
        for entry in self.front():
            score = float("nan") if previous is None else _score(previous, entry)
            rows.append(
                {
                    "complexity": entry.complexity,
                    "fitness": entry.fitness,
                    "score": score,
                    "loss": str(getattr(entry.loss, "expression", type(entry.loss).__name__)),
                }
            )
            previous = entry
        return rows

    def _said(self) -> str:
        number = len(self.evaluations)
        said = "1 loss evaluated" if number == 1 else f"{number} losses evaluated"
        if self.stopped:
            said += f" in {len(self.generations)} generations, then stopped ({self.stopped})"
        name = TASK_LOSSES[self.best_evaluation.loss.kind]
        if self.chosen is not None:
            said += f"; {self.chosen.recommendation(self.metric)}"
        tuned = [finalist.mean for finalist in self.finalists if finalist.name == name]
        if tuned and self.chosen is not None and self.chosen.name != name:
            return f"{said}; {name}, tuned alike, has {tuned[0]:.4g}"
        if self.task_loss_fitness is None:
            return said
        return f"{said}, {name} itself has fitness {self.task_loss_fitness:.4g}"

    def __repr__(self) -> str:
        return f"SearchResult({self.method}, {self._said()})\n{_aligned(self._rows())}"

    def _repr_html_(self) -> str:
        table = self.table()
        table["formula"] = [_formula(entry.loss) for entry in self.front()]
        # MathJax measures a cell before it is typeset, and breaks a formula into pieces in one that is narrow.
        wide = {"text-align": "left", "min-width": "36em"}
        styled = table.style.hide(axis="index").format({"fitness": "{:.4g}", "score": "{:.3g}"}, na_rep="")
        html = styled.set_properties(subset=["formula"], **wide).to_html()
        return f"<p><b>{self.method}</b>: {self._said()}; the best by complexity</p>{html}"


def _aligned(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of a table as text, in columns."""
    lines = [("complexity", "fitness", "score", "loss")]
    lines += [(f"{r['complexity']}", f"{r['fitness']:.4g}", f"{r['score']:.3g}", r["loss"]) for r in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def _score(simpler: Evaluation, richer: Evaluation) -> float:
    gain = math.log(simpler.fitness) - math.log(richer.fitness) if richer.fitness > 0 else math.inf
    return gain / (richer.complexity - simpler.complexity)


def _formula(loss: Loss) -> str:
    return f"$\\displaystyle {loss.latex()}$"
