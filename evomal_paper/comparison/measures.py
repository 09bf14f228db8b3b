"""Tests of the papers' claims in words: each takes the evidence and returns a finding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from evomal_paper.analysis.landscapes import RADIUS, sharpness
from evomal_paper.analysis.learning_rate import common_seeds, remaining_gain, stated_rate, tuned
from evomal_paper.analysis.runtime import PUBLISHED_SHARES, frequencies
from evomal_paper.analysis.transfer import is_published
from evomal_paper.comparison.evidence import Evidence
from evomal_paper.comparison.verdicts import DIRECTION, NOT, NOT_RUN, REPRODUCED
from evomal_paper.published.tables import COMPARED, LABELS, published
from evomal_paper.sentences import count_seeds, interval
from evomal_paper.statistics import LEVEL, holm, paired, paired_differences, paired_methods, smallest_p, wilcoxon_p

MOST = 0.8
"""The share of experiments in which holds what a paper says of "almost all" or "generally"."""
SMALL_SUBSET = 0.5
"""The largest share of the gradient steps that counts as "a small subset"."""
LARGEST_SHARE = 0.02
"""The largest share of ML³'s weights that counts as "1–2 %"."""
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


ABSENT = Finding(NOT_RUN)
PLACE = ["experiment", "group"]


def judged(
    comparisons: pd.DataFrame, reproduced: bool, direction: bool, text: str, whole: Iterable[str] | None = None
) -> Finding:
    """The finding of two tests, with n after the text; a single seed behind any comparison decides nothing.

    Comparisons have a row each, with the columns experiment and n (seeds); `whole` are the experiments that were
    compared as the rule asks, all of them if None.
    """
    names, n = comparisons["experiment"], comparisons["n"].astype(int)
    verdict = NOT if n.min() < 2 else REPRODUCED if reproduced else DIRECTION if direction else NOT
    covered = frozenset(names if whole is None else whole)
    return Finding(verdict, f"{text} ({_seeds(n)}).", n.groupby(names, sort=False).min().to_dict(), covered)


def _seeds(n: pd.Series) -> str:
    """`n = 5 seeds`, or `n = 3 to 5 seeds`; where there is only one, with what that means for the verdict."""
    least, most = n.min(), n.max()
    if most == 1:
        return f"n = {count_seeds(1)}, which decides nothing"
    spread = f"n = {least} to {count_seeds(most)}" if least < most else f"n = {count_seeds(most)}"
    return spread + ("; a single one decides nothing" if least == 1 else "")


def listed(found: pd.DataFrame, line: str) -> str:
    """The rows of a table in words, each in the form of a line such as `{experiment}: {early:.3g}`."""
    return "; ".join(line.format(**row) for row in found.to_dict("records"))


def means_of(values: pd.DataFrame, place: Sequence[str], value: str, needed: Sequence[str]) -> pd.DataFrame:
    """Means of a value by method, a row for each place that has all needed methods; n is their fewest seeds."""
    groups = values.groupby([*place, "method"], sort=False)[value]
    means, seeds = groups.mean().unstack(), groups.size().unstack()
    if not set(needed) <= set(means):
        return means[:0].assign(n=0)
    return means.dropna(subset=list(needed)).assign(n=seeds[list(needed)].min(axis=1))


def corrected(found: pd.DataFrame) -> pd.Series:
    """The column p, corrected by Holm's method for all comparisons of an experiment, as in `verdicts.orderings`.

    For all of a claim at once, GECCO's 32 comparisons could not reach 5 % with the paper's own ten seeds; and
    since every one must be significant, none is the gain of having many.
    """
    return found.groupby("experiment")["p"].transform(lambda p: holm(p.to_numpy(float)))


def untestable(found: pd.DataFrame) -> str:
    """Experiments on which no comparison can be significant for want of seeds, in words; empty if none."""
    n = found.groupby("experiment", sort=False)["n"].agg(["size", "max"])
    least = (n["size"] * n["max"].map(smallest_p)).clip(upper=1.0)
    few = n[least >= LEVEL]
    if few.empty:
        return ""
    where = f" on {', '.join(few.index)}" if len(few) < len(n) else ""
    with_seeds = f"p ≥ {least[few.index].min():.2g} with {count_seeds(int(few['max'].max()))}"
    return f" (not testable at 5 %{where}: corrected {with_seeds})"


# ---- GECCO'23 and TPAMI'23: final errors -----------------------------------------------------------------


