"""Figures of losses over the prediction, value above and gradient below, and of their complexity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evomal_core.kinds import TASK_LOSSES, Kind
from evomal_core.known import known_losses, read
from evomal_core.losses import Loss, TaskLoss
from evomal_paper.analysis.curves import effective_loss, value_and_slope
from evomal_paper.analysis.learned import SYMBOLIC, Key, classes_of
from evomal_paper.plots import style
from evomal_paper.published.tables import LABELS
from evomal_paper.sentences import count_seeds

P = np.linspace(0.01, 0.99, 197)
E = np.linspace(-3, 3, 301)
BEYOND_1 = 1.5
"""A label that shows what a threshold at 1 does."""
X_LABELS = {
    "regression": "error f − y, y = 1",
    "binary": "probability f, y = 1",
    "multiclass": "probability of the true class",
}
SCALE = "loss, scaled to [0, 1]"
SCALED = "values are shifted and scaled to [0, 1] in each panel; a constant one lies at 0.5"

Column = tuple[str, str, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]
"""Title, name and points of the horizontal axis, and value and slope of each loss by name, the task loss first."""


def _at_label(losses: Mapping[str, Loss], kind: Kind, y: float) -> Column:
    """Losses at a label, over the error of a regression and the probability of a class."""
    regression = kind == "regression"
    task, label, x = ("regression", "error f − y", E) if regression else ("classification", "probability f", P)
    all_losses = {TASK_LOSSES[kind]: TaskLoss(kind), **losses}
    curves = {name: value_and_slope(loss, x + y if regression else x, y) for name, loss in all_losses.items()}
    return f"{task}, y = {y:g}".replace("-", "−"), label, x, curves


def _value_over_slope(columns: Sequence[Column], slope_label: str = "gradient ∂M/∂f") -> style.Picture:
    """A figure of two panels a column; values are scaled, slopes lie on an arsinh axis."""
    figure, panels = style.new_figure(2.8 * len(columns) + 1.4, 5.2, 2, len(columns), sharex="col")
    for (above, below), (title, x_label, x, curves) in zip(panels.T, columns, strict=True):
        for number, (name, (value, slope)) in enumerate(curves.items()):
            line = style.loss_line(name, number)
            above.plot(x, style.scaled(value), label=LABELS.get(name, name), **line)
            below.plot(x, slope, **line)
        above.set_title(title, loc="left")
        below.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        below.set_xlabel(x_label)
        style.arsinh_scale(below)
    panels[0, 0].set_ylabel(SCALE)
    panels[1, 0].set_ylabel(slope_label)
    return figure


@style.styled
def loss_shapes(losses: Mapping[str, Loss], kind: Kind, title: str = "") -> Figure:
    """Value and gradient of losses beside the task loss, one column per label (TPAMI Figure 6).

    Regression: over the error f − y, for standardised labels y of −1, 0 and 1. Binary and multiclass: over the
    probability f of a class, for y = 0 and y = 1. Values are shifted and scaled to [0, 1] within a panel, since
    neither an offset nor the unit of a loss shows in what it prefers; gradients are as they are, on an axis that
    is linear around 0 (arsinh). Losses that are called as one of METHODS get that method's colour and line.
    """
    shown = {name: loss for name, loss in losses.items() if not isinstance(loss, TaskLoss)}
    labels = (-1.0, 0.0, 1.0) if kind == "regression" else (0.0, 1.0)
    figure = _value_over_slope([_at_label(shown, kind, label) for label in labels])
    style.legend_outside(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


@style.styled
def figure6(classification: Mapping[str, Loss], regression: Mapping[str, Loss]) -> Figure:
    """Values and gradients of example losses (TPAMI Figure 6), regression at the right.

    Classification is over the probability f of a class, for y = 1 and y = 0; regression over the error f − y.
    """
    columns = [_at_label(classification, "multiclass", y) for y in (1.0, 0.0)]
    figure = _value_over_slope([*columns, _at_label(regression, "regression", BEYOND_1)])
    style.legend_outside(figure, "lower center", ncols=4)
    return style.headline(figure, "Example losses of TPAMI Table VI, value and gradient", SCALED)


@style.styled
def effective_losses(losses: Mapping[str, Loss], classes: int = 10) -> Figure:
    """Multiclass losses behind a softmax, over the probability p of the true class, beside known ones.

    The other classes share 1 − p equally (`curves.effective_loss`). Families are told by this.
    """
    smoothed = read(f"mul(-1, mul(add(0.9*y, {0.1 / classes}*1), log(f)))", "multiclass")
    focal = known_losses("multiclass")["focal 2"]
    known: dict[str, Loss] = {"focal loss, γ = 2": focal, "label smoothing, 0.1": smoothed}
    columns: list[Column] = []
    for part, title in ((known, "known losses"), (losses, "losses shown")):
        behind = {TASK_LOSSES["multiclass"]: TaskLoss("multiclass"), **part}
        curves = {name: effective_loss(loss, P, classes) for name, loss in behind.items()}
        columns.append((title, "probability p of the true class", P, curves))
    figure = _value_over_slope(columns, "gradient ∂V/∂p")
    style.legend_outside(figure, "lower center", ncols=3)
    return style.headline(
        figure, f"Behind a softmax of {classes} classes, the others sharing 1 − p equally", SCALED
    )


@style.styled
def own_losses(best: pd.DataFrame, losses: Mapping[Key, Loss], gradient: bool = False) -> Figure:
    """EvoMAL's best losses, a panel for each experiment and a line for each seed, beside the task loss.

    Regression over the error f − y at y = 1; multiclass over the probability of the true class, as
    `effective_losses`; binary over the probability of the true class, for y = 1. Dotted: degenerate losses. The
    table and the losses are those of `learned.best_losses`; gradients are each in units of its own mean size.
    """
    groups = list(best[best["method"] == "evomal"].groupby("experiment", sort=False))
    figure, panels = style.new_panels(len(groups), 3.1, 2.5)
    for axes, (experiment, part) in zip(panels, groups, strict=True):
        kind = part["kind"].iloc[0]
        axes.plot(*_outline(TaskLoss(kind), experiment, gradient), color="black", linewidth=1.0)
        for row in part.to_dict("records"):
            line = ":" if row["family"] == "degenerate" else "-"
            curve = _outline(losses[experiment, "evomal", row["seed"]], experiment, gradient)
            axes.plot(*curve, color=style.STYLES["evomal"].color, linestyle=line, linewidth=1.3, alpha=0.7)
        axes.set_title(f"{experiment}, n = {count_seeds(len(part))}", loc="left")
        axes.set(xlabel=X_LABELS[kind], ylabel="gradient over its mean size" if gradient else SCALE)
        if gradient:
            style.arsinh_scale(axes)
    key = "black: task loss; colour: a line a seed, dotted where degenerate"
    return style.headline(figure, f"Best losses of {LABELS['evomal']}", key)


def _outline(loss: Loss, experiment: str, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
    if loss.kind == "regression":
        x, (value, slope) = E, value_and_slope(loss, E + 1, 1.0)
    elif loss.kind == "binary":
        x, (value, slope) = P, value_and_slope(loss, P, 1.0)
    else:
        x, (value, slope) = P, effective_loss(loss, P, classes_of(experiment))
    size = np.abs(slope[np.isfinite(slope)]).mean()
    return x, (slope / size if size > 0 else slope) if gradient else style.scaled(value)


@style.styled
def complexity(best: pd.DataFrame) -> Figure:
    """Held-out error against the number of nodes, a point for each of `learned.best_losses` of a symbolic method.

    Runs that diverged are counted in the panel's title.
    """
    groups = list(best[best["method"].isin(SYMBOLIC)].groupby("experiment", sort=False))
    figure, panels = style.new_panels(len(groups), 3.1, 2.5)
    for axes, (experiment, part) in zip(panels, groups, strict=True):
        finite = part[np.isfinite(part["error"])]
        look: dict[str, Any] = style.by_method(finite, lines=False)
        sns.scatterplot(x="complexity", y="error", ax=axes, s=60, linewidth=0, alpha=0.85, **look)
        if len(finite) and finite["error"].min() > 0:
            style.log_scale(axes)
        lost = len(part) - len(finite)
        axes.set_title(f"{experiment}, n = {len(part)}" + (f" ({lost} diverged)" if lost else ""), loc="left")
        axes.set(xlabel="nodes of the loss", ylabel="held-out error")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if finite["complexity"].nunique() == 1:  # whole numbers need room
            axes.set_xlim(finite["complexity"].min() - 2, finite["complexity"].max() + 2)
    style.legend_outside(figure, "lower center", ncols=3)
    return style.headline(figure, "Complexity of the best losses and their held-out error", "point: one seed")
