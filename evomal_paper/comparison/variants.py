"""Why a result differs from the paper: the same runs under another reading of the protocol.

The papers leave settings open, or state ones that can't have made their numbers. A profile varied by one of them,
such as `paper@meta_optimizer=adam`, is run on the same seeds, and compared with the unvaried one seed by seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from evomal_paper.comparison.evidence import varied_rate
from evomal_paper.comparison.verdicts import PLACE, is_counted, published_cells
from evomal_paper.experiments.catalogue import experiment as experiment_of
from evomal_paper.experiments.profiles import changes_in
from evomal_paper.published.tables import COMPARED
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
    theirs = published_cells()
    rows: list[dict[str, Any]] = []
    compared = [COMPARED.get(row.table, ("",))[0] == row.split != "" for row in values.itertuples()]
    kept = _with_new_starts(values.loc[np.array(compared, bool)])
    changes = {profile: one_change(profile) for profile in kept["profile"].unique()}
    changed = {profile: found for profile, found in changes.items() if found is not None}
    varied = kept[kept["profile"].isin(changed)].rename(columns={"profile": "varied"})
    unvaried = pd.Series([changed[profile][0] for profile in varied["varied"]], varied.index, dtype=object)
    both = varied.assign(profile=unvaried).merge(
        kept.astype({"profile": object}), on=[*PLACE, "method", "seed"], suffixes=("", " unvaried")
    )
    for keys, part in both.groupby(["table", "experiment", "varied", "group", "split", "method"], sort=False):
        table, experiment, profile, group, _, method = map(str, keys)
        base, change = changed[profile]
        if len(part) < 2 or experiment_of(experiment).profile(profile) == experiment_of(experiment).profile(base):
            continue
        cell = theirs.get((table, experiment, group, method), (np.nan,))[0]
        values_of = part["value unvaried"], part["value"]
        medians = values_of[0].median(), values_of[1].median()
        row: dict[str, Any] = {
            "experiment": experiment,
            "profile": base,
            "change": change,
            "group": group,
            "method": method,
        }
        row |= {"published": cell, "unvaried": medians[0], "varied": medians[1]}
        row |= {"diverged": _diverged(values_of[1]), "diverged unvaried": _diverged(values_of[0])}
        row |= paired(values_of[1].to_numpy(float), values_of[0].to_numpy(float))
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
    groups = table[table["published"].notna()].groupby(SETTING, sort=False)
    found = groups.agg(cells=("nearer", "size"), halved=("nearer", "sum"), n=("n", "min")).reset_index()
    order = (found["halved"] / found["cells"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _diverged(values: pd.Series) -> int:
    return int((~np.isfinite(values)).sum())


def _nearer(medians: tuple[float, float], cell: float) -> bool:
    """Whether the second median is at most half as far from the published mean as the first."""
    if np.isnan(cell):
        return False
    before, after = (abs(np.log(median / cell)) if 0 < median < np.inf else np.inf for median in medians)
    return bool(after <= before / 2 and np.isfinite(after))
