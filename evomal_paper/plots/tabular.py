"""The figure of the tabular notebook: Table III under both splits."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.comparison.splits import SPLITS, split_of
from evomal_paper.plots.style import (
    draw_errors,
    draw_published,
    headline,
    leave_room_for_diverged,
    log_scale,
    method_axis,
    new_figure,
    points_key,
    present,
    styled,
)
from evomal_paper.sentences import count_seeds


@styled
def errors_by_split(final: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Test error after the last step, a panel per split; the published cells stand beside the leaking one.

    Args:
        final: `Results.final` or `Results.compared` of one data set under one profile and its variants by split.
        published: rows of `paper.published("III")` of that data set.
    """
    (name,) = final["experiment"].unique()
    part = final[(final["split"] == "test") & (final["group"] == "in-sample")]
    part = part.assign(rows=part["profile"].map(split_of))
    shown = [split for split in SPLITS[::-1] if split in set(part["rows"])]
    methods = present(part)
    width = max(3.6 * len(shown) + 0.4, 6.6)  # of the headline
    figure, grid = new_figure(width, 3.1, 1, len(shown), sharey=True)
    for axes, split in zip(grid[0], shown, strict=True):
        here = part[part["rows"] == split]
        for position, method in enumerate(methods):
            draw_errors(axes, position, method, here[here["method"] == method])
            if split == "leaking":
                draw_published(axes, position + 0.36, published[published["method"] == method])
        axes.set_title(f"{split} split: {here['profile'].iloc[0]}", loc="left")
        method_axis(axes, methods)
    log_scale(grid[0, 0])
    leave_room_for_diverged(grid[0, 0], part)
    grid[0, 0].set_ylabel("final test error (MSE)")
    n = part.groupby(["method", "rows"], observed=True).size().max()
    headline(figure, f"{name}: test errors, n = {count_seeds(n)}", points_key(part, "leaking" in shown))
    return figure
