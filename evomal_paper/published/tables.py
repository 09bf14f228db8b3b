"""The papers' published numbers, and what is known to be odd about them."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import pandas as pd

from evomal_core.checks import refuse_unknown

TABLES = {
    "2": "GECCO'23 Table 2",
    "3": "GECCO'23 Table 3",
    "II": "TPAMI'23 Table II",
    "III": "TPAMI'23 Table III",
    "IV": "TPAMI'23 Table IV",
    "V": "TPAMI'23 Table V",
}
LABELS = {
    "baseline": "Baseline",
    "random": "Random",
    "gp-lfl": "GP-LFL",
    "ml3": "ML³",
    "taylorglo": "TaylorGLO",
    "evomal": "EvoMAL",
}
"""The methods' names as the papers write them."""

SPLITS = {
    "train": "training",
    "validation": "validation",
    "test": "held-out",
    "unseen": "held-out, not in training",
}
"""The parts of a task as they are called in text and on axes."""

COMPARED = {"2": ("train", "test"), "3": ("",), "II": ("test",), "III": ("test",), "IV": ("test",), "V": ("",)}
"""The part of a task whose error a published one is compared with, then what is shown beside; "" where there is no
such choice."""


@cache
def facts(file: str, row: str) -> tuple[Mapping[str, Any], ...]:
    """The rows `[[row]]` of `published/<file>.toml`, read once."""
    with (files("evomal_paper") / "published" / f"{file}.toml").open("rb") as opened:
        return tuple(map(MappingProxyType, tomllib.load(opened)[row]))


ODDITIES = {
    table: tuple(each["text"] for each in facts("oddities", "oddity") if each["table"] == table)
    for table in TABLES
}
"""Oddities of each table and what it leaves unstated, in Markdown: to be said wherever it is compared."""


def published(table: str | None = None) -> pd.DataFrame:
    """The numbers of one table of the papers, or of all; one row per cell.

    Columns: paper, table, experiment, model, group ("in-sample", "out-of-sample" or ""), method, metric,
    mean, sd (NaN where none is printed), n (independent executions) and unit.

    Raises:
        ValueError: the table is not one of TABLES.
    """
    if table is None:
        return _whole().copy()
    refuse_unknown("table", table, list(TABLES))
    return _whole()[_whole()["table"] == table].reset_index(drop=True)


@cache
def _whole() -> pd.DataFrame:
    with (files("evomal_paper") / "published" / "tables.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"table": str}).fillna({"group": ""})
