"""All complete runs of a results folder as tidy tables: what cells and claims are judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from evomal_core.checks import refuse_unknown
from evomal_paper.analysis.runtime import OUTCOMES, meta_training
from evomal_paper.analysis.transfer import JOINT, is_published
from evomal_paper.comparison.verdicts import strength
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.experiments.profiles import PROFILES, split_name, varied
from evomal_paper.published.tables import published
from evomal_paper.runs.run import Run, complete_runs, leave_out
from evomal_paper.runs.tables import KEYS, Results, load_readable

ERRORS = [*KEYS, "group", "split", "error"]
COLUMNS = {
    "values": ["table", *KEYS, "group", "split", "value", "new"],
    "histories": [*KEYS, "generation", "best_fitness", *OUTCOMES, "evaluated"],
    "curves": [*KEYS, "group", "task", "step", "split", "error"],
    "rates": [*ERRORS, "rate"],
    "transfers": ["source", *ERRORS],
    "landscapes": [*KEYS, "x", "measure", "height", "task", "diverged"],
}


@dataclass(frozen=True)
class Evidence:
    """Tidy tables of all complete runs but those of `smoke`; each has the columns of KEYS.

    Attributes:
        values: every number of a run that has a place in a table of the papers: final errors, numbers of loss
            weights, hours of meta-training; columns table, group, split, value (inf: diverged), and new: the error
            from new initial weights.
        histories: one row a generation, as `Results.histories`.
        curves: errors while a network is trained, as `Results.tests`.
        rates: final errors where base learning rates were varied: column rate, the profile without that change.
        transfers: final errors of networks trained with losses of another experiment, the source, from new starts.
        landscapes: heights around trained networks along one direction, as `landscapes.load_or_compute`.
    """

    values: pd.DataFrame
    histories: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    transfers: pd.DataFrame
    landscapes: pd.DataFrame

    @property
    def profiles(self) -> list[str]:
        """The profiles that were run, the fairest comparison with the papers first."""
        names = {name for field in fields(self) for name in getattr(self, field.name)["profile"]}
        return sorted(names, key=strength)

    def at(self, profile: str) -> Evidence:
        """Select what was measured under one profile."""
        return self._where(lambda table: table["profile"] == profile)

    def of(self, profiles: Mapping[str, str]) -> Evidence:
        """Select what was measured of some experiments, each under the profile named for it."""
        return self._where(lambda table: table["profile"] == table["experiment"].map(profiles))

    def about(self, experiments: Iterable[str]) -> Evidence:
        """Select what was measured of some experiments; a transfer belongs to its target."""
        return self._where(lambda table: table["experiment"].isin([*experiments]))

    def _where(self, kept: Callable[[pd.DataFrame], pd.Series]) -> Evidence:
        tables = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: table[kept(table)] for name, table in tables.items()})

    def of_paper(self, paper: str) -> Evidence:
        """Drop the experiments of which a paper, "gecco23" or "tpami23", has no published numbers.

        Analyses beside the tables (rates, transfers, landscapes) are kept whatever network they were made with.
        """
        cells = published()
        names = set(cells.loc[cells["paper"] == paper, "experiment"])
        tables = {name: getattr(self, name) for name in ("values", "histories", "curves")}
        return replace(self, **{name: table[table["experiment"].isin(names)] for name, table in tables.items()})


def gather(results_dir: Path | str) -> Evidence:
    """The evidence of a results folder; a folder without runs, or none at all, gives empty tables."""
    found = collect(by_profile(complete_runs(results_dir)).values())
    transfers = _table("transfers", [*_transfers(Path(results_dir, "transfer"), found.values)])
    columns = {"x", "measure", "height", "task", "diverged"}
    lines = _pieces(Path(results_dir, "landscapes"), "line-[0-9]*", columns)
    landscapes = _table("landscapes", _one_grid([table for _, table in lines]))
    published_ones = [is_published(row.source, row.experiment) for row in transfers.itertuples()]
    iv = transfers.loc[published_ones].rename(columns={"error": "new"})
    iv = iv.assign(table="IV", value=iv["new"])
    values = _table("values", [found.values, iv])
    return replace(found, values=values, transfers=transfers, landscapes=landscapes)


def by_profile(runs: Iterable[Run]) -> dict[tuple[str, str], Results]:
    """The tables of each experiment and profile but `smoke`, without the runs that can't be read."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if not run.profile.startswith("smoke"):
            groups.setdefault((run.experiment, run.profile), []).append(run)
    loaded = {key: load_readable(runs) for key, runs in groups.items()}
    return {key: results for key, results in loaded.items() if results is not None}


