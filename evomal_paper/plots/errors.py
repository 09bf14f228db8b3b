"""Figures of final errors and of sizes of losses: a point per seed, beside what is published or by rate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_paper.experiments.tabular import SPLITS as ROWS
from evomal_paper.experiments.tabular import split_of
from evomal_paper.plots import style
from evomal_paper.published.tables import SPLITS
from evomal_paper.sentences import count_seeds

Panel = tuple[str, pd.DataFrame, pd.DataFrame | None]
"""Title, values, and published numbers beside them."""


def _draw(
    panels: Sequence[Panel], title: str, y_label: str, size: tuple[float, float], **grid: Any
) -> style.Picture:
    """A figure of panels on one logarithmic axis: a point per seed and the mean as a bar."""
    whole = pd.concat([table for _, table, _ in panels])
    value = "error" if "error" in whole else "parameters"
    methods = style.present(whole)
    figure, axes_grid = style.new_figure(*size, sharey=True, **grid)
    for axes, (name, table, published) in zip(axes_grid.flat, panels, strict=True):
        style.draw_seeds(axes, table, value, methods)
        if published is not None:
            style.draw_published(axes, methods, published)
        axes.set_title(name, loc="left")
    style.log_scale(axes_grid[0, 0])
    for axes in axes_grid[:, 0]:
        axes.set_ylabel(y_label)
    n = max(table.groupby("method", observed=True).size().max() for _, table, _ in panels)
    beside = any(published is not None for *_, published in panels)
    return style.headline(figure, f"{title}, n = {count_seeds(n)}", style.points_key(whole, beside))


@style.styled
def final_errors(final: pd.DataFrame, published: pd.DataFrame | None = None, metric: str = "MSE") -> Figure:
    """Error after the last step: a point per seed and the mean as a bar, one panel per group and split.

    Of `Results.final` or `Results.compared` of one experiment, beside its rows of `paper.published`.
    """
    place = style.one_experiment(final)
    splits = [split for split in SPLITS if split in set(final["split"])]
    groups = sorted(set(final["group"]))
    rows, columns = (len(splits), len(groups)) if len(groups) > 1 else (1, len(splits))
    panels: list[Panel] = []
    for split in splits:
        for group in groups:
            beside = None if published is None else published[published["group"].isin([group, ""])]
            part = final[(final["split"] == split) & (final["group"] == group)]
            panels.append((f"{group}, {SPLITS[split]} error", part, beside))
    size = 3.4 * columns + 0.4, 2.6 * rows + 0.5
    return _draw(panels, f"{place}: final errors", f"final error ({metric})", size, rows=rows, columns=columns)


@style.styled
def parameter_counts(runs: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Number of trainable weights of the best losses: a point per seed, bar = mean (GECCO Table 3).

    Of `Results.runs` of one experiment, beside rows of `paper.published("3")`; methods without weights are left
    out.
    """
    place = style.one_experiment(runs)
    trained = runs[runs.groupby("method", observed=True)["parameters"].transform("max") > 0]
    panels: list[Panel] = [("", trained, published)]
    return _draw(panels, f"{place}: size of the losses", "trainable weights of the loss", (5.2, 3.2))


@style.styled
def errors_by_split(final: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Test error after the last step, a panel per split; the published cells stand beside the leaking one.

    Of errors of one data set under one profile and its variants by split, and its rows of
    `paper.published("III")`.
    """
    (name,) = final["experiment"].unique()
    tests = final[(final["split"] == "test") & (final["group"] == "in-sample")]
    panels: list[Panel] = []
    for split in ROWS[::-1]:
        part = tests[tests["profile"].map(split_of) == split]
        if len(part):
            beside = published if split == "leaking" else None
            panels.append((f"{split} split: {part['profile'].iloc[0]}", part, beside))
    size = max(3.6 * len(panels) + 0.4, 6.6), 3.1  # as wide as the headline
    return _draw(panels, f"{name}: test errors", "final test error (MSE)", size, columns=len(panels))


@style.styled
def transfer_errors(final: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Held-out error of the target's networks by method, a panel per transfer and group: point = seed, bar = mean.

    Of errors as `transfer.load_or_transfer` returns them, and the name of the error of each target.
    """
    shown = final[final["split"] == "test"]
    panels = list(shown.groupby(["source", "target", "group"], sort=False))
    figure, grid = style.new_figure(3.1 * len(panels) + 0.6, 3.2, 1, len(panels))
    for axes, ((source, target, group), part) in zip(grid.flat, panels, strict=True):
        style.draw_seeds(axes, part, "error", style.present(shown))
        style.log_scale(axes)
        axes.set_title(f"{source} → {target}\n{group}", loc="left")
        axes.set_ylabel(f"{SPLITS['test']} error ({metrics[target]})")
    title = f"Transfer, profile {shown['profile'].iloc[0]}, n = {count_seeds(shown['seed'].nunique())}"
    return style.headline(figure, title, style.points_key(shown, published=False))


@style.styled
def error_by_rate(final: pd.DataFrame, stated: float, metric: str = "MSE") -> Figure:
    """Final held-out error against the base learning rate, one panel per group (TPAMI Figure 8).

    A point is a seed, a line goes through the medians, and diverged runs are counted above: those of the baseline
    in the first line, EvoMAL's in the second.

    The table is that of `learning_rate.grid`, of one experiment; a vertical line shows its own rate, the stated
    one.
    """
    shown = final[final["split"] == "test"]
    panels = list(shown.groupby("group", sort=False))
    figure, grid = style.new_figure(4.0 * len(panels) + 1.8, 3.6, 1, len(panels))
    for axes, (group, part) in zip(grid.flat, panels, strict=True):
        finite = part[np.isfinite(part["error"])]
        lines = style.by_method(finite)
        sns.lineplot(x="rate", y="error", estimator="median", errorbar=None, ax=axes, markersize=0, **lines)
        points: dict[str, Any] = {"s": 28, "linewidth": 0, "alpha": 0.6, "legend": False}
        sns.scatterplot(x="rate", y="error", ax=axes, **points, **style.by_method(finite, lines=False))
        for row, method in enumerate(style.present(part)):
            _count_diverged(axes, method, part[part["method"] == method], row)
        axes.axvline(stated, color="0.5", linewidth=0.9, linestyle=":", label="stated rate", zorder=0)
        style.log_scale(axes)
        ends = part["rate"].min() / 1.4, part["rate"].max() * 1.4  # also where all diverged
        axes.set(xscale="log", xlim=ends)
        axes.set(xlabel="base learning rate α", ylabel=f"{SPLITS['test']} error ({metric})")
        axes.set_title(group, loc="left", pad=22 if np.isinf(part["error"]).any() else 6)
    n = int(final["seed"].nunique())
    place = f"{final['experiment'].iloc[0]}: error by learning rate, n = {count_seeds(n)} at each rate"
    style.legend_outside(figure)
    return style.headline(figure, place, "point: one seed, line: median of the seeds that did not diverge")


def _count_diverged(axes: Axes, method: str, part: pd.DataFrame, row: int) -> None:
    """Count the diverged runs of a method above the panel, at each rate, in the row-th line."""
    look: Any = {"ha": "center", "color": style.PALETTE[method], "fontsize": 7, "textcoords": "offset points"}
    for rate, errors in part.groupby("rate")["error"]:
        if lost := int(np.isinf(errors).sum()):
            look |= {"xycoords": ("data", "axes fraction"), "xytext": (0, 12 - 9 * row)}
            axes.annotate(f"{lost}/{len(errors)}", (rate, 1), **look)
