"""Published cells beside measured ones, and the verdict on each, by the rule that notebook 13 states."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.search import METHODS
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import split_name
from evomal_paper.published.tables import COMPARED, published
from evomal_paper.statistics import (
    LEVEL,
    PAIRED,
    bootstrap_difference,
    holm,
    paired,
    paired_methods,
    smallest_p,
    spread,
    summary,
)

REPRODUCED, DIRECTION, NOT, NOT_RUN = "reproduced", "direction reproduced", "not reproduced", "not run"
FITTED = "by construction"
VERDICTS = (REPRODUCED, FITTED, DIRECTION, NOT, NOT_RUN)
UNPUBLISHED = "not published"

ONE_RUN, TOO_WIDE = "one run has no interval", "interval too wide to agree"
"""Why two means are not said to agree though nothing contradicts it."""

NEW = ["new mean", "new sd", "new diverged"]
"""Columns of what was measured from new initial weights and batches, beside what the cell is compared with."""

AGREEMENT = 0.05
"""Largest difference of two means, as a share of the published one, that agree whatever the interval says."""
TOLERANCE = 0.5
"""Largest width of a difference's interval, to each side, as a share of the published mean; two seeds would
agree with anything otherwise."""

PLACE = ["table", "experiment", "profile", "group", "split"]
"""Columns within which methods are compared."""
CELL = ["table", "experiment", "group", "method"]
"""Columns that identify a published number."""


_STRENGTH = ("paper", "calibrated", "text", "narrow", "quick", "smoke")


def strength(profile: str) -> tuple[bool, int, bool, str]:
    """Sort key of profiles, the fairest comparison with the papers first.

    That is paper, calibrated, text, narrow, quick, smoke; each after its variant with the split of the authors'
    code, where there is one; and other variants after all of these.
    """
    base, changes = split_name(profile)
    return not is_counted(profile), _STRENGTH.index(base), changes != ["split=leaking"], profile


def is_counted(profile: str) -> bool:
    """Whether a profile's verdicts count: those of a varied one don't, but for the split of the authors' code."""
    return split_name(profile)[1] in ([], ["split=leaking"])


def compare(final: pd.DataFrame, table: str) -> pd.DataFrame:
    """Published mean, standard deviation and n beside the measured ones, for each measured cell; see `beside`.

    A table without groups (TPAMI's) is compared with the in-sample errors: the same data and model serve
    meta-training and meta-testing there.

    Of `Results.compared` or `Results.final`; the table is one of `paper.TABLES`.
    """
    return beside(final.rename(columns={"error": "value", "error from new starts": "new"}).assign(table=table))


def sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """GECCO Table 3 beside the numbers of weights in `Results.runs`; a row per experiment and method with any."""
    trained = runs[runs["parameters"] > 0].rename(columns={"parameters": "value"})
    return beside(trained.assign(table="3", group="", split=""))


def beside(values: pd.DataFrame) -> pd.DataFrame:
    """Each measured cell beside the published one, with the interval of their difference and a verdict.

    Args:
        values: one row per run and number, with the columns table, experiment, profile, group, split, method,
            seed and value; inf is a diverged run. A column new, if there, holds errors from new initial weights.

    Returns:
        A row per place and method: n (with the diverged), diverged, mean and sd of the finite, published mean, sd
        and n, difference, low, high, verdict and why.
    """
    theirs = published_cells()
    rows: list[dict[str, Any]] = []
    for keys, part in values.groupby(PLACE, observed=True, sort=False):
        place = dict(zip(PLACE, keys, strict=True))
        own = part["method"].astype(str)
        measured = {name: part.loc[own == name, "value"].to_numpy(float) for name in METHODS if name in set(own)}
        at = place["table"], place["experiment"], place["group"]
        cells = {name: theirs.get((*at, name)) for name in measured}
        rows += [{**place, "method": method, **_cell(method, measured, cells, place)} for method in measured]
    table = pd.DataFrame(rows, columns=[*PLACE, "method", *_COLUMNS])
    if "new" not in values:
        return table
    new = spread(values[values["new"].notna()].astype({"method": str, "new": float}), "new", [*PLACE, "method"])
    new = new.drop(columns="n").rename(columns={name: f"new {name}" for name in ("mean", "sd", "diverged")})
    return table.merge(new, on=[*PLACE, "method"], how="left")


