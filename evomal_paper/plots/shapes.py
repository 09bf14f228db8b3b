"""The shapes of learned losses beside the task loss, TPAMI Figure 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_core.kinds import Kind
from evomal_core.losses import Loss, TaskLoss
from evomal_paper.analysis.curves import value_and_slope
from evomal_paper.plots.style import arsinh_scale, loss_line, new_figure, scaled, styled
from evomal_paper.published.tables import LABELS


@styled
def loss_shapes(
    losses: Mapping[str, Loss], kind: Kind, labels: Sequence[float] | None = None, title: str = ""
) -> Figure:
    """Value and gradient of losses beside the task loss, one column per label (TPAMI Figure 6).

    Regression: over the error f − y. Binary and multiclass: over the probability f of a class, for y = 0
    and y = 1. Values are shifted and scaled to [0, 1] within a panel, since neither an offset nor the unit
    of a loss shows in what it prefers; gradients are as they are, on an axis that is linear around 0 (arsinh).

    Args:
        losses: losses by name; names of METHODS get that method's colour and line.
        kind: the kind of all losses.
        labels: values of y for a regression; −1, 0 and 1 by default (standardised labels).
        title: said above the figure, for example of which seed the losses are.
    """
    reference = TaskLoss(kind)
    shown = {name: loss for name, loss in losses.items() if not isinstance(loss, TaskLoss)}
    if kind == "regression":
        labels, grid = labels or (-1.0, 0.0, 1.0), np.linspace(-3, 3, 301)
        x_label, name = "error f − y", "squared error"
    else:
        labels, grid = (0.0, 1.0), np.linspace(0.01, 0.99, 197)
        x_label, name = "probability f", "cross-entropy"
    figure, panels = new_figure(2.6 * len(labels) + 2.0, 4.8, 2, len(labels), sharex=True, sharey="row")
    for column, label in enumerate(labels):
        f = grid + label if kind == "regression" else grid
        for number, (known_as, loss) in enumerate([(name, reference), *shown.items()]):
            value, slope = value_and_slope(loss, f, label)
            line = loss_line(known_as, number)
            panels[0, column].plot(grid, scaled(value), label=known_as if column == 0 else None, **line)
            panels[1, column].plot(grid, slope, **line)
        panels[0, column].set_title(f"label y = {label:g}".replace("-", "−"), loc="left")
        panels[1, column].set_xlabel(x_label)
        panels[1, column].axhline(0, color="0.6", linewidth=0.8, zorder=0)
    arsinh_scale(panels[1, 0])
    panels[0, 0].set_ylabel("loss, scaled to [0, 1]")
    panels[1, 0].set_ylabel("gradient ∂M/∂f")
    figure.legend(*_unique_handles(panels[0, 0]), loc="outside right upper")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _unique_handles(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, names = axes.get_legend_handles_labels()
    return handles, [LABELS.get(name, name) for name in names]