def beats(
    evidence: Evidence, tables: Sequence[str], rivals: Sequence[str], leave_out: Sequence[str] = ()
) -> Finding:
    """Compare EvoMAL's final errors with its rivals', seed by seed, on the part that each table is compared with.

    The claim names the tables and rivals, and excepts the experiments to leave out.
    """
    rows = []
    for table in tables:
        own, values = set(published(table)["experiment"]) - set(leave_out), evidence.values
        values = values[(values["table"] == table) & (values["split"] == COMPARED[table][0])]
        for (experiment, group), part in values[values["experiment"].isin(own)].groupby(PLACE, sort=False):
            for rival, ours, theirs in paired_methods(part, "value", "evomal", rivals):
                if len(ours):
                    row = {"experiment": experiment, "place": place_name(experiment, group, table), "rival": rival}
                    rows.append(row | {"ours": ours.mean(), "theirs": theirs.mean(), **paired(ours, theirs)})
    if not rows:
        return ABSENT
    found = pd.DataFrame(rows)
    lower = found["ours"] < found["theirs"]
    significant = lower & (corrected(found) < LEVEL)
    others = ", ".join(LABELS[name] for name in dict.fromkeys(found["rival"]))
    lines = [f"EvoMAL's mean is below the other's in {lower.sum()} of {len(found)} comparisons with {others}"]
    lines.append(f"significantly in {significant.sum()}{untestable(found)}")
    if not lower.all():
        places = [f"{LABELS[row.rival]} on {row.place}" for row in found[~lower].itertuples()]
        more = f" and {len(places) - 6} more" if len(places) > 6 else ""
        lines.append(f"not below {', '.join(places[:6])}{more}")
    # Compared whole are the experiments with all rivals in all groups.
    wanted = (
        pd.concat([published(table) for table in tables]).query("method in @rivals").value_counts("experiment")
    )
    done = found["experiment"].value_counts()
    whole = done.index[done == wanted.reindex(done.index)]
    return judged(found, bool(significant.all()), bool(lower.all()), "; ".join(lines), whole)


def place_name(experiment: str, group: str, table: str = "2") -> str:
    """`sine in-sample`; of a table that has no groups, the experiment alone."""
    return f"{experiment} {group}" if table == "2" else experiment


# ---- GECCO'23 ------------------------------------------------------------------------------------------


def generations_to_match(histories: pd.DataFrame, rivals: tuple[str, ...] = ("random", "gp-lfl")) -> pd.DataFrame:
    """Generations that EvoMAL and a rival need to reach the rival's own final best fitness.

    At a seed both start from the same initial weights and batches, so their fitness can be compared. One row per
    experiment, rival and seed: target (the rival's final best fitness), ours and theirs (generations, counted from
    1; inf: not reached).
    """
    tables = []
    for experiment, part in histories.groupby("experiment", sort=False):
        best = part.pivot_table(index="generation", columns=["method", "seed"], values="best_fitness").ffill()
        for rival in rivals:
            if {rival, "evomal"} <= set(best.columns.get_level_values("method")):
                target = best[rival][best["evomal"].columns.intersection(best[rival].columns)].iloc[-1]
                found = pd.DataFrame({"target": target[np.isfinite(target)]})
                for whose, method in (("ours", "evomal"), ("theirs", rival)):
                    reached = best[method][found.index] <= found["target"]
                    found[whose] = reached.idxmax().where(reached.any(), np.inf) + 1
                tables.append(found.reset_index().assign(experiment=experiment, rival=rival))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def fewer_generations(evidence: Evidence) -> Finding:
    """Compare the generations that EvoMAL and its rivals take to the rival's final best fitness (Figure 6)."""
    found = generations_to_match(evidence.histories)
    if found.empty:
        return ABSENT
    groups = found.groupby(["experiment", "rival"], sort=False)
    table = groups[["ours", "theirs"]].median().assign(n=groups.size())
    table["p"] = [wilcoxon_p(paired_differences(part["ours"], part["theirs"])) for _, part in groups]
    compared = table.reset_index()
    compared["p"] = corrected(compared)
    text = "; ".join(
        f"{row.experiment}: what {LABELS[row.rival]} reaches after "
        f"{f'{row.theirs:.3g}' if np.isfinite(row.theirs) else 'never'} generations, "
        f"EvoMAL {f'reaches after {row.ours:.3g}' if np.isfinite(row.ours) else 'does not reach'}"
        f" (medians), p = {row.p:.2g}"
        for row in compared.itertuples()
    )
    fewer, rivals = compared["ours"] < compared["theirs"], compared["experiment"].value_counts()
    significant = bool((fewer & (compared["p"] < LEVEL)).all())
    return judged(compared, significant, bool(fewer.all()), text + untestable(compared), rivals.index[rivals == 2])


