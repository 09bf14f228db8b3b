"""The claims that TPAMI'23 makes in words, each with its test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from evomal_paper.analysis.landscapes import RADIUS, sharpness
from evomal_paper.analysis.learning_rate import common_seeds, remaining_gain, stated_rate, tuned
from evomal_paper.analysis.runtime import PUBLISHED_SHARES, frequencies
from evomal_paper.analysis.transfer import is_published
from evomal_paper.comparison.evidence import Evidence
from evomal_paper.comparison.findings import (
    ABSENT,
    MOST,
    Finding,
    decide,
    fewest,
    means_of,
    n_text,
    of_each,
)
from evomal_paper.published.tables import LABELS, published
from evomal_paper.sentences import interval
from evomal_paper.statistics import LEVEL, holm, paired, paired_methods

NEAR = 0.05
"""Largest distance of a share from the published one: five percentage points."""
ABOUT_TWICE = (1.5, 3.0)
"""Ratios of run times that count as "approximately twice"."""
EARLY = 5
"""The share of the generations that is "the first 10" of the paper's 50: a fifth."""
FEWEST_RATES = 3
"""Fewer learning rates than that are no search for the best."""
SHARPER = ("cifar10-alexnet",)
"""Where the paper finds EvoMAL's landscape sharper than cross-entropy's; elsewhere flatter."""


