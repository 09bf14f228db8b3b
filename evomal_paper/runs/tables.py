"""Tidy tables of runs, and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.library import loss_from_record
from evomal_core.losses import Loss
from evomal_core.search import METHODS
from evomal_core.seeds import check_seed
from evomal_paper.experiments.catalogue import check_methods, experiment
from evomal_paper.runs.compute import computed
from evomal_paper.runs.packed import joined
from evomal_paper.runs.run import Run, leave_out
from evomal_paper.statistics import spread

KEYS = ["experiment", "profile", "method", "seed"]


@dataclass(frozen=True)
class Results:
    """Complete runs as tidy tables; every table has the columns experiment, profile, method and seed.

    Attributes:
        runs: the runs, one row each: fitness, loss, parameters, engine and seconds by phase.
        histories: one row a generation: best and mean fitness and the filters' counts.
        tests: errors of meta-testing: start ("new", "search"), group ("in-sample", "out-of-sample"), task, step,
            split, error.
        losses: the best loss of each (experiment, method, seed); an experiment's runs are all of one profile.
    """

    runs: pd.DataFrame
    histories: pd.DataFrame
    tests: pd.DataFrame
    losses: dict[tuple[str, str, int], Loss]

    def curves(self, start: str = "new") -> pd.DataFrame:
        """Errors of meta-testing from one start."""
        return self.tests[self.tests["start"] == start].drop(columns="start")

    def last(self, start: str = "new") -> pd.DataFrame:
        """Errors after the last step: one row per run, group, task and split."""
        curves = self.curves(start)
        return curves[curves["step"] == curves.groupby(KEYS, observed=True)["step"].transform("max")]

    def final(self, start: str = "new") -> pd.DataFrame:
        """Errors after the last step, averaged over a run's tasks: one row per run, group and split.

        They are from new initial weights and batches, or with "search" from those that the search saw, which
        flatters the methods that search.
        """
        keys = [*KEYS, "group", "split"]
        return self.last(start).groupby(keys, observed=True, sort=False)["error"].mean().reset_index()

    def compared(self) -> pd.DataFrame:
        """Final errors from the start that the profile compares with published cells, and from new ones beside.

        The columns error and "error from new starts".
        """
        start = experiment(self.runs["experiment"].iloc[0]).profile(self.runs["profile"].iloc[0]).test_start
        keys = [*KEYS, "group", "split"]
        beside = self.final().rename(columns={"error": "error from new starts"})
        return self.final(start).merge(beside, on=keys, validate="one_to_one")

    def summary(self) -> pd.DataFrame:
        """Mean, standard deviation, median and n over seeds of the final errors, and how many diverged.

        Diverged runs count in `n` and `diverged`, and are left out of mean and standard deviation, which
        are therefore only to be read together with that count.
        """
        keys, final = ["experiment", "profile", "method", "group", "split"], self.final()
        table = spread(final, "error", keys)
        medians = final.groupby(keys, observed=True, sort=False)["error"].median()
        table.insert(len(keys) + 2, "median", medians.to_numpy())
        return table


def load_or_run(
    experiments: str | Sequence[str],
    profile: str = "quick",
    *,
    methods: list[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    results_dir: str | Path = "results",
    jobs: int = 1,
    progress: bool = True,
    cluster: str = "",
) -> Results:
    """Load finished runs, resume interrupted ones and compute missing ones; then return their tables.

    Args:
        experiments: one or more names of EXPERIMENTS.
        profile: one of PROFILES that the experiments have, or a variant of it such as `quick@base.lr=0.003`.
        methods: some of METHODS; all if None.
        seeds: a number of seeds (from 0), a list of seeds, or None for as many as the profile has.
        device: "cpu" or "cuda".
        results_dir: the folder of all runs.
        jobs: runs computed at once, each on one thread; 0 for as many as there are cores.
        progress: whether bars are shown.
        cluster: the address of a Dask scheduler whose workers compute, or "local:4" for four of them here.

    Raises:
        ValueError: a name or seed is unknown, or a folder holds a run of another configuration.
    """
    names = [experiments] if isinstance(experiments, str) else list(experiments)
    if not names:
        raise ValueError("name one or more experiments, got none")
    runs = [
        Run(name, profile, method, seed, Path(results_dir))
        for name in names
        for seed in check_seeds(experiment(name).profile(profile).seeds if seeds is None else seeds)
        for method in check_methods(methods)
    ]
    for _ in computed(runs, device, jobs, progress, cluster):
        pass
    return load(runs)


def check_seeds(seeds: Any) -> list[int]:
    """A list of distinct seeds from a number of seeds or a list.

    Raises:
        ValueError: the list is empty or has a repeated, negative or fractional seed.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"the number of seeds is at least 1, got {seeds}")
        return list(range(seeds))
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(f"seeds is a number of seeds or a list of them, got {seeds!r}")
    found = [check_seed(seed) for seed in seeds]
    repeated = sorted({seed for seed in found if found.count(seed) > 1})
    if repeated:
        raise ValueError(f"seeds overlap: {', '.join(map(str, repeated))} named more than once")
    return found