def few_weights(evidence: Evidence) -> Finding:
    """Compare the numbers of weights of EvoMAL's and ML³'s losses (Table 3)."""
    weights = evidence.values[evidence.values["table"] == "3"]
    means = means_of(weights, ["experiment"], "value", ["evomal", "ml3"])
    if means.empty:
        return ABSENT
    theirs = published("3").pivot(index="experiment", columns="method", values="mean")
    shares, stated = (table["evomal"] / table["ml3"] for table in (means, theirs))
    found = pd.DataFrame({"share": shares, "stated": stated.reindex(shares.index), "n": means["n"]}).reset_index()
    text = listed(found, "{experiment} {share:.2%} (published {stated:.2%})")
    text = f"EvoMAL's mean number of weights as a share of ML³'s: {text}"
    return judged(found, bool((shares <= LARGEST_SHARE).all()), bool((shares < 1).all()), text)


def steps_to_baseline(curves: pd.DataFrame, table: str = "2") -> pd.DataFrame:
    """The share of the gradient steps that EvoMAL needs to reach the baseline's final error, at each seed.

    Errors are averaged over a run's tasks, on the part that the table is compared with; a seed at which the
    baseline diverged has no goal and is left out. One row per experiment, group and seed: share, inf where EvoMAL
    never comes below the goal, or does not stay there to the end.
    """
    rows = []
    chosen = curves[(curves["split"] == COMPARED[table][0]) & curves["method"].isin(["baseline", "evomal"])]
    for (experiment, group), part in chosen.groupby(PLACE, sort=False):
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
    groups = found.assign(never=np.isinf(found["share"])).groupby(PLACE, sort=False)
    table = groups.agg(median=("share", "median"), n=("share", "size"), never=("never", "sum")).reset_index()
    text = "; ".join(
        f"{place_name(row.experiment, row.group)}: "
        f"{f'{row.median:.0%} of the steps' if np.isfinite(row.median) else 'never'} (median; "
        f"never at {row.never} of {count_seeds(row.n)})"
        for row in table.itertuples()
    )
    most, half = (table["median"] <= SMALL_SUBSET).mean() >= MOST, (table["median"] < 1).mean() > 0.5
    both = table["experiment"].value_counts()
    text = f"EvoMAL comes below the baseline's final error, and ends there, after: {text}"
    return judged(table, bool(most), bool(half), text, both.index[both == 2])


# ---- TPAMI'23 ------------------------------------------------------------------------------------------


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
    shares = filter_shares(evidence.histories).query("when == 'all'")
    if shares.empty:
        return ABSENT
    repeated, evaluated = shares["cached"].mean(), shares["trained"].mean()
    stated = PUBLISHED_SHARES["cached"], PUBLISHED_SHARES["trained"]
    near = abs(repeated - stated[0]) <= NEAR and abs(evaluated - stated[1]) <= NEAR
    text = (
        f"Of the population {repeated:.0%} are symbolic repeats (published ~{stated[0]:.0%}), and {evaluated:.0%} "
        f"are evaluated (published ~{stated[1]:.0%})"
    )
    return judged(shares, near, repeated < evaluated < 0.5, text)


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
    text = f"Of the optimised, from the first to the last fifth of the generations: {text}"
    return judged(shares, direction and bool(early["rejected"] > 0.5), direction, text)


