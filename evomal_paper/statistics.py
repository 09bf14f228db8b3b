"""Intervals, paired tests and effect sizes for few seeds; runs that diverged are +inf and rank last."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evomal_core.compare import interval
from evomal_core.search import METHODS
from evomal_core.seeds import numpy_rng

CONFIDENCE = 0.95
RESAMPLES = 10_000
LEVEL = 0.05
"""The level of the tests, after correction for their number."""


def summary(values: ArrayLike) -> dict[str, float]:
    """n, how many of them diverged (are not finite), and mean and standard deviation of the finite ones.

    The mean is NaN without a finite value, the standard deviation with fewer than two.
    """
    every = np.asarray(values, float)
    finite = every[np.isfinite(every)]
    mean = float(finite.mean()) if len(finite) else np.nan
    sd = float(finite.std(ddof=1)) if len(finite) > 1 else np.nan
    return {"n": len(every), "diverged": len(every) - len(finite), "mean": mean, "sd": sd}


def bootstrap_difference(
    measured: ArrayLike, mean: float, sd: float, n: int, *purpose: str | int
) -> tuple[float, float]:
    """A 95 % percentile interval of (mean of the measured values − a published mean).

    Of the published side only mean, sd and n are known, so it is resampled as means of n normal draws,
    N(mean, sd²/n); without an sd it counts as exact. The measured side is resampled from its values, with
    its residuals widened by √(n/(n − 1)): resampling few values as they are gives too narrow an interval
    (Davison & Hinkley 1997, section 2.3). It stays too narrow below about five values.

    Args:
        measured: finite values, one per seed; with fewer than two the bounds are NaN.
        mean: the published mean.
        sd: the published standard deviation over n executions, or NaN.
        n: the number of published executions.
        purpose: names the stream of random numbers, so that each cell has its own, always the same.
    """
    values = np.asarray(measured, float)
    if len(values) < 2:
        return np.nan, np.nan
    rng = numpy_rng(0, "bootstrap", *purpose)
    residuals = (values - values.mean()) * np.sqrt(len(values) / (len(values) - 1))
    ours = values.mean() + rng.choice(residuals, (RESAMPLES, len(values))).mean(axis=1)
    spread = 0.0 if np.isnan(sd) else sd / np.sqrt(n)
    theirs = mean + spread * rng.standard_normal(RESAMPLES)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ours - theirs, [tail, 100 - tail])
    return float(low), float(high)


def paired_differences(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """first − second, seed by seed; two runs that both diverged differ by 0."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    with np.errstate(invalid="ignore"):
        return np.where(np.isposinf(first) & np.isposinf(second), 0.0, first - second)


def wilcoxon_p(differences: ArrayLike) -> float:
    """The exact two-sided p of Wilcoxon's signed-rank test (1945), also with ties and infinities.

    Zeros are dropped; tied sizes share their mean rank; the distribution is that of the rank sum over all
    2ⁿ assignments of signs. With n differences other than 0 no p is below `smallest_p(n)`.

    Returns:
        p, or 1 without any difference.
    """
    ranks, signs = _signed_ranks(differences)
    # Twice the mean ranks are whole numbers, so the sums can be counted exactly.
    doubled = np.rint(2 * ranks).astype(int)
    counts = np.ones(1)
    for rank in doubled:
        counts = np.concatenate((counts, np.zeros(rank))) + np.concatenate((np.zeros(rank), counts))
    observed = int(doubled[signs > 0].sum())
    below, above = counts[: observed + 1].sum(), counts[observed:].sum()
    return float(min(1.0, 2 * min(below, above) / counts.sum()))


def smallest_p(n: int) -> float:
    """The smallest p that n paired differences can give, 2^(1 − n): 0.0625 for n = 5."""
    return min(1.0, 2.0 ** (1 - n))


def rank_biserial(differences: ArrayLike) -> float:
    """The matched-pairs rank-biserial correlation, (W₊ − W₋)/(W₊ + W₋) (Kerby 2014).

    +1 if every difference is positive, −1 if every one is negative, 0 without any difference.
    """
    ranks, signs = _signed_ranks(differences)
    return float((ranks * signs).sum() / ranks.sum()) if len(ranks) else 0.0


def _signed_ranks(differences: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(differences, float)
    if np.isnan(values).any():
        raise ValueError(f"paired differences have no NaN, got {values.tolist()}; a diverged run is inf")
    values = values[values != 0]
    return pd.Series(np.abs(values)).rank().to_numpy(), np.sign(values)


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method (1979); NaN stays and is not counted."""
    p = np.asarray(p_values, float)
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


def paired_interval(first: ArrayLike, second: ArrayLike) -> dict[str, float | int | str]:
    """Mean of first − second over seeds with its 95 % t interval, and a verdict.

    Returns:
        difference, low, high, wins (pairs in which the first is smaller), n, diverged (pairs with an infinite
        value) and verdict: "lower" or "higher" where the interval excludes 0, "undecided" where it contains 0,
        and "not judged" with fewer than two pairs or a diverged one: then there are no bounds.
    """
    pairs = np.array([first, second], float)
    differences = paired_differences(*pairs)
    n, diverged = len(differences), int((~np.isfinite(pairs)).any(axis=0).sum())
    found: dict[str, float | int | str] = {"wins": int((differences < 0).sum()), "n": n, "diverged": diverged}
    if n < 2 or diverged:
        mean = float(differences.mean()) if n and not diverged else np.nan
        return found | {"difference": mean, "low": np.nan, "high": np.nan, "verdict": "not judged"}
    mean, low, high = interval(differences)
    verdict = "undecided" if low <= 0 <= high else "lower" if mean < 0 else "higher"
    return found | {"difference": mean, "low": low, "high": high, "verdict": verdict}


PAIRED = ["n", "wins", "difference", "effect", "p"]


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | int]:
    """The paired comparison of two methods over the same seeds: n, wins, difference, effect and p."""
    differences = paired_differences(ours, theirs)
    return {
        "n": len(differences),
        "wins": int((differences < 0).sum()),
        "difference": float(differences.mean()) if np.isfinite([ours, theirs]).all() and len(ours) else np.nan,
        "effect": rank_biserial(differences),
        "p": wilcoxon_p(differences),
    }


def paired_methods(
    table: pd.DataFrame, value: str, first: str, others: Iterable[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each other method that is there: its name, and the values of the first and its own over their common seeds.

    The table has one row per method and seed.
    """
    wide = table.astype({"method": str}).pivot(index="seed", columns="method", values=value)
    for other in others:
        if {first, other} <= set(wide):
            both = wide[[first, other]].dropna()
            yield other, both[first].to_numpy(float), both[other].to_numpy(float)


def against(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """A column of each method minus the baseline's, seed by seed, within each place that `by` makes.

    The columns are those of `by`, method, and those of `paired_interval`; a place without the baseline has no row.
    """
    rows = []
    others = [name for name in METHODS if name != "baseline"]
    for keys, part in table.groupby(list(by), observed=True, sort=False):
        for method, theirs, ours in paired_methods(part, value, "baseline", others):
            rows.append({**dict(zip(by, keys, strict=True)), "method": method, **paired_interval(ours, theirs)})
    columns = ["difference", "low", "high", "wins", "n", "diverged", "verdict"]
    return pd.DataFrame(rows, columns=[*by, "method", *columns])


def spread(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation of the finite values over seeds, n, and how many diverged (infinite)."""
    groups = table.groupby(list(by), observed=True, sort=False)[value]
    rows = [{**dict(zip(by, keys, strict=True)), **summary(values)} for keys, values in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "sd", "n", "diverged"])
