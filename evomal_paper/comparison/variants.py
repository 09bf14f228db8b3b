"""Why a result differs from the paper: the same runs under another reading of the protocol.

The papers leave settings open, or state ones that can't have made their numbers. A profile varied by one of them,
such as `paper@meta_optimizer=adam`, is run on the same seeds, and compared with the unvaried one seed by seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from evomal_paper.comparison.evidence import varied_rate
from evomal_paper.comparison.verdicts import is_counted
from evomal_paper.experiments.catalogue import experiment as experiment_of
from evomal_paper.experiments.profiles import changes_in
from evomal_paper.published.tables import COMPARED, published
from evomal_paper.statistics import PAIRED, paired

COLUMNS = ["experiment", "profile", "change", "group", "method", "published", "unvaried", "varied", "diverged"]
COLUMNS += ["diverged unvaried", *PAIRED, "nearer"]
SETTING = ["experiment", "profile", "change"]
EXPLAINED = (
    "A setting explains a published error if it at least halves the median's distance from it, "
    "|ln(median / published)|. Medians are those of the seeds that were run both with it and without; "
    "so few of them prove nothing, and whatever weakens a search brings errors nearer that were too low."
)


def one_change(profile: str) -> tuple[str, str] | None:
    """The profile without its change, and that change; None if it has none or several.

    The split of the authors' code is no change: `quick@split=leaking,softplus=true` is `quick@split=leaking` with
    softplus. Nor is a learning rate of a grid one change among others; those are compared by themselves.
    """
    base, _, changes = profile.partition("@")
    kept = [change for change in changes_in(changes) if change == "split=leaking"]
    changed = [change for change in changes_in(changes) if change and change != "split=leaking"]
    if len(changed) != 1 or varied_rate(profile)[1] is not None:
        return None
    return "@".join([base, *kept]), changed[0]


def variants(values: pd.DataFrame) -> pd.DataFrame:
    """Final errors under varied profiles beside those of the unvaried ones, over the seeds that both have.

    One common seed decides nothing, and is left out; so is a profile that states a setting as it is. Where errors
    from new starts are known, they are the variant `test_start=new`, which takes no runs of its own.

    Args:
        values: `Evidence.values`.

    Returns:
        One row per experiment, single change (`one_change`), group and method: the published mean, medians of both
        (a diverged run ranks last), how many diverged of each, n, wins (seeds at which the variant's error is
        smaller), difference of the means, effect and p (Wilcoxon's signed-rank test, uncorrected), and whether the
        variant's median is at most half as far from the published mean, in |ln(median / published)|.
    """
    theirs = published().set_index(["table", "experiment", "group", "method"])["mean"].to_dict()
    rows: list[dict[str, Any]] = []
    compared = [COMPARED.get(row.table, ("",))[0] == row.split != "" for row in values.itertuples()]
    kept = _with_new_starts(values.loc[np.array(compared, bool)])
    for keys, part in kept.groupby(["table", "experiment", "profile", "group", "split", "method"], sort=False):
        table, experiment, profile, group, split, method = map(str, keys)
        if (found := one_change(profile)) is None:
            continue
        base, change = found
        place = {"table": table, "experiment": experiment, "profile": base, "group": group, "split": split}
        same = kept[
            np.logical_and.reduce([kept[name] == value for name, value in (place | {"method": method}).items()])
        ]
        both = part.merge(same, on="seed", suffixes=("", " unvaried"))
        if len(both) < 2 or _is_same(experiment, profile, base):
            continue
        cell = theirs.get((table, experiment, group, method), theirs.get((table, experiment, "", method), np.nan))
        medians = both["value unvaried"].median(), both["value"].median()
        row: dict[str, Any] = {
            "experiment": experiment,
            "profile": base,
            "change": change,
            "group": group,
            "method": method,
        }
        row |= {"published": cell, "unvaried": medians[0], "varied": medians[1]}
        row |= {"diverged": _diverged(both["value"]), "diverged unvaried": _diverged(both["value unvaried"])}
        row |= paired(both["value"].to_numpy(float), both["value unvaried"].to_numpy(float))
        rows.append(row | {"nearer": _nearer(medians, cell)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _with_new_starts(values: pd.DataFrame) -> pd.DataFrame:
    """The values, and those from new starts of the profiles that count, as a profile of their own."""
    if "new" not in values:
        return values
    new = values[values["profile"].map(is_counted).astype(bool) & values["new"].notna()]
    names = [f"{name}{',' if '@' in name else '@'}test_start=new" for name in new["profile"]]
    new = new.assign(profile=names, value=new["new"])
    return pd.concat([values, new[~new["profile"].isin(set(values["profile"]))]], ignore_index=True)


def by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Number of published cells that each change explains: those whose distance from the paper it at least halves.

    Args:
        table: of `variants`.

    Returns:
        One row per experiment, profile and change: cells (published ones among those compared), halved, and n
        (seeds, the fewest of its cells); the changes that explain most first.
    """
    cells = table[table["published"].notna()]
    rows = [
        {**dict(zip(SETTING, keys, strict=True)), **_explained(part)}
        for keys, part in cells.groupby(SETTING, sort=False)
    ]
    found = pd.DataFrame(rows, columns=[*SETTING, "cells", "halved", "n"])
    order = (found["halved"] / found["cells"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _explained(part: pd.DataFrame) -> dict[str, int]:
    return {"cells": len(part), "halved": int(part["nearer"].sum()), "n": int(part["n"].min())}


def _is_same(name: str, *profiles: str) -> bool:
    first, second = (experiment_of(name).profile(profile) for profile in profiles)
    return first == second


def _diverged(values: pd.Series) -> int:
    return int((~np.isfinite(values)).sum())


def _nearer(medians: tuple[float, float], cell: float) -> bool:
    """Whether the second median is at most half as far from the published mean as the first."""
    if np.isnan(cell):
        return False
    before, after = (abs(np.log(median / cell)) if 0 < median < np.inf else np.inf for median in medians)
    return bool(after <= before / 2 and np.isfinite(after))
