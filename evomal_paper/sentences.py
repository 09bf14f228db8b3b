"""Numbers and verdicts as short texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.search import METHODS


def interval(row: dict) -> str:
    """`difference −0.1 [−0.2, −0.05], lower in 4 of 5 seeds`, of a row of `paired_interval`."""
    if np.isfinite(row["low"]):
        numbers = f"{row['difference']:+.3g} [{row['low']:.3g}, {row['high']:.3g}]".replace("-", "−")
        return f"difference {numbers}, lower in {row['wins']:g} of {count_seeds(row['n'])}"
    lost = f", {row['diverged']} diverged" if row["diverged"] else ""
    return f"n = {row['n']}{lost}, lower in {row['wins']:g}"


def printed(cell: Mapping[str, Any] | pd.Series, whose: str = "") -> str:
    """A cell of a printed table: `0.3829 ± 0.0065 (5)`, with n in brackets; "–" for what is not known.

    The numbers are a row's mean, sd, n and, if there, diverged, or the columns whose names begin with `whose`, of
    which n may be the row's.
    """

    def short(value: float) -> str:
        return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"

    mean, sd, n = cell[f"{whose}mean"], cell[f"{whose}sd"], cell.get(f"{whose}n", cell["n"])
    if np.isnan(n):
        return "–"
    diverged = np.nan_to_num(cell.get(f"{whose}diverged", 0))
    count = f"{n:.0f}" + (f", {diverged:.0f} diverged" if diverged else "")
    spread = "" if np.isnan(sd) else f" ± {short(sd)}"
    return f"{short(mean)}{spread} ({count})" if np.isfinite(mean) else f"– ({count})"


def text_table(rows: Mapping[tuple[str, ...], Mapping[str, str]], names: Sequence[str]) -> pd.DataFrame:
    """A printed table of rows by place and method; places as first seen, methods in their one order."""
    seen = [list(dict.fromkeys(parts)) for parts in zip(*rows, strict=True)]
    seen[-1:] = [list(METHODS)]
    order = sorted(rows, key=lambda key: [known.index(part) for known, part in zip(seen, key, strict=True)])
    return pd.DataFrame([rows[key] for key in order], pd.MultiIndex.from_tuples(order, names=names))


def count_seeds(n: int) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} seed" if n == 1 else f"{n} seeds"
