"""Learning curves of meta-testing and of meta-training, GECCO Figures 5 and 6."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evomal_paper.plots import style
from evomal_paper.published.tables import LABELS, SPLITS

BEYOND = 1e100
"""Stands for an infinite error, which seaborn leaves out: a line or band goes there, beyond the axis."""

BAND = 3.0
"""The axis of curves ends within this factor of the medians, wherever the bands go."""


@style.styled
def learning_curves(tests: pd.DataFrame, group: str, split: str, metric: str = "MSE") -> Figure:
    """Error against gradient steps of meta-testing, median over seeds and quartiles (GECCO Figure 5).

    A seed's error is the mean over its tasks. GECCO's figure shows means; here one seed that explodes would be all
    that a mean shows, and a mean would have to leave out those that diverged. In the median they count as
    infinite, and the legend says how many. The axis ends by the medians; a band may be cut.

    Args:
        tests: `Results.curves` of one experiment; a ValueError says which group and split it has not.
        group: "in-sample" or "out-of-sample".
        split: "train", "validation" or "test".
        metric: name of the error on the axis.
    """
    place = style.one_experiment(tests)
    part = tests[(tests["group"] == group) & (tests["split"] == split)]
    if part.empty:
        known = tests[["group", "split"]].drop_duplicates().agg(", ".join, axis=1)
        raise ValueError(f"no rows of group {group!r} and split {split!r}; there are {'; '.join(known)}")
    labels = {"xlabel": "base gradient steps", "ylabel": f"{SPLITS[split]} error ({metric})"}
    return _draw(f"{place}: {group} tasks", _curves(part, "step", "error"), "diverged", labels)


@style.styled
def meta_training_curves(histories: pd.DataFrame, metric: str = "MSE") -> Figure:
    """Best fitness so far against generation, median over seeds and quartiles (GECCO Figure 6, TPAMI Figure 4).

    Methods without generations (baseline, ML³) are level lines. The papers' figures show means; see
    `learning_curves` for the median. The fitness of a seed without a usable loss counts as infinite; those that
    never found one are counted in the legend as failed. Histories are those of `Results`, of one experiment.
    """
    place = style.one_experiment(histories)
    curves = _curves(histories, "generation", "best_fitness")
    level = curves[curves.groupby("method")["x"].transform("nunique") == 1]
    curves = pd.concat([curves, level.assign(x=max(curves["x"].max(), 1))])
    labels = {"xlabel": "generation", "ylabel": f"best fitness so far ({metric})"}
    figure = _draw(f"{place}: meta-training", curves, "failed", labels)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _curves(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the columns method, seed, x and y: means over tasks, BEYOND where one is not finite."""
    values = table[y].where(np.isfinite(table[y]), np.inf)
    tidy = pd.DataFrame({"method": table["method"].astype(str), "seed": table["seed"], "x": table[x], "y": values})
    return tidy.groupby(["method", "seed", "x"])["y"].mean().clip(upper=BEYOND).reset_index()


def _draw(title: str, curves: pd.DataFrame, failure: str, axis_labels: dict[str, str]) -> Figure:
    """Draw the curves of the methods; seeds without a finite end are counted by the name of their failure."""
    figure, ((axes,),) = style.new_figure(7.2, 3.6)
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
        x="x", y="y", estimator="median", errorbar=("pi", 50), ax=axes, **style.by_method(curves, labels), **look
    )
    cut = _end_axis(axes, curves)
    style.log_scale(axes)
    axes.set(**axis_labels)
    key = f"line: median over n seeds, band: quartiles{', cut where the axis ends' if cut else ''}"
    style.legend_outside(figure)
    return style.headline(
        figure, title, key + (f"\n{failure} seeds count as infinite, above the panel" if failed else "")
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
