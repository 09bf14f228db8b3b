"""Figures of final errors and of sizes of losses: a point per seed beside what is published."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.comparison.splits import SPLITS as ROWS
from evomal_paper.comparison.splits import split_of
from evomal_paper.plots.style import (
    draw_published,
    draw_seeds,
    headline,
    log_scale,
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
    splits = [split for split in SPLITS if split in set(final["split"])]
    groups = sorted(set(final["group"]))
    rows, columns = (len(splits), len(groups)) if len(groups) > 1 else (1, len(splits))
    methods = present(final)
    figure, grid = new_figure(3.4 * columns + 0.4, 2.6 * rows + 0.5, rows, columns, sharey=True)
    for axes, (split, group) in zip(grid.flat, [(s, g) for s in splits for g in groups], strict=True):
        draw_seeds(axes, final[(final["split"] == split) & (final["group"] == group)], "error", methods)
        if published is not None:
            draw_published(axes, methods, published[published["group"].isin([group, ""])])
        axes.set_title(f"{group}, {SPLITS[split]} error", loc="left")
        axes.set_ylabel(f"final error ({metric})" if axes in grid[:, 0] else "")
    log_scale(grid[0, 0])
    n = final.groupby(["method", "group", "split"], observed=True).size().max()
    headline(figure, f"{place}: final errors, n = {count_seeds(n)}", points_key(final, published is not None))
    return figure


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
    figure, ((axes,),) = new_figure(5.2, 3.2)
    draw_seeds(axes, runs[runs["method"].isin(methods)], "parameters", methods)
    if published is not None:
        draw_published(axes, methods, published)
    log_scale(axes)
    axes.set_ylabel("trainable weights of the loss")
    n = runs.groupby("method", observed=True).size().max()
    headline(figure, f"{place}: size of the losses, n = {count_seeds(n)}", points_key(runs, published is not None))
    return figure


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
    shown = [split for split in ROWS[::-1] if split in set(part["rows"])]
    methods = present(part)
    width = max(3.6 * len(shown) + 0.4, 6.6)  # of the headline
    figure, grid = new_figure(width, 3.1, 1, len(shown), sharey=True)
    for axes, split in zip(grid[0], shown, strict=True):
        here = part[part["rows"] == split]
        draw_seeds(axes, here, "error", methods)
        if split == "leaking":
            draw_published(axes, methods, published)
        axes.set_title(f"{split} split: {here['profile'].iloc[0]}", loc="left")
        axes.set_ylabel("final test error (MSE)" if axes is grid[0, 0] else "")
    log_scale(grid[0, 0])
    n = part.groupby(["method", "rows"], observed=True).size().max()
    headline(figure, f"{name}: test errors, n = {count_seeds(n)}", points_key(part, "leaking" in shown))
    return figure


@styled
def transfer_errors(final: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Held-out error of the target's networks by method, a panel per transfer and group: point = seed, bar = mean.

    Args:
        final: errors of one or more transfers, as `transfer.load_or_transfer` returns them.
        metrics: name of the error of each target.
    """
    shown = final[final["split"] == "test"]
    panels = list(shown.groupby(["source", "target", "group"], sort=False))
    figure, grid = new_figure(3.1 * len(panels) + 0.6, 3.2, 1, len(panels))
    for axes, ((source, target, group), part) in zip(grid.flat, panels, strict=True):
        draw_seeds(axes, part, "error", present(shown))
        log_scale(axes)
        axes.set_title(f"{source} → {target}\n{group}", loc="left")
        axes.set_ylabel(f"{SPLITS['test']} error ({metrics[target]})")
    n = int(shown["seed"].nunique())
    headline(
        figure,
        f"Transfer, profile {shown['profile'].iloc[0]}, n = {count_seeds(n)}",
        points_key(shown, published=False),
    )
    return figure
