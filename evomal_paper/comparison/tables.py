"""Comparisons with the papers as tables to read and as sentences, computed from the tables of `verdicts`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import (
    AGREEMENT,
    DIRECTION,
    FITTED,
    NOT,
    NOT_RUN,
    REPRODUCED,
    TOLERANCE,
    UNPUBLISHED,
    VERDICTS,
    undecided,
)
from evomal_paper.experiments.profiles import protocol
from evomal_paper.published.tables import LABELS, SPLITS
from evomal_paper.sentences import count_seeds, mean_and_sd
from evomal_paper.statistics import LEVEL

TOO_FEW = "too few seeds"
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
        if found := [*_verdicts(part), *_orders(here)]:  # nothing of a stand-in is published
            lines += [f"\n**{experiment}, {group}, {SPLITS[split]} error**\n", *found]
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


_VERDICTS = {
    REPRODUCED: "**Reproduced**",
    FITTED: "**As published by construction**, which confirms nothing",
    DIRECTION: "**Direction reproduced**, not the size",
    NOT: "**Not reproduced**",
    TOO_FEW: "**Not reproduced for want of seeds**, the interval being too wide to tell",
}


def _verdicts(part: pd.DataFrame) -> list[str]:
    lines = []
    verdicts = part["verdict"].mask(undecided(part), TOO_FEW)
    for verdict, text in _VERDICTS.items():
        cells = part[verdicts == verdict].to_dict("records")
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
            seeds, least = count_seeds(int(rows["n"].max())), rows["least"].min()
            said = "" if testable else f" at {LEVEL:.0%}, as p ≥ {least:.2g} with {seeds}"
            others = "; ".join(_pair(row, testable) for row in rows.to_dict("records"))
            method = LABELS[rows["method"].iloc[0]]
            lines.append(
                f"- Published: {method} {side} the following. **{verdict.capitalize()}**{said}: {others}."
            )
    return lines


def _pair(row: dict, testable: bool) -> str:
    p = f", p = {row['corrected']:.2g}" if testable else ""
    wins = f"lower in {row['wins']} of {count_seeds(row['n'])}"
    effect = f"{row['effect']:.2f}".replace("-", "−")
    return f"{LABELS[row['other']]} ({wins}, r = {effect}{p})"


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
            beside = "" if np.isnan(theirs) else f"; published: {theirs:.2%}"
            lines.append(
                f"**{experiment}, size of the losses**\n\n- EvoMAL's losses have {measured:.2%} of the weights of "
                f"ML³'s (mean of {n}){beside}."
            )
    return "\n".join(lines)


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
                "difference": _interval(cell) if known else "",
                "verdict": cell["verdict"],
                "why": cell["why"],
            }
        )
    table = pd.DataFrame(rows)
    return table if table["group"].nunique() > 1 else table.drop(columns="group")


def _numbers_of(cell: dict, whose: str = "") -> str:
    """`3.028 ± 1.0911 (10)`, with n and the diverged in brackets; published numbers as they are printed."""
    printed = ".4f" if cell["metric"] in ("MSE", "error rate") else "g"
    digits = (printed, printed) if whose else (".4g", ".2g")
    mean, sd = (format(cell[whose + name], how) for name, how in zip(("mean", "sd"), digits, strict=True))
    diverged = f", {cell['diverged']} diverged" if cell["diverged"] and not whose else ""
    text = f"{'–' if mean == 'nan' else mean}{'' if sd == 'nan' else f' ± {sd}'} ({cell[whose + 'n']:g}{diverged})"
    return text.replace(" ", "\u00a0")


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


def overall_in_words(cells: pd.DataFrame, claims: pd.DataFrame) -> str:
    """What agrees with the papers and what does not, over all cells and claims, in Markdown.

    Args:
        cells: the table of `verdicts.every_cell`.
        claims: the table of `claims.judge_claims`.
    """
    headline = cells[cells["headline"]]
    lines = [f"Published cells, n = {len(headline)}: {_counted(headline['verdict'])}."]
    for profile, part in headline[headline["profile"] != ""].groupby("profile", sort=False):
        n = sorted({*part["n"]})
        seeds = f"{n[0]} to {n[-1]} seeds" if len(n) > 1 else count_seeds(int(n[0]))
        said = protocol(str(profile))
        lines.append(f"- Profile `{profile}`, n = {seeds}: {_counted(part['verdict'])}.{said}")
    judged = claims[claims["headline"]]
    lines += ["", f"Claims in words, n = {len(judged)}: {_counted(judged['verdict'])}.", ""]
    for verdict in VERDICTS:
        for row in judged[(judged["verdict"] == verdict) & (judged["finding"] != "")].to_dict("records"):
            lines.append(
                f"- **{verdict.capitalize()}**, profile `{row['profile']}`: “{row['text']}”. {row['finding']}"
            )
    return "\n".join(lines) + "\n"


def _counted(verdicts: pd.Series) -> str:
    return ", ".join(f"{count} {name}" for name in VERDICTS if (count := int((verdicts == name).sum())))
