"""Errors over a grid of learning rates: is a learned loss a rate in disguise? (TPAMI'23 section V-E, Figure 8.)"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from evomal_paper.analysis.cached_table import Piece, final_errors, training_configuration
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import varied
from evomal_paper.runs.tables import KEYS, load_or_run
from evomal_paper.sentences import printed
from evomal_paper.statistics import paired_interval, summary

METHODS = ["baseline", "evomal"]
PLACE = ["experiment", "profile", "group", "split"]
TUNED = [*KEYS, "group", "split", "error", "rate"]
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""The rates tried, in units of the experiment's own: the paper does not name its rates."""

PUBLISHED_RATES = (1.0, 0.5, 0.1, 0.05, 0.01, 0.005, 0.001)
"""The rates of the authors' script (2022), see `published_grid`."""

COMPARISONS = {
    "stated": ("stated", "stated"),
    "baseline tuned": ("stated", "baseline"),
    "same rate": ("baseline", "baseline"),
    "both tuned": ("evomal", "baseline"),
}
"""Rates of EvoMAL (its search used it, too) and of the baseline: the stated one, or the one tuned for a method."""


def stated_rate(name: str, profile: str) -> float:
    """The base learning rate alpha of a profile of an experiment."""
    return experiment(name).profile(profile).search.base.lr


def profile_at(name: str, profile: str, rate: float) -> str:
    """The name of a profile with another base learning rate; its own name where the rate is its own."""
    return profile if rate == stated_rate(name, profile) else varied(profile, f"base.lr={rate:g}")


def rates_of(name: str, profile: str, rates: Sequence[float] = ()) -> list[float]:
    """The rates to try, ascending, always with the profile's own; FACTORS times that one if none is named."""
    stated = stated_rate(name, profile)
    return sorted({stated, *(rates or [float(f"{stated * factor:g}") for factor in FACTORS])})


def grid(name: str, profile: str = "quick", rates: Sequence[float] = (), **options: Any) -> pd.DataFrame:
    """Final errors of the baseline and EvoMAL at each rate; EvoMAL's search, too, trains with that rate.

    Runs lie in `<results_dir>/<name>/<profile>@base.lr=<rate>/`; those at the stated rate are the profile's own.
    Options are those of `load_or_run`; the table is `Results.final` of all rates (`rates_of`), with the column
    rate.
    """
    tables = []
    for rate in rates_of(name, profile, rates):
        results = load_or_run(name, profile_at(name, profile, rate), methods=METHODS, **options)
        tables.append(results.final().assign(rate=rate))
    return pd.concat(tables, ignore_index=True)


def published_grid(
    name: str,
    profile: str = "paper",
    rates: Sequence[float] = PUBLISHED_RATES,
    results_dir: str | Path = "results",
    **options: Any,
) -> pd.DataFrame:
    """Final errors as in the authors' script: losses found at the profile's own rate are tested at each rate.

    `medians` of it is what the script plots. Finished tests are kept in
    `<results_dir>/learning_rate/<name>/<profile>/published/<method>/seed-<k>/`. Options are those of
    `load_or_run`; the columns are method, seed, group, split, error and rate.
    """
    results = load_or_run(name, profile, methods=METHODS, results_dir=results_dir, **options)
    entry, place = experiment(name), Path(results_dir, "learning_rate", name, profile, "published")
    todo = [(rate, method, seed, loss) for rate in rates for (_, method, seed), loss in results.losses.items()]
    tables = []
    for rate, method, seed, loss in tqdm(todo, unit="training", disable=not options.get("progress", True)):
        sizes = entry.profile(profile_at(name, profile, rate))
        names = {"experiment": name, "method": method, "seed": seed}
        configuration = names | training_configuration(sizes, loss)
        piece = Piece(place / method / f"seed-{seed}", f"rate-{rate:g}", configuration)
        errors = final_errors(piece, loss, entry, sizes, seed, options.get("device", "cpu"), sizes.test_start)
        tables.append(errors.assign(method=method, seed=seed, rate=rate))
    return pd.concat(tables, ignore_index=True)


def medians(final: pd.DataFrame) -> pd.DataFrame:
    """The median error over seeds of each method, group and split at each rate."""
    keys = ["method", "group", "split", "rate"]
    return final.astype({"method": str}).groupby(keys, sort=False)["error"].median().reset_index()