def collect(results: Iterable[Results]) -> Evidence:
    """The evidence of loaded results, one for each experiment and profile."""
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    stated: list[pd.DataFrame] = []
    for loaded in results:
        name, profile = (str(loaded.runs[key].iloc[0]) for key in ("experiment", "profile"))
        base, rate = varied_rate(profile)
        final = loaded.final().astype({"method": str})
        if rate is not None:
            tables["rates"].append(final.assign(profile=base, rate=rate))
            continue
        stated.append(final.assign(rate=experiment(name).profile(profile).search.base.lr))
        tables["values"] += list(_values(loaded, EXPERIMENTS[name].table))
        tables["histories"].append(loaded.histories)
        tables["curves"].append(loaded.curves())
    place = ["experiment", "profile"]
    known = {tuple(table[place].iloc[0]) for table in tables["rates"]}
    tables["rates"] += [table for table in stated if tuple(table[place].iloc[0]) in known]
    return Evidence(**{name: _table(name, parts) for name, parts in tables.items()})


def varied_rate(profile: str) -> tuple[str, float | None]:
    """A profile without a change of the base learning rate, and that rate; None if that is not what it changes."""
    base, changes = split_name(profile)
    rates = [change for change in changes if change.startswith("base.lr=")]
    kept = [change for change in changes if change not in rates]
    if not rates or set(kept) - {"split=leaking"}:
        return profile, None
    return varied(base, *kept), float(rates[0].partition("=")[2])


def _values(results: Results, table: str) -> Iterator[pd.DataFrame]:
    runs = results.runs
    names = {"error": "value", "error from new starts": "new"}
    yield results.compared().astype({"method": str}).rename(columns=names).assign(table=table)
    whole = runs[KEYS].assign(group="", split="")
    if table == "2":
        yield whole.assign(table="3", value=runs["parameters"].astype(float))[runs["parameters"] > 0]
    else:
        yield whole.assign(table="V", value=meta_training(runs) / 3600)


def _pieces(folder: Path, name: str, columns: set[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Finished tables `<first>/<profile>/<method>/seed-<k>/<name>.csv` of a folder, each with its first part."""
    for path in sorted(folder.glob(f"*/*/*/seed-*/{name}.csv")):
        first, profile, method, seed = path.parent.relative_to(folder).parts
        if path.with_suffix(".json").exists() and not profile.startswith("smoke"):
            keys = {"experiment": first, "profile": profile, "method": method}
            try:
                refuse_unknown("profile", profile.partition("@")[0], list(PROFILES))
                table = pd.read_csv(path).assign(**keys, seed=int(seed.removeprefix("seed-")))
                if table[sorted(columns - {"error"})].isna().any(axis=None):
                    raise ValueError("a row is not whole")
            except (OSError, LookupError, ValueError) as error:
                leave_out(path, error)
            else:
                yield first, table.fillna({"error": np.inf}).assign(piece=path.stem)


def _one_grid(lines: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Landscapes of one grid for each experiment and profile: that of most runs; of equals, the finest."""
    if not lines:
        return []
    whole = pd.concat(lines, ignore_index=True)
    place = ["experiment", "profile", "piece"]
    grids = whole.drop_duplicates([*KEYS, "piece"]).groupby(place, sort=False).size().reset_index(name="runs")
    grids["points"] = grids["piece"].str.rpartition("-")[2].astype(int)
    chosen = grids.sort_values(["runs", "points"]).groupby(["experiment", "profile"]).tail(1)
    return [whole.merge(chosen[place], on=place)]


def _transfers(folder: Path, values: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Final errors of transfers and of the target's own baseline at the same profile, both from new starts."""
    baselines: set[tuple[str, str]] = set()
    for name, piece in _pieces(folder, "test", {"group", "task", "step", "split", "error"}):
        source, _, target = name.partition(JOINT)
        last = piece[piece["step"] == piece["step"].max()].assign(experiment=target, source=source)
        keys = [column for column in COLUMNS["transfers"] if column != "error"]
        yield last.groupby(keys, sort=False)["error"].mean().reset_index()
        profile = str(piece["profile"].iloc[0])
        if (name, profile) not in baselines:
            baselines.add((name, profile))
            own = values.query(
                "experiment == @target and profile == @profile and method == 'baseline' and group != ''"
            )
            yield own.drop(columns="value").rename(columns={"new": "error"}).assign(source=source)


def _table(name: str, parts: list[pd.DataFrame]) -> pd.DataFrame:
    parts = [part.astype({"method": str}) for part in parts if len(part)]  # an empty one has no types
    if not parts:
        return pd.DataFrame(columns=COLUMNS[name])
    whole = pd.concat(parts, ignore_index=True)
    return whole.reindex(columns=COLUMNS[name])
