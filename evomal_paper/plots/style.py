"""The one look of all figures, and the pieces that they are drawn with.

Every method has one colour, line style and marker everywhere, so that figures read in grey too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from evomal_core.search import METHODS
from evomal_paper.published.tables import LABELS

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


NEW = "error from new starts"
"""The column of `Results.compared` beside its errors."""

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
    return _with_palette(buffer) if kind == "png" else buffer.getvalue()


def _with_palette(png: io.BytesIO) -> bytes:
    """The picture with a palette of 128 colours: about a third of the bytes, and no difference to the eye."""
    smaller = io.BytesIO()
    with Image.open(png) as picture:
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


def legend_label(method: str, counts: tuple[int, int], failure: str) -> str:
    """`EvoMAL (n = 5, 1 diverged)`, from the numbers of all seeds and of the finite ones."""
    n, finite = counts
    return f"{LABELS[method]} (n = {n}{f', {n - finite} {failure}' if finite < n else ''})"


def outside_legend(figure: Figure, axes: Axes, **options: Any) -> None:
    """Draw the legend of some axes to the right of all panels."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", **options)


def log_scale(axes: Axes, axis: str = "y") -> None:
    """A logarithmic axis with plain numbers, labelled also where it spans less than a decade."""
    getattr(axes, f"set_{axis}scale")("log")
    low, high = axes.get_ylim() if axis == "y" else axes.get_xlim()
    wide = high / low > 300
    scale = axes.yaxis if axis == "y" else axes.xaxis
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    scale.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    scale.set_major_formatter(plain)
    scale.set_minor_formatter(NullFormatter() if high / low > 4 else plain)


def draw_points(
    axes: Axes, position: float, method: str, values: np.ndarray, half: float = 0.26, hollow: bool = False
) -> None:
    """A point per finite value and a bar, of so much to each side, at their mean; the others are counted below."""
    style = STYLES[method]
    finite = values[np.isfinite(values)]
    spread = np.linspace(-0.6, 0.6, len(finite)) * half if len(finite) > 1 else np.zeros(len(finite))
    look: Any = {"color": style.color, "markersize": 5, "alpha": 0.75, "linewidth": 0}
    look["markerfacecolor"] = "white" if hollow else style.color
    axes.plot(position + spread, finite, style.marker, **look)
    if len(finite):
        width = 1.2 if hollow else 2.2
        axes.hlines(finite.mean(), position - half, position + half, color=style.color, linewidth=width)
    if lost := len(values) - len(finite):
        text = f"{lost} of {len(values)}\ndiverged"
        backing = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
        place = (position, 0.02)
        axes.annotate(text, place, xycoords=("data", "axes fraction"), ha="center", fontsize=7, bbox=backing)


def draw_errors(axes: Axes, position: float, method: str, errors: pd.DataFrame) -> None:
    """`draw_points` of errors, with those from new starts hollow beside them if the table has both."""
    values = errors["error"].to_numpy(float)
    if NEW not in errors:
        draw_points(axes, position, method, values)
        return
    draw_points(axes, position - 0.19, method, values, 0.15)
    draw_points(axes, position + 0.13, method, errors[NEW].to_numpy(float), 0.15, hollow=True)


def points_key(errors: pd.DataFrame, published: bool) -> str:
    """What the marks of `draw_errors` and `draw_published` mean."""
    new = "; hollow: from new starts" if NEW in errors else ""
    return f"point: one seed, bar: mean{new}" + (
        "; diamond: published mean ± standard deviation" if published else ""
    )


def leave_room_for_diverged(axes: Axes, errors: pd.DataFrame) -> None:
    """On a logarithmic axis, room below all points for the counts of `draw_points`, if any error is infinite."""
    if np.isinf(errors.filter(["error", NEW])).any(axis=None):
        low, high = axes.get_ylim()
        axes.set_ylim(low / (high / low) ** 0.2, high)


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


def arsinh_scale(axes: Axes) -> None:
    """A vertical axis that is linear within ±1 and logarithmic beyond, with ticks at 0 and powers of 10."""
    largest = max(map(abs, axes.get_ylim()))
    powers = 10.0 ** np.arange(0, max(1, np.ceil(np.log10(largest + 1)) + 1))
    axes.set_yscale("asinh", linear_width=1)
    axes.yaxis.set_major_locator(FixedLocator([*-powers[::-1], 0, *powers]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.yaxis.set_minor_locator(NullLocator())


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
