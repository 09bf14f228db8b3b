"""TPAMI Table II row by row: which rows are run, and what was measured beside what is published."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import NEW, compare
from evomal_paper.datasets.catalogue import DataSet
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.experiments.profiles import Experiment
from evomal_paper.published.tables import LABELS, published
from evomal_paper.sentences import printed

ROWS: dict[str, Experiment] = {name: each for name, each in EXPERIMENTS.items() if each.table == "II"}
"""The stand-ins on digits, the thirteen rows in the table's order, and the other targets of Table IV."""
MINUTES = 20
"""Rows whose `quick` profile takes longer on two cores are run only if they are named."""


def check_rows(values: Sequence[str]) -> list[str]:
    """The rows named, or if there are none those that take minutes and whose data is at hand.

    Raises:
        ValueError: a row is unknown, named twice, or its data is not at hand.
    """
    if not values:
        return [name for name, row in ROWS.items() if row.minutes["quick"] <= MINUTES and not row.missing()]
    for value in values:
        refuse_unknown("row", value, list(ROWS))
        if missing := ROWS[value].missing():
            raise ValueError(missing)
    if len(set(values)) < len(values):
        raise ValueError("a row is named more than once")
    return list(values)


def table_ii(final: pd.DataFrame) -> pd.DataFrame:
    """Table II: published and measured held-out error of each row, mean ± standard deviation (seeds).

    All rows of the table are there, and others that were run.

    Args:
        final: `Results.compared` or `Results.final` of rows under one profile.
    """
    measured = compare(final[final["split"] == "test"], "II")
    kinds = {"published": _cells(published("II")), "measured": _cells(measured)}
    if NEW[0] in measured:
        new = measured.drop(columns=["mean", "sd", "diverged"])
        kinds["from new starts"] = _cells(new.rename(columns={name: name.removeprefix("new ") for name in NEW}))
    lines = {(name, kind): cells[name] for name in ROWS for kind, cells in kinds.items() if name in cells}
    index = pd.MultiIndex.from_tuples(list(lines), names=["row", "error"])
    table = pd.DataFrame(list(lines.values()), index=index).fillna("–")
    return table[[method for method in METHODS if method in table]].rename(columns=LABELS)


def _cells(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Printed cells of each experiment by method."""
    found: dict[str, dict[str, str]] = {}
    for cell in table.to_dict("records"):
        found.setdefault(cell["experiment"], {})[cell["method"]] = printed(cell)
    return found


def not_run(rows: Sequence[str], profile: str) -> pd.DataFrame:
    """The rows of the table that are not run: why not, rough time on two cores, and the commands that run them."""
    base = profile.partition("@")[0]
    absent: dict[DataSet | None, bool] = {}  # each data set is read once
    table = []
    for name, row in ROWS.items():
        if "Table IV" in row.source or name in rows:
            continue
        if row.dataset not in absent:
            absent[row.dataset] = row.missing() is not None
        need = absent[row.dataset]
        table.append(
            {
                "row": name,
                "why": "its data is not at hand" if need else "not named in rows",
                "minutes on two cores": f"{row.minutes[base]:,}",
                "how": (f"evomal data {row.dataset.name} --download; " if need and row.dataset else "")
                + f"evomal run {name} --profile {profile}",
            }
        )
    return pd.DataFrame(table, columns=["row", "why", "minutes on two cores", "how"])