def common_seeds(final: pd.DataFrame) -> pd.DataFrame:
    """Drop the seeds that lack a method or rate that others have: what was not run has not diverged."""
    cells = final.astype({"method": str}).drop_duplicates(["method", "rate", "seed"])
    seeds = cells.groupby("seed").size()
    whole = len(cells[["method", "rate"]].drop_duplicates())
    return final[final["seed"].isin(seeds.index[seeds == whole])]


def tuning_split(final: pd.DataFrame) -> str:
    """Part that chooses a rate: validation, or training for tasks without one; never test data."""
    return "validation" if (final["split"] == "validation").any() else "train"


def tuned(final: pd.DataFrame) -> pd.DataFrame:
    """The rate of each method and seed with the smallest error on `tuning_split` of the in-sample tasks.

    The choice is made for each seed by itself, so that seeds stay independent repetitions of choosing and
    training. It is made on the tasks that losses are learned on, also for new tasks. Diverged runs are not chosen.
    The columns are method, seed and rate, NaN where every rate diverged.
    """
    seen = final[(final["group"] == "in-sample") & (final["split"] == tuning_split(final))]
    seen = seen.astype({"method": str})
    best = seen[np.isfinite(seen["error"])].sort_values(["error", "rate"]).drop_duplicates(["method", "seed"])
    every = seen[["method", "seed"]].drop_duplicates()
    return every.merge(best[["method", "seed", "rate"]], how="left")


def remaining_gain(final: pd.DataFrame, stated: float) -> pd.DataFrame:
    """EvoMAL's error minus the baseline's, paired by `common_seeds`, for each of COMPARISONS, group and split.

    Of a table of `grid` and the experiment's own rate. Columns: group, split, comparison, baseline and evomal
    (means over seeds), those of `paired_interval` (negative differences: EvoMAL is better), and share: the
    difference as a share of that at the stated rate, where the latter's interval lies below 0.

    Raises:
        ValueError: no seed has both methods at every rate.
    """
    final = common_seeds(final)
    if final.empty:
        raise ValueError("no seed has all methods at every rate; run the same seeds for each")
    rates = tuned(final).pivot(index="seed", columns="method", values="rate").assign(stated=stated)
    rows = []
    for (group, split), part in final.astype({"method": str}).groupby(["group", "split"], sort=False):
        errors, seeds = part.set_index(["method", "seed", "rate"])["error"], part["seed"].unique()
        for comparison, which in COMPARISONS.items():
            evomal, baseline = (
                [errors.get((method, seed, rate), np.inf) for seed, rate in rates.loc[seeds, at].items()]
                for method, at in zip(("evomal", "baseline"), which, strict=True)
            )
            row = {"group": group, "split": split, "comparison": comparison}
            row |= {"baseline": np.mean(baseline), "evomal": np.mean(evomal)}
            rows.append(row | paired_interval(evomal, baseline))
    table = pd.DataFrame(rows)
    first = table[table["comparison"] == "stated"].set_index(["group", "split"])
    gains = first["difference"].where(first["verdict"] == "lower")
    table["share"] = table["difference"] / gains.loc[list(zip(table["group"], table["split"], strict=True))].array
    return table


def tuned_baseline(rates: pd.DataFrame) -> pd.DataFrame:
    """Final errors of the baseline, from new starts, at the rate that `learning_rate.tuned` chooses for each seed.

    Of `Evidence.rates`, which were run (`quick@base.lr=0.01`) or are the profile's own, the rows of the chosen
    ones: one per experiment, profile, seed, group and split.
    """
    baseline = rates[rates["method"] == "baseline"]
    parts = []
    for _, part in baseline.groupby(["experiment", "profile"], sort=False):
        whole = common_seeds(part)
        parts.append(whole.merge(tuned(whole), on=["method", "seed", "rate"])[TUNED] if len(whole) else whole)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TUNED)


def tuned_table(rates: pd.DataFrame, experiments: list[str], profile: str) -> pd.DataFrame:
    """The baseline's final errors at its tuned rate: mean ± standard deviation (seeds), and the rates chosen."""
    found = tuned_baseline(rates).query("experiment in @experiments and profile == @profile")
    rows = []
    for (name, _, group, split), part in found.groupby(PLACE, sort=False):
        chosen = ", ".join(f"{rate:g}" for rate in sorted(set(part["rate"])))
        row = {"experiment": name, "group": group, "split": split, "error": printed(summary(part["error"]))}
        rows.append(row | {"rates": chosen})
    return pd.DataFrame(rows, columns=["experiment", "group", "split", "error", "rates"])
