"""Figures of landscapes of losses."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_paper.analysis.landscapes import per_seed
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.plots.style import by_method, headline, legend_outside, new_figure, present, styled
from evomal_paper.published.tables import LABELS
from evomal_paper.sentences import count_seeds

HEIGHTS = {"task": "cross-entropy (nats)", "error": "error rate"}
"""Names of a classification's height by measure; both are the MSE of a regression."""


@styled
def landscape_lines(lines: pd.DataFrame, kinds: dict[str, str], measure: str = "task") -> Figure:
    """One-dimensional landscapes, one panel per experiment (TPAMI Figure 7).

    A line is the mean over seeds, the band one standard error to each side. Seeds that diverged are counted in the
    panel and left out. The top of a panel is where the baseline's mean or EvoMAL's ends: other lines may leave it.

    The table is that of `landscapes.load_or_compute` with one dimension; kinds are of the experiments' tasks.
    """
    heights = per_seed(lines, measure)
    names = list(dict.fromkeys(heights["experiment"]))
    figure, grid = new_figure(4.4 * len(names) + 2.2, 3.4, 1, len(names))
    for axes, name in zip(grid.flat, names, strict=True):
        part = heights[heights["experiment"] == name]
        runs = part.assign(finite=np.isfinite(part["height"])).groupby(["method", "seed"], observed=True)
        finite = runs["finite"].transform("all")
        kept = part[finite]
        look = by_method(kept) | {"markers": False}
        bands = {"errorbar": "se", "err_kws": {"alpha": 0.13, "linewidth": 0}}
        sns.lineplot(x="x", y="height", ax=axes, linewidth=1.6, **bands, **look)
        lost = part[~finite].groupby("method", observed=True)["seed"].nunique()
        told = [f"{LABELS[method]}: {lost[method]} diverged" for method in present(part) if lost.get(method, 0)]
        means = kept.groupby(["method", "x"], observed=True)["height"].mean()
        if tops := [means[method].max() for method in ("baseline", "evomal") if method in present(kept)]:
            axes.set_ylim(0.0, 1.15 * max(tops))
        axes.annotate("\n".join(told), (0.5, 0.97), xycoords="axes fraction", ha="center", va="top", fontsize=7.5)
        axes.set_title(experiment(name).title, loc="left")
        axes.set(xlabel="step along the direction (norms of the filters)")
        axes.set_ylabel(f"training {'MSE' if kinds[name] == 'regression' else HEIGHTS[measure]}")
    n = int(heights["seed"].nunique())
    key = "line: mean over seeds, band: ± 1 standard error; lines may leave a panel"
    legend_outside(figure)
    return headline(figure, f"Landscapes, profile {lines['profile'].iloc[0]}, n = {count_seeds(n)}", key)


@styled
def landscape_surfaces(surfaces: pd.DataFrame, kinds: dict[str, str]) -> Figure:
    """Contours of two-dimensional landscapes, one row per experiment and one panel per method, of one seed.

    All panels of a row share their levels, in equal ratios above the lowest height of the row. The cross is the
    trained network, whose height the title says.

    The table is that of `landscapes.load_or_compute` with two dimensions, of one seed.
    """
    heights = per_seed(surfaces)
    names, methods = list(dict.fromkeys(heights["experiment"])), present(heights)
    size = 3.3 * len(methods) + 1.2, 3.1 * len(names) + 0.5
    figure, grid = new_figure(*size, len(names), len(methods), sharex=True, sharey=True)
    for row, name in zip(grid, names, strict=True):
        part = heights[heights["experiment"] == name]
        levels = _levels(part["height"].to_numpy(float))
        for axes, method in zip(row, methods, strict=True):
            table = part[part["method"] == method].pivot(index="y", columns="x", values="height")
            _draw_contours(axes, table, levels)
            centre = f"{table.loc[0.0, 0.0]:.2g}"
            axes.set_title(f"{experiment(name).title}: {LABELS[method]}, height {centre}", loc="left")
            axes.set_aspect("equal")
        row[0].set_ylabel("step along the second direction")
    for axes in grid[-1]:
        axes.set_xlabel("step along the first direction")
    measured = dict.fromkeys("MSE" if kinds[name] == "regression" else HEIGHTS["task"] for name in names)
    first = f"Landscapes, profile {surfaces['profile'].iloc[0]}, seed {surfaces['seed'].iloc[0]} (n = 1)"
    return headline(figure, first, f"height: training {', '.join(measured)}")


def _levels(heights: np.ndarray, count: int = 13) -> np.ndarray:
    """Heights in equal ratios, from just above the lowest to the highest finite one of most points."""
    finite = heights[np.isfinite(heights)]
    low, high = max(finite.min(), 1e-12), np.quantile(finite, 0.98)
    if high > low * 1.1:
        return np.geomspace(low * 1.05, high, count)
    return np.linspace(finite.min(), high + 1e-9, count)


def _draw_contours(axes: Axes, table: pd.DataFrame, levels: np.ndarray) -> None:
    x, y, z = table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)
    axes.grid(visible=False)
    axes.plot(0, 0, "+", color="black", markersize=7)
    z = np.where(np.isfinite(z), z, np.nan)
    if not np.isfinite(z).any():
        axes.text(0, 0, "diverged", ha="center")
        return
    axes.contourf(x, y, z, levels, cmap="Greys", alpha=0.45, extend="both")
    lines = axes.contour(x, y, z, levels, colors="0.25", linewidths=0.7)
    axes.clabel(lines, levels[1::2], fmt=lambda value: f"{value:.2g}", fontsize=7)
