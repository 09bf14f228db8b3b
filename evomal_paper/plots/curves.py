"""Learning curves of meta-testing and of meta-training, GECCO Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_core.search import METHODS
from evomal_paper.plots.style import (
    STYLES,
    headline,
    legend_label,
    log_scale,
    new_figure,
    one_experiment,
    present,
    styled,
)
from evomal_paper.published.tables import SPLITS


def _median_curve(table: pd.DataFrame, x: str, y: str) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Median and quartiles (low, high) over all seeds; how many seeds there are, and end finite.

    What is not finite (diverged, or no usable loss yet) counts as infinite.
    """
    curves = table.groupby(["seed", x], sort=True)[y].mean().unstack(x)
    ordered = np.sort(curves.where(np.isfinite(curves), np.inf).to_numpy(float), axis=0)
    names = {"low": 0.25, "median": 0.5, "high": 0.75}
    curve = pd.DataFrame({name: _quantile(ordered, share) for name, share in names.items()}, curves.columns)
    return curve, (len(curves), int(np.isfinite(ordered[:, -1]).sum()))


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """By linear interpolation between rows; `np.quantile` makes NaN of infinite ones."""
    place = share * (len(ordered) - 1)
    below, weight = int(place), place % 1
    return (1 - weight) * ordered[below] + weight * ordered[below + 1] if weight else ordered[below]


def _draw_curve(axes: Axes, method: str, curve: pd.DataFrame, label: str) -> None:
    style = STYLES[method]
    x, low, high = (np.asarray(values, float) for values in (curve.index, curve["low"], curve["high"]))
    median = curve["median"].where(np.isfinite(curve["median"])).to_numpy()
    every = max(1, len(x) // 6)
    start = list(METHODS).index(method) * every // len(METHODS)
    axes.plot(
        x,
        median,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker,
        markevery=(start if len(x) > every else 0, every),
        markersize=7 if style.marker == "*" else 4.5,
        linewidth=1.6,
        label=label,
    )
    if (np.isfinite(median) & (high > low)).any():
        beyond = np.minimum(high, 1e30)  # an infinite quartile: the band goes on to the end of the axis
        axes.fill_between(x, low, beyond, np.isfinite(median), color=style.color, alpha=0.13, linewidth=0)


BAND = 3.0
"""The axis of curves ends within this factor of the medians, wherever the bands go."""


def _end_axis(axes: Axes, curves: Sequence[pd.DataFrame]) -> bool:
    """End the vertical axis by the medians, see BAND; whether a band is cut."""
    whole = pd.concat(curves)
    whole = whole[np.isfinite(whole["median"])]
    positive = whole["median"][whole["median"] > 0]
    if positive.empty:
        return False
    bottom = max(whole["low"].where(whole["low"] > 0).min(), positive.min() / BAND)
    top = min(whole["high"].max(), positive.max() * BAND)
    margin = max((top / bottom) ** 0.05, 1.02)
    axes.set_ylim(bottom / margin, top * margin)
    return bool((whole["low"] < bottom).any() or (whole["high"] > top).any())


def _curve_key(axes: Axes, failure: str, cut: bool) -> str:
    failed = any(failure in name for name in axes.get_legend_handles_labels()[1])
    return f"line: median over n seeds, band: quartiles{', cut where the axis ends' if cut else ''}" + (
        f"\n{failure} seeds count as infinite; no point where the median is" if failed else ""
    )


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
    figure, panels = new_figure(7.2, 3.6)
    axes = panels[0, 0]
    curves = []
    for method in present(part):
        curve, counts = _median_curve(part[part["method"] == method], "step", "error")
        _draw_curve(axes, method, curve, legend_label(method, counts, "diverged"))
        curves.append(curve)
    cut = _end_axis(axes, curves)
    log_scale(axes)
    axes.set(xlabel="base gradient steps", ylabel=f"{SPLITS[split]} error ({metric})")
    headline(figure, f"{place}: {group} tasks", _curve_key(axes, "diverged", cut))
    figure.legend(loc="outside right upper")
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
    figure, panels = new_figure(7.2, 3.6)
    axes = panels[0, 0]
    last, curves = histories["generation"].max(), []
    for method in present(histories):
        rows = histories[histories["method"] == method]
        curve, counts = _median_curve(rows, "generation", "best_fitness")
        if len(curve) == 1:
            curve = pd.concat([curve, curve.set_axis([max(last, 1)])])
        _draw_curve(axes, method, curve, legend_label(method, counts, "failed"))
        curves.append(curve)
    cut = _end_axis(axes, curves)
    log_scale(axes)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="generation", ylabel=f"best fitness so far ({metric})")
    headline(figure, f"{place}: meta-training", _curve_key(axes, "failed", cut))
    figure.legend(loc="outside right upper")
    return figure
