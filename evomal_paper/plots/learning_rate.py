"""Figures of errors by learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_paper.plots.style import (
    PALETTE,
    by_method,
    headline,
    legend_outside,
    log_scale,
    new_figure,
    present,
    styled,
)
from evomal_paper.published.tables import SPLITS
from evomal_paper.sentences import count_seeds


@styled
def error_by_rate(final: pd.DataFrame, stated: float, metric: str = "MSE") -> Figure:
    """Final held-out error against the base learning rate, one panel per group (TPAMI Figure 8).

    A point is a seed, a line goes through the medians, and diverged runs are counted above: those of the baseline
    in the first line, EvoMAL's in the second.

    Args:
        final: the table of `learning_rate.grid`, of one experiment.
        stated: the experiment's own rate, drawn as a vertical line.
        metric: name of the error on the axis.
    """
    shown = final[final["split"] == "test"]
    panels = list(shown.groupby("group", sort=False))
    figure, grid = new_figure(4.0 * len(panels) + 1.8, 3.6, 1, len(panels))
    for axes, (group, part) in zip(grid.flat, panels, strict=True):
        finite = part[np.isfinite(part["error"])]
        lines = by_method(finite)
        sns.lineplot(x="rate", y="error", estimator="median", errorbar=None, ax=axes, markersize=0, **lines)
        sns.scatterplot(
            x="rate",
            y="error",
            ax=axes,
            s=28,
            linewidth=0,
            alpha=0.6,
            legend=False,
            **by_method(finite, lines=False),
        )
        for row, method in enumerate(present(part)):
            _count_diverged(axes, method, part[part["method"] == method], row)
        axes.axvline(stated, color="0.5", linewidth=0.9, linestyle=":", label="stated rate", zorder=0)
        log_scale(axes)
        axes.set(
            xscale="log", xlim=(part["rate"].min() / 1.4, part["rate"].max() * 1.4)
        )  # also where all diverged
        axes.set(xlabel="base learning rate α", ylabel=f"{SPLITS['test']} error ({metric})")
        axes.set_title(group, loc="left", pad=22 if np.isinf(part["error"]).any() else 6)
    n = int(final["seed"].nunique())
    place = f"{final['experiment'].iloc[0]}: error by learning rate, n = {count_seeds(n)} at each rate"
    headline(figure, place, "point: one seed, line: median of the seeds that did not diverge")
    legend_outside(figure)
    return figure


def _count_diverged(axes: Axes, method: str, part: pd.DataFrame, row: int) -> None:
    """Count the diverged runs of a method above the panel, at each rate, in the row-th line."""
    look: Any = {"ha": "center", "color": PALETTE[method], "fontsize": 7, "textcoords": "offset points"}
    for rate, errors in part.groupby("rate")["error"]:
        if lost := int(np.isinf(errors).sum()):
            look |= {"xycoords": ("data", "axes fraction"), "xytext": (0, 12 - 9 * row)}
            axes.annotate(f"{lost}/{len(errors)}", (rate, 1), **look)
