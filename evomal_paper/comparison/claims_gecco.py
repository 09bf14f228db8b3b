"""The claims that GECCO'23 makes in words, each with its test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from evomal_paper.comparison.evidence import Evidence
from evomal_paper.comparison.findings import (
    ABSENT,
    MOST,
    Finding,
    corrected,
    decide,
    fewest,
    means_of,
    n_text,
    number,
    of_each,
    place_name,
    untestable,
)
from evomal_paper.published.tables import COMPARED, LABELS, published
from evomal_paper.sentences import count_seeds
from evomal_paper.statistics import LEVEL, paired_differences, wilcoxon_p

SMALL_SUBSET = 0.5
"""The largest share of the gradient steps that counts as "a small subset"."""
LARGEST_SHARE = 0.02
"""The largest share of ML³'s weights that counts as "1–2 %"."""


def first_generation(histories: pd.DataFrame, target: pd.Series) -> pd.Series:
    """First generation of each seed whose best fitness is at most the seed's target; inf if none is.

    Args:
        histories: one method's rows of `Results.histories`, of one experiment and profile.
        target: a fitness for each seed.
    """
    reached = histories[histories["best_fitness"] <= histories["seed"].map(target)]
    return reached.groupby("seed")["generation"].min().reindex(target.index).fillna(np.inf)


def generations_to_match(histories: pd.DataFrame, rivals: tuple[str, ...] = ("random", "gp-lfl")) -> pd.DataFrame:
    """Generations that EvoMAL and a rival need to reach the rival's own final best fitness.

    At a seed both start from the same initial weights and batches, so their fitness can be compared. One row per
    experiment, rival and seed: target (the rival's final best fitness), ours and theirs (generations, counted from
    1; inf: not reached).
    """
    rows = []
    for experiment, part in histories.groupby("experiment", sort=False):
        methods = {str(name): table for name, table in part.groupby(part["method"].astype(str))}
        for rival in [name for name in rivals if name in methods and "evomal" in methods]:
            final = methods[rival].sort_values("generation").groupby("seed")["best_fitness"].last()
            target = final[final.index.isin(methods["evomal"]["seed"]) & np.isfinite(final)]
            found = pd.DataFrame({"target": target})
            found["ours"] = first_generation(methods["evomal"], target) + 1
            found["theirs"] = first_generation(methods[rival], target) + 1
            rows.append(found.reset_index().assign(experiment=experiment, rival=rival))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def fewer_generations(evidence: Evidence) -> Finding:
    """Compare the generations that EvoMAL and its rivals take to the rival's final best fitness (Figure 6)."""
    found = generations_to_match(evidence.histories)
    if found.empty:
        return ABSENT
    rows = [
        {
            **{"experiment": experiment, "rival": rival, "n": len(part)},
            **part[["ours", "theirs"]].median(),
            "p": wilcoxon_p(paired_differences(part["ours"], part["theirs"])),
        }
        for (experiment, rival), part in found.groupby(["experiment", "rival"], sort=False)
    ]
    compared = pd.DataFrame(rows)
    compared["p"] = corrected(compared)
    text = "; ".join(
        f"{row['experiment']}: what {LABELS[row['rival']]} reaches after {number(row['theirs'])} generations, "
        + (f"EvoMAL reaches after {row['ours']:.3g}" if np.isfinite(row["ours"]) else "EvoMAL does not reach")
        + f" (medians), p = {row['p']:.2g}"
        for row in compared.to_dict("records")
    )
    fewer, n = compared["ours"] < compared["theirs"], compared["n"]
    verdict = decide(bool((fewer & (compared["p"] < LEVEL)).all()), bool(fewer.all()), n)
    rivals = compared["experiment"].value_counts()
    whole = frozenset(rivals.index[rivals == 2])
    said = f"{text}{untestable(compared)} ({n_text(n)})."
    return Finding(verdict, said, fewest(compared["experiment"], n), whole)


def few_weights(evidence: Evidence) -> Finding:
    """Compare the numbers of weights of EvoMAL's and ML³'s losses (Table 3)."""
    weights = evidence.values[evidence.values["table"] == "3"]
    means, n = means_of(weights, ["experiment"], "value", ["evomal", "ml3"])
    if means.empty:
        return ABSENT
    shares = means["evomal"] / means["ml3"]
    theirs = published("3").pivot(index="experiment", columns="method", values="mean")
    text = "; ".join(
        f"{name} {share:.2%} (published {theirs.loc[name, 'evomal'] / theirs.loc[name, 'ml3']:.2%})"
        for name, share in shares.items()
    )
    verdict = decide(bool((shares <= LARGEST_SHARE).all()), bool((shares < 1).all()), n)
    said = f"EvoMAL's mean number of weights as a share of ML³'s: {text} ({n_text(n)})."
    return of_each(n.index, n, verdict, said)


def steps_to_baseline(curves: pd.DataFrame, table: str = "2") -> pd.DataFrame:
    """The share of the gradient steps that EvoMAL needs to reach the baseline's final error, at each seed.

    Errors are averaged over a run's tasks, on the part that the table is compared with; a seed at which the
    baseline diverged has no goal and is left out. One row per experiment, group and seed: share, inf where EvoMAL
    never comes below the goal, or does not stay there to the end.
    """
    rows = []
    chosen = curves[(curves["split"] == COMPARED[table][0]) & curves["method"].isin(["baseline", "evomal"])]
    for (experiment, group), part in chosen.groupby(["experiment", "group"], sort=False):
        errors = part.groupby(["method", "seed", "step"])["error"].mean().unstack("step").sort_index(axis=1)
        if set(errors.index.get_level_values("method")) < {"baseline", "evomal"}:
            continue
        goal = errors.loc["baseline"].iloc[:, -1]
        goal = goal[np.isfinite(goal)]
        ours = errors.loc["evomal"].reindex(goal.index).dropna(how="all")
        below = ours.lt(goal.reindex(ours.index), axis=0)
        steps = below.idxmax(axis=1).where(below.iloc[:, -1], np.inf) / errors.columns[-1]
        rows.append(pd.DataFrame({"share": steps}).reset_index().assign(experiment=experiment, group=group))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def faster(evidence: Evidence) -> Finding:
    """Measure the gradient steps after which EvoMAL stays below the baseline's final error (Figure 5)."""
    found = steps_to_baseline(evidence.curves)
    if found.empty:
        return ABSENT
    groups = found.groupby(["experiment", "group"], sort=False)["share"]
    medians, n = groups.median(), groups.size()
    never = groups.agg(lambda shares: int(np.isinf(shares).sum()))
    text = "; ".join(
        f"{place_name(*place)}: {f'{share:.0%} of the steps' if np.isfinite(share) else 'never'} (median; "
        f"never at {never[place]} of {count_seeds(int(n[place]))})"
        for place, share in medians.items()
    )
    verdict = decide(bool((medians <= SMALL_SUBSET).mean() >= MOST), bool((medians < 1).mean() > 0.5), n)
    experiments = n.index.get_level_values("experiment")
    both = experiments.value_counts()
    said = f"EvoMAL comes below the baseline's final error, and ends there, after: {text} ({n_text(n)})."
    return Finding(verdict, said, fewest(experiments, n), frozenset(both.index[both == 2]))


MEASURES: dict[str, Callable[..., Finding]] = {
    "fewer_generations": fewer_generations,
    "few_weights": few_weights,
    "faster": faster,
}
"""The functions that judge the claims of `published/claims.toml`, by the names that it gives them."""
