"""Cost of meta-training and what the filters spare, from the records of runs (TPAMI Table V, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from evomal_core.search import METHODS
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.experiments.profiles import varied
from evomal_paper.published.tables import LABELS, published
from evomal_paper.runs.packed import Pack
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import load_or_run

PHASES = ("local search", "filters", "fitness")
"""Phases of meta-training. The seconds "filter: …" are parts of those of the filters."""

OUTCOMES = {
    "cached": "symbolic archive",
    "skipped": "irrelevant weights",
    "rejected early": "early rejection",
    "optimised": "loss optimisation",
    "rejected": "rejection protocol",
    "equivalent": "gradient equivalence",
    "trained": "loss evaluation",
}
"""Outcomes of a generation's candidates, in the order in which they are decided."""

PUBLISHED_SHARES = {"cached": 0.10, "optimised": 0.90, "trained": 0.25}
"""Mean shares of the population that TPAMI section V-B1 names, each with "~"."""

VARIANTS = {
    "as the profile has them": "symbolic_archive=true",
    "without the symbolic archive": "symbolic_archive=false",
    "without the rejection protocol": "rejection_steps=0",
    "without gradient equivalence": "gradient_equivalence=false",
    "with early rejection": "reject_first=true",
    "skipping irrelevant weights": "skip_irrelevant=true",
}
"""The same search with one filter switched, as changes of a profile's name. The first changes nothing, but has
runs of its own: seconds are compared only with those of runs computed along with them."""


def minutes(name: str, profile: str, results_dir: Path | str) -> float | None:
    """Minutes of all methods and seeds on two cores, by the complete runs; None unless each method has one.

    Those of a method are the median over its seeds: a first run may have waited for kernels to be compiled.
    """
    spent: dict[str, list[float]] = {}
    for (method, _), record in Pack(Path(results_dir, name, profile)).records().items():
        parts = [record["seconds"].get(phase, 0.0) for phase in (*PHASES, "meta-test")]
        spent.setdefault(method, []).append(sum(parts))
    if set(METHODS) - set(spent):
        return None
    return EXPERIMENTS[name].profiles[profile].seeds * sum(map(median, spent.values())) / 60 / 2


def machines(runs: Sequence[Run]) -> pd.DataFrame:
    """Machines of the runs: processor, cores, GPU if one was used, and the number of runs."""
    rows = []
    for run in runs:
        found = (run.record() or {}).get("hardware", {})
        rows.append({name: found.get(name, "–") for name in ("processor", "cores", "gpu")})
    return pd.DataFrame(rows, columns=["processor", "cores", "gpu"]).value_counts().rename("runs").reset_index()


def meta_training(runs: pd.DataFrame) -> pd.Series[float]:
    """Seconds of meta-training of each run: local search, filters and fitness.

    On a CPU they are its process's CPU seconds, which other work on the machine hardly changes; on a GPU, on a
    cluster, and in records without CPU seconds, they are wall-clock seconds. The rows are those of `Results.runs`.
    """
    wall = wall_clock(runs)
    if "seconds cpu" not in runs:
        return wall
    return runs["seconds cpu"].where((runs["device"] == "cpu") & (runs["seconds cpu"] > 0), wall)


def _phase(runs: pd.DataFrame, phase: str) -> pd.Series[float]:
    """Seconds of a phase of each run, 0 where it had none."""
    return runs.get(f"seconds {phase}", pd.Series(0.0, runs.index)).fillna(0.0)


def wall_clock(runs: pd.DataFrame) -> pd.Series[float]:
    """Wall-clock seconds of meta-training of each run."""
    return pd.concat([_phase(runs, phase) for phase in PHASES], axis=1).sum(axis=1)


def seconds(runs: pd.DataFrame) -> pd.DataFrame:
    """Wall-clock seconds of a run by phase, and its seconds of `meta_training`, means over seeds.

    One row per experiment, profile and method of `Results.runs`: n, engine, local search, filters, fitness,
    meta-training, its standard deviation, and meta-test.
    """
    table = runs.astype({"method": str}).assign(**{"meta-training": meta_training(runs)})
    for phase in (*PHASES, "meta-test"):
        table[phase] = _phase(runs, phase)
    groups = table.groupby(["experiment", "profile", "method"], sort=False)
    means = groups[[*PHASES, "meta-training", "meta-test"]].mean()
    means.insert(0, "n", groups.size())
    means.insert(1, "engine", groups["engine"].first())
    means.insert(6, "sd", groups["meta-training"].std())
    return means.reset_index()


def table_v(spent: pd.DataFrame) -> pd.DataFrame:
    """Table V: published hours beside measured `seconds` of one profile, a row per published task and model."""
    hours = published("V").pivot(index="experiment", columns="method", values="mean")
    hours = hours.loc[list(dict.fromkeys(published("V")["experiment"]))]
    methods = [name for name in METHODS if name in hours]
    measured, counts = (
        spent.pivot(index="experiment", columns="method", values=value).reindex(index=hours.index)
        for value in ("meta-training", "n")
    )
    parts = {"published, hours": hours[methods], "measured, seconds": measured.reindex(columns=methods)}
    table = pd.concat(parts, axis=1, names=["", "method"]).rename(columns=LABELS)
    table["n", ""] = counts.max(axis=1).astype("Int64")
    return table