def load(runs: Sequence[Run]) -> Results:
    """The tables of complete runs; a diverged training's error is inf.

    Raises:
        ValueError: a run is not complete, or the runs of an experiment are of several profiles.
    """
    profiles: dict[str, str] = {}
    for run in runs:
        if profiles.setdefault(run.experiment, run.profile) != run.profile:
            both = f"{profiles[run.experiment]!r} and {run.profile!r}"
            raise ValueError(f"runs of {run.experiment} are of the profiles {both}; load one profile at a time")
    return _joined({run: _read(run) for run in runs})


def load_readable(runs: Sequence[Run]) -> Results | None:
    """Load runs except those with damaged files, which a warning names; None if none is left."""
    parts = {}
    for run in runs:
        try:
            parts[run] = _read(run)
        except (OSError, ValueError) as error:
            leave_out(run.pack.folder, error)
    return _joined(parts) if parts else None


RECORD = ("fitness", "outcome", "loss", "parameters", "evaluations", "engine", "device")
"""Fields of a run's record that a row of `Results.runs` has."""


def _read(run: Run) -> tuple[Mapping[str, str], dict[str, Any], Loss]:
    """The tables of one run as CSV text, its row of `Results.runs`, and its loss."""
    finished = run.finished()
    record = finished.record
    try:
        row = {key: getattr(run, key) for key in KEYS} | {name: record[name] for name in RECORD}
        row["fitness"] = float(row["fitness"])  # JSON has no infinity
        row |= {f"seconds {phase}": float(value) for phase, value in record["seconds"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"is damaged, or another version's ({error!r})"
        raise ValueError(f"{run.pack.index}: {run.method}, seed {run.seed}, {reason}; delete that line") from None
    loss = loss_from_record(finished.loss, f"{run.pack.folder}/losses.jsonl").requires_grad_(False)
    return finished.tables, row, loss


def _joined(parts: Mapping[Run, tuple[Mapping[str, str], dict[str, Any], Loss]]) -> Results:
    packs: dict[tuple[str, str], list[Run]] = {}
    for run in parts:
        packs.setdefault((run.experiment, run.profile), []).append(run)
    tables = {}
    for table in ("history", "test"):
        read = []
        for (name, profile), runs in packs.items():
            text = joined(table, {run.key: parts[run][0][table] for run in runs})
            read.append(pd.read_csv(StringIO(text)).assign(experiment=name, profile=profile))
        tables[table] = ordered(pd.concat(read, ignore_index=True))
    # A diverged training may have been written as NaN; it is never to be averaged away.
    tests = tables["test"].fillna({"error": np.inf})
    records = ordered(pd.DataFrame([row for _, row, _ in parts.values()])).astype({"fitness": float})
    losses = {(run.experiment, run.method, run.seed): loss for run, (_, _, loss) in parts.items()}
    return Results(records, tables["history"], tests, losses)


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its keys first and methods in their one fixed order."""
    table = table.assign(method=pd.Categorical(table["method"], list(METHODS), ordered=True))
    return table[[*KEYS, *(column for column in table.columns if column not in KEYS)]]
