"""TPAMI Table III under both splits of the tabular data, and which of its orders survive the correct one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_core.search import METHODS
from evomal_paper.comparison.verdicts import compare, decided, paired
from evomal_paper.experiments.profiles import Profile, changes_in, protocol
from evomal_paper.published.tables import LABELS, published
from evomal_paper.sentences import count_seeds, mean_and_sd

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
    """The name of a profile's variant with a split: `quick`, or `quick@split=leaking`.

    Raises:
        ValueError: the name says a split already.
    """
    base, at, changes = profile.partition("@")
    if any(change.startswith("split=") for change in changes_in(changes)):
        raise ValueError(f"profile {profile!r} has a split of its own; name it in splits instead")
    if split == "disjoint":
        return profile
    return f"{base}@{','.join(filter(None, [changes if at else '', f'split={split}']))}"


def split_of(profile: str) -> str:
    """The split that a profile's name says."""
    return next((s for s in SPLITS if f"split={s}" in changes_in(profile.partition("@")[2])), "disjoint")


def table_iii(final: pd.DataFrame) -> pd.DataFrame:
    """Table III beside the measured test errors, one column per split: mean ± standard deviation (seeds).

    The verdict is on the leaking cell, which the published one can be compared with.

    Args:
        final: `Results.final` of tabular runs under one profile and its variants by split.
    """
    cells = compare(final[final["split"] == "test"], "III")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells.to_dict("records"):
        row = rows.setdefault((cell["experiment"], cell["method"]), {})
        row["published"] = mean_and_sd(*(cell[f"published {name}"] for name in ("mean", "sd", "n")))
        split = split_of(cell["profile"])
        row[split] = mean_and_sd(*(cell[name] for name in ("mean", "sd", "n", "diverged")))
        if split == "leaking":
            row["leaking beside published"] = cell["verdict"]
    columns = ["published", "leaking", "leaking beside published", "disjoint"]
    experiments = list(dict.fromkeys(name for name, _ in rows))
    order = sorted(rows, key=lambda key: (experiments.index(key[0]), list(METHODS).index(key[1])))
    index = pd.MultiIndex.from_tuples(order, names=["experiment", "method"])
    table = pd.DataFrame([rows[key] for key in order], index=index).fillna("–")
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
        which the best method's error is smaller), effect, p (paired, see `verdicts.paired`) and verdict.
    """
    cells = published("III").query("experiment in @final.experiment.unique()")
    rows: list[dict[str, Any]] = []
    tests = final[(final["split"] == "test") & (final["group"] == "in-sample")]
    for (experiment, profile), part in tests.groupby(["experiment", "profile"], observed=True, sort=False):
        wide = part.astype({"method": str}).pivot(index="seed", columns="method", values="error")
        numbers = cells[cells["experiment"] == experiment].set_index("method")[["mean", "sd", "n"]]
        best = str(numbers["mean"].idxmin())
        for other in [name for name in METHODS if name in numbers.index and name != best]:
            if not {best, other} <= set(wide):
                continue
            both = wide[[best, other]].dropna()
            ours, theirs = both[best].to_numpy(float), both[other].to_numpy(float)
            row = {"experiment": experiment, "split": split_of(str(profile)), "best": best, "other": other}
            row["by_chance"] = not decided(tuple(numbers.loc[best]), tuple(numbers.loc[other]))
            row |= {"ours": ours.mean(), "theirs": theirs.mean(), **paired(ours, theirs)}
            row["verdict"] = OPEN if len(both) < 2 else KEPT if row["ours"] < row["theirs"] else LOST
            rows.append(row)
    columns = ["experiment", "split", "best", "other", "by_chance", "ours", "theirs", "n", "wins", "effect", "p"]
    return pd.DataFrame(rows, columns=[*columns, "verdict"])


def in_words(found: pd.DataFrame, profile: str) -> str:
    """Which of Table III's orders survive the correct split, as Markdown computed from the table of `orders`."""
    if found.empty:
        return f"Profile `{profile}`, n = 0: none of the orders of Table III was measured."
    low, high = int(found["n"].min()), int(found["n"].max())
    n = count_seeds(low) if low == high else f"{low} to {high} seeds"
    lines = [
        f"Profile `{profile}`, n = {n}.{protocol(profile)} An order of Table III is *kept* if the measured means "
        "stand as the published ones do; it is *within chance* if those are closer than 1.96 standard errors. "
        "At a seed both methods start alike."
    ]
    for experiment, part in found.groupby("experiment", sort=False):
        lines.append(f"\n**{experiment}**: published, {LABELS[part['best'].iloc[0]]} is the best.\n")
        for split in [name for name in SPLITS if name in set(part["split"])]:
            here = part[part["split"] == split]
            said = [
                _verdict(here, verdict) for verdict in (KEPT, LOST, OPEN) if (here["verdict"] == verdict).any()
            ]
            lines.append(f"- {split}: {'; '.join(said)}.")
    lines += ["", *_survival(found)]
    return "\n".join(lines) + "\n"


def _verdict(part: pd.DataFrame, verdict: str) -> str:
    rows = part[part["verdict"] == verdict].to_dict("records")
    chance = {True: ", published within chance", False: ""}
    names = ", ".join(
        f"{LABELS[row['other']]} (lower in {row['wins']} of {row['n']}{chance[row['by_chance']]})" for row in rows
    )
    return f"**{verdict}** against {names}"


def _survival(found: pd.DataFrame) -> list[str]:
    """How many orders each split keeps, and what becomes of those that the leaking one keeps."""
    lines = ["**All together**", ""]
    for split in [name for name in SPLITS if name in set(found["split"])]:
        here = found[found["split"] == split]
        kept = int((here["verdict"] == KEPT).sum())
        unknown = int((here["verdict"] == OPEN).sum())
        rest = f"; {unknown} are undecided" if unknown else ""
        lines.append(f"- Under the {split} split {kept} of {len(here)} published orders are kept{rest}.")
    wide = found.pivot(index=["experiment", "best", "other"], columns="split", values="verdict")
    if not set(SPLITS) <= set(wide) or (found["verdict"] == OPEN).all():
        return lines
    for verdict, said in ((KEPT, "survive"), (LOST, "do not survive")):
        rows = wide[(wide["leaking"] == KEPT) & (wide["disjoint"] == verdict)].index
        names = "; ".join(f"{name}, {LABELS[best]} below {LABELS[other]}" for name, best, other in rows)
        lines.append(f"- Kept under the leaking split, these {said} the correct one: {names or 'none'}.")
    return lines