def early(evidence: Evidence) -> Finding:
    """Compare EvoMAL's best fitness after a fifth of the generations with GP-LFL's at the end (Figure 4)."""
    rows = []
    for experiment, part in evidence.histories.groupby("experiment", sort=False):
        best = part.pivot_table(index="generation", columns=["method", "seed"], values="best_fitness")
        if not {"evomal", "gp-lfl"} <= set(best.columns.get_level_values("method")):
            continue
        seeds = best["evomal"].columns.intersection(best["gp-lfl"].columns)
        ours, theirs = best["evomal"][seeds], best["gp-lfl"][seeds]
        fifth = max(1, len(ours) // EARLY)
        row = {"experiment": experiment, "generations": fifth, "n": len(seeds)}
        row |= {"early": ours.iloc[fifth - 1].mean(), "final": ours.iloc[-1].mean()}
        rows += [row | {"theirs": theirs.iloc[-1].mean()}] if len(seeds) else []
    if not rows:
        return ABSENT
    found = pd.DataFrame(rows)
    line = "{experiment}: {early:.3g} after {generations} generations, {final:.3g} at the end"
    text = f"EvoMAL's mean best fitness: {listed(found, line + ', GP-LFL {theirs:.3g} at the end')}"
    sooner, better = found["early"] < found["theirs"], found["final"] < found["theirs"]
    return judged(found, bool(sooner.mean() >= MOST), bool(better.all()), text)


def run_time(evidence: Evidence) -> Finding:
    """Compare the meta-training times of the methods (Table V)."""
    hours = evidence.values[evidence.values["table"] == "V"]
    others = ["taylorglo", "gp-lfl", "ml3"]
    means = means_of(hours, ["experiment"], "value", ["evomal", *others])
    if means.empty:
        return ABSENT
    dearest = bool((means["evomal"] > means[others].max(axis=1)).all())
    theirs = published("V").pivot(index="experiment", columns="method", values="mean")
    ratio, stated = (np.exp(np.log(table["evomal"] / table["taylorglo"]).mean()) for table in (means, theirs))
    text = (
        f"EvoMAL takes {ratio:.2f} times as long as TaylorGLO (geometric mean over {len(means)} of {len(theirs)} "
        f"experiments; Table V's is {stated:.2f}), and {'more' if dearest else 'not always more'} than every "
        f"other method"
    )
    return judged(means.reset_index(), ABOUT_TWICE[0] <= ratio <= ABOUT_TWICE[1] and dearest, dearest, text)


def flatter(evidence: Evidence) -> Finding:
    """Compare the sharpness of the minima that EvoMAL's losses and the baseline reach (Figure 7)."""
    rows = []
    for experiment, part in evidence.landscapes.groupby("experiment", sort=False):
        offsets = part["x"].abs()
        radius = RADIUS if offsets[offsets > 0].min() <= RADIUS <= offsets.max() else float(offsets.max())
        sharp = sharpness(part, radius=radius)
        for _, ours, theirs in paired_methods(sharp, "sharpness", "evomal", ["baseline"]):
            if len(ours):
                as_said = (ours.mean() > theirs.mean()) == (experiment in SHARPER)
                row = {"experiment": experiment, "ours": ours.mean(), "theirs": theirs.mean()}
                rows.append(row | paired(ours, theirs) | {"radius": radius, "as_said": as_said})
    if not rows:
        return ABSENT
    found = pd.DataFrame(rows)
    found["p"] = holm(found["p"].to_numpy())
    line = "{experiment}, within ±{radius:g}: sharpness {ours:.3g}, the baseline's {theirs:.3g}, p = {p:.2g}"
    said = bool(found["as_said"].all())
    return judged(found, said and bool((found["p"] < LEVEL).all()), said, listed(found, line))


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
        chosen = gains.query("split == 'test' and group == 'in-sample' and comparison == 'same rate'")
        row = chosen.to_dict("records")[0]
        rows.append(row | {"experiment": experiment, "rates": final["rate"].nunique()})
    if not rows:
        return ABSENT
    text = "; ".join(
        f"{row['experiment']}, {row['rates']} rates: EvoMAL − baseline, {interval(row)}" for row in rows
    )
    text += f"; not judged, the best rate being at the edge of the grid: {', '.join(edges)}" if edges else ""
    found = pd.DataFrame(rows)
    finding = judged(found, bool((found["verdict"] == "lower").all()), bool((found["difference"] < 0).all()), "")
    return replace(finding, text=f"At the baseline's best rate: {text}.")  # which says n


def transfer(evidence: Evidence) -> Finding:
    """Compare transferred losses with the target's own baseline (Table IV)."""
    held_out = evidence.transfers[evidence.transfers["split"] == "test"]
    place = ["source", "experiment", "group"]
    means = means_of(held_out, place, "error", ["baseline", "evomal", "ml3"]).reset_index()
    if means.empty:
        return ABSENT
    own = [is_published(row.source, row.experiment) for row in means.itertuples()]
    means = means[own] if any(own) else means  # all others are stand-ins
    errors = means.drop(columns=[*place, "n"])
    better = errors.drop(columns="baseline").lt(errors["baseline"], axis=0).sum()
    counts = ", ".join(f"{LABELS[name]} {count}" for name, count in better.items())
    names = ", ".join(dict.fromkeys(means["source"] + " → " + means["experiment"]))
    half, others = len(means) / 2, ["ml3", "taylorglo", "gp-lfl"]
    most = bool(better["evomal"] > half and (better["evomal"] >= better).all())
    whole = means.dropna(subset=others)["experiment"] if set(others) <= set(means) else ()
    text = f"Mean held-out error below the target's own baseline, of {len(means)} comparisons ({names}): {counts}"
    finding = judged(means, most, bool((means["evomal"] < means["ml3"]).sum() > half), text, whole)
    return finding if any(own) else replace(finding, seeds={})


MEASURES: dict[str, Callable[..., Finding]] = {
    measure.__name__: measure
    for measure in (
        *(beats, fewer_generations, few_weights, faster, transfer, early),
        *(filters_over_time, filters, run_time, flatter, not_only_rates),
    )
}
"""The functions that judge the claims of `published/claims.toml`, by the names that it gives them."""
