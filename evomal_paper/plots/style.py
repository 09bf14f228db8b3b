"""The one look of all figures, on seaborn, and the pieces that they are drawn with.

Every method has one colour, line style and marker everywhere, so that figures read in grey too.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    NullFormatter,
    NullLocator,
)
from PIL import Image

from evomal_core.search import METHODS
from evomal_paper.published.tables import LABELS

styled = mpl.rc_context(
    {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("paper"),
        "axes.edgecolor": "0.4",
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.titlesize": 9.5,
        "font.sans-serif": ["DejaVu Sans"],
        "grid.color": "0.9",
        "legend.frameon": False,
        "legend.handlelength": 3.2,
    }
)
"""Decorator: draw and render with the project's look, whatever the user's own settings are."""


@dataclass(frozen=True)
class Style:
    """Look of one method; dashes are lengths of segments and gaps, none for a solid line."""

    color: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Options of matplotlib's `plot`."""
        return {"color": self.color, "linestyle": (0, self.dashes) if self.dashes else "-", "linewidth": 1.7}


NEW = "error from new starts"
"""The column of `Results.compared` beside its errors."""

STYLES = {
    "baseline": Style("#000000", (), "o"),
    "random": Style("#999999", (1, 1.2), "v"),
    "gp-lfl": Style("#E69F00", (3.7, 1.6), "s"),
    "ml3": Style("#56B4E9", (6.4, 1.6, 1, 1.6), "^"),
    "taylorglo": Style("#009E73", (6, 1.5, 1, 1.5, 1, 1.5), "D"),
    "evomal": Style("#D55E00", (), "*"),
}
"""Colours of Okabe & Ito (2008), told apart by colour-blind readers, in the order of METHODS."""

PALETTE = {method: style.color for method, style in STYLES.items()}


def by_method(table: pd.DataFrame, labels: Mapping[str, str] = LABELS, lines: bool = True) -> dict[str, Any]:
    """Return the options of a seaborn plot of a table that gives each method its colour, marker and dashes."""
    if table.empty:
        return {"data": table}
    styles = {labels[method]: STYLES[method] for method in present(table)}
    options: dict[str, Any] = {"data": table.assign(label=table["method"].astype(str).map(labels))}
    options |= {"hue": "label", "style": "label", "hue_order": list(styles), "style_order": list(styles)}
    options["palette"] = {name: style.color for name, style in styles.items()}
    options["markers"] = {name: style.marker for name, style in styles.items()}
    return options | ({"dashes": {name: style.dashes or "" for name, style in styles.items()}} if lines else {})


class Picture(Figure):
    """A matplotlib figure that Jupyter shows whatever backend is set."""

    def _repr_png_(self) -> tuple[bytes, dict[str, float]]:
        width, height = self.get_size_inches() * 96
        return render(self, dpi=200), {"width": width, "height": height}


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **axes: Any
) -> tuple[Picture, np.ndarray]:
    """An empty figure of a size in inches, and its grid of axes."""
    figure = Picture(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **axes)


def new_panels(count: int, width: float, height: float, columns: int = 3) -> tuple[Picture, list[Axes]]:
    """An empty figure of panels of a size in inches, in rows of some columns."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, grid = new_figure(max(width * columns, 4.8) + 0.4, height * rows + 0.9, rows, columns)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def empty_figure(first: str, second: str) -> Picture:
    """A figure that says why it shows nothing."""
    figure, grid = new_figure(6.4, 0.7)
    grid[0, 0].set_axis_off()
    return headline(figure, first, second)


def headline(figure: Picture, first: str, second: str) -> Picture:
    """A figure with two lines above it: what it shows, and how its spread is drawn."""
    figure.suptitle(f"{first}\n{second}", x=0.01, ha="left", linespacing=1.4)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, with the same bytes whenever the data are the same."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(render(figure, dpi=200))
    return path


@styled
def render(figure: Figure, dpi: int) -> bytes:
    """A figure as the bytes of a PNG file, with a palette of 128 colours: a third of the bytes, the same look."""
    exact, smaller = io.BytesIO(), io.BytesIO()
    figure.savefig(exact, format="png", dpi=dpi, facecolor="white", pil_kwargs={"compress_level": 0})
    with Image.open(exact) as picture:
        colours = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        colours.save(smaller, format="png", optimize=True, dpi=picture.info["dpi"])
    return smaller.getvalue()


def present(table: pd.DataFrame) -> list[str]:
    """The methods of a table, in their one fixed order."""
    found = set(table["method"].astype(str))
    return [method for method in METHODS if method in found]


def one_experiment(table: pd.DataFrame) -> str:
    """`sine, profile quick`: what a figure of one experiment shows; a table of several is refused."""
    names = table["experiment"].unique()
    if len(names) != 1:
        raise ValueError(f"a figure shows one experiment, got {', '.join(names) or 'none'}; select one first")
    return f"{names[0]}, profile {table['profile'].iloc[0]}"


def legend_outside(figure: Figure, where: Any = "right center", **options: Any) -> None:
    """One legend for all panels, outside of them, in place of their own."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
        if own := axes.get_legend():
            own.remove()
    options["loc"] = f"outside {where}"
    figure.legend(list(found.values()), list(found), **options)