_COLUMNS = ["n", "diverged", "mean", "sd", "published mean", "published sd", "published n"]
_COLUMNS += ["difference", "low", "high", "verdict", "why"]

Number = tuple[float, float, int]
"""A published mean, standard deviation (NaN if none is printed) and n."""


def of_sample(cell: Number) -> float:
    """The published standard deviation with n − 1 in place of the authors' n."""
    _, sd, n = cell
    return float(sd * np.sqrt(n / (n - 1)))


def published_cells() -> dict[tuple[str, str, str, str], Number]:
    """The published numbers by table, experiment, group and method."""
    return {
        (row.table, row.experiment, row.group, row.method): (row.mean, row.sd, row.n)
        for row in _by_group(published()).itertuples()
    }


def _by_group(cells: pd.DataFrame) -> pd.DataFrame:
    """Published errors without a group belong to the in-sample ones."""
    errors = cells["table"].map(COMPARED) != ("",)
    return cells.assign(group=cells["group"].mask(errors & (cells["group"] == ""), "in-sample"))


def _cell(
    method: str, measured: Mapping[str, np.ndarray], cells: Mapping[str, Number | None], place: Mapping[str, str]
) -> dict[str, Any]:
    values = measured[method]
    row: dict[str, Any] = summary(values)
    cell = cells[method]
    if cell is None:
        return row | {"verdict": UNPUBLISHED, "why": ""}
    mean, sd, n = cell
    row |= {"published mean": mean, "published sd": sd, "published n": n, "difference": row["mean"] - mean}
    finite = values[np.isfinite(values)]
    row["low"], row["high"] = bootstrap_difference(finite, mean, of_sample(cell), n, *place.values(), method)
    if why := _agrees(row):
        return row | {"verdict": FITTED if _is_fitted(method, place) else REPRODUCED, "why": why}
    kept, broken = _orders(method, measured, cells)
    if kept and not broken:
        return row | {"verdict": DIRECTION, "why": f"{_sizes(row)}; {kept} as published"}
    order = f"published {broken}, measured not" if broken else "no published order to go by"
    return row | {"verdict": NOT, "why": f"{_sizes(row)}; {order}"}


def _is_fitted(method: str, place: Mapping[str, str]) -> bool:
    """Whether a cell was made to agree: ML³'s weights, or a GECCO baseline whose base settings or task it chose.

    These were chosen by the baseline's published errors (`base_settings`): those of
    `calibrated` by both, `quick`'s, where they aren't as stated, by the in-sample one.
    """
    if place["table"] == "3":
        return method == "ml3"
    if place["table"] != "2" or method != "baseline":
        return False
    profile, _ = split_name(place["profile"])
    if profile == "calibrated":
        return True
    profiles = (experiment(place["experiment"]).profile(name) for name in (profile, "paper"))
    own, stated = (each.search.base.unrolled for each in profiles)
    return place["group"] == "in-sample" and (own.lr, own.momentum) != (stated.lr, stated.momentum)


def _agrees(row: Mapping[str, Any]) -> str:
    """Why a measured mean agrees with the published one; empty if it does not, or if too little is known."""
    if (
        row["diverged"]
        or np.isnan(row["low"])
        or (row["high"] - row["low"]) / 2 > TOLERANCE * row["published mean"]
    ):
        return ""
    if row["low"] <= 0 <= row["high"]:
        return "the interval contains 0"
    return f"means within {AGREEMENT:.0%}" if abs(row["difference"]) <= AGREEMENT * row["published mean"] else ""


