"""Comparisons with the papers as tables for reading, made from those of `verdicts`, and what is not run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import NEW, NOT_RUN, UNPUBLISHED, compare, decided
from evomal_paper.datasets.catalogue import DataSet
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.experiments.profiles import Experiment, split_name
from evomal_paper.experiments.tabular import split_of
from evomal_paper.published.tables import LABELS, SPLITS, published
from evomal_paper.sentences import printed, text_table
from evomal_paper.statistics import paired, paired_methods

ROWS: dict[str, Experiment] = {name: each for name, each in EXPERIMENTS.items() if each.table == "II"}
"""The stand-ins on digits, the thirteen rows in the table's order, and the other targets of Table IV."""


def readable(comparison: pd.DataFrame) -> pd.DataFrame:
    """A comparison for reading: one row per experiment, group and method; columns published, and each part's
    measured value, that from new starts if the comparison has it, and verdict.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in comparison.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["group"], cell["method"]), {})
        part = SPLITS[cell["split"]]
        row["published"] = printed(cell, "published ")
        row[f"measured, {part}"] = printed(cell)
        if NEW[0] in cell:
            row[f"from new starts, {part}"] = printed(cell, "new ")
        row[f"verdict, {part}"] = "" if cell["verdict"] == UNPUBLISHED else cell["verdict"]
    return text_table(rows, ["experiment", "group", "method"])


def cell_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of `verdicts.every_cell`, for reading: a row per published one, profile and part of the task."""
    rows = []
    for cell in cells.to_dict("records"):
        row = {name: cell[name] for name in ("experiment", "group")} | {"method": LABELS[cell["method"]]}
        row["published"] = _numbers_of(cell, "published ")
        row["profile"] = ", ".join(name for name in (cell["profile"], SPLITS.get(cell["split"])) if name)
        row["measured"] = _numbers_of(cell) if cell["verdict"] != NOT_RUN else ""
        row["from new starts"] = _numbers_of(cell, "new ") if cell.get("new diverged", np.nan) >= 0 else ""
        row["difference"] = _interval(cell) if np.isfinite(cell["low"]) else ""
        rows.append(row | {"verdict": cell["verdict"], "why": cell["why"]})
    table = pd.DataFrame(rows)
    return table if table.empty or table["group"].nunique() > 1 else table.drop(columns="group")


def _numbers_of(cell: dict, whose: str = "") -> str:
    """`3.028 ± 1.0911 (10)`, with n and the diverged in brackets; published numbers as they are printed."""
    published = ".4f" if cell["metric"] in ("MSE", "error rate") else "g"
    digits = (published, published) if whose == "published " else (".4g", ".2g")
    mean, sd = (format(cell[whose + name], how) for name, how in zip(("mean", "sd"), digits, strict=True))
    lost = cell.get(f"{whose}diverged", 0)
    count = f"{cell.get(f'{whose}n', cell['n']):g}" + (f", {lost:g} diverged" if lost else "")
    return f"{'–' if mean == 'nan' else mean}{'' if sd == 'nan' else f' ± {sd}'} ({count})".replace(" ", "\u00a0")


def _interval(cell: dict) -> str:
    low, high, difference = (f"{cell[name]:+.3g}".replace("-", "−") for name in ("low", "high", "difference"))
    return f"{difference} [{low},\u00a0{high}]"


