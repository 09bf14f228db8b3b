"""Figures from tidy tables; nothing is computed here beyond means and spreads of groups.

Every method has one colour, line style and marker everywhere, so that figures read in grey too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evomal_core.analysis.curves import value_and_slope
from evomal_core.losses import Kind, Loss, TaskLoss
from evomal_core.paper import LABELS, SPLITS, count_seeds
from evomal_core.search import METHODS

styled = mpl.rc_context(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "grid.linewidth": 0.6,
        "axes.titlesize": 9,
        "figure.titlesize": 9.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.handlelength": 3.2,
        "pdf.fonttype": 42,
    }
)
"""What every figure is drawn and rendered with, whatever the user's own settings are."""


@dataclass(frozen=True)
class Style:
    """How one method is drawn."""

    color: str
    linestyle: Any
    marker: str


STYLES = {
    "baseline": Style("#000000", "-", "o"),
    "random": Style("#999999", (0, (1, 1.2)), "v"),
    "gp-lfl": Style("#E69F00", "--", "s"),
    "ml3": Style("#56B4E9", "-.", "^"),
    "taylorglo": Style("#009E73", (0, (6, 1.5, 1, 1.5, 1, 1.5)), "D"),
    "evomal": Style("#D55E00", "-", "*"),
}
"""Colours of Okabe & Ito (2008), told apart by colour-blind readers, in the order of METHODS."""


class Picture(Figure):
    """A matplotlib figure that Jupyter shows whatever backend is set."""

    def _repr_png_(self) -> tuple[bytes, dict[str, float]]:
        width, height = self.get_size_inches() * 96
        return render(self, "png", dpi=192), {"width": width, "height": height}


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **axes: Any
) -> tuple[Picture, np.ndarray]:
    """An empty figure of a size in inches, and its grid of axes."""
    figure = Picture(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **axes)


def headline(figure: Figure, first: str, second: str) -> None:
    """Two lines above a figure: what it shows, and how its spread is drawn."""
    figure.suptitle(f"{first}\n{second}", x=0.01, ha="left", linespacing=1.4)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF, with the same bytes whenever the data are the same.

    Args:
        figure: any matplotlib figure.
        path: with or without a suffix; `.png` and `.pdf` are written beside each other.
    """
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix in (".png", ".pdf") else stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in ("png", "pdf"):
        written.append(stem.parent / f"{stem.name}.{kind}")
        written[-1].write_bytes(render(figure, kind, dpi=200))
    return written


@styled
def render(figure: Figure, kind: str, dpi: int) -> bytes:
    """A figure as the bytes of a "png" or "pdf" file, the same whenever the data are the same."""
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, facecolor="white", metadata=undated[kind])
    return buffer.getvalue()


def present(table: pd.DataFrame) -> list[str]:
    """The methods of a table, in their one fixed order."""
    found = set(table["method"].astype(str))
    return [method for method in METHODS if method in found]


def _one_experiment(table: pd.DataFrame) -> str:
    names = table["experiment"].unique()
    if len(names) != 1:
        raise ValueError(f"a figure shows one experiment, got {', '.join(names) or 'none'}; select one first")
    return f"{names[0]}, profile {table['profile'].iloc[0]}"


def legend_label(method: str, counts: tuple[int, int], failure: str) -> str:
    """`EvoMAL (n = 5, 1 diverged)`, from the numbers of all seeds and of the finite ones."""
    n, finite = counts
    return f"{LABELS[method]} (n = {n}{f', {n - finite} {failure}' if finite < n else ''})"


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


def log_scale(axes: Axes, axis: str = "y") -> None:
    """A logarithmic axis with plain numbers, labelled also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{axis}scale")("log")
    low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
    wide = high / low > 300
    scale = axes.yaxis if axis == "y" else axes.xaxis
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    scale.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    scale.set_major_formatter(plain)
    scale.set_minor_formatter(NullFormatter() if high / low > 4 else plain)


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
    place = _one_experiment(tests)
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
    place = _one_experiment(histories)
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