def _sizes(row: Mapping[str, Any]) -> str:
    if row["diverged"]:
        return f"{row['diverged']} of {row['n']} runs diverged"
    if row["n"] < 2:
        return ONE_RUN
    contains = row["low"] <= 0 <= row["high"]
    return TOO_WIDE if contains else f"measured {'higher' if row['low'] > 0 else 'lower'}"


def _orders(method: str, measured: Mapping[str, np.ndarray], cells: Mapping[str, Number | None]) -> Sequence[str]:
    """The published orders of a method (`below baseline, random; above evomal`) that are kept, and those broken.

    They are those of the measured means; a single run has no part in it.
    """
    mine = cells[method]
    assert mine is not None
    found: list[tuple[bool, str, str]] = []
    for other, cell in cells.items():
        several = min(len(measured[method]), len(measured[other])) > 1
        if other != method and cell is not None and several and decided(mine, cell):
            below = mine[0] < cell[0]
            ours, theirs = measured[method].mean(), measured[other].mean()
            kept = ours < theirs if below else ours > theirs
            found.append((bool(kept), "below" if below else "above", other))
    return [
        "; ".join(
            f"{side} {', '.join(names)}"
            for side in ("below", "above")
            if (names := [other for *key, other in found if key == [kept, side]])
        )
        for kept in (True, False)
    ]


def decided(first: Number, second: Number) -> bool:
    """Whether two published means are further apart than chance explains; without sd any difference is."""
    error = np.sqrt(sum(0.0 if np.isnan(cell[1]) else of_sample(cell) ** 2 / cell[2] for cell in (first, second)))
    return abs(first[0] - second[0]) > 1.96 * error


def every_cell(values: pd.DataFrame) -> pd.DataFrame:
    """All published cells with their verdicts: a row per cell, profile and part of the task that was measured.

    Cells are sorted by table, experiment, group and method; within a cell the fairest profile comes first
    (`strength`), but those with a single run, which decides nothing, after those with more; and the part of the
    task that the table is compared with (`paper.COMPARED`) before others.

    `headline` marks the first row of a cell: the one that is counted. Cells without a complete run of a profile
    that counts (`is_counted`) begin with a row "not run". Values are those of `beside`.
    """
    judged = beside(values)
    shown = [row.split in COMPARED[row.table] for row in judged.itertuples()]
    judged = judged.loc[np.array(shown, bool)]
    names = ["paper", "metric", "unit", "model", *CELL]
    cells = _by_group(published()).rename(columns={name: f"published {name}" for name in ("mean", "sd", "n")})
    cells = cells.sort_values(CELL, key=_first_seen, ignore_index=True)
    judged = judged.drop(columns=["published mean", "published sd", "published n"])
    counted = judged["profile"].map(is_counted).astype(bool)
    places = cells.reset_index(names="place")
    parts = [places.merge(judged[counted], on=CELL, how="left"), places.merge(judged[~counted], on=CELL)]
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    whole = whole.assign(verdict=whole["verdict"].fillna(NOT_RUN), why=whole["why"].fillna(""))
    whole[["profile", "split"]] = whole[["profile", "split"]].fillna("").astype(str)

    def order(row: int) -> tuple:
        cell = whole.loc[row]
        fairest = strength(cell["profile"]) if cell["profile"] else ()
        beside = cell["split"] != COMPARED[cell["table"]][0]
        return cell["place"], not is_counted(cell["profile"]), cell["n"] == 1, fairest, beside

    whole = whole.loc[sorted(whole.index, key=order)].reset_index(drop=True)
    whole["headline"] = ~whole.duplicated("place")
    whole[["n", "diverged"]] = whole[["n", "diverged"]].fillna(0).astype(int)
    columns = _COLUMNS + [name for name in NEW if name in whole]
    return whole[[*names, "profile", "split", *columns, "headline"]]


