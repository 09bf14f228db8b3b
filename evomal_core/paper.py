"""The papers' published numbers, and what a measured table says beside them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from evomal_core.search import METHODS, refuse_unknown

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

SPLITS = {"train": "training", "validation": "validation", "test": "held-out"}
"""The parts of a task as they are called in text and on axes."""

CONFIDENCE = 0.95
TOLERANCE = 0.5
"""How wide the interval of a difference may be, to each side, for two means to count as agreeing: a share
of the published mean. Without it, two seeds would agree with anything."""

_CELL = ["experiment", "group", "method", "split"]
_PLACE = ["experiment", "group", "split"]


def published(table: str | None = None) -> pd.DataFrame:
    """The numbers of one table of the papers, or of all; one row per cell.

    Columns: paper, table, experiment, model, group ("in-sample", "out-of-sample" or ""), method, metric,
    mean, sd (NaN where none is printed), n (independent executions) and unit.

    Raises:
        ValueError: the table is not one of TABLES.
    """
    with (files("evomal_core") / "published" / "tables.csv").open(encoding="utf-8") as file:
        whole = pd.read_csv(file, dtype={"table": str}).fillna({"group": ""})
    whole["experiment"] = [_own_name(row) for row in whole.itertuples()]
    if table is None:
        return whole
    refuse_unknown("table", table, list(TABLES))
    return whole[whole["table"] == table].reset_index(drop=True)


def _own_name(row: Any) -> str:
    """This project's name of an experiment: TPAMI's image data sets come with a model each."""
    images = row.experiment in ("mnist", "cifar10", "cifar100", "svhn")
    if row.paper == "tpami23" and images:
        return f"{row.experiment}-{row.model.lower().replace('-', '')}"
    return row.experiment


def compare(final: pd.DataFrame, table: str) -> pd.DataFrame:
    """Published mean, standard deviation and n beside the measured ones, for each measured cell.

    A table without groups (TPAMI's) is compared with the measured in-sample errors: the same data and
    model serve meta-training and meta-testing there. `low` and `high` bound the difference of the means,
    measured minus published, by Welch's 95 % interval; they are NaN where one of the two is unpublished or
    has fewer than two finite values. Diverged runs are counted, and left out of mean and sd. The verdict is
    "higher" or "lower" where the interval excludes 0; "agrees" where it contains 0 and reaches at most
    TOLERANCE of the published mean to each side; else "undecided", or "not published".

    Args:
        final: errors of finished runs, one row per run, group and split, as `Results.final` returns them.
        table: one of TABLES.
    """
    cells = _measured(final)
    theirs = published(table).replace({"group": {"": "in-sample"}})
    theirs = theirs[["experiment", "group", "method", "mean", "sd", "n"]]
    theirs = theirs.rename(columns={name: f"published {name}" for name in ("mean", "sd", "n")})
    merged = cells.merge(theirs, on=["experiment", "group", "method"], how="left")
    merged["difference"] = merged["mean"] - merged["published mean"]
    merged["low"], merged["high"] = _welch(merged)
    merged["verdict"] = [_verdict(cell) for cell in merged.to_dict("records")]
    return merged


def _verdict(cell: dict) -> str:
    if np.isnan(cell["published mean"]):
        return "not published"
    if cell["low"] > 0:
        return "higher"
    if cell["high"] < 0:
        return "lower"
    half = (cell["high"] - cell["low"]) / 2
    return "agrees" if half <= TOLERANCE * cell["published mean"] else "undecided"


def _measured(final: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for cell, errors in final.groupby(_CELL, observed=True, sort=False)["error"]:
        finite = errors[np.isfinite(errors)]
        statistics = {"mean": finite.mean(), "sd": finite.std(ddof=1), "n": len(errors)}
        rows.append(dict(zip(_CELL, cell, strict=True)) | statistics | {"diverged": len(errors) - len(finite)})
    return pd.DataFrame(rows).astype({"method": str})


def _welch(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the difference of two means of unequal variances, from their statistics."""
    finite = (cells["n"] - cells["diverged"]).to_numpy(float)
    counts = np.array([finite, cells["published n"].to_numpy(float)])
    spreads = np.array([cells["sd"].to_numpy(float), cells["published sd"].to_numpy(float)])
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = spreads**2 / counts
        freedom = errors.sum(axis=0) ** 2 / (errors**2 / (counts - 1)).sum(axis=0)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(errors.sum(axis=0))
    difference = cells["difference"].to_numpy(float)
    return difference - half, difference + half


def orderings(final: pd.DataFrame, table: str, method: str = "evomal") -> pd.DataFrame:
    """Whether a method is better or worse than each other one, as published and as measured.

    Runs of the same seed start alike, so measured errors are compared seed by seed: `difference` is the
    mean over seeds of (the method's error − the other's), `low` and `high` its 95 % t interval, and `wins`
    counts the seeds in which the method's error is smaller. The verdict is "confirmed" where the interval
    lies on the published side of 0, "contradicted" where it lies on the other, "undecided" where it
    contains 0, and "not judged" with fewer than two seeds or a diverged run.

    Args:
        final: errors of finished runs, as `Results.final` returns them.
        table: one of TABLES.
        method: the method that is compared with all others.
    """
    rows = []
    cells = compare(final, table).set_index(_CELL)["published mean"]
    for keys, part in final.groupby(_PLACE, observed=True, sort=False):
        place = dict(zip(_PLACE, keys, strict=True))
        errors = part.astype({"method": str}).pivot_table(index="seed", columns="method", values="error")
        for other in [name for name in METHODS if name in errors and name != method and method in errors]:
            ours, theirs = (cells[keys[0], keys[1], name, keys[2]] for name in (method, other))
            if np.isnan(ours) or np.isnan(theirs):
                continue
            rows.append({**place, "method": method, "other": other, "published difference": ours - theirs})
            rows[-1] |= _paired(errors[method] - errors[other], ours - theirs)
    columns = [*_PLACE, "method", "other", "published difference"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "wins", "n", "verdict"])