def claim_table(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims in words with their verdicts, for reading: a row per claim and profile."""
    papers = claims["paper"].map({"gecco23": "GECCO'23", "tpami23": "TPAMI'23"})
    table = claims.assign(where=papers + ", " + claims["section"], claim=claims["text"])
    stated = ["where", "claim", "rule"]
    table[stated] = table[stated].where(claims["headline"], "")  # said once for all profiles
    return table[["where", "claim", "profile", "verdict", "finding", "rule"]]


# ---- TPAMI Table II, row by row ------------------------------------------------------------------------


def table_ii(final: pd.DataFrame) -> pd.DataFrame:
    """Table II: published and measured held-out error of each row, mean ± standard deviation (seeds).

    All rows of the table are there, and others that were run, by `Results.compared` or `Results.final` of a
    profile.
    """
    measured = compare(final[final["split"] == "test"], "II")
    kinds = {"published": (published("II"), ""), "measured": (measured, "")}
    if NEW[0] in measured:
        kinds["from new starts"] = measured, "new "
    rows: dict[tuple[str, str], dict[str, str]] = {(name, kind): {} for name in ROWS for kind in kinds}
    for kind, (cells, whose) in kinds.items():
        for cell in cells.to_dict("records"):
            rows[cell["experiment"], kind][cell["method"]] = printed(cell, whose)
    lines = {key: row for key, row in rows.items() if row}
    index = pd.MultiIndex.from_tuples(list(lines), names=["row", "error"])
    table = pd.DataFrame(list(lines.values()), index=index).fillna("–")
    return table[[method for method in METHODS if method in table]].rename(columns=LABELS)


def not_run(rows: Sequence[str], profile: str) -> pd.DataFrame:
    """The rows of the table that are not run: why not, rough time on two cores, and the commands that run them."""
    base, _ = split_name(profile)
    absent: dict[DataSet | None, bool] = {}  # each data set is read once
    table = []
    for name, row in ROWS.items():
        if "Table IV" in row.source or name in rows:
            continue
        if row.dataset not in absent:
            absent[row.dataset] = row.missing() is not None
        need = absent[row.dataset]
        found = {"row": name, "why": "its data is not at hand" if need else "not named in rows"}
        found["minutes on two cores"] = f"{row.minutes.get(base, row.minutes['paper']):,}"
        download = f"evomal data {row.dataset.name} --download; " if need and row.dataset else ""
        table.append(found | {"how": f"{download}evomal run {name} --profile {profile}"})
    return pd.DataFrame(table, columns=["row", "why", "minutes on two cores", "how"])


# ---- TPAMI Table III, under both splits ------------------------------------------------------------------


def table_iii(final: pd.DataFrame) -> pd.DataFrame:
    """Table III beside the measured test errors, columns for each split: mean ± standard deviation (seeds).

    The verdict is on the leaking cell, which the published one can be compared with. On disjoint rows only new
    starts are shown, where both are known: nothing published is beside.

    Of `Results.compared` or `Results.final` of tabular runs under one profile and its variants by split.
    """
    cells = compare(final[final["split"] == "test"], "III")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in cells.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["method"]), {})
        row["published"] = printed(cell, "published ")
        split = split_of(cell["profile"])
        if split == "leaking" or NEW[0] not in cell:
            row[split] = printed(cell)
        if NEW[0] in cell:
            row[f"{split}, new starts"] = printed(cell, "new ")
        if split == "leaking":
            row["leaking beside published"] = cell["verdict"]
    columns = ["published", "leaking", "leaking beside published", "leaking, new starts"]
    columns += ["disjoint", "disjoint, new starts"]
    table = text_table(rows, ["experiment", "method"]).fillna("–")
    return table[[name for name in columns if name in table]]


def orders(final: pd.DataFrame) -> pd.DataFrame:
    """Whether the best method of Table III is below each other one, under each split.

    As published, EvoMAL has the lowest mean on Diabetes and California, and the baseline on Boston. A published
    order is "kept" if the best method's measured mean test error is below the other's, and "lost" if it is not;
    a diverged run makes a mean infinite. One seed decides nothing: "undecided".

    Returns:
        One row per experiment, split and other method: best, other, by_chance (whether chance explains the
        published order: means closer than 1.96 standard errors), ours and theirs (means), n, wins (seeds at
        which the best method's error is smaller), effect, p (paired, see `statistics.paired`) and verdict.
    """
    cells = published("III").query("experiment in @final.experiment.unique()")
    rows: list[dict[str, Any]] = []
    tests = final[(final["split"] == "test") & (final["group"] == "in-sample")]
    for (experiment, profile), part in tests.groupby(["experiment", "profile"], observed=True, sort=False):
        numbers = cells[cells["experiment"] == experiment].set_index("method")[["mean", "sd", "n"]]
        best = str(numbers["mean"].idxmin())
        others = [name for name in METHODS if name in numbers.index and name != best]
        for other, ours, theirs in paired_methods(part, "error", best, others):
            row = {"experiment": experiment, "split": split_of(str(profile)), "best": best, "other": other}
            row["by_chance"] = not decided(tuple(numbers.loc[best]), tuple(numbers.loc[other]))
            row |= {"ours": ours.mean(), "theirs": theirs.mean(), **paired(ours, theirs)}
            row["verdict"] = "undecided" if len(ours) < 2 else "kept" if row["ours"] < row["theirs"] else "lost"
            rows.append(row)
    columns = ["experiment", "split", "best", "other", "by_chance", "ours", "theirs", "n", "wins", "effect", "p"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])
