"""Figures of transferred losses."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.plots.style import draw_points, headline, log_scale, method_axis, new_figure, present, styled
from evomal_paper.published.tables import SPLITS
from evomal_paper.sentences import count_seeds


@styled
def transfer_errors(final: pd.DataFrame, metrics: dict[str, str], split: str = "test") -> Figure:
    """Error of the target's networks by method, one panel per transfer and group: a point per seed, bar = mean.

    Args:
        final: errors of one or more transfers, as `transfer.load_or_transfer` returns them.
        metrics: name of the error of each target.
        split: the part that is shown.
    """
    shown = final[final["split"] == split]
    panels = list(shown.groupby(["source", "target", "group"], sort=False).groups)
    methods = present(shown)
    figure, grid = new_figure(3.1 * len(panels) + 0.6, 3.2, 1, len(panels))
    for axes, (source, target, group) in zip(grid.flat, panels, strict=True):
        keys = (shown["source"] == source) & (shown["target"] == target) & (shown["group"] == group)
        for position, method in enumerate(methods):
            errors = shown.loc[keys & (shown["method"] == method), "error"].to_numpy(float)
            draw_points(axes, position, method, errors)
        method_axis(axes, methods)
        log_scale(axes)
        axes.set_title(f"{source} → {target}\n{group}", loc="left")
        axes.set_ylabel(f"{SPLITS[split]} error ({metrics[target]})")
    n = int(shown["seed"].nunique())
    first = f"Transfer, profile {shown['profile'].iloc[0]}, n = {count_seeds(n)}"
    headline(figure, first, "point: one seed, bar: mean")
    return figure