def _paired(differences: pd.Series, expected: float) -> dict[str, float | int | str]:
    n = len(differences)
    found: dict[str, float | int | str] = {"n": n, "wins": int((differences < 0).sum())}
    mean = float(differences.mean()) if np.isfinite(differences).all() else np.nan
    if n < 2 or np.isnan(mean):
        return found | {"difference": mean, "low": np.nan, "high": np.nan, "verdict": "not judged"}
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    low, high = mean - half, mean + half
    found["verdict"] = "undecided" if low <= 0 <= high else "confirmed" if mean * expected > 0 else "contradicted"
    return found | {"difference": mean, "low": low, "high": high}


def sizes(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 3 beside the measured numbers of trainable weights; one row per experiment and method.

    Args:
        runs: `Results.runs`; methods without weights are left out.
    """
    trained = runs[runs["parameters"] > 0].astype({"method": str})
    measured = trained.groupby(["experiment", "method"], sort=False)["parameters"].agg(["mean", "std", "count"])
    measured = measured.set_axis(["mean", "sd", "n"], axis=1).reset_index()
    theirs = published("3")[["experiment", "method", "mean", "sd", "n"]]
    return measured.merge(theirs, on=["experiment", "method"], how="left", suffixes=("", " published")).rename(
        columns={f"{name} published": f"published {name}" for name in ("mean", "sd", "n")}
    )


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


def mean_and_sd(mean: float, sd: float, n: float, diverged: int = 0, digits: int = 4) -> str:
    """A cell of a printed table: `0.3829 ± 0.0065 (5)`, with n in brackets; "–" for what is not known."""
    if np.isnan(n):
        return "–"
    spread = "" if np.isnan(sd) else f" ± {sd:.{digits}f}"
    count = f"{n:.0f}" + (f", {diverged} diverged" if diverged else "")
    return f"{mean:.{digits}f}{spread} ({count})" if np.isfinite(mean) else f"– ({count})"


def readable(comparison: pd.DataFrame) -> pd.DataFrame:
    """A comparison for reading: one row per experiment, group and method; columns published and splits."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in comparison.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["group"], cell["method"]), {})
        row["published"] = mean_and_sd(*(cell[f"published {name}"] for name in ("mean", "sd", "n")))
        row[f"measured, {SPLITS[cell['split']]}"] = mean_and_sd(
            *(cell[name] for name in ("mean", "sd", "n", "diverged"))
        )
    order = sorted(rows, key=lambda key: (*_first_seen(rows, key), list(METHODS).index(key[2])))
    index = pd.MultiIndex.from_tuples(order, names=["experiment", "group", "method"])
    return pd.DataFrame([rows[key] for key in order], index=index)


def _first_seen(rows: Iterable[tuple[str, str, str]], key: tuple[str, str, str]) -> tuple[int, int]:
    experiments, groups = (list(dict.fromkeys(row[i] for row in rows)) for i in (0, 1))
    return experiments.index(key[0]), groups.index(key[1])


def in_words(comparison: pd.DataFrame, claims: pd.DataFrame, profile: str) -> str:
    """What agrees with the paper and what does not, as Markdown computed from the two tables.

    Args:
        comparison: the table of `compare`.
        claims: the table of `orderings`.
        profile: the profile of the runs; all but "paper" are said to be smaller than the paper's.
    """
    lines = [_caution(profile, comparison["n"])]
    for place, part in comparison.groupby(_PLACE, observed=True, sort=False):
        experiment, group, split = place
        here = claims[(claims[_PLACE] == list(place)).all(axis=1)]
        lines.append(f"\n**{experiment}, {group}, {SPLITS[split]} error**\n")
        lines += [*_agreement(part), *_claims(here)]
    return "\n".join(lines) + "\n"


def _caution(profile: str, counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    n = count_seeds(low) if low == high else f"{low} to {high} seeds"
    smaller = " It is smaller than the paper's: a difference below can come from that alone."
    few = " With so few seeds most differences can't be decided."
    return (
        f"Profile `{profile}`, n = {n}.{smaller if profile != 'paper' else ''}{few if low < 5 else ''} "
        "Intervals are 95 % ones for the difference of two means, each by itself (no correction for their "
        f"number). *Agrees* means that the interval contains 0 and reaches at most {TOLERANCE:.0%} of the "
        "published mean to each side."
    )


def count_seeds(n: int) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} seed" if n == 1 else f"{n} seeds"


_AGREEMENT = {
    "agrees": "Agrees with the published mean",
    "higher": "Higher than published",
    "lower": "Lower than published",
    "undecided": "Undecided against the published mean",
}


def _agreement(part: pd.DataFrame) -> list[str]:
    lines = []
    for verdict, text in _AGREEMENT.items():
        cells = part[part["verdict"] == verdict].to_dict("records")
        if cells:
            lines.append(f"- {text}: " + "; ".join(_numbers(cell) for cell in cells) + ".")
    return lines


def _numbers(cell: dict) -> str:
    diverged = f", {cell['diverged']} of {count_seeds(cell['n'])} diverged" if cell["diverged"] else ""
    measured = f"{cell['mean']:.4g}" if np.isfinite(cell["mean"]) else "no finite value"
    return f"{LABELS[cell['method']]} {measured} (published {cell['published mean']:.4g}{diverged})"


def _claims(claims: pd.DataFrame) -> list[str]:
    """One line for each published side and verdict: "EvoMAL below ... (as published): confirmed for ..."."""
    lines = []
    for side, part in claims.groupby(np.where(claims["published difference"] < 0, "below", "above"), sort=False):
        for verdict, rows in part.groupby("verdict", sort=False):
            others = "; ".join(_interval(row) for row in rows.to_dict("records"))
            method = LABELS[rows["method"].iloc[0]]
            lines.append(f"- Published: {method} {side} the following. **{verdict.capitalize()}**: {others}.")
    return lines


def _interval(row: dict) -> str:
    known = not np.isnan(row["low"])
    bounds = f", difference {row['difference']:.3g} [{row['low']:.3g}, {row['high']:.3g}]" if known else ""
    return f"{LABELS[row['other']]} (lower in {row['wins']} of {count_seeds(row['n'])}{bounds})"
