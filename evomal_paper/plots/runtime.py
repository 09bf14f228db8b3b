"""Figures of the runtime notebook: seconds by phase, and TPAMI Figure 5."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from evomal_paper.analysis.runtime import OUTCOMES, PHASES, count_runs
from evomal_paper.plots import style
from evomal_paper.published.tables import LABELS

PHASE_COLOURS = ["#D55E00", "#999999", "#CDE6F5"]
"""A colour for each phase, told apart in grey too."""


@style.styled
def seconds_by_phase(spent: pd.DataFrame) -> Figure:
    """Seconds of meta-training, stacked by phase; a panel per experiment, a bar per method.

    Of `runtime.seconds` of one profile; baselines, without meta-training, are left out.
    """
    title = f"profile {spent['profile'].iloc[0]}: meta-training by phase"
    spent = spent[spent["method"].astype(str) != "baseline"]
    if spent.empty:
        return style.empty_figure(title, "nothing to show: only the baseline was run, which has no meta-training")
    names = list(dict.fromkeys(spent["experiment"]))
    figure, panels = style.new_panels(len(names), 2.6, 2.2)
    for axes, name in zip(panels, names, strict=True):
        part = spent[spent["experiment"] == name]
        bars = part.set_index("method").reindex(style.present(part))[list(PHASES)].rename(LABELS)
        look = {"color": PHASE_COLOURS, "width": 0.8, "edgecolor": "white", "linewidth": 0.5}
        bars.plot.barh(stacked=True, ax=axes, **look)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_title(f"{name}, n = {count_runs(part['n'])}", loc="left")
        axes.set(xlabel="seconds", ylabel="")
    style.legend_outside(figure)
    return style.headline(figure, title, "bar: mean over runs")


@style.styled
def filter_frequencies(shares: pd.DataFrame) -> Figure:
    """Figure 5: what share of each generation met each filter, and was optimised and evaluated.

    Of `runtime.frequencies`.
    """
    if shares.empty:
        return style.empty_figure(
            "what becomes of EvoMAL's candidates", "nothing to show: there is no run of EvoMAL"
        )
    names = list(dict.fromkeys(shares["experiment"]))
    shown = [outcome for outcome in OUTCOMES if outcome in set(shares["outcome"])]
    size = (1.75 * len(shown) + 0.6, 1.5 * len(names) + 0.8)
    figure, grid = style.new_figure(*size, len(names), len(shown), sharey=True, sharex="row")
    for row, name in zip(grid, names, strict=True):
        for axes, outcome in zip(row, shown, strict=True):
            part = shares[(shares["experiment"] == name) & (shares["outcome"] == outcome)]
            look = {"native_scale": True, "errorbar": None, "color": "#0072B2"}
            sns.barplot(part, x="generation", y="share", ax=axes, **look)
            axes.set(ylim=(0, 1), xlabel="generation" if row is grid[-1] else "", ylabel="")
            axes.grid(visible=False, axis="x")
            axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
            if axes in grid[0]:
                axes.set_title(OUTCOMES[outcome], loc="left")
        runs = count_runs(shares.loc[shares["experiment"] == name, "n"])
        row[0].set_ylabel(f"{name}\n({runs})\nshare")
    profile = shares["profile"].iloc[0]
    return style.headline(figure, f"profile {profile}: what becomes of EvoMAL's candidates", "bar: mean over runs")
