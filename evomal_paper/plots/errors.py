"""Figures of final errors and of sizes of losses: a point per seed beside what is published."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.plots.style import (
    draw_errors,
    draw_points,
    draw_published,
    headline,
    leave_room_for_diverged,
    log_scale,
    method_axis,
    new_figure,
    one_experiment,
    points_key,
    present,
    styled,
)
from evomal_paper.published.tables import SPLITS
from evomal_paper.sentences import count_seeds


@styled
def final_errors(final: pd.DataFrame, published: pd.DataFrame | None = None, metric: str = "MSE") -> Figure:
    """Error after the last step: a point per seed and the mean as a bar, one panel per group and split.

    Args:
        final: `Results.final` or `Results.compared` of one experiment.
        published: rows of `paper.published` of that experiment, drawn beside as mean ± standard deviation.
        metric: name of the error on the axis.

    Raises:
        ValueError: a table holds several experiments.
    """
    place = one_experiment(final)
    panels = [key for key, _ in final.groupby(["split", "group"], observed=True, sort=False)]
    panels = sorted(panels, key=lambda key: (list(SPLITS).index(key[0]), key[1]))
    columns = len({group for _, group in panels}) if len({group for _, group in panels}) > 1 else len(panels)
    methods = present(final)
    size = (3.4 * columns + 0.4, 2.6 * (len(panels) // columns) + 0.5)
    figure, grid = new_figure(*size, len(panels) // columns, columns, sharey=True)
    for axes, (split, group) in zip(grid.flat, panels, strict=True):
        part = final[(final["split"] == split) & (final["group"] == group)]
        for position, method in enumerate(methods):
            draw_errors(axes, position, method, part[part["method"] == method])
            if published is not None:
                draw_published(axes, position + 0.36, _cell(published, group, method))
        axes.set_title(f"{group}, {SPLITS[split]} error", loc="left")
        method_axis(axes, methods)
    log_scale(grid[0, 0])
    leave_room_for_diverged(grid[0, 0], final)
    for row in grid:
        row[0].set_ylabel(f"final error ({metric})")
    n = final.groupby(["method", "group", "split"], observed=True).size().max()
    headline(figure, f"{place}: final errors, n = {count_seeds(n)}", points_key(final, published is not None))
    return figure


def _cell(published: pd.DataFrame, group: str, method: str) -> pd.DataFrame:
    return published[published["group"].isin([group, ""]) & (published["method"] == method)]


@styled
def parameter_counts(runs: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Number of trainable weights of the best losses: a point per seed, bar = mean (GECCO Table 3).

    Args:
        runs: `Results.runs` of one experiment; methods without any weight are left out.
        published: rows of `paper.published("3")` of that experiment, drawn beside.

    Raises:
        ValueError: the table holds several experiments.
    """
    place = one_experiment(runs)
    methods = [name for name in present(runs) if runs.loc[runs["method"] == name, "parameters"].max() > 0]
    figure, grid = new_figure(5.2, 3.2)
    axes = grid[0, 0]
    for position, method in enumerate(methods):
        draw_points(axes, position, method, runs.loc[runs["method"] == method, "parameters"].to_numpy(float))
        if published is not None:
            draw_published(axes, position + 0.34, _cell(published, "", method))
    method_axis(axes, methods)
    log_scale(axes)
    axes.set_ylabel("trainable weights of the loss")
    n = runs.groupby("method", observed=True).size().max()
    headline(figure, f"{place}: size of the losses, n = {count_seeds(n)}", points_key(runs, published is not None))
    return figure
