"""The largest disagreements with the papers, and what is known of their causes, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from evomal_paper.comparison.verdicts import DIRECTION, NOT, is_counted
from evomal_paper.experiments.catalogue import profile_table
from evomal_paper.published.tables import LABELS
from evomal_paper.sentences import count_seeds

SKEWED = 2.0
"""A mean and a median further apart than this factor are the work of few runs."""


def in_words(cells: pd.DataFrame, values: pd.DataFrame, changed: pd.DataFrame, most: int = 3) -> str:
    """The cells whose measured mean lies furthest from the published one, as a factor, each with its causes.

    Runs under the papers' own settings and smaller or varied ones are listed apart. Hours are left out: they are
    another machine's.

    Args:
        cells: the table of `verdicts.every_cell`.
        values: `Evidence.values`.
        changed: the table of `variants.variants`.
        most: how many of each list are named.
    """
    far = cells[cells["headline"] & cells["verdict"].isin([NOT, DIRECTION]) & (cells["mean"] > 0)]
    far = far[far["table"] != "V"]
    factors = (far["mean"] / far["published mean"]).map(np.log).abs()
    far = far.loc[factors.sort_values(ascending=False).index]
    as_stated = far["profile"].str.startswith("paper").astype(bool)
    lines = []
    for title, part in (("the settings of the papers", far[as_stated]), ("other settings", far[~as_stated])):
        if len(part):
            lines += ["", f"The largest disagreements under {title} (measured ÷ published mean):", ""]
            lines += [_line(cell, cells, values, changed) for cell in part[:most].to_dict("records")]
    return "\n".join(lines).strip() + "\n"


def _line(cell: dict[str, Any], cells: pd.DataFrame, values: pd.DataFrame, changed: pd.DataFrame) -> str:
    group = f", {cell['group']}" if cell["table"] == "2" else ""
    ratio = cell["mean"] / cell["published mean"]
    return (
        f"- **{LABELS[cell['method']]} on {cell['experiment']}{group}**: "
        f"{f'{ratio:.3g}' if ratio < 1000 else f'{ratio:,.0f}'} times "
        f"({cell['mean']:.4g} for {cell['published mean']:.4g}; profile `{cell['profile']}`, n = {cell['n']}; "
        f"{cell['verdict']}: {cell['why']}). " + " ".join(_causes(cell, cells, values, changed))
    )


def _causes(
    cell: dict[str, Any], cells: pd.DataFrame, values: pd.DataFrame, changed: pd.DataFrame
) -> Iterator[str]:
    place = ["table", "experiment", "profile", "group", "split", "method"]
    errors = values.loc[_rows(values, cell, place), "value"]
    median = errors.median()
    if abs(np.log(median / cell["mean"])) > np.log(SKEWED):
        shown = f"{median:.3g}" if np.isfinite(median) else "infinite"
        yield f"Few of the {count_seeds(len(errors))} make that mean: the median is {shown}."
    tried = changed[_rows(changed, cell, ["experiment", "profile", "group", "method"])]
    if nearer := [f"`{row['change']}` ({row['varied']:.3g})" for row in tried[tried["nearer"]].to_dict("records")]:
        yield (
            "Over the seeds that both were run with, the median is half as far from the published mean, or less, "
            f"with {', '.join(nearer)}."
        )
    if others := [f"`{change}`" for change in tried.loc[~tried["nearer"].astype(bool), "change"]]:
        said = "Not so" if nearer else "The median is not half as far from the published mean"
        yield f"{said} with {', '.join(others)}."
    same = cells[_rows(cells, cell, ["table", "experiment", "group", "method", "split"])]
    same = same[same["profile"].map(is_counted).astype(bool) & (same["profile"] != cell["profile"])]
    if elsewhere := [f"{row['mean']:.3g} (`{row['profile']}`)" for row in same.to_dict("records")]:
        yield f"Under other profiles the mean is {', '.join(elsewhere)}."
    base = cell["profile"].partition("@")[0]
    if base != "paper":
        settings = profile_table(cell["experiment"], base).set_axis(["name", "stated", "own"], axis=1)
        listed = ", ".join(
            f"{row['name'].removeprefix('search.')} {_size(row, 'own')} (paper: {_size(row, 'stated')})"
            for row in settings[~settings["name"].isin(["seeds", "points"])].to_dict("records")
        )
        yield f"Its settings are not the paper's, which alone may explain it: {listed}."
    elif tried.empty and not elsewhere:
        yield "No setting was varied to find its cause."


def _size(row: dict[str, Any], whose: str) -> str:
    return "all" if row[whose] == 0 and row["name"] in ("images", "test_images") else str(row[whose])


def _rows(table: pd.DataFrame, cell: dict[str, Any], names: list[str]) -> np.ndarray:
    same = [table[name].astype(str) == str(cell[name]) for name in names]
    return np.logical_and.reduce(same)
