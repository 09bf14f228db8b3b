"""The zoo: the best losses found, by name (`sine/evomal`), each with where it comes from and what it scores.

`python -m evomal_paper.zoo` writes `results/zoo/<experiment>/<method>.json` from the complete runs in `results`.
Of the seeds of one experiment, profile and method, the run whose loss trains best gives it: by the final error of
meta-testing from new initial weights, on the validation rows of the tasks that were learned on, or their training
rows where there are none. Of equals, the lower fitness and then the lower seed. The profile is the first of paper,
calibrated, narrow and quick that has been run; variants of a profile (`paper@split=leaking`) give none.

A loss that trains networks to a larger error than the task loss does at the same rate and seed, on the rows that
chose it or on the test rows, is left out, and so is one whose baseline was not run. Methods whose losses have no
closed formula (baseline, ML³) give none.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.files import write_json
from evomal_core.symbolic import rounded
from evomal_paper.analysis.families import describe as shape_of
from evomal_paper.analysis.learned import classes_of
from evomal_paper.analysis.learning_rate import tuned_baseline, tuning_split
from evomal_paper.comparison.evidence import by_profile, collect
from evomal_paper.runs.run import Run, complete_runs
from evomal_paper.runs.tables import load_readable

METHODS = ("random", "gp-lfl", "taylorglo", "evomal")


def build(results_dir: Path | str = "results") -> list[Path]:
    """Write the zoo of a results folder into its `zoo`, and remove from there what no longer belongs to it.

    Returns:
        The files, in the order of experiments and methods.
    """
    folder = Path(results_dir, "zoo")
    written = []
    for name, record in records(results_dir):
        written.append(folder / f"{name}.json")
        write_json(written[-1], record)
    for stale in set(folder.glob("*/*.json")) - set(written):
        stale.unlink()
    return written


def records(results_dir: Path | str = "results") -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and contents of the files of the zoo of a results folder; damaged runs are left out with a warning."""
    groups: dict[tuple[str, str], list[Run]] = {}
    complete = complete_runs(results_dir)
    for run in complete:
        if run.profile in _PROFILES and run.method in METHODS:
            groups.setdefault((run.experiment, run.method), []).append(run)
    baselines = by_profile(run for run in complete if run.method == "baseline")
    tuned = tuned_baseline(collect(baselines.values()).rates)
    for (name, method), runs in groups.items():
        profile = min((run.profile for run in runs), key=_PROFILES.index)
        baseline = baselines.get((name, profile))
        found = load_readable([run for run in runs if run.profile == profile])
        if found is None or baseline is None:
            continue
        best_rates = tuned.query("experiment == @name and profile == @profile")
        errors = _beside(found.final(), baseline.final(), best_rates)
        if (seed := _best(found.runs, errors)) is not None:
            chosen = next(run for run in runs if run.profile == profile and run.seed == seed)
            if (record := chosen.record()) is not None:
                yield f"{name}/{method}", _entry(chosen, record, errors[errors["seed"] == seed])


_PROFILES = ("paper", "calibrated", "narrow", "quick")
_PLACE = ["seed", "group", "split"]


def _beside(final: pd.DataFrame, baseline: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Final errors, with the baseline's at the same seed: at the stated rate, and at its best where others ran."""
    theirs = baseline[[*_PLACE, "error"]].rename(columns={"error": "baseline"})
    best = tuned[[*_PLACE, "error", "rate"]].rename(columns={"error": "tuned baseline", "rate": "tuned rate"})
    return final[[*_PLACE, "error"]].merge(theirs, on=_PLACE).merge(best, on=_PLACE, how="left")


def _best(runs: pd.DataFrame, errors: pd.DataFrame) -> int | None:
    """The seed of the loss that trains best; None where none trains as well as the task loss."""
    seen = errors[errors["group"] == "in-sample"].assign(
        worse=lambda table: ~(table["error"] <= table["baseline"])
    )
    chosen_by = tuning_split(seen)
    worse = seen[seen["split"].isin([chosen_by, "test"])].groupby("seed")["worse"].any()
    ranked = seen[seen["split"] == chosen_by].merge(runs[["seed", "fitness"]], on="seed")
    ranked = ranked[~ranked["seed"].map(worse) & np.isfinite(ranked["fitness"])]
    return None if ranked.empty else int(ranked.sort_values(["error", "fitness", "seed"])["seed"].iloc[0])


def _entry(run: Run, record: Mapping[str, Any], errors: pd.DataFrame) -> dict[str, Any]:
    loss = run.loss()
    provenance = {name: getattr(run, name) for name in ("experiment", "profile", "method", "seed")}
    provenance |= {name: record[name] for name in ("finished", "hardware", "versions")}
    rows = [
        {name: value for name, value in row.items() if name != "seed" and not pd.isna(value)}
        for row in errors.to_dict("records")
    ]
    return loss.record() | {
        "formula": str(rounded(loss.sympy())),
        "latex": loss.latex(),
        "shape": shape_of(loss, classes_of(run.experiment)).family,
        "score": {"fitness": record["fitness"], "errors after meta-testing": rows},
        "provenance": provenance | {"command": run.command},
    }


def main(arguments: Sequence[str]) -> int:
    """Write the zoo of a results folder (default: results) and print its names."""
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print("usage: python -m evomal_paper.zoo [results folder]", file=sys.stderr)
        return 2
    for path in build(*arguments):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
