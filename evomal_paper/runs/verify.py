"""Results against the code: complete runs computed anew elsewhere, and compared with those on disk, bit by bit.

A run is a function of its configuration, its seed and the code. On the same kind of machine with the same versions
of packages its tables and its loss come out the same, bit by bit. Elsewhere sums round differently, and where a
last digit decides which loss survives, a search may end at another one: distributions over seeds can be compared
then, single runs can't.
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomal_core.checkpoints import first_difference
from evomal_paper.experiments.catalogue import check_methods, experiment
from evomal_paper.runs.compute import computed
from evomal_paper.runs.machine import hardware, versions
from evomal_paper.runs.run import Run, complete_runs


def chosen_runs(
    name: str,
    profile: str,
    methods: Sequence[str] | None = None,
    seeds: Collection[int] | None = None,
    results_dir: Path | str = "results",
) -> list[Run]:
    """The complete runs of an experiment and profile, of some methods and seeds or of all that there are.

    Raises:
        ValueError: a name is unknown, or a run that was asked for is not complete.
    """
    experiment(name).profile(profile)
    wanted = check_methods(None if methods is None else list(methods))
    there = [run for run in complete_runs(results_dir) if (run.experiment, run.profile) == (name, profile)]
    found = [run for run in there if run.method in wanted and (seeds is None or run.seed in seeds)]
    known = {(run.method, run.seed) for run in found}
    if absent := [pair for pair in ((m, s) for s in seeds or () for m in methods or ()) if pair not in known]:
        method, seed = absent[0]
        raise ValueError(
            f"{Path(results_dir, name, profile)} has no complete run of {method}, seed {seed}, to verify"
        )
    if not found:
        raise ValueError(f"{Path(results_dir, name, profile)} has no such complete run to verify")
    return found


def verify(
    runs: Sequence[Run], into: Path, device: str = "cpu", jobs: int = 1, progress: bool = True
) -> Iterator[tuple[Run, str]]:
    """Compute complete runs anew, and say of each, once it is, where it differs first; "" if it is the same.

    The new ones are kept in the results folder `into`; those that are complete there are not computed again. The
    options are those of `computed`.

    Raises:
        ValueError: `into` is the folder of the runs themselves.
    """
    if any(run.results_dir.resolve() == into.resolve() for run in runs):
        raise ValueError(f"the runs to verify lie in {into} themselves; name another folder to compute them in")
    again = {replace(run, results_dir=into): run for run in runs}
    for new in computed(list(again), device, jobs, progress):
        yield again[new], _difference(again[new], new, device)


def _difference(run: Run, new: Run, device: str) -> str:
    """The first difference with its likely cause: other versions or hardware than here."""
    if not (difference := first_difference(_comparable(run), _comparable(new))):
        return ""
    record = run.record() or {}
    made = {name: record.get(name) for name in ("versions", "hardware")}
    cause = first_difference(made, {"versions": versions(), "hardware": hardware(device)})
    return f"{difference}; {cause or 'its recorded versions and hardware are those of here'}"


def _comparable(run: Run) -> dict[str, Any]:
    """The tables of a run by line and column, and its loss."""
    content = run.pack.content(run.key)
    tables = {
        name: {f"line {line}": row for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2)}
        for name, text in content.tables.items()
    }
    return tables | {"loss": dict(content.loss)}