def log_scale(axes: Axes, axis: str = "y") -> None:
    """A logarithmic axis with plain numbers, labelled also where it spans less than a decade.

    Where some are a million or more, or below 0.0001, all are powers of 10. It stays linear if nothing above 0 is
    drawn.
    """
    together = getattr(axes, f"get_shared_{axis}_axes")().get_siblings(axes)
    if not any(np.isfinite(getattr(each.dataLim, f"minpos{axis}")) for each in together):
        return
    axes.set(**{f"{axis}scale": "log"})
    low, high = getattr(axes, f"get_{axis}lim")()
    wide, scale = high / low > 300, getattr(axes, f"{axis}axis")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    powers = wide and (high >= 1e6 or low < 1e-4)
    scale.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    scale.set_major_formatter(LogFormatterMathtext() if powers else plain)
    scale.set_minor_formatter(NullFormatter() if high / low > 4 else plain)


def draw_seeds(axes: Axes, table: pd.DataFrame, value: str, methods: Sequence[str]) -> None:
    """A point per seed and a bar at their mean for each method; diverged seeds are counted above them.

    Errors from new starts, if the table has them, stand hollow beside.
    """
    table = table.assign(method=table["method"].astype(str))
    _strip(axes, table, value, methods, -0.16 if NEW in table else 0.0)
    if NEW in table:
        _strip(axes, table, NEW, methods, 0.1, hollow=True)
    axes.set_xticks(range(len(methods)), [LABELS[method] for method in methods], rotation=30, ha="right")
    axes.set(xlabel="", xlim=(-0.6, len(methods) - 0.4))
    axes.grid(visible=False, axis="x")


def _strip(
    axes: Axes, table: pd.DataFrame, value: str, methods: Sequence[str], shift: float, hollow: bool = False
) -> None:
    """Draw points and means, at a distance from the methods' places on the axis."""
    places = {method: place + shift for place, method in enumerate(methods)}
    look: dict[str, Any] = {"data": table.assign(place=table["method"].map(places)), "x": "place", "y": value}
    look |= {"hue": "method", "hue_order": methods, "palette": PALETTE, "legend": False, "ax": axes}
    drawn = len(axes.collections)
    sns.stripplot(**look, jitter=False, native_scale=True, size=5, alpha=0.6)
    for points in axes.collections[drawn:] if hollow else ():
        points.set(edgecolor=points.get_facecolor(), facecolor="white", linewidth=1.0)
    bar = {"markersize": 12, "markeredgewidth": 1.2} if hollow else {"markersize": 16, "markeredgewidth": 2.2}
    sns.pointplot(**look, errorbar=None, native_scale=True, linestyle="none", marker="_", **bar)
    diverged = table[np.isinf(table[value])].groupby("method").size()
    text: Any = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": "small"}
    text["ha"] = "left" if hollow else "right"
    for method, lost in diverged.items():
        axes.annotate(f"↑{lost}", (places[str(method)], 1.0), color=PALETTE[str(method)], **text)


def points_key(errors: pd.DataFrame, published: bool) -> str:
    """Explain the marks of `draw_seeds` and `draw_published`."""
    marks = ["point: one seed, bar: mean"]
    if NEW in errors:
        marks.append("hollow: from new starts")
    if published:
        marks.append("diamond: published mean ± standard deviation")
    lost = np.isinf(errors[[column for column in ("error", NEW) if column in errors]]).any(axis=None)
    return "; ".join(marks) + ("\n↑k: k seeds diverged" if lost else "")


def draw_published(axes: Axes, methods: Sequence[str], published: pd.DataFrame) -> None:
    """A diamond at each published mean with its standard deviation, right of its method's measured ones."""
    cells = published[published["method"].isin(methods)]
    sd = cells["sd"].fillna(0.0)
    below = np.minimum(sd, 0.95 * cells["mean"])  # a bar to 0 or less has no end on a logarithmic axis
    places = [methods.index(method) + 0.36 for method in cells["method"]]
    look: Any = {"fmt": "D", "color": "0.35", "markerfacecolor": "white", "markersize": 4.5, "capsize": 2}
    axes.errorbar(places, cells["mean"], [below, sd], **look)


def arsinh_scale(axes: Axes) -> None:
    """A vertical axis that is linear within ±1 and logarithmic beyond, with ticks at 0 and powers of 10."""
    largest = max(map(abs, axes.get_ylim()))
    powers = 10.0 ** np.arange(0, max(1, np.ceil(np.log10(largest + 1)) + 1))
    axes.set_yscale("asinh", linear_width=1)
    axes.yaxis.set_major_locator(FixedLocator([*-powers[::-1], 0, *powers]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


def loss_line(name: str, number: int) -> dict[str, Any]:
    """Look of the loss of a name that is the number-th of its panel; number 0 is the task loss."""
    if name in STYLES and name != "baseline":
        return STYLES[name].line
    if number == 0:
        return {"color": "black", "linestyle": "-", "linewidth": 1.0, "zorder": 3}  # thin, on top of the others
    return list(STYLES.values())[-1 - (number - 1) % (len(STYLES) - 1)].line


def scaled(value: np.ndarray) -> np.ndarray:
    """Values shifted and scaled to [0, 1]; constant ones become 0.5."""
    finite = value[np.isfinite(value)]
    span = np.ptp(finite) if len(finite) else 0.0
    return (value - finite.min()) / span if span > 0 else np.full_like(value, 0.5)