def _first_seen(column: pd.Series) -> pd.Series:
    """Sort key of a column: methods in their one order, all else as the papers name it first."""
    order = list(METHODS) if column.name == "method" else list(dict.fromkeys(column))
    return column.map(order.index)


def counts(cells: pd.DataFrame, by: str = "table") -> pd.DataFrame:
    """Number of cells of each verdict, by the headline rows of `every_cell`: a row per value of `by`, and all."""
    headline = cells[cells["headline"]]
    table = pd.crosstab(headline[by], headline["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    table = table.reindex(dict.fromkeys(headline[by]))
    table.loc["all"] = table.sum()
    return table.assign(cells=table.sum(axis=1)).rename_axis(columns=None)


def undecided(cells: pd.DataFrame) -> pd.Series:
    """Mask of cells not reproduced for want of evidence: of one run, or with an interval too wide to agree."""
    return (cells["verdict"] == NOT) & cells["why"].str.startswith((ONE_RUN, TOO_WIDE))


def orderings(final: pd.DataFrame, table: str) -> pd.DataFrame:
    """Whether EvoMAL is better or worse than each other one, as published and as measured, seed by seed.

    Runs of the same seed start alike, so their errors are paired: Wilcoxon's signed-rank test, exact and
    two-sided, corrected by Holm's method for all comparisons of one experiment, profile and part of the
    task. A diverged run ranks above every finite one.

    Columns: the place, method, other, published difference, n (seeds of both), wins (seeds at which EvoMAL's
    error is smaller), difference (mean of EvoMAL's error − the other's; NaN with a diverged run), effect
    (matched-pairs rank-biserial correlation, −1 if EvoMAL is better at every seed), p, corrected, and verdict:
    "confirmed" or "contradicted" at 5 %, "undecided" above, or "not testable" where no corrected p of so few seeds
    is smaller: none is below the column least. Errors are those of `Results.final`.
    """
    rows = []
    theirs = published_cells()
    place_of = [name for name in PLACE if name != "table"]
    for keys, part in final.groupby(place_of, observed=True, sort=False):
        place = dict(zip(place_of, keys, strict=True))
        cells = {name: theirs.get((table, place["experiment"], place["group"], name)) for name in METHODS}
        published_of = {name: cell[0] for name, cell in cells.items() if cell is not None}
        others = [name for name in published_of if name != "evomal" and "evomal" in published_of]
        for other, *both in paired_methods(part, "error", "evomal", others):
            row = {"table": table, **place, "method": "evomal", "other": other}
            row["published difference"] = published_of["evomal"] - published_of[other]
            rows.append(row | paired(*both))
    columns = ["table", *place_of, "method", "other", "published difference", *PAIRED]
    found = pd.DataFrame(rows, columns=columns)
    families = found.groupby(["experiment", "profile", "split"])["p"]
    found["corrected"] = families.transform(lambda p: holm(p.to_numpy(float)))
    found["least"] = (families.transform("size") * found["n"].map(smallest_p)).clip(upper=1.0)
    found["verdict"] = [_ordered(row) for row in found.to_dict("records")]
    return found


def _ordered(row: Mapping[str, Any]) -> str:
    if row["corrected"] < LEVEL:
        return "confirmed" if row["effect"] * row["published difference"] > 0 else "contradicted"
    return "not testable" if row["least"] >= LEVEL else "undecided"


def furthest(cells: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """Counted cells of `every_cell` not reproduced, by |ln(measured / published mean)|; hours are left out."""
    far = cells[cells["headline"] & cells["verdict"].isin([NOT, DIRECTION]) & (cells["mean"] > 0)]
    far = far[far["table"] != "V"]
    ratios = (far["mean"] / far["published mean"]).map(np.log).abs()
    return far.loc[ratios.sort_values(ascending=False).index[:most]]
