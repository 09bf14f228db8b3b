"""All complete runs of a results folder as tidy tables: what cells and claims are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from evomal_core.experiment import EXPERIMENTS
from evomal_core.paper import published
from evomal_core.results import KEYS, Results, load
from evomal_core.runs import Run, complete_runs
from evomal_core.verdicts import strength

PHASES = ("seconds local search", "seconds filters", "seconds fitness")
"""What meta-training consists of; its sum is compared with TPAMI Table V."""

VALUES = ["table", *KEYS, "group", "split", "value"]
HISTORY = [*KEYS, "generation", "best_fitness", "cached", "optimised", "rejected", "equivalent", "evaluated"]
LANDSCAPES = [*KEYS, "x", "measure", "height", "task", "diverged"]
CURVES = [*KEYS, "group", "task", "step", "split", "error"]


@dataclass(frozen=True)
class Evidence:
    """Tidy tables of all complete runs but those of `smoke`; each has the columns of KEYS.

    Attributes:
        values: every number of a run that has a place in a table of the papers: final errors, numbers of loss
            weights, hours of meta-training; columns table, group, split and value (inf: diverged).
        histories: one row a generation, as `Results.histories`.
        curves: errors while a network is trained, as `Results.tests`.
        landscapes: heights around trained networks along one direction, as `landscapes.load_or_compute`.
    """

    values: pd.DataFrame
    histories: pd.DataFrame
    curves: pd.DataFrame
    landscapes: pd.DataFrame

    @property
    def profiles(self) -> list[str]:
        """The profiles that were run, the fairest comparison with the papers first."""
        return sorted(set(self.values["profile"]), key=strength)

    def at(self, profile: str) -> Evidence:
        """What was measured under one profile."""
        tables = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: table[table["profile"] == profile] for name, table in tables.items()})

    def of_paper(self, paper: str) -> Evidence:
        """What belongs to the experiments that a paper, "gecco23" or "tpami23", has published numbers of."""
        cells = published()
        names = set(cells.loc[cells["paper"] == paper, "experiment"])
        tables = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: table[table["experiment"].isin(names)] for name, table in tables.items()})


def gather(results_dir: Path | str) -> Evidence:
    """The evidence of a results folder; a folder without runs, or none at all, gives empty tables."""
    runs = [run for run in complete_runs(results_dir) if run.profile.partition("@")[0] != "smoke"]
    return replace(
        collect(loaded for _, loaded in by_profile(runs)),
        landscapes=_joined(list(_pieces(Path(results_dir, "landscapes"), "line")), LANDSCAPES),
    )


def by_profile(runs: list[Run]) -> Iterator[tuple[tuple[str, str], Results]]:
    """The tables of each experiment and profile, in the order of the runs."""
    for key in dict.fromkeys((run.experiment, run.profile) for run in runs):
        yield key, load([run for run in runs if (run.experiment, run.profile) == key])


def collect(results: Iterator[Results] | list[Results]) -> Evidence:
    """The evidence of loaded results, one for each experiment and profile."""
    values, histories, curves = [], [], []
    for loaded in results:
        values += list(_values(loaded))
        histories.append(loaded.histories)
        curves.append(loaded.tests)
    tables = (_joined(values, VALUES), _joined(histories, HISTORY), _joined(curves, CURVES))
    return Evidence(*tables, pd.DataFrame(columns=LANDSCAPES))


def _values(results: Results) -> Iterator[pd.DataFrame]:
    final, runs = results.final(), results.runs
    table = EXPERIMENTS[str(runs["experiment"].iloc[0])].table
    # A diverged training may have been written as NaN; it is never to be averaged away.
    yield final.rename(columns={"error": "value"}).assign(table=table).fillna({"value": np.inf})
    whole = runs[KEYS].assign(group="", split="")
    trained = runs["parameters"] > 0
    if table == "2":
        yield whole.assign(table="3", value=runs["parameters"].astype(float))[trained]
    else:
        hours = runs[[name for name in PHASES if name in runs]].sum(axis=1) / 3600
        yield whole.assign(table="V", value=hours)


def _pieces(folder: Path, name: str) -> Iterator[pd.DataFrame]:
    """The finished tables `<experiment>/<profile>/<method>/seed-<k>/<name>.csv` of a folder, with their keys."""
    for path in sorted(folder.glob(f"*/*/*/seed-*/{name}.csv")):
        experiment, profile, method, seed = path.parent.relative_to(folder).parts
        if path.with_suffix(".json").exists() and not profile.startswith("smoke"):
            keys = {"experiment": experiment, "profile": profile, "method": method}
            yield pd.read_csv(path).assign(**keys, seed=int(seed.removeprefix("seed-")))


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat([part.reindex(columns=columns).astype({"method": str}) for part in parts], ignore_index=True)
