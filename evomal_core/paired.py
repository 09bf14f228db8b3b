"""Methods against a reference, seed by seed: what landscapes, transfer and learning rates are judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from evomal_core.paper import LABELS, count_seeds
from evomal_core.search import METHODS
from evomal_core.statistics import CONFIDENCE, paired_differences, summary

VERDICTS = ("lower", "higher", "undecided", "not judged")


def paired_interval(first: Sequence[float], second: Sequence[float]) -> dict[str, float | int | str]:
    """Mean of first − second over seeds with its 95 % t interval, and a verdict.

    Returns:
        difference, low, high, wins (pairs in which the first is smaller), n, diverged (pairs with an infinite
        value) and verdict: "lower" or "higher" where the interval excludes 0, "undecided" where it contains 0,
        and "not judged" with fewer than two pairs or a diverged one: then there are no bounds.
    """
    from scipy.stats import t

    pairs = np.array([first, second], float)
    differences = paired_differences(*pairs)
    n, diverged = len(differences), int((~np.isfinite(pairs)).any(axis=0).sum())
    found: dict[str, float | int | str] = {"wins": int((differences < 0).sum()), "n": n, "diverged": diverged}
    mean = float(differences.mean()) if n and not diverged else np.nan
    if n < 2 or diverged:
        return found | {"difference": mean, "low": np.nan, "high": np.nan, "verdict": "not judged"}
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    low, high = mean - half, mean + half
    verdict = "undecided" if low <= 0 <= high else "lower" if mean < 0 else "higher"
    return found | {"difference": mean, "low": low, "high": high, "verdict": verdict}


_INTERVAL = ["difference", "low", "high", "wins", "n", "diverged", "verdict"]


def against(table: pd.DataFrame, value: str, by: Sequence[str], reference: str = "baseline") -> pd.DataFrame:
    """Each method minus the reference by `paired_interval`, within each place.

    Args:
        table: one row per place, method and seed.
        value: the column that is compared.
        by: the columns that make a place.
        reference: the method that the others are compared with.

    Returns:
        Columns of `by`, method, and those of `paired_interval`; a place without the reference has no row.
    """
    rows = []
    for keys, part in table.groupby(list(by), observed=True, sort=False):
        values = part.astype({"method": str}).pivot(index="seed", columns="method", values=value)
        for method in [name for name in METHODS if name in values and name != reference and reference in values]:
            both = values[[method, reference]].dropna()
            found = paired_interval(both[method].tolist(), both[reference].tolist())
            rows.append({**dict(zip(by, keys, strict=True)), "method": method, **found})
    return pd.DataFrame(rows, columns=[*by, "method", *_INTERVAL])


def sentences(compared: pd.DataFrame, words: dict[str, str]) -> list[str]:
    """A line of Markdown for each verdict with the methods that it is true of: label, difference and interval.

    Where several intervals are judged, a last line says that they are not corrected for their number.

    Args:
        compared: rows of `against` for one place.
        words: what each of VERDICTS is called, for example {"lower": "flatter than the baseline"}.
    """
    lines = []
    for verdict in VERDICTS:
        rows = compared[compared["verdict"] == verdict].to_dict("records")
        if rows:
            lines.append(
                f"- **{words[verdict]}**: "
                + "; ".join(f"{LABELS[row['method']]} ({interval(row)})" for row in rows)
                + "."
            )
    judged = int(compared["verdict"].ne("not judged").sum())
    if judged > 1:
        lines.append(f"- The {judged} intervals are uncorrected for their number.")
    return lines


def interval(row: dict) -> str:
    """`difference −0.1 [−0.2, −0.05], lower in 4 of 5 seeds`, of a row of `paired_interval`."""
    if np.isfinite(row["low"]):
        numbers = f"{row['difference']:+.3g} [{row['low']:.3g}, {row['high']:.3g}]".replace("-", "−")
        return f"difference {numbers}, lower in {row['wins']:g} of {count_seeds(row['n'])}"
    lost = f", {row['diverged']} diverged" if row["diverged"] else ""
    return f"n = {row['n']}{lost}, lower in {row['wins']:g}"


def spread(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of the finite values over seeds, n, and how many diverged (infinite)."""
    rows = []
    for keys, values in table.groupby(list(by), observed=True, sort=False)[value]:
        rows.append({**dict(zip(by, keys, strict=True)), **summary(values)})
    return pd.DataFrame(rows, columns=[*by, "mean", "sd", "n", "diverged"])
