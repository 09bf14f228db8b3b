"""Comparisons with the papers as tables to read and as sentences, computed from the tables of `verdicts`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from evomal_core.paper import LABELS, SPLITS, count_seeds, mean_and_sd
from evomal_core.search import METHODS
from evomal_core.statistics import LEVEL, smallest_p
from evomal_core.verdicts import AGREEMENT, DIRECTION, NOT, REPRODUCED, TOLERANCE, UNPUBLISHED

_PLACE = ["experiment", "group", "split"]


def readable(comparison: pd.DataFrame) -> pd.DataFrame:
    """A comparison for reading: one row per experiment, group and method; columns published, and each part's
    measured value and verdict.
    """
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in comparison.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["group"], cell["method"]), {})
        row["published"] = mean_and_sd(*(cell[f"published {name}"] for name in ("mean", "sd", "n")))
        part = SPLITS[cell["split"]]
        row[f"measured, {part}"] = mean_and_sd(*(cell[name] for name in ("mean", "sd", "n", "diverged")))
        row[f"verdict, {part}"] = "" if cell["verdict"] == UNPUBLISHED else cell["verdict"]
    order = sorted(rows, key=lambda key: (*_first_seen(rows, key), list(METHODS).index(key[2])))
    index = pd.MultiIndex.from_tuples(order, names=["experiment", "group", "method"])
    return pd.DataFrame([rows[key] for key in order], index=index)


def _first_seen(rows: Iterable[tuple[str, str, str]], key: tuple[str, str, str]) -> tuple[int, int]:
    experiments, groups = (list(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    return experiments.index(key[0]), groups.index(key[1])


def in_words(comparison: pd.DataFrame, claims: pd.DataFrame, profile: str) -> str:
    """What agrees with the paper and what does not, as Markdown computed from the two tables.

    Args:
        comparison: the table of `verdicts.compare`.
        claims: the table of `verdicts.orderings`.
        profile: the profile of the runs; all but "paper" are said to be smaller or otherwise than the paper's.
    """
    lines = [_caution(profile, comparison["n"])]
    for place, part in comparison.groupby(_PLACE, observed=True, sort=False):
        experiment, group, split = place
        here = claims[(claims[_PLACE] == list(place)).all(axis=1)]
        lines.append(f"\n**{experiment}, {group}, {SPLITS[split]} error**\n")
        lines += [*_verdicts(part), *_orders(here)]
    return "\n".join(lines) + "\n"


def _caution(profile: str, counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    n = count_seeds(low) if low == high else f"{low} to {high} seeds"
    return (
        f"Profile `{profile}`, n = {n}.{protocol(profile)} *Reproduced* means that the 95 % bootstrap interval of "
        "the difference of the two means contains 0, or that they differ by at most "
        f"{AGREEMENT:.0%}, with an interval of at most {TOLERANCE:.0%} of the published mean to each side; "
        "*direction reproduced*, that the method's mean stands to those of the others as published. Methods "
        "are also compared seed by seed: *r* is the matched-pairs rank-biserial correlation (−1: lower at every "
        "seed), *p* that of Wilcoxon's signed-rank test after Holm's correction."
    )


def protocol(profile: str) -> str:
    """What a reader must know of a profile before comparing, as a sentence after a blank; "" for the paper's."""
    base, _, changes = profile.partition("@")
    said = {
        "paper": "",
        "calibrated": " Its base learning rate and momentum are those that match the baseline's published error.",
    }.get(base, " It is smaller than the paper's: a difference below can come from that alone.")
    return said + (f" It differs from `{base}` in {changes}." if changes else "")


_VERDICTS = {
    REPRODUCED: "**Reproduced**",
    DIRECTION: "**Direction reproduced**, not the size",
    NOT: "**Not reproduced**",
}


def _verdicts(part: pd.DataFrame) -> list[str]:
    lines = []
    for verdict, text in _VERDICTS.items():
        cells = part[part["verdict"] == verdict].to_dict("records")
        if cells:
            lines.append(f"- {text}: " + "; ".join(_numbers(cell) for cell in cells) + ".")
    return lines


def _numbers(cell: dict) -> str:
    diverged = f", {cell['diverged']} of {count_seeds(cell['n'])} diverged" if cell["diverged"] else ""
    measured = f"{cell['mean']:.4g}" if np.isfinite(cell["mean"]) else "no finite value"
    return f"{LABELS[cell['method']]} {measured} (published {cell['published mean']:.4g}{diverged})"


def _orders(claims: pd.DataFrame) -> list[str]:
    """One line for each published side and verdict: "Published: EvoMAL below … **Confirmed**: …"."""
    lines = []
    for side, part in claims.groupby(np.where(claims["published difference"] < 0, "below", "above"), sort=False):
        for verdict, rows in part.groupby("verdict", sort=False):
            testable = verdict != "not testable"
            least = smallest_p(int(rows["n"].max()))
            said = (
                "" if testable else f" at {LEVEL:.0%}, as {count_seeds(int(rows['n'].max()))} give p ≥ {least:.3g}"
            )
            others = "; ".join(_pair(row, testable) for row in rows.to_dict("records"))
            method = LABELS[rows["method"].iloc[0]]
            lines.append(
                f"- Published: {method} {side} the following. **{verdict.capitalize()}**{said}: {others}."
            )
    return lines


def _pair(row: dict, testable: bool) -> str:
    p = f", p = {row['corrected']:.2g}" if testable else ""
    wins = f"lower in {row['wins']} of {count_seeds(row['n'])}"
    return f"{LABELS[row['other']]} ({wins}, r = {row['effect']:.2f}{p})".replace("-", "−")


def sizes_in_words(sizes: pd.DataFrame) -> str:
    """EvoMAL's number of weights as a share of ML³'s, as published and as measured, in Markdown."""
    lines = []
    for experiment, part in sizes.groupby("experiment", sort=False):
        by_method = part.set_index("method")
        if {"evomal", "ml3"} <= set(by_method.index):
            measured, theirs = (
                by_method.loc["evomal", column] / by_method.loc["ml3", column]
                for column in ("mean", "published mean")
            )
            n = count_seeds(int(by_method.loc["evomal", "n"]))
            lines.append(
                f"**{experiment}, size of the losses**\n\n- EvoMAL's losses have {measured:.2%} of the weights of "
                f"ML³'s (mean of {n}); published: {theirs:.2%}."
            )
    return "\n".join(lines)
