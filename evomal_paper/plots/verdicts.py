"""Figures of the comparison with the papers: verdicts cell by cell, and measured over published."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import DIRECTION, FITTED, NOT, NOT_RUN, REPRODUCED, VERDICTS, strength
from evomal_paper.plots.style import STYLES, Picture, empty_figure, headline, log_scale, new_figure, styled
from evomal_paper.published.tables import LABELS, TABLES

COLOURS = {REPRODUCED: "#009E73", FITTED: "#CC79A7", DIRECTION: "#56B4E9", NOT: "#E69F00", NOT_RUN: "#E8E8E8"}
LETTERS = {REPRODUCED: "R", FITTED: "C", DIRECTION: "D", NOT: "N", NOT_RUN: ""}
"""Letters for readers who do not see the colours."""


def row_names(cells: pd.DataFrame) -> pd.Series:
    """The name of a cell's row: `sine, in-sample`, with the profile it was compared at."""
    groups = cells["group"].where(cells["table"] == "2", "")
    names = cells["experiment"] + groups.map(lambda group: f", {group}" if group else "")
    return names + cells["profile"].map(lambda profile: f"  ({profile})" if profile else "")


@styled
def verdict_map(cells: pd.DataFrame) -> Figure:
    """The verdict of every published cell, by experiment and method; by the headline row of each cell.

    A row names the profiles of its cells, the fairest first; white is not published. The table is that of
    `verdicts.every_cell`, as of all figures here.
    """
    shown = cells[cells["headline"]]
    tables = [table for table in TABLES if (shown["table"] == table).any()]
    rows = shown.drop_duplicates(["table", "experiment", "group"])["table"].value_counts()
    figure, grid = _stacked([rows[table] for table in tables], 0.21, 0.42, 1.6)
    for axes, table in zip(grid[:, 0], tables, strict=True):
        _draw_map(axes, shown[shown["table"] == table], table)
    keys = [Patch(color=COLOURS[verdict], label=f"{LETTERS[verdict]}  {verdict}".strip()) for verdict in VERDICTS]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), handlelength=1.2)
    first = f"Verdicts on {len(shown)} published cells, {(shown['verdict'] != NOT_RUN).sum()} of them run"
    second = "in brackets: the profile compared; of several, each cell's is the first that was run of it"
    return headline(figure, first, second)


def _stacked(rows: list[int], height: float, gap: float, head: float) -> tuple[Picture, np.ndarray]:
    """A figure of panels one above the other, each as high as its number of rows; its heads are in rows, too."""
    ratios = {"height_ratios": [count + head for count in rows]}
    return new_figure(7.6, height * sum(rows) + gap * len(rows) + 0.9, len(rows), 1, gridspec_kw=ratios)


def _draw_map(axes: Axes, cells: pd.DataFrame, table: str) -> None:
    profiles = cells.groupby(["experiment", "group"])["profile"].transform(_together)
    cells = cells.assign(row=row_names(cells.assign(profile=profiles)), code=cells["verdict"].map(VERDICTS.index))
    verdicts = cells.pivot(index="row", columns="method", values="code")
    verdicts = verdicts.reindex(index=cells["row"].unique(), columns=list(METHODS)).rename(columns=LABELS)
    letters = verdicts.map(lambda code: "" if np.isnan(code) else LETTERS[VERDICTS[int(code)]])
    colours = [COLOURS[verdict] for verdict in VERDICTS]
    look: dict[str, Any] = {"vmin": -0.5, "vmax": len(VERDICTS) - 0.5, "cmap": colours, "cbar": False}
    look |= {"fmt": "", "annot_kws": {"size": 7.5, "color": "black"}, "linewidths": 1.2}
    sns.heatmap(verdicts, annot=letters, ax=axes, **look)
    axes.set(xlabel="", ylabel="")
    axes.grid(visible=False)
    axes.set_title(TABLES[table], loc="left")
    axes.tick_params(length=0, axis="both", rotation=0)


def _together(profiles: pd.Series) -> str:
    """Profiles in one short text, the fairest first: `paper, quick@split=leaking` where that is true of both."""
    names = sorted(set(profiles) - {""}, key=strength)
    changes = {name.partition("@")[2] for name in names}
    if len(changes) > 1:
        return ", ".join(names)
    return "@".join(filter(None, [", ".join(name.partition("@")[0] for name in names), *changes]))


@styled
def ratios(cells: pd.DataFrame) -> Figure:
    """Measured over published mean of every cell that was run, with the interval of the difference as a share.

    The marker is filled where the verdict is "reproduced". An interval that reaches 0 or below ends at the edge of
    the figure; diverged runs are counted at the right; cells of which every run diverged have no point.
    """
    shown = cells[cells["headline"] & (cells["verdict"] != NOT_RUN)]
    kinds = (
        shown["table"].map({"3": "number of loss weights", "V": "hours of meta-training"}).fillna("final error")
    )
    names = ("final error", "number of loss weights", "hours of meta-training")
    panels = [(part, name) for name in names if len(part := shown[kinds == name])]
    if not panels:
        return empty_figure("Measured over published mean", "no published cell was run")
    figure, grid = _stacked([row_names(part).nunique() for part, _ in panels], 0.46, 0.75, 1.2)
    for axes, (part, name) in zip(grid[:, 0], panels, strict=True):
        _draw_ratios(axes, part)
        axes.set_xlabel(f"{name}: measured ÷ published")
    used = [method for method in METHODS if (shown["method"] == method).any()]
    keys = [
        Line2D([], [], linestyle="", color=STYLES[m].color, marker=STYLES[m].marker, label=LABELS[m]) for m in used
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), handlelength=1)
    second = (
        "filled: reproduced; bars: 95 % bootstrap interval of the difference; in brackets: the profile compared"
    )
    return headline(figure, "Measured over published mean, cell by cell", second)


def _draw_ratios(axes: Axes, cells: pd.DataFrame) -> None:
    names = row_names(cells)
    rows = {name: number for number, name in enumerate(dict.fromkeys(names))}
    published = cells["published mean"]
    points = pd.DataFrame({name: cells[name] / published for name in ("mean", "low", "high")})
    points[["low", "high"]] += 1
    finite = points.to_numpy()[np.isfinite(points.to_numpy()) & (points.to_numpy() > 0)]
    edge = min(finite.min(initial=1.0), 1.0) / 2
    diverged: dict[int, list[str]] = {}
    for cell, point, name in zip(cells.itertuples(), points.itertuples(), names, strict=True):
        style = STYLES[str(cell.method)]
        y = rows[name] + (list(METHODS).index(str(cell.method)) - 2.5) * 0.13
        if np.isfinite(point.low):
            axes.hlines(y, max(point.low, edge / 2), max(point.high, edge / 2), color=style.color, linewidth=1.1)
        if np.isfinite(point.mean):
            face = style.color if cell.verdict == REPRODUCED else "white"
            axes.plot(point.mean, y, style.marker, color=style.color, markerfacecolor=face, markersize=5.5)
        if cell.diverged:
            diverged.setdefault(rows[name], []).append(f"{LABELS[str(cell.method)]} {cell.diverged} of {cell.n}")
    for row, counts in diverged.items():
        text = "\n".join(["diverged:", *counts])
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=6.5)
    axes.axvline(1, color="0.4", linewidth=0.9, zorder=0)
    axes.set_xlim(edge, max(finite.max(initial=1.0), 1.0) * 2)
    log_scale(axes, "x")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