@styled
def final_errors(final: pd.DataFrame, published: pd.DataFrame | None = None, metric: str = "MSE") -> Figure:
    """Error after the last step: a point per seed and the mean as a bar, one panel per group and split.

    Args:
        final: `Results.final` of one experiment.
        published: rows of `paper.published` of that experiment, drawn beside as mean ± standard deviation.
        metric: name of the error on the axis.

    Raises:
        ValueError: a table holds several experiments.
    """
    place = _one_experiment(final)
    panels = [key for key, _ in final.groupby(["split", "group"], observed=True, sort=False)]
    panels = sorted(panels, key=lambda key: (list(SPLITS).index(key[0]), key[1]))
    columns = len({group for _, group in panels}) if len({group for _, group in panels}) > 1 else len(panels)
    methods = present(final)
    size = (3.4 * columns + 0.4, 2.6 * (len(panels) // columns) + 0.5)
    figure, grid = new_figure(*size, len(panels) // columns, columns, sharey=True)
    for axes, (split, group) in zip(grid.flat, panels, strict=True):
        part = final[(final["split"] == split) & (final["group"] == group)]
        for position, method in enumerate(methods):
            errors = part.loc[part["method"] == method, "error"].to_numpy(float)
            draw_points(axes, position, method, errors)
            if published is not None:
                draw_published(axes, position + 0.32, _cell(published, group, method))
        axes.set_title(f"{group}, {SPLITS[split]} error", loc="left")
        method_axis(axes, methods)
    log_scale(grid[0, 0])
    for row in grid:
        row[0].set_ylabel(f"final error ({metric})")
    n = final.groupby(["method", "group", "split"], observed=True).size().max()
    headline(figure, f"{place}: final errors, n = {count_seeds(n)}", _points_key(published))
    return figure


def _points_key(published: pd.DataFrame | None) -> str:
    beside = "" if published is None else ", diamond: published mean ± standard deviation"
    return f"point: one seed, bar: mean{beside}"


def _cell(published: pd.DataFrame, group: str, method: str) -> pd.DataFrame:
    return published[published["group"].isin([group, ""]) & (published["method"] == method)]


def draw_points(axes: Axes, position: float, method: str, values: np.ndarray) -> None:
    """A point per finite value and a bar at their mean; the others are counted below."""
    style = STYLES[method]
    finite = values[np.isfinite(values)]
    spread = np.linspace(-0.16, 0.16, len(finite)) if len(finite) > 1 else np.zeros(len(finite))
    axes.plot(position + spread, finite, style.marker, color=style.color, markersize=5, alpha=0.75, linewidth=0)
    if len(finite):
        axes.hlines(finite.mean(), position - 0.26, position + 0.26, color=style.color, linewidth=2.2)
    if lost := len(values) - len(finite):
        text = f"{lost} of {len(values)}\ndiverged"
        backing = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
        place = (position, 0.02)
        axes.annotate(text, place, xycoords=("data", "axes fraction"), ha="center", fontsize=7, bbox=backing)


def draw_published(axes: Axes, position: float, cell: pd.DataFrame) -> None:
    """A diamond at each published mean with its standard deviation, for rows of `paper.published`."""
    for row in cell.to_dict("records"):
        mean, sd = row["mean"], 0.0 if np.isnan(row["sd"]) else row["sd"]
        below = min(sd, 0.95 * mean)  # a bar to 0 or less has no end on a logarithmic axis
        look: Any = {"fmt": "D", "color": "0.35", "markerfacecolor": "white", "markersize": 4.5, "capsize": 2}
        axes.errorbar(position, mean, [[below], [sd]], **look)


def method_axis(axes: Axes, methods: Sequence[str]) -> None:
    """Names of methods along the horizontal axis."""
    axes.set_xticks(range(len(methods)), [LABELS[method] for method in methods], rotation=30, ha="right")
    axes.set_xlim(-0.6, len(methods) - 0.4)
    axes.grid(visible=False, axis="x")


@styled
def parameter_counts(runs: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Number of trainable weights of the best losses: a point per seed, bar = mean (GECCO Table 3).

    Args:
        runs: `Results.runs` of one experiment; methods without any weight are left out.
        published: rows of `paper.published("3")` of that experiment, drawn beside.

    Raises:
        ValueError: the table holds several experiments.
    """
    place = _one_experiment(runs)
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
    headline(figure, f"{place}: size of the losses, n = {count_seeds(n)}", _points_key(published))
    return figure


@styled
def loss_shapes(
    losses: Mapping[str, Loss], kind: Kind, labels: Sequence[float] | None = None, title: str = ""
) -> Figure:
    """Value and gradient of losses beside the task loss, one column per label (TPAMI Figure 6).

    Regression: over the error f − y. Binary and multiclass: over the probability f of a class, for y = 0
    and y = 1. Values are shifted and scaled to [0, 1] within a panel, since neither an offset nor the unit
    of a loss shows in what it prefers; gradients are as they are, on an axis that is linear around 0 (arsinh).

    Args:
        losses: losses by name; names of METHODS get that method's colour and line.
        kind: the kind of all losses.
        labels: values of y for a regression; −1, 0 and 1 by default (standardised labels).
        title: said above the figure, for example of which seed the losses are.
    """
    reference = TaskLoss(kind)
    shown = {name: loss for name, loss in losses.items() if not isinstance(loss, TaskLoss)}
    if kind == "regression":
        labels, grid = labels or (-1.0, 0.0, 1.0), np.linspace(-3, 3, 301)
        x_label, name = "error f − y", "squared error"
    else:
        labels, grid = (0.0, 1.0), np.linspace(0.01, 0.99, 197)
        x_label, name = "probability f", "cross-entropy"
    figure, panels = new_figure(2.6 * len(labels) + 2.0, 4.8, 2, len(labels), sharex=True, sharey="row")
    for column, label in enumerate(labels):
        f = grid + label if kind == "regression" else grid
        for number, (known_as, loss) in enumerate([(name, reference), *shown.items()]):
            value, slope = value_and_slope(loss, f, label)
            line = loss_line(known_as, number)
            panels[0, column].plot(grid, scaled(value), label=known_as if column == 0 else None, **line)
            panels[1, column].plot(grid, slope, **line)
        panels[0, column].set_title(f"label y = {label:g}".replace("-", "−"), loc="left")
        panels[1, column].set_xlabel(x_label)
        panels[1, column].axhline(0, color="0.6", linewidth=0.8, zorder=0)
    arsinh_scale(panels[1, 0])
    panels[0, 0].set_ylabel("loss, scaled to [0, 1]")
    panels[1, 0].set_ylabel("gradient ∂M/∂f")
    figure.legend(*_unique_handles(panels[0, 0]), loc="outside right upper")
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def arsinh_scale(axes: Axes) -> None:
    """A vertical axis that is linear within ±1 and logarithmic beyond, with ticks at 0 and powers of 10."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    largest = max(map(abs, axes.get_ylim()))
    powers = 10.0 ** np.arange(0, max(1, np.ceil(np.log10(largest + 1)) + 1))
    axes.set_yscale("asinh", linear_width=1)
    axes.yaxis.set_major_locator(FixedLocator([*-powers[::-1], 0, *powers]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


def _unique_handles(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, names = axes.get_legend_handles_labels()
    return handles, [LABELS.get(name, name) for name in names]


def loss_line(name: str, number: int) -> dict[str, Any]:
    """How the loss of a name is drawn that is the number-th of its panel; number 0 is the task loss."""
    if name in STYLES and name != "baseline":
        return {"color": STYLES[name].color, "linestyle": STYLES[name].linestyle, "linewidth": 1.7}
    if number == 0:
        return {"color": "black", "linestyle": "-", "linewidth": 1.0}
    style = list(STYLES.values())[-1 - (number - 1) % (len(STYLES) - 1)]
    return {"color": style.color, "linestyle": style.linestyle, "linewidth": 1.7}


def scaled(value: np.ndarray) -> np.ndarray:
    """Values shifted and scaled to [0, 1]; constant ones become 0.5."""
    finite = value[np.isfinite(value)]
    span = np.ptp(finite) if len(finite) else 0.0
    return (value - finite.min()) / span if span > 0 else np.full_like(value, 0.5)
