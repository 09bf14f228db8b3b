"""Learning curves of meta-testing and of meta-training, GECCO Figures 5 and 6."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evomal_paper.plots.style import (
    by_method,
    headline,
    legend_outside,
    log_scale,
    new_figure,
    one_experiment,
    styled,
)
from evomal_paper.published.tables import LABELS, SPLITS

BEYOND = 1e100
"""Stands for an infinite error, which seaborn leaves out: a line or band goes there, beyond the axis."""

BAND = 3.0
"""The axis of curves ends within this factor of the medians, wherever the bands go."""


@styled
def learning_curves(tests: pd.DataFrame, group: str, split: str, metric: str = "MSE") -> Figure:
    """Error against gradient steps of meta-testing, median over seeds and quartiles (GECCO Figure 5).

    A seed's error is the mean over its tasks. GECCO's figure shows means; here one seed that explodes would be all
    that a mean shows, and a mean would have to leave out those that diverged. In the median they count as
    infinite, and the legend says how many. The axis ends by the medians; a band may be cut.

    Args:
        tests: `Results.tests` of one experiment.
        group: "in-sample" or "out-of-sample".
        split: "train", "validation" or "test".
        metric: name of the error on the axis.

    Raises:
        ValueError: the table holds several experiments, or no row of that group and split.
    """
    place = one_experiment(tests)
    part = tests[(tests["group"] == group) & (tests["split"] == split)]
    if part.empty:
        known = tests[["group", "split"]].drop_duplicates().agg(", ".join, axis=1)
        raise ValueError(f"no rows of group {group!r} and split {split!r}; there are {'; '.join(known)}")
    figure, ((axes,),) = new_figure(7.2, 3.6)
    key = _draw(axes, _curves(part, "step", "error"), "diverged")
    axes.set(xlabel="base gradient steps", ylabel=f"{SPLITS[split]} error ({metric})")
    headline(figure, f"{place}: {group} tasks", key)
    legend_outside(figure)
    return figure


@styled
def meta_training_curves(histories: pd.DataFrame, metric: str = "MSE") -> Figure:
    """Best fitness so far against generation, median over seeds and quartiles (GECCO Figure 6, TPAMI Figure 4).

    Methods without generations (baseline, ML³) are level lines. The papers' figures show means; see
    `learning_curves` for the median. The fitness of a seed without a usable loss counts as infinite; those that
    never found one are counted in the legend as failed.

    Args:
        histories: `Results.histories` of one experiment.
        metric: name of the fitness on the axis.

    Raises:
        ValueError: the table holds several experiments.
    """
    place = one_experiment(histories)
    curves = _curves(histories, "generation", "best_fitness")
    level = curves[curves.groupby("method")["x"].transform("nunique") == 1]
    curves = pd.concat([curves, level.assign(x=max(curves["x"].max(), 1))])
    figure, ((axes,),) = new_figure(7.2, 3.6)
    key = _draw(axes, curves, "failed")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="generation", ylabel=f"best fitness so far ({metric})")
    headline(figure, f"{place}: meta-training", key)
    legend_outside(figure)
    return figure


def _curves(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the columns method, seed, x and y: means over tasks, BEYOND where one is not finite."""
    table = pd.DataFrame(
        {"method": table["method"].astype(str), "seed": table["seed"], "x": table[x], "y": table[y]}
    )
    table["y"] = table["y"].where(np.isfinite(table["y"]), np.inf)
    return table.groupby(["method", "seed", "x"])["y"].mean().clip(upper=BEYOND).reset_index()


def _draw(axes: Axes, curves: pd.DataFrame, failure: str) -> str:
    """Draw the curves and return the key: what lines and bands are."""
    last = curves.sort_values("x").groupby(["method", "seed"])["y"].last()
    labels, failed = {}, False
    for method, ends in last.groupby("method"):
        lost = int((ends >= BEYOND).sum())
        labels[str(method)] = f"{LABELS[str(method)]} (n = {len(ends)}{f', {lost} {failure}' if lost else ''})"
        failed |= lost > 0
    look = {
        "markevery": 0.15,
        "markersize": 6,
        "markeredgewidth": 0,
        "linewidth": 1.6,
        "err_kws": {"alpha": 0.13, "linewidth": 0},
    }
    sns.lineplot(
        x="x", y="y", estimator="median", errorbar=("pi", 50), ax=axes, **by_method(curves, labels), **look
    )
    cut = _end_axis(axes, curves)
    log_scale(axes)
    return f"line: median over n seeds, band: quartiles{', cut where the axis ends' if cut else ''}" + (
        f"\n{failure} seeds count as infinite, above the panel" if failed else ""
    )


def _end_axis(axes: Axes, curves: pd.DataFrame) -> bool:
    """End the vertical axis by the medians, see BAND; return whether a band is cut."""
    bands = curves.groupby(["method", "x"])["y"].quantile([0.25, 0.5, 0.75]).unstack()
    bands = bands[bands[0.5] < BEYOND / 1e6]
    positive = bands[0.5][bands[0.5] > 0]
    if positive.empty:
        return False
    bottom = max(bands[0.25].where(bands[0.25] > 0).min(), positive.min() / BAND)
    top = min(bands[0.75].max(), positive.max() * BAND)
    margin = max((top / bottom) ** 0.05, 1.02)
    axes.set_ylim(bottom / margin, top * margin)
    return bool((bands[0.25] < bottom).any() or (bands[0.75] > top).any())
