"""The honest comparison: a learned loss and its rivals, each at its best learning rate and stopping step.

Rate and step are chosen on the validation part, and the test part is looked at once. All losses meet the same
initial weights and batches, so differences are paired.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from evomal_core.checks import is_number, takes_weight
from evomal_core.known import known_losses
from evomal_core.lazy import LazyModule
from evomal_core.learners import Learner, Problem
from evomal_core.tasks import Task
from evomal_core.trials import try_losses
from evomal_core.tuning import Tuning, recorded_steps, tune
from evomal_core.weighted import LogitAdjusted, balanced_cross_entropy, class_shares

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib import figure as mpl
    from scipy import stats
else:
    mpl = LazyModule("matplotlib.figure", "evomal[paper]")
    pd = LazyModule("pandas", "evomal[paper]")
    stats = LazyModule("scipy.stats", "evomal[paper]")

LEARNED = "learned"
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Learning rates that are tried, as multiples of the configuration's."""
CONFIDENCE = 0.95
Verdict = Literal["won", "lost", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """A learned loss beside its rivals; in Jupyter it shows its sentence and table.

    Attributes:
        learned: the trainings of the learned loss.
        rivals: those of the rivals.
        metric: the name of what is measured; lower is better.
        tasks: number of tasks; trainings are initialisations × tasks.
        test_rows: number of test rows, of all tasks together; 0 if it is not known.

    Intervals and verdicts are over trainings, all measured on the same test rows: they say nothing of how errors
    would differ on others, which matters where test rows are few.
    """

    learned: Tuning
    rivals: Sequence[Tuning]
    metric: str
    tasks: int = 1
    test_rows: int = 0

    @property
    def rival(self) -> Tuning:
        """The rival that one would have chosen: the best on the validation part."""
        return min(self.rivals, key=lambda t: _order(t.errors("validation").mean()))

    @property
    def best_rival(self) -> Tuning:
        """The best rival in hindsight: the best on the test part."""
        return min(self.rivals, key=lambda t: _order(t.errors("test").mean()))

    def difference(self, rival: Tuning) -> tuple[float, float, float]:
        """The rival's mean test error minus the learned loss's, and the ends of the paired 95 % interval."""
        return interval(rival.errors("test") - self.learned.errors("test"))

    def verdict(self, rival: Tuning) -> Verdict:
        """Whether the learned loss won, lost, or neither at this number of trainings."""
        _, low, high = self.difference(rival)
        return "won" if low > 0 else "lost" if high < 0 else "undecided"

    @property
    def sentence(self) -> str:
        """Who won, by how much, and at what n."""
        return " ".join(
            self._against(rival, how)
            for rival, how in ((self.rival, "chosen on validation"), (self.best_rival, "the best in hindsight"))
            if how.startswith("chosen") or rival is not self.rival
        )

    def _against(self, rival: Tuning, how: str) -> str:
        own, other = self.learned.errors("test"), rival.errors("test")
        if self.learned.trains_as(rival):
            return (
                f"The learned loss is {rival.name} ({how}) in effect: it trains the same networks, "
                f"test {self.metric} {own.mean():.4g}, n = {len(own)} trainings."
            )
        change, low, high = self.difference(rival)
        said = {
            "won": "The learned loss won against",
            "lost": "The learned loss lost against",
            "undecided": "It is undecided between the learned loss and",
        }[self.verdict(rival)]
        return (
            f"{said} {rival.name} ({how}): test {self.metric} {own.mean():.4g} and {other.mean():.4g}, "
            f"difference {change:.3g} [{low:.3g}, {high:.3g}], n = {len(own)} trainings each"
            + (f", on {self.test_rows} test rows." if self.test_rows else ".")
        )

    def table(self) -> pd.DataFrame:
        """One row a loss, the best on the validation part first; rates at an end of the range are marked."""
        rows = []
        for tuning in sorted([self.learned, *self.rivals], key=lambda t: _order(t.errors("validation").mean())):
            mean, low, high = interval(tuning.errors("test"))
            row: dict[str, Any] = {
                "loss": tuning.name,
                "lr": tuning.lr,
                "steps": tuning.steps,
                "validation": tuning.errors("validation").mean(),
                "test": mean,
                "±": (high - low) / 2,
            }
            if tuning is not self.learned:
                change, low, high = self.difference(tuning)
                row |= {"above learned": change, "low": low, "high": high, "verdict": self.verdict(tuning)}
            rows.append(row | {"rate at the end": tuning.lr in (min(tuning.curves), max(tuning.curves))})
        return pd.DataFrame(rows)

    def curves(self) -> pd.DataFrame:
        """Every error that was measured: loss, lr, step, split, training, error."""
        rows = [
            (t.name, lr, step, split, number, error)
            for t in (self.learned, *self.rivals)
            for lr, curves in t.curves.items()
            for split, errors in curves.items()
            for number, row in enumerate(errors)
            for step, error in zip(t.record, row, strict=True)
        ]
        return pd.DataFrame(rows, columns=["loss", "lr", "step", "split", "training", "error"])

    def plot(self, limit: int = 12) -> mpl.Figure:
        """Dots for trainings, bars for 95 % intervals of the mean, the losses in order of their test error."""
        ranked = sorted(self.rivals, key=lambda t: _order(t.errors("test").mean()))[: max(limit - 1, 1)]
        shown = sorted([self.learned, *ranked], key=lambda t: -_order(t.errors("test").mean()))
        figure = mpl.Figure(figsize=(6.4, 0.7 + 0.3 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for place, tuning in enumerate(shown):
            errors = tuning.errors("test")
            mean, low, high = interval(errors)
            color = "C3" if tuning is self.learned else "0.35"
            axes.plot(errors, np.full(len(errors), place), ".", color=color, alpha=0.45, markersize=5)
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="D", color=color, markersize=4)
        axes.set_yticks(range(len(shown)), [t.name for t in shown])
        axes.set_xlabel(f"test {self.metric}, n = {len(self.learned.errors('test'))} trainings")
        axes.grid(axis="x", alpha=0.3)
        vars(figure)["_repr_png_"] = partial(_png, figure)  # Jupyter shows it whatever backend is set
        return figure

    def __repr__(self) -> str:
        return f"{self.sentence}\n{self.table().to_string(index=False)}"

    def _repr_html_(self) -> str:
        numbers = dict.fromkeys(("lr", "validation", "test", "±", "above learned", "low", "high"), "{:.4g}")
        styled = self.table().style.hide(axis="index").format(numbers, na_rep="")
        return f"<p>{self.sentence}</p>{styled.to_html()}"


def compare(
    loss: nn.Module,
    problem: Problem,
    *,
    rivals: Literal["known"] | Mapping[str, nn.Module] = "known",
    own: Mapping[str, nn.Module] | None = None,
    lrs: Sequence[float] | None = None,
    initialisations: int = 5,
    steps: int | None = None,
    train_on_validation: bool = False,
) -> Comparison:
    """Train with a loss and with its rivals at several rates from the same initial weights, and compare them.

    Args:
        loss: the learned loss.
        problem: where it was learned; its tasks need validation and test parts.
        rivals: "known" for the known losses of the kind, or modules by name, called as `loss(y_pred, y_true)`,
            with the weights of rows third if a task has them.
        own: user-defined modules, beside the rivals.
        lrs: learning rates; FACTORS times the configuration's by default. A loss whose best rate is at an end
            of them is trained beyond it too.
        initialisations: from how many initial weights each network is trained.
        steps: how long; each loss stops at its best step.
        train_on_validation: whether the task loss is also trained with the validation rows added to the
            training rows, and with them alone (its rate and step chosen on half of them).

    Raises:
        ValueError: a task lacks a validation or test part, or an argument is out of range.
    """
    _check(problem, lrs, initialisations, steps)
    config = problem.config
    steps = steps or max(2 * config.fitness_steps, config.finalist_steps if config.finalists else 0)
    record = recorded_steps(steps)
    rates = [config.base.lr * factor for factor in FACTORS] if lrs is None else list(lrs)
    learners = problem.learners("compare", initialisations)
    named, theirs = _named(rivals, own, problem.tasks[0])
    losses = {LEARNED: loss, **named, **theirs}
    _check_weighted(problem.tasks, losses)
    try_losses(theirs, learners[0])
    first, *others = tune(losses, learners, config.base, rates, record, problem.train)
    if train_on_validation:
        for only in (True, False):
            others.append(_on_validation_rows(problem, initialisations, rates, record, only=only))
    rows = sum(len(task.test[0]) for task in problem.tasks if task.test is not None)
    return Comparison(first, others, problem.tasks[0].measure.name, len(problem.tasks), rows)


def rival_losses(task: Task) -> dict[str, nn.Module]:
    """The known losses of a task's kind; for several classes also those that weight classes."""
    losses: dict[str, nn.Module] = {**known_losses(task.kind, task)}
    if task.kind == "multiclass":
        losses["balanced cross-entropy"] = balanced_cross_entropy(task)
        losses["logit-adjusted cross-entropy"] = LogitAdjusted(task.kind, class_shares(task))
    return losses


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % confidence interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return mean, -np.inf, np.inf
    half = float(
        stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    )
    return mean, mean - half, mean + half


def _order(value: float) -> float:
    return float(value) if np.isfinite(value) else float("inf")


def _check(problem: Problem, lrs: Any, initialisations: Any, steps: Any) -> None:
    for task in problem.tasks:
        for part in ("validation", "test"):
            if getattr(task, part) is None:
                raise ValueError(f"task {task.name!r} has no {part} part; Task.from_arrays takes {part}=(x, y)")
    if not is_number(initialisations, Integral) or initialisations < 2:
        raise ValueError(
            "initialisations is a whole number of at least 2, to tell differences from chance, got "
            f"{initialisations!r}"
        )
    if steps is not None and (not is_number(steps, Integral) or steps < 1):
        raise ValueError(f"steps is a whole number of at least 1, got {steps!r}")
    if lrs is not None and np.size(lrs) * np.ndim(lrs) == 0:
        raise ValueError(
            f"lrs is a list of learning rates, such as [0.01, 0.1], got {lrs!r}; leave it out for six"
        )


def _named(
    rivals: Any, own: Mapping[str, nn.Module] | None, task: Task
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The known losses that were asked for, and the user's, by name."""
    known = rival_losses(task) if isinstance(rivals, str) and rivals == "known" else {}
    theirs: dict[str, nn.Module] = {}
    for what, losses in (("rivals", {} if known else rivals), ("own", own or {})):
        if not isinstance(losses, Mapping):
            raise ValueError(
                f"{what} are losses by name, such as {{'mine': nn.MSELoss()}}, got {losses!r:.60}"
                + ("; 'known' is all known ones" if what == "rivals" else "")
            )
        for name, loss in losses.items():
            if name in {LEARNED, *known, *theirs}:
                raise ValueError(f"the name {name!r} is that of another loss of the comparison; choose another")
            if isinstance(loss, type) or not callable(loss):
                made = f"{loss.__name__}()" if isinstance(loss, type) else f"em.LearnedLoss({loss!r:.40}, kind)"
                raise ValueError(
                    f"loss {name!r} is called as loss(y_pred, y_true), got {loss!r:.60}; write {made}"
                )
            theirs[name] = loss
    if not known and not theirs:
        raise ValueError("a comparison needs a rival; leave rivals out for all known losses")
    return known, theirs


def _check_weighted(tasks: Sequence[Task], losses: Mapping[str, nn.Module]) -> None:
    weighted = [task.name for task in tasks if task.sample_weight]
    if weighted and (lacking := [name for name, loss in losses.items() if not takes_weight(loss)]):
        raise ValueError(
            f"task {weighted[0]!r} has sample_weight, but loss {lacking[0]!r} takes none; let it have a third "
            "argument weight, as evomal_core's losses have"
        )


def _on_validation_rows(
    problem: Problem, initialisations: int, rates: Sequence[float], record: Sequence[int], *, only: bool
) -> Tuning:
    """The task loss trained on the validation rows, alone or too; its rate and step are chosen on half of them."""
    config, name = problem.config, "task loss on the validation rows " + ("alone" if only else "too")

    def learners(half: bool) -> list[Learner]:
        return problem.learners("compare", initialisations, lambda task, _: _with_rows(task, half=half, only=only))

    loss = _task_loss(problem.tasks[0])
    chosen, = tune(
        {name: loss}, learners(half=True), config.base, rates, record, problem.train,
        splits=["validation"],
    )  # fmt: skip
    final, = tune(
        {name: loss}, learners(half=False), config.base, [chosen.lr],
        [step for step in record if step <= chosen.steps], problem.train, splits=["validation", "test"], widen=0,
    )  # fmt: skip
    place = len(final.record) - 1
    only_last = {split: errors[:, place:] for split, errors in final.curves[chosen.lr].items()}
    only_last["validation"] = chosen.errors("validation")[:, None]
    return Tuning(name, loss, final.record[place:], "validation", {chosen.lr: only_last})


def _task_loss(task: Task) -> Any:
    """The task loss; the usual one as an expression, which trains fastest."""
    return task.task_loss or next(iter(known_losses(task.kind).values()))


def _with_rows(task: Task, *, half: bool, only: bool) -> Task:
    """A task that also (or only) trains on its validation rows: all of them, or every second, keeping the rest."""
    assert task.validation is not None
    step = 2 if half else 1
    held = task.labelled("validation")
    added = tuple(array[::step] for array in held)
    train = added if only else tuple(map(torch.cat, zip(task.labelled("train"), added, strict=True)))
    kept = tuple(array[1::2] for array in held) if half else held
    weights = {split: part[2] for split, part in (("train", train), ("validation", kept)) if len(part) > 2}
    weights |= {} if "test" not in (given := dict(task.sample_weight or {})) else {"test": given["test"]}
    parts: dict[str, Any] = {"train": train[:2], "validation": kept[:2]}
    return replace(task, **parts, sample_weight=weights)


def _png(figure: mpl.Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
