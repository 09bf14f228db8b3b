"""Figure of the speed-up of searches by the number of workers."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from evomal_paper.plots.style import loss_line, new_figure, styled


@styled
def speed_up_by_workers(table: pd.DataFrame) -> Figure:
    """Speed-up against the number of workers on logarithmic axes, a line per case, and the diagonal.

    Args:
        table: that of `scaling.scaling`.
    """
    figure, grid = new_figure(6.4, 4.2)
    axes = grid[0, 0]
    workers = sorted(table["workers"].unique())
    axes.plot(workers, workers, color="0.6", linewidth=1, linestyle=":", label="as many times as workers")
    for number, (name, part) in enumerate(table.groupby("case", sort=False)):
        axes.plot(part["workers"], part["speed-up"], label=name, **loss_line(name, number))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(xlabel="workers", ylabel="speed-up against one process (simulated)")
    axes.legend(frameon=False)
    return figure
