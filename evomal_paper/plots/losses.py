"""Figures of learned losses: the papers' examples, their effect behind a softmax, and this project's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from evomal_core.losses import Loss, TaskLoss
from evomal_paper.analysis.curves import effective_loss, value_and_slope
from evomal_paper.analysis.examples import PlainLoss
from evomal_paper.analysis.learned import SYMBOLIC, Key, classes_of
from evomal_paper.plots.style import (
    STYLES,
    arsinh_scale,
    headline,
    log_scale,
    loss_line,
    new_figure,
    scaled,
    styled,
)
from evomal_paper.published.tables import LABELS
from evomal_paper.sentences import count_seeds

P = np.linspace(0.01, 0.99, 197)
E = np.linspace(-3, 3, 301)
X_LABELS = {
    "regression": "error f − y, y = 1",
    "binary": "probability f, y = 1",
    "multiclass": "probability of the true class",
}
SCALED = "values are shifted and scaled to [0, 1] in each panel; a constant one lies at 0.5"

FOCAL = PlainLoss(lambda f, y: -y * (1 - f) ** 2 * torch.log(f), "multiclass")
"""The focal loss with γ = 2 (Lin et al. 2017)."""


def smoothed(classes: int, share: float = 0.1) -> PlainLoss:
    """Cross-entropy with label smoothing (Müller et al. 2019): y becomes (1 − a)·y + a/C."""
    return PlainLoss(lambda f, y: -((1 - share) * y + share / classes) * torch.log(f), "multiclass")


@styled
def figure6(classification: Mapping[str, Loss], regression: Mapping[str, Loss], label: float = 1.5) -> Figure:
    """Values and gradients of example losses (TPAMI Figure 6), regression at the right.

    Classification is over the probability f of a class, for y = 1 and y = 0; regression over the error f − y.

    Args:
        classification: losses of classification by name.
        regression: losses of regression by name.
        label: the label y of the regression panel; one beyond 1 shows what a threshold at 1 does.
    """
    figure, panels = new_figure(9.6, 5.6, 2, 3, sharex="col")
    for column, (losses, f, y) in enumerate(
        [(classification, P, 1.0), (classification, P, 0.0), (regression, E + label, label)]
    ):
        reference = "cross-entropy" if column < 2 else "squared error"
        task_loss = TaskLoss("multiclass" if column < 2 else "regression")
        x = f if column < 2 else E
        for number, (name, loss) in enumerate([(reference, task_loss), *losses.items()]):
            _draw(panels[:, column], x, *value_and_slope(loss, f, y), loss_line(name, number), name)
        _finish(panels[:, column], "error f − y" if column == 2 else "probability f")
        panels[0, column].set_title(f"{'regression' if column == 2 else 'classification'}, y = {y:g}", loc="left")
    panels[0, 0].set_ylabel("loss, scaled to [0, 1]")
    panels[1, 0].set_ylabel("gradient ∂M/∂f")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    figure.legend(*panels[0, 2].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    headline(figure, "Example losses of TPAMI Table VI, value and gradient", SCALED)
    return figure


def _draw(
    pair: np.ndarray, x: np.ndarray, value: np.ndarray, slope: np.ndarray, line: dict, name: str | None
) -> None:
    pair[0].plot(x, scaled(value), label=LABELS.get(name or "", name), **line)
    pair[1].plot(x, slope, **line)


def _finish(pair: np.ndarray, x_label: str) -> None:
    pair[1].axhline(0, color="0.6", linewidth=0.8, zorder=0)
    pair[1].set_xlabel(x_label)
    arsinh_scale(pair[1])


@styled
def effective_losses(losses: Mapping[str, Loss], classes: int = 10) -> Figure:
    """What multiclass losses are behind a softmax, over the probability p of the true class, beside known ones.

    The other classes share 1 − p equally (`curves.effective_loss`). This is what families are told by.

    Args:
        losses: multiclass losses by name.
        classes: number of classes.
    """
    known = {"focal loss, γ = 2": FOCAL, "label smoothing, 0.1": smoothed(classes)}
    figure, panels = new_figure(7.4, 5.4, 2, 2, sharex=True)
    for column, (part, title) in enumerate([(known, "known losses"), (losses, "losses shown")]):
        for number, (name, loss) in enumerate([("cross-entropy", TaskLoss("multiclass")), *part.items()]):
            _draw(panels[:, column], P, *effective_loss(loss, P, classes), loss_line(name, number), name)
        _finish(panels[:, column], "probability p of the true class")
        panels[0, column].set_title(title, loc="left")
    panels[0, 0].set_ylabel("loss, scaled to [0, 1]")
    panels[1, 0].set_ylabel("gradient ∂V/∂p")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    figure.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    headline(figure, f"Behind a softmax of {classes} classes, the others sharing 1 − p equally", SCALED)
    return figure


@styled
def own_losses(
    best: pd.DataFrame, losses: Mapping[Key, Loss], method: str = "evomal", gradient: bool = False
) -> Figure:
    """A method's best losses, a panel for each experiment and a line for each seed, beside the task loss.

    Regression over the error f − y at y = 1; multiclass over the probability of the true class, as
    `effective_losses`; binary over the probability of the true class, for y = 1. Dotted: degenerate losses.

    Args:
        best: `learned.best_losses`, with rows of that method.
        losses: its losses.
        method: one of METHODS.
        gradient: whether gradients are shown instead of values, each in units of its own mean size.
    """
    groups = list(best[best["method"] == method].groupby("experiment", sort=False))
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, panels = new_figure(3.1 * columns + 0.2, 2.5 * rows + 0.9, rows, columns)
    for axes, (experiment, part) in zip(panels.flat, groups, strict=False):
        kind = part["kind"].iloc[0]
        axes.plot(*_outline(TaskLoss(kind), experiment, gradient), color="black", linewidth=1.0)
        for row in part.to_dict("records"):
            line = ":" if row["family"] == "degenerate" else "-"
            curve = _outline(losses[experiment, method, row["seed"]], experiment, gradient)
            axes.plot(*curve, color=STYLES[method].color, linestyle=line, linewidth=1.3, alpha=0.7)
        axes.set_title(f"{experiment}, n = {count_seeds(len(part))}", loc="left")
        axes.set_xlabel(X_LABELS[kind])
        if gradient:
            arsinh_scale(axes)
    _tidy(panels, len(groups), "gradient over its mean size" if gradient else "loss, scaled to [0, 1]")
    key = "black: task loss; colour: a line a seed, dotted where degenerate"
    headline(figure, f"Best losses of {LABELS[method]}", key)
    return figure


def _outline(loss: Loss, experiment: str, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
    if loss.kind == "regression":
        x, (value, slope) = E, value_and_slope(loss, E + 1, 1.0)
    elif loss.kind == "binary":
        x, (value, slope) = P, value_and_slope(loss, P, 1.0)
    else:
        x, (value, slope) = P, effective_loss(loss, P, classes_of(experiment))
    size = np.abs(slope[np.isfinite(slope)]).mean()
    return x, (slope / size if size > 0 else slope) if gradient else scaled(value)


def _tidy(panels: np.ndarray, used: int, label: str) -> None:
    for axes in panels.flat[used:]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel(label)


@styled
def complexity(best: pd.DataFrame) -> Figure:
    """Held-out error against the number of nodes, a point for each best loss of a symbolic method.

    Args:
        best: `learned.best_losses`; runs that diverged are counted in the panel's title.
    """
    symbolic = best[best["method"].isin(SYMBOLIC)]
    groups = list(symbolic.groupby("experiment", sort=False))
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, panels = new_figure(3.1 * columns + 0.2, 2.5 * rows + 1.1, rows, columns)
    for axes, (experiment, part) in zip(panels.flat, groups, strict=False):
        finite = part[np.isfinite(part["error"])]
        for method, points in finite.groupby("method", sort=False):
            style = STYLES[method]
            size = 8 if style.marker == "*" else 5
            look = {"color": style.color, "markersize": size, "label": LABELS[method], "alpha": 0.85}
            axes.plot(points["complexity"], points["error"], style.marker, linewidth=0, **look)
        if len(finite) and finite["error"].min() > 0:
            log_scale(axes)
        lost = len(part) - len(finite)
        axes.set_title(f"{experiment}, n = {len(part)}" + (f" ({lost} diverged)" if lost else ""), loc="left")
        axes.set_xlabel("nodes of the loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
    _tidy(panels, len(groups), "held-out error")
    found = {
        name: handle
        for axes in panels.flat
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [LABELS[method] for method in SYMBOLIC if LABELS[method] in found]
    figure.legend([found[name] for name in order], order, loc="outside lower center", ncols=3)
    headline(figure, "Complexity of the best losses and their held-out error", "point: one seed")
    return figure
