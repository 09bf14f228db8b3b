"""TPAMI Table III under both splits of the tabular data, and which of its orders survive the correct one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import NEW, compare, decided
from evomal_paper.experiments.catalogue import experiment as experiment_of
from evomal_paper.experiments.profiles import Profile, changes_in
from evomal_paper.published.tables import published
from evomal_paper.sentences import printed, text_table
from evomal_paper.statistics import paired, paired_methods

SPLITS: tuple[str, ...] = get_args(Profile.model_fields["split"].annotation)
"""disjoint: 60:20:20; leaking: as in the authors' code, with the training rows among the test rows."""

KEPT, LOST, OPEN = "kept", "lost", "undecided"


def check_splits(values: Sequence[str]) -> list[str]:
    """The splits named, if each is known and named once.

    Raises:
        ValueError: none is named, or one is unknown or named twice.
    """
    if isinstance(values, str) or not values:
        raise ValueError(f"name one or more of {', '.join(SPLITS)}")
    for value in values:
        refuse_unknown("split", value, SPLITS)
    if len(set(values)) < len(values):
        raise ValueError("a split is named more than once")
    return list(values)


def with_split(profile: str, split: str) -> str:
    """The name of a profile with a split: `quick` and `quick@split=leaking`, `paper@split=disjoint` and `paper`.

    Raises:
        ValueError: the name says a split already.
    """
    base, at, changes = profile.partition("@")
    if any(change.startswith("split=") for change in changes_in(changes)):
        raise ValueError(f"profile {profile!r} has a split of its own; name it in splits instead")
    if split == split_of(base):
        return profile
    return f"{base}@{','.join(filter(None, [changes if at else '', f'split={split}']))}"


def split_of(profile: str) -> str:
    """The split of a profile of tabular data: that of its name, or its own."""
    base, _, changes = profile.partition("@")
    own = experiment_of("california").profile(base).split  # it has all profiles that others have
    return next((split for split in SPLITS if f"split={split}" in changes_in(changes)), own)


def table_iii(final: pd.DataFrame) -> pd.DataFrame:
    """Table III beside the measured test errors, columns for each split: mean ± standard deviation (seeds).

    The verdict is on the leaking cell, which the published one can be compared with. On disjoint rows only new
    starts are shown, where both are known: nothing published is beside.

    Args:
        final: `Results.compared` or `Results.final` of tabular runs under one profile and its variants by split.
    """
    cells = compare(final[final["split"] == "test"], "III")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in cells.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["method"]), {})
        row["published"] = printed(cell, "published ")
        split = split_of(cell["profile"])
        new = f"{split}, new starts"
        if NEW[0] in cell:
            row[new] = printed(cell | {"new n": cell["n"]}, "new ")
        if split == "leaking" or new not in row:
            row[split] = printed(cell)
        if split == "leaking":
            row["leaking beside published"] = cell["verdict"]
    columns = ["published", "leaking", "leaking beside published", "leaking, new starts"]
    columns += ["disjoint", "disjoint, new starts"]
    table = text_table(rows, ["experiment", "method"]).fillna("–")
    return table[[name for name in columns if name in table]]


def orders(final: pd.DataFrame) -> pd.DataFrame:
    """Whether the best method of Table III is below each other one, under each split.

    As published, EvoMAL has the lowest mean on Diabetes and California, and the baseline on Boston. A published
    order is "kept" if the best method's measured mean test error is below the other's, and "lost" if it is not;
    a diverged run makes a mean infinite. One seed decides nothing: "undecided".

    Args:
        final: `Results.final` of tabular runs.

    Returns:
        One row per experiment, split and other method: best, other, by_chance (whether chance explains the
        published order: means closer than 1.96 standard errors), ours and theirs (means), n, wins (seeds at
        which the best method's error is smaller), effect, p (paired, see `statistics.paired`) and verdict.
    """
    cells = published("III").query("experiment in @final.experiment.unique()")
    rows: list[dict[str, Any]] = []
    tests = final[(final["split"] == "test") & (final["group"] == "in-sample")]
    for (experiment, profile), part in tests.groupby(["experiment", "profile"], observed=True, sort=False):
        numbers = cells[cells["experiment"] == experiment].set_index("method")[["mean", "sd", "n"]]
        best = str(numbers["mean"].idxmin())
        others = [name for name in METHODS if name in numbers.index and name != best]
        for other, ours, theirs in paired_methods(part, "error", best, others):
            row = {"experiment": experiment, "split": split_of(str(profile)), "best": best, "other": other}
            row["by_chance"] = not decided(tuple(numbers.loc[best]), tuple(numbers.loc[other]))
            row |= {"ours": ours.mean(), "theirs": theirs.mean(), **paired(ours, theirs)}
            row["verdict"] = OPEN if len(ours) < 2 else KEPT if row["ours"] < row["theirs"] else LOST
            rows.append(row)
    columns = ["experiment", "split", "best", "other", "by_chance", "ours", "theirs", "n", "wins", "effect", "p"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])
