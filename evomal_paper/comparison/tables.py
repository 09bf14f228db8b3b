"""Comparisons with the papers as tables for reading, made from those of `verdicts`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import (
    NEW,
    NOT_RUN,
    UNPUBLISHED,
)
from evomal_paper.published.tables import LABELS, SPLITS
from evomal_paper.sentences import mean_and_sd


def readable(comparison: pd.DataFrame) -> pd.DataFrame:
    """A comparison for reading: one row per experiment, group and method; columns published, and each part's
    measured value, that from new starts if the comparison has it, and verdict.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in comparison.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["group"], cell["method"]), {})
        row["published"] = mean_and_sd(*(cell[f"published {name}"] for name in ("mean", "sd", "n")))
        part = SPLITS[cell["split"]]
        row[f"measured, {part}"] = mean_and_sd(*(cell[name] for name in ("mean", "sd", "n", "diverged")))
        if NEW[0] in cell:
            row[f"from new starts, {part}"] = mean_and_sd(cell["new mean"], cell["new sd"], cell["n"], _lost(cell))
        row[f"verdict, {part}"] = "" if cell["verdict"] == UNPUBLISHED else cell["verdict"]
    order = sorted(rows, key=lambda key: (*_first_seen(rows, key), list(METHODS).index(key[2])))
    index = pd.MultiIndex.from_tuples(order, names=["experiment", "group", "method"])
    return pd.DataFrame([rows[key] for key in order], index=index)


def _first_seen(rows: Iterable[tuple[str, str, str]], key: tuple[str, str, str]) -> tuple[int, int]:
    experiments, groups = (list(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    return experiments.index(key[0]), groups.index(key[1])


def cell_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Published cells beside the measured ones, for reading: a row per cell, profile and part of the task.

    Args:
        cells: the table of `verdicts.every_cell`, or some of its rows.
    """
    rows = []
    for cell in cells.to_dict("records"):
        run = cell["verdict"] != NOT_RUN
        known = np.isfinite(cell["low"])
        rows.append(
            {
                "experiment": cell["experiment"],
                "group": cell["group"],
                "method": LABELS[cell["method"]],
                "published": _numbers_of(cell, "published "),
                "profile": ", ".join(name for name in (cell["profile"], SPLITS.get(cell["split"])) if name),
                "measured": _numbers_of(cell) if run else "",
                "from new starts": _from_new(cell),
                "difference": _interval(cell) if known else "",
                "verdict": cell["verdict"],
                "why": cell["why"],
            }
        )
    table = pd.DataFrame(rows)
    return table if table.empty or table["group"].nunique() > 1 else table.drop(columns="group")


def _numbers_of(cell: dict, whose: str = "") -> str:
    """`3.028 ± 1.0911 (10)`, with n and the diverged in brackets; published numbers as they are printed."""
    printed = ".4f" if cell["metric"] in ("MSE", "error rate") else "g"
    digits = (printed, printed) if whose else (".4g", ".2g")
    mean, sd = (format(cell[whose + name], how) for name, how in zip(("mean", "sd"), digits, strict=True))
    diverged = f", {cell['diverged']} diverged" if cell["diverged"] and not whose else ""
    text = f"{'–' if mean == 'nan' else mean}{'' if sd == 'nan' else f' ± {sd}'} ({cell[whose + 'n']:g}{diverged})"
    return text.replace(" ", "\u00a0")


def _from_new(cell: dict) -> str:
    """Numbers of a cell from new starts; "" for what has no start."""
    if np.isnan(cell.get("new diverged", np.nan)):
        return ""
    new = {name: cell[f"new {name}"] for name in ("mean", "sd")}
    return _numbers_of(cell | new | {"diverged": _lost(cell)})


def _lost(cell: dict) -> int:
    """Number of runs that diverged from new starts."""
    return 0 if np.isnan(cell["new diverged"]) else int(cell["new diverged"])


def _interval(cell: dict) -> str:
    low, high, difference = (f"{cell[name]:+.3g}".replace("-", "−") for name in ("low", "high", "difference"))
    return f"{difference} [{low},\u00a0{high}]"


def claim_table(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims in words with their verdicts, for reading: a row per claim and profile."""
    papers = claims["paper"].map({"gecco23": "GECCO'23", "tpami23": "TPAMI'23"})
    stated = pd.DataFrame(
        {"where": papers + ", " + claims["section"], "claim": claims["text"], "rule": claims["rule"]}
    )
    stated = stated.where(claims["headline"], "")  # said once for all profiles
    return pd.concat(
        [stated[["where", "claim"]], claims[["profile", "verdict", "finding"]], stated["rule"]], axis=1
    )