def filter_shares(histories: pd.DataFrame) -> pd.DataFrame:
    """The mean shares of EvoMAL's population that met each outcome (`runtime.frequencies`), over generations.

    Three rows per experiment, by `when`: "all" generations, the "early" (first fifth) and the "late" (last fifth);
    n is the number of runs.
    """
    rows = []
    found = frequencies(histories.dropna(subset=["cached"]))
    found = found[found["experiment"] != "all"]  # the mean over runs; experiments count alike here
    for experiment, part in found.groupby("experiment", sort=False):
        shares = part.pivot(index="generation", columns="outcome", values="share")
        fifth = max(1, len(shares) // EARLY)
        for when, some in (("all", shares), ("early", shares.iloc[:fifth]), ("late", shares.iloc[-fifth:])):
            rows.append({"experiment": experiment, "when": when, "n": int(part["n"].max()), **some.mean()})
    return pd.DataFrame(rows, columns=None if rows else ["experiment", "when", "n"])


def filters(evidence: Evidence) -> Finding:
    """Measure the shares of repeated and of evaluated candidates (Figure 5)."""
    shares = filter_shares(evidence.histories)
    if shares.empty:
        return ABSENT
    found = shares[shares["when"] == "all"]
    repeated, evaluated = found["cached"].mean(), found["trained"].mean()
    stated = PUBLISHED_SHARES["cached"], PUBLISHED_SHARES["trained"]
    near = abs(repeated - stated[0]) <= NEAR and abs(evaluated - stated[1]) <= NEAR
    verdict = decide(near, repeated < evaluated < 0.5, found["n"])
    text = (
        f"Of the population {repeated:.0%} are symbolic repeats (published ~{stated[0]:.0%}), and {evaluated:.0%} "
        f"are evaluated (published ~{stated[1]:.0%}) ({n_text(found['n'])})."
    )
    return of_each(found["experiment"], found["n"], verdict, text)


def filters_over_time(evidence: Evidence) -> Finding:
    """Compare the shares of rejected and of equivalent candidates early and late in a search (Figure 5)."""
    shares = filter_shares(evidence.histories)
    if shares.empty:
        return ABSENT
    for name in ("rejected", "equivalent"):
        shares[name] /= shares["optimised"].where(shares["optimised"] > 0, 1.0)
    means = shares.groupby("when")[["rejected", "equivalent"]].mean()
    early, late = means.loc["early"], means.loc["late"]
    text = "; ".join(f"{name} from {early[name]:.0%} to {late[name]:.0%}" for name in means)
    direction = bool(late["rejected"] < early["rejected"] and late["equivalent"] > early["equivalent"])
    verdict = decide(direction and bool(early["rejected"] > 0.5), direction, shares["n"])
    said = (
        f"Of the optimised, from the first to the last fifth of the generations: {text} ({n_text(shares['n'])})."
    )
    return of_each(shares["experiment"], shares["n"], verdict, said)


def early(evidence: Evidence) -> Finding:
    """Compare EvoMAL's best fitness after a fifth of the generations with GP-LFL's at the end (Figure 4)."""
    rows = []
    for experiment, part in evidence.histories.groupby("experiment", sort=False):
        best = part.pivot_table(index="generation", columns=["method", "seed"], values="best_fitness")
        if not {"evomal", "gp-lfl"} <= set(best.columns.get_level_values("method")):
            continue
        seeds = best["evomal"].columns.intersection(best["gp-lfl"].columns)
        if seeds.empty:
            continue
        ours, theirs = best["evomal"][seeds], best["gp-lfl"][seeds]
        fifth = max(1, len(ours) // EARLY)
        row = {
            "early": ours.iloc[fifth - 1].mean(),
            "final": ours.iloc[-1].mean(),
            "theirs": theirs.iloc[-1].mean(),
        }
        rows.append({"experiment": experiment, "generations": fifth, "n": ours.shape[1], **row})
    if not rows:
        return ABSENT
    found = pd.DataFrame(rows)
    early, final = found["early"] < found["theirs"], found["final"] < found["theirs"]
    text = "; ".join(
        f"{row['experiment']}: {row['early']:.3g} after {row['generations']} generations, {row['final']:.3g} at "
        f"the end, GP-LFL {row['theirs']:.3g} at the end"
        for row in rows
    )
    verdict = decide(bool(early.mean() >= MOST), bool(final.all()), found["n"])
    said = f"EvoMAL's mean best fitness: {text} ({n_text(found['n'])})."
    return of_each(found["experiment"], found["n"], verdict, said)


def run_time(evidence: Evidence) -> Finding:
    """Compare the meta-training times of the methods (Table V)."""
    hours = evidence.values[evidence.values["table"] == "V"]
    needed = ["evomal", "taylorglo", "gp-lfl", "ml3"]
    means, n = means_of(hours, ["experiment"], "value", needed)
    if means.empty:
        return ABSENT
    means = means[needed]
    ratio = np.exp(np.log(means["evomal"] / means["taylorglo"]).mean())
    dearest = bool((means["evomal"] > means.drop(columns="evomal").max(axis=1)).all())
    theirs = published("V").pivot(index="experiment", columns="method", values="mean")
    stated = np.exp(np.log(theirs["evomal"] / theirs["taylorglo"]).mean())
    text = (
        f"EvoMAL takes {ratio:.2f} times as long as TaylorGLO (geometric mean over {len(means)} of {len(theirs)} "
        f"experiments; Table V's is {stated:.2f}), and {'more' if dearest else 'not always more'} than every "
        f"other method ({n_text(n)})."
    )
    verdict = decide(ABOUT_TWICE[0] <= ratio <= ABOUT_TWICE[1] and dearest, dearest, n)
    return of_each(means.index, n, verdict, text)


def flatter(evidence: Evidence) -> Finding:
    """Compare the sharpness of the minima that EvoMAL's losses and the baseline reach (Figure 7)."""
    if evidence.landscapes.empty:
        return ABSENT
    rows = []
    for experiment, part in evidence.landscapes.groupby("experiment", sort=False):
        offsets = part["x"].abs()
        radius = RADIUS if offsets[offsets > 0].min() <= RADIUS <= offsets.max() else float(offsets.max())
        sharp = sharpness(part, radius=radius)
        for _, ours, theirs in paired_methods(sharp, "sharpness", "evomal", ["baseline"]):
            if len(ours):
                as_said = (ours.mean() > theirs.mean()) == (experiment in SHARPER)
                row = {"experiment": experiment, "ours": ours.mean(), "theirs": theirs.mean()}
                rows.append(row | paired(ours, theirs) | {"radius": radius, "as said": as_said})
    if not rows:
        return ABSENT
    found = pd.DataFrame(rows)
    p = holm(found["p"].to_numpy())
    text = "; ".join(
        f"{row['experiment']}, within ±{row['radius']:g}: sharpness {row['ours']:.3g}, the baseline's "
        f"{row['theirs']:.3g}, p = {value:.2g}"
        for row, value in zip(rows, p, strict=True)
    )
    said = bool(found["as said"].all())
    verdict = decide(said and bool((p < LEVEL).all()), said, found["n"])
    return of_each(found["experiment"], found["n"], verdict, f"{text} ({n_text(found['n'])}).")


def not_only_rates(evidence: Evidence) -> Finding:
    """Compare EvoMAL with the baseline at the learning rate that suits the baseline best (Figure 8)."""
    rows, edges = [], []
    for (experiment, profile), final in evidence.rates.groupby(["experiment", "profile"], sort=False):
        final = common_seeds(final[final["method"].isin(["baseline", "evomal"])])
        if final["method"].nunique() < 2 or final["rate"].nunique() < FEWEST_RATES:
            continue
        best = tuned(final).query("method == 'baseline'")["rate"]
        if best.isin([final["rate"].min(), final["rate"].max()]).any():
            edges.append(str(experiment))
            continue
        gains = remaining_gain(final, stated_rate(str(experiment), str(profile)))
        chosen = gains[(gains["split"] == "test") & (gains["group"] == "in-sample")]
        row = chosen[chosen["comparison"] == "same rate"].to_dict("records")[0]
        rows.append(row | {"experiment": experiment, "rates": final["rate"].nunique()})
    if not rows:
        return ABSENT
    text = "; ".join(
        f"{row['experiment']}, {row['rates']} rates: EvoMAL − baseline, {interval(row)}" for row in rows
    )
    text += f"; not judged, the best rate being at the edge of the grid: {', '.join(edges)}" if edges else ""
    better = [row["verdict"] == "lower" for row in rows]
    found = pd.DataFrame(rows)
    verdict = decide(all(better), all(row["difference"] < 0 for row in rows), found["n"])
    return of_each(found["experiment"], found["n"], verdict, f"At the baseline's best rate: {text}.")


def transfer(evidence: Evidence) -> Finding:
    """Compare transferred losses with the target's own baseline (Table IV)."""
    held_out = evidence.transfers[evidence.transfers["split"] == "test"]
    means, seeds = means_of(held_out, ["source", "experiment", "group"], "error", ["baseline", "evomal", "ml3"])
    if means.empty:
        return ABSENT
    own = np.array([is_published(source, target) for source, target, _ in means.index])
    means, seeds = (means[own], seeds[own]) if own.any() else (means, seeds)  # all others are stand-ins
    better = means.drop(columns="baseline").lt(means["baseline"], axis=0).sum()
    counts = ", ".join(f"{LABELS[name]} {count}" for name, count in better.items())
    names = ", ".join(dict.fromkeys(f"{source} → {target}" for source, target, _ in means.index))
    half = len(means) / 2
    verdict = decide(
        bool(better["evomal"] > half and (better["evomal"] >= better).all()),
        bool((means["evomal"] < means["ml3"]).sum() > half),
        seeds,
    )
    whole = means.dropna(subset=[*LEARNED]) if set(LEARNED) <= set(means) else means[:0]
    targets, covered = (table.index.get_level_values("experiment") for table in (means, whole))
    return Finding(
        verdict,
        f"Mean held-out error below the target's own baseline, of {len(means)} comparisons ({names}): {counts} "
        f"({n_text(seeds)}).",
        fewest(targets, seeds) if own.any() else {},
        frozenset(covered),
    )


LEARNED = ("ml3", "taylorglo", "gp-lfl")


MEASURES: dict[str, Callable[..., Finding]] = {
    "transfer": transfer,
    "early": early,
    "filters_over_time": filters_over_time,
    "filters": filters,
    "run_time": run_time,
    "flatter": flatter,
    "not_only_rates": not_only_rates,
}
"""The functions that judge the claims of `published/claims.toml`, by the names that it gives them."""
