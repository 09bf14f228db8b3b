"""Why a result differs from the paper: the same runs under another reading of the protocol.

The papers leave settings open, or state ones that can't have made their numbers. A profile varied by one of them,
such as `paper@meta_optimizer=adam`, is run on the same seeds, and compared with the unvaried one seed by seed.
"""

from typing import Any

import numpy as np
import pandas as pd

from evomal_paper.comparison.evidence import varied_rate
from evomal_paper.comparison.verdicts import PLACE, is_counted, published_cells
from evomal_paper.experiments.catalogue import experiment as experiment_of
from evomal_paper.experiments.profiles import split_name, varied
from evomal_paper.published.tables import COMPARED
from evomal_paper.statistics import PAIRED, paired

COLUMNS = ["experiment", "profile", "change", "group", "method", "published", "unvaried", "varied", "diverged"]
COLUMNS += ["diverged unvaried", *PAIRED, "nearer"]
SETTING = ["experiment", "profile", "change"]


def one_change(profile: str) -> tuple[str, str] | None:
    """The profile without its change, and that change; None if it has none or several.

    The split of the authors' code is no change: `quick@split=leaking,softplus=true` is `quick@split=leaking` with
    softplus. Nor is a learning rate of a grid one change among others; those are compared by themselves.
    """
    base, changes = split_name(profile)
    changed = [change for change in changes if change != "split=leaking"]
    if len(changed) != 1 or varied_rate(profile)[1] is not None:
        return None
    return varied(base, *(change for change in changes if change == "split=leaking")), changed[0]


def variants(values: pd.DataFrame) -> pd.DataFrame:
    """Final errors under varied profiles beside those of the unvaried ones, over the seeds that both have.

    One common seed decides nothing, and is left out; so is a profile that states a setting as it is. Where errors
    from new starts are known, they are the variant `test_start=new`, which takes no runs of its own.
    Values are those of `Evidence`.

    Returns:
        One row per experiment, single change (`one_change`), group and method: the published mean, medians of both
        (a diverged run ranks last), how many diverged of each, n, wins (seeds at which the variant's error is
        smaller), difference of the means, effect and p (Wilcoxon's signed-rank test, uncorrected), and whether the
        variant's median is at most half as far from the published mean, in |ln(median / published)|.
    """
    theirs = published_cells()
    rows: list[dict[str, Any]] = []
    compared = [COMPARED.get(row.table, ("",))[0] == row.split != "" for row in values.itertuples()]
    kept = _with_new_starts(values.loc[np.array(compared, bool)]).astype({"profile": object})
    changes = {profile: found for profile in kept["profile"].unique() if (found := one_change(profile))}
    changed = kept[kept["profile"].isin(changes)].rename(columns={"profile": "varied"})
    unvaried = pd.Series([changes[profile][0] for profile in changed["varied"]], changed.index, dtype=object)
    both = changed.assign(profile=unvaried).merge(kept, on=[*PLACE, "method", "seed"], suffixes=("", " unvaried"))
    for keys, part in both.groupby(["table", "experiment", "varied", "group", "method"], sort=False):
        table, experiment, profile, group, method = map(str, keys)
        base, change = changes[profile]
        if len(part) < 2 or experiment_of(experiment).profile(profile) == experiment_of(experiment).profile(base):
            continue
        cell = theirs.get((table, experiment, group, method), (np.nan,))[0]
        before, after = part["value unvaried"], part["value"]
        row: dict[str, Any] = {"experiment": experiment, "profile": base, "change": change, "group": group}
        row |= {"method": method, "published": cell, "unvaried": before.median(), "varied": after.median()}
        row |= {"diverged": np.isinf(after).sum(), "diverged unvaried": np.isinf(before).sum()}
        row |= paired(after.to_numpy(float), before.to_numpy(float))
        rows.append(row | {"nearer": _nearer(before.median(), after.median(), cell)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _with_new_starts(values: pd.DataFrame) -> pd.DataFrame:
    """The values, and those from new starts of the profiles that count, as a profile of their own."""
    if "new" not in values:
        return values
    new = values[values["profile"].map(is_counted).astype(bool) & values["new"].notna()]
    new = new.assign(profile=[varied(name, "test_start=new") for name in new["profile"]], value=new["new"])
    return pd.concat([values, new[~new["profile"].isin(set(values["profile"]))]], ignore_index=True)


def by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Number of published cells that each change explains: those whose distance from the paper it at least halves.

    One row per experiment, profile and change of `variants`: cells (published ones among those compared), halved,
    and n (seeds, the fewest of its cells); the changes that explain most first.
    """
    groups = table[table["published"].notna()].groupby(SETTING, sort=False)
    found = groups.agg(cells=("nearer", "size"), halved=("nearer", "sum"), n=("n", "min")).reset_index()
    order = (found["halved"] / found["cells"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _nearer(first: float, second: float, cell: float) -> bool:
    """Whether the second median is at most half as far from the published mean as the first."""
    if np.isnan(cell):
        return False
    before, after = (abs(np.log(median / cell)) if 0 < median < np.inf else np.inf for median in (first, second))
    return bool(after <= before / 2 and np.isfinite(after))