def ratios(spent: pd.DataFrame) -> pd.DataFrame:
    """Ratio of EvoMAL's time of meta-training to each other's, published and by `seconds` of one profile."""
    hours = published("V").pivot(index="experiment", columns="method", values="mean")
    hours = hours.reindex(spent["experiment"].unique())
    rows: list[dict[str, Any]] = []
    for experiment, part in spent.groupby("experiment", sort=False):
        ours = part.set_index("method")
        for other in [name for name in ("ml3", "taylorglo", "gp-lfl") if {name, "evomal"} <= set(ours.index)]:
            row = {"experiment": experiment, "other": other}
            row["published"] = hours.loc[experiment, "evomal"] / hours.loc[experiment, other]
            row["measured"] = ours.loc["evomal", "meta-training"] / ours.loc[other, "meta-training"]
            rows.append(row | {"n": int(ours.loc[["evomal", other], "n"].min())})
    return pd.DataFrame(rows, columns=["experiment", "other", "published", "measured", "n"])


def outcomes(histories: pd.DataFrame) -> pd.DataFrame:
    """EvoMAL's histories, with every count of OUTCOMES and the column population."""
    table = histories[histories["method"].astype(str) == "evomal"]
    parts = ["cached", "rejected early", "rejected", "equivalent", "evaluated"]
    table = table.reindex(columns=list(dict.fromkeys([*table, *OUTCOMES, *parts])))
    return table.assign(population=table[parts].sum(axis=1))


def frequencies(histories: pd.DataFrame) -> pd.DataFrame:
    """Figure 5: the share of the population that met each outcome, by generation, mean over runs of one profile.

    Columns experiment, profile, generation (from 1), outcome, share and n; with several experiments also the mean
    over all their runs, as experiment "all". A run that ended earlier counts in its generations only.
    """
    table = outcomes(histories)
    if table.empty:
        return pd.DataFrame(columns=["experiment", "profile", "generation", "outcome", "share", "n"])
    shares = table[["experiment", "profile", "generation"]].assign(generation=table["generation"] + 1)
    shares[list(OUTCOMES)] = table[list(OUTCOMES)].div(table["population"], axis=0)
    if shares["experiment"].nunique() > 1:
        shares = pd.concat([shares, shares.assign(experiment="all")], ignore_index=True)
    tidy = shares.melt(["experiment", "profile", "generation"], var_name="outcome", value_name="share")
    groups = tidy.groupby(["experiment", "profile", "generation", "outcome"], sort=False)["share"]
    found = groups.agg(share="mean", n="size").reset_index()
    unused = found.groupby("outcome")["share"].transform("max") == 0
    return found[~(unused & found["outcome"].isin(["skipped", "rejected early"]))].reset_index(drop=True)


def filtered(histories: pd.DataFrame) -> pd.DataFrame:
    """The rows of the searches with a symbolic archive and the rejection protocol, as TPAMI's; all if none has.

    The filter by gradient equivalence is no condition: profiles that follow the authors' code go without it.
    """
    places = histories[["experiment", "profile"]].itertuples(index=False)
    searches = (EXPERIMENTS[name].profile(profile).search for name, profile in places)
    has = [search.symbolic_archive and search.rejection_steps > 0 for search in searches]
    return histories[has] if any(has) else histories


def on_and_off(name: str, profile: str, seeds: Sequence[int], **options: Any) -> pd.DataFrame:
    """The same search of EvoMAL with one filter switched at a time, measured: see VARIANTS.

    They are ordinary runs of varied profiles, one after the other: what is complete is loaded. One row per variant
    and seed: variant, profile, seed, cpu (processor seconds of meta-training, which other work on the machine
    disturbs little), seconds (by the clock), optimised and trained (candidates), fitness (of the best loss).
    """
    rows = []
    with TemporaryDirectory() as folder:  # what a process loads or compiles once is not counted
        load_or_run(name, "smoke", methods=["evomal"], seeds=[0], results_dir=folder, progress=False)
    for variant, change in VARIANTS.items():
        changed = varied(profile, change)
        found = load_or_run(name, changed, methods=["evomal"], seeds=list(seeds), **options)
        table = found.runs[["seed", "fitness"]].assign(variant=variant, profile=changed)
        table["cpu"], table["seconds"] = found.runs["seconds cpu"], wall_clock(found.runs)
        counts = outcomes(found.histories).groupby("seed")[["optimised", "trained"]].sum()
        rows.append(table.merge(counts, left_on="seed", right_index=True))
    table = pd.concat(rows, ignore_index=True)
    return table[["variant", "profile", "seed", "cpu", "seconds", "optimised", "trained", "fitness"]]


def compared(measured: pd.DataFrame) -> pd.DataFrame:
    """`on_and_off` by variant: mean processor seconds, their ratio to the profile's own, counts, and fitness.

    `same` is the number of seeds with the very same best fitness as the profile's own.
    """
    own = measured[measured["variant"] == next(iter(VARIANTS))].set_index("seed")
    groups = measured.groupby("variant", sort=False)
    table = groups[["cpu", "seconds", "optimised", "trained", "fitness"]].mean()
    table.insert(1, "ratio", table["cpu"] / own["cpu"].mean())
    same = measured["fitness"] == measured["seed"].map(own["fitness"])
    table["same"] = same.groupby(measured["variant"], sort=False).sum()
    return table.assign(n=groups.size()).reset_index()


def count_runs(counts: pd.Series) -> str:
    """`3 runs`, or `3 to 5 runs`."""
    low, high = int(counts.min()), int(counts.max())
    return f"{low} to {high} runs" if low < high else f"{high} run{'s' if high > 1 else ''}"
