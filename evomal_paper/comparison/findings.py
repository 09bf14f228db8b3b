"""Findings on the papers' claims, and comparisons of EvoMAL with other methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from evomal_paper.comparison.evidence import Evidence
from evomal_paper.comparison.verdicts import DIRECTION, NOT, NOT_RUN, REPRODUCED
from evomal_paper.published.tables import COMPARED, LABELS, published
from evomal_paper.sentences import count_seeds
from evomal_paper.statistics import LEVEL, holm, paired, paired_methods, smallest_p


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, and the numbers that it rests on, with n.

    Attributes:
        verdict: by the claim's rule, for what was run.
        text: the numbers.
        seeds: the fewest seeds behind any comparison of each experiment that it rests on.
        covered: those of them of which all was run that the rule asks for.
    """

    verdict: str
    text: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
    covered: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Claim:
    """One claim of a paper in words.

    Attributes:
        name: its name in tables.
        paper: "gecco23" or "tpami23".
        section: where it stands.
        quote: the claim, quoted briefly.
        rule: when it is reproduced, when in direction only.
        judge: gives the finding from the evidence of one paper, of each experiment under one profile.
        experiments: what the claim is about; it can be reproduced only if all of them were run, with all rivals.
    """

    name: str
    paper: str
    section: str
    quote: str
    rule: str
    judge: Callable[[Evidence], Finding]
    experiments: tuple[str, ...]

    def found(self, evidence: Evidence) -> Finding:
        """The finding of `judge`, with how much of the claim it covers; incomplete, it is a direction at most.

        Runs of other experiments, its stand-ins, neither confirm a claim nor contradict it.
        """
        finding = self.judge(evidence.about(self.experiments))
        if not finding.seeds:
            others = self.judge(evidence)
            none = "No experiment that the claim is about was run."
            return Finding(NOT_RUN, f"On stand-ins only: {others.text} {none}") if others.text else ABSENT
        covered = len(finding.covered)
        verdict = finding.verdict
        if verdict == REPRODUCED and covered < len(self.experiments):
            verdict = DIRECTION
        said = f"Complete on {covered} of the {len(self.experiments)} experiments that the claim is about."
        return replace(finding, verdict=verdict, text=f"{finding.text} {said}")


ABSENT = Finding(NOT_RUN)
MOST = 0.8
"""The share of experiments in which holds what a paper says of "almost all" or "generally"."""


def pairs(values: pd.DataFrame, table: str, rivals: Sequence[str], leave_out: Sequence[str] = ()) -> pd.DataFrame:
    """EvoMAL's final errors against its rivals', seed by seed, on the part that a table is compared with.

    Args:
        values: `Evidence.values`.
        table: one of `paper.TABLES`.
        rivals: methods.
        leave_out: experiments that the claim itself excepts.

    Returns:
        One row per published experiment, group and rival: n, wins, difference, effect and p (`paired`),
        and the means "ours" and "theirs" (inf with a diverged run).
    """
    split = COMPARED[table][0]
    names = set(published(table)["experiment"]) - set(leave_out)
    errors = values[(values["table"] == table) & (values["split"] == split) & values["experiment"].isin(names)]
    rows = []
    for (experiment, group), part in errors.groupby(["experiment", "group"], sort=False):
        for rival, ours, theirs in paired_methods(part, "value", "evomal", rivals):
            if not len(ours):
                continue
            place = {"experiment": experiment, "group": group, "rival": rival, "table": table}
            rows.append({**place, "ours": ours.mean(), "theirs": theirs.mean(), **paired(ours, theirs)})
    return pd.DataFrame(rows)


def beats(
    evidence: Evidence, tables: Sequence[str], rivals: Sequence[str], leave_out: Sequence[str] = ()
) -> Finding:
    """Compare EvoMAL's final errors with those of its rivals, place by place, in some of the papers' tables.

    Args:
        evidence: the runs.
        tables: of `paper.TABLES`.
        rivals: those that the claim names.
        leave_out: experiments that the claim itself excepts.
    """
    found = pd.concat([pairs(evidence.values, table, rivals, leave_out) for table in tables], ignore_index=True)
    if found.empty:
        return ABSENT
    lower = found["ours"] < found["theirs"]
    significant = lower & (corrected(found) < LEVEL)
    verdict = decide(bool(significant.all()), bool(lower.all()), found["n"])
    names = ", ".join(LABELS[name] for name in dict.fromkeys(found["rival"]))
    lines = [f"EvoMAL's mean is below the other's in {lower.sum()} of {len(found)} comparisons with {names}"]
    lines.append(f"significantly in {significant.sum()}{untestable(found)}")
    if not lower.all():
        lines.append("not below " + listed(found[~lower]))
    return Finding(
        verdict,
        f"{'; '.join(lines)} ({n_text(found['n'])}).",
        fewest(found["experiment"], found["n"]),
        _compared_whole(found, rivals),
    )


