"""Comparisons with the papers as tables for reading, made from those of `verdicts`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from evomal_paper.comparison.verdicts import NEW, NOT_RUN, UNPUBLISHED
from evomal_paper.published.tables import LABELS, SPLITS
from evomal_paper.sentences import printed, text_table


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
            row[f"from new starts, {part}"] = printed(_from_new(cell))
        row[f"verdict, {part}"] = "" if cell["verdict"] == UNPUBLISHED else cell["verdict"]
    return text_table(rows, ["experiment", "group", "method"])


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
                "from new starts": _numbers_of(_from_new(cell)) if cell.get("new diverged", np.nan) >= 0 else "",
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


def _from_new(cell: dict) -> dict:
    """A cell with the numbers from new starts, if there are any, in place of those compared."""
    diverged = 0 if np.isnan(cell["new diverged"]) else int(cell["new diverged"])
    return cell | {"mean": cell["new mean"], "sd": cell["new sd"], "diverged": diverged}


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
