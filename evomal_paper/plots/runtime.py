"""Figures of the runtime notebook: seconds by phase, TPAMI Figure 5, and searches with a filter on and off."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.analysis.runtime import OUTCOMES, PHASES, count_runs
from evomal_paper.plots.style import headline, new_figure, present, styled
from evomal_paper.published.tables import LABELS

_FILLS = {"local search": ("#D55E00", ""), "filters": ("#999999", "////"), "fitness": ("#56B4E9", "....")}
"""A colour and a hatch for each phase, told apart in grey too."""


def _nothing(first: str, second: str) -> Figure:
    """A figure that says why it is empty."""
    figure, grid = new_figure(6.4, 0.7)
    grid[0, 0].set_axis_off()
    headline(figure, first, second)
    return figure


@styled
def seconds_by_phase(spent: pd.DataFrame) -> Figure:
    """Seconds of meta-training, stacked by phase; a panel per experiment, a bar per method.

    Args:
        spent: the table of `runtime.seconds`, of one profile; baselines, without meta-training, are left out.
    """
    title = f"profile {spent['profile'].iloc[0]}: meta-training by phase"
    spent = spent[spent["method"].astype(str) != "baseline"]
    if spent.empty:
        return _nothing(title, "nothing to show: only the baseline was run, which has no meta-training")
    names = list(dict.fromkeys(spent["experiment"]))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = new_figure(max(2.6 * columns, 3.4) + 1.6, 2.2 * rows + 0.6, rows, columns)
    for axes, name in zip(grid.flat, names, strict=False):
        part = spent[spent["experiment"] == name]
        methods = present(part)
        part = part.set_index("method").reindex(methods)
        left = np.zeros(len(methods))
        for phase in PHASES:
            color, hatch = _FILLS[phase]
            look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.barh(methods, part[phase], left=left, label=phase, **look)
            left += part[phase].to_numpy()
        axes.set_yticks(range(len(methods)), [LABELS[method] for method in methods])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{name}, n = {count_runs(part['n'])}", loc="left")
        axes.set_xlabel("seconds")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    headline(figure, title, "bar: mean over runs")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


@styled
def filter_frequencies(shares: pd.DataFrame) -> Figure:
    """Figure 5: what share of each generation met each filter, and was optimised and evaluated.

    Args:
        shares: the table of `runtime.frequencies`.
    """
    if shares.empty:
        return _nothing("what becomes of EvoMAL's candidates", "nothing to show: there is no run of EvoMAL")
    names = list(dict.fromkeys(shares["experiment"]))
    shown = [outcome for outcome in OUTCOMES if outcome in set(shares["outcome"])]
    size = (1.75 * len(shown) + 0.6, 1.5 * len(names) + 0.8)
    figure, grid = new_figure(*size, len(names), len(shown), sharey=True, sharex="row")
    for row, name in zip(grid, names, strict=True):
        for axes, outcome in zip(row, shown, strict=True):
            part = shares[(shares["experiment"] == name) & (shares["outcome"] == outcome)]
            axes.bar(part["generation"], part["share"], width=0.9, color="#0072B2")
            axes.set_ylim(0, 1)
            axes.grid(visible=False, axis="x")
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            if axes in grid[0]:
                axes.set_title(OUTCOMES[outcome], loc="left")
        runs = count_runs(shares.loc[shares["experiment"] == name, "n"])
        row[0].set_ylabel(f"{name}\n({runs})\nshare")
    for axes in grid[-1]:
        axes.set_xlabel("generation")
    profile = shares["profile"].iloc[0]
    headline(figure, f"profile {profile}: what becomes of EvoMAL's candidates", "bar: mean over runs")
    return figure


@styled
def switched_filters(measured: pd.DataFrame) -> Figure:
    """Processor seconds of the same search with one filter switched, a point per seed and a bar at their mean.

    Args:
        measured: the table of `runtime.on_and_off`.
    """
    variants = list(dict.fromkeys(measured["variant"]))
    figure, grid = new_figure(6.4, 0.34 * len(variants) + 1.1)
    axes = grid[0, 0]
    for position, variant in enumerate(variants):
        values = measured.loc[measured["variant"] == variant, "cpu"].to_numpy(float)
        axes.plot(values, np.full(len(values), position), "o", color="#0072B2", markersize=5, alpha=0.75)
        axes.vlines(values.mean(), position - 0.3, position + 0.3, color="#0072B2", linewidth=2.2)
    base = measured.loc[measured["variant"] == variants[0], "cpu"].mean()
    axes.axvline(base, color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("processor seconds of meta-training")
    n = count_runs(pd.Series([measured["seed"].nunique()]))
    headline(
        figure, f"{measured['profile'].iloc[0]}: one filter switched, n = {n} each", "point: one seed, bar: mean"
    )
    return figure