def _compared_whole(found: pd.DataFrame, rivals: Sequence[str]) -> frozenset[str]:
    """The experiments that were compared with all rivals in all groups."""
    wanted = pd.concat([published(table) for table in found["table"].unique()])
    wanted = wanted[wanted["method"].isin(rivals)].groupby("experiment").size()
    done = found.groupby("experiment").size()
    return frozenset(name for name, count in done.items() if count == wanted[name])


def means_of(
    values: pd.DataFrame, place: Sequence[str], value: str, needed: Sequence[str]
) -> tuple[pd.DataFrame, pd.Series]:
    """Means over seeds, a row per place that has all needed methods, and the fewest seeds behind each row.

    Args:
        values: one row per place, method and seed.
        place: the columns that make a place.
        value: the column that is averaged.
        needed: methods without which a place is left out; all others are there too.
    """
    groups = values.groupby([*place, "method"], sort=False)[value]
    means, seeds = groups.mean().unstack(), groups.size().unstack()
    if not set(needed) <= set(means):
        return means[:0], seeds.min(axis=1)[:0]
    means = means.dropna(subset=list(needed))
    return means, seeds.loc[means.index, list(needed)].min(axis=1)


def corrected(found: pd.DataFrame) -> pd.Series:
    """The p of comparisons, corrected by Holm's method for all those of an experiment.

    As in `verdicts.orderings`. For all of a claim at once, GECCO's 32 comparisons could not reach 5 % with the
    paper's own ten seeds; and since every one must be significant, none is the gain of having many.

    Args:
        found: a row per comparison, with the columns experiment and p.
    """
    return found.groupby("experiment")["p"].transform(lambda p: holm(p.to_numpy(float)))


def untestable(found: pd.DataFrame) -> str:
    """Experiments on which no comparison can be significant for want of seeds, in words; empty if there is none.

    Args:
        found: a row per comparison, with the columns experiment and n.
    """
    n = found.groupby("experiment", sort=False)["n"].agg(["size", "max"])
    least = (n["size"] * n["max"].map(smallest_p)).clip(upper=1.0)
    few = n[least >= LEVEL]
    if few.empty:
        return ""
    where = f" on {', '.join(few.index)}" if len(few) < len(n) else ""
    with_seeds = f"p ≥ {least[few.index].min():.2g} with {count_seeds(int(few['max'].max()))}"
    return f" (not testable at 5 %{where}: corrected {with_seeds})"


def listed(found: pd.DataFrame, most: int = 6) -> str:
    """Comparisons by name, `GP-LFL on sine out-of-sample`, with how many more there are."""
    names = [
        f"{LABELS[row.rival]} on {place_name(row.experiment, row.group, row.table)}" for row in found.itertuples()
    ]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def place_name(experiment: str, group: str, table: str = "2") -> str:
    """`sine in-sample`; of a table that has no groups, the experiment alone."""
    return f"{experiment} {group}" if table == "2" else experiment


def fewest(experiments: Iterable[str], counts: Iterable[int]) -> dict[str, int]:
    """The smallest count of each experiment, for `Finding.seeds`."""
    return pd.Series([*counts]).groupby([*experiments], sort=False).min().to_dict()


def of_each(experiments: pd.Series | pd.Index, counts: pd.Series, verdict: str, text: str) -> Finding:
    """A finding that covers each of its experiments whole."""
    return Finding(verdict, text, fewest(experiments, counts), frozenset(experiments))


def n_text(counts: Iterable[int]) -> str:
    """`n = 5 seeds`, or `n = 3 to 5 seeds`; where there is only one, with what that means for the verdict."""
    numbers = [*map(int, counts)]
    least, most = min(numbers), max(numbers)
    if most == 1:
        return f"n = {count_seeds(1)}, which decides nothing"
    spread = f"n = {least} to {count_seeds(most)}" if least < most else f"n = {count_seeds(most)}"
    return spread + ("; a single one decides nothing" if least == 1 else "")


def decide(reproduced: bool, direction: bool, counts: Iterable[int]) -> str:
    """The verdict by two tests, unless somewhere a single seed stands behind them: it decides nothing."""
    if min(counts) < 2:
        return NOT
    return REPRODUCED if reproduced else DIRECTION if direction else NOT


def number(value: float) -> str:
    """A number to read, with "never" for inf."""
    return f"{value:.3g}" if np.isfinite(value) else "never"
