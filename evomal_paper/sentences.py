"""Numbers and verdicts as short texts."""

from __future__ import annotations

import numpy as np


def interval(row: dict) -> str:
    """`difference −0.1 [−0.2, −0.05], lower in 4 of 5 seeds`, of a row of `paired_interval`."""
    if np.isfinite(row["low"]):
        numbers = f"{row['difference']:+.3g} [{row['low']:.3g}, {row['high']:.3g}]".replace("-", "−")
        return f"difference {numbers}, lower in {row['wins']:g} of {count_seeds(row['n'])}"
    lost = f", {row['diverged']} diverged" if row["diverged"] else ""
    return f"n = {row['n']}{lost}, lower in {row['wins']:g}"


def mean_and_sd(mean: float, sd: float, n: float, diverged: int = 0, digits: int = 4) -> str:
    """A cell of a printed table: `0.3829 ± 0.0065 (5)`, with n in brackets; "–" for what is not known."""

    def short(value: float) -> str:
        return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.{digits}g}"

    if np.isnan(n):
        return "–"
    spread = "" if np.isnan(sd) else f" ± {short(sd)}"
    count = f"{n:.0f}" + (f", {diverged} diverged" if diverged else "")
    return f"{short(mean)}{spread} ({count})" if np.isfinite(mean) else f"– ({count})"


def count_seeds(n: int) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} seed" if n == 1 else f"{n} seeds"
