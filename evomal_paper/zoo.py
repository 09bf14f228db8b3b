"""The zoo: the best losses found, by name (`sine/evomal`), each with where it comes from and what it scores.

`python -m evomal_paper.zoo` writes `results/zoo/<experiment>/<method>.json` from the complete runs in `results`.
Of the seeds of one experiment, profile and method, the run of lowest fitness gives the loss; of equals, the lower
seed. The profile is the first of paper, calibrated, narrow and quick that has been run; variants of a profile
(`paper@split=leaking`) give none. Fitness is measured on training rows or, where a data set is split so, on
validation rows: no test row has a say. Methods whose losses have no closed formula (baseline, ML³) are left out.
The best loss found need not be a good one: each file says what networks end at with it, and with the baseline.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomal_core.files import write_json
from evomal_paper.runs.run import Run, complete_runs
from evomal_paper.runs.tables import load, load_readable

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
    for (experiment, method), runs in groups.items():
        best = min(_PROFILES.index(run.profile) for run in runs)
        chosen = _lowest([run for run in runs if run.profile == _PROFILES[best]])
        if chosen is not None:
            yield f"{experiment}/{method}", _entry(chosen, complete)


_PROFILES = ("paper", "calibrated", "narrow", "quick")


def _lowest(runs: Sequence[Any]) -> Any | None:
    """The run of lowest fitness; None if no run that can be read found a usable loss."""
    if (read := load_readable(runs)) is None:
        return None
    best = read.runs.loc[read.runs["fitness"].idxmin()]
    return next(run for run in runs if run.seed == best["seed"]) if np.isfinite(best["fitness"]) else None


def _entry(run: Any, complete: Sequence[Any]) -> dict[str, Any]:
    record, loss = run.record(), run.loss()
    provenance = {name: getattr(run, name) for name in ("experiment", "profile", "method", "seed")}
    provenance |= {name: record[name] for name in ("finished", "hardware", "versions")}
    score = {"fitness": record["fitness"], "errors after meta-testing": _errors(run, complete)}
    return loss.record() | {
        "formula": str(loss.sympy()),
        "latex": loss.latex(),
        "score": score,
        "provenance": provenance | {"command": run.command},
    }


def _errors(run: Any, complete: Sequence[Any]) -> list[dict[str, Any]]:
    """Final errors of the run, averaged over tasks, beside the baseline's at the same seed where that was run."""
    final = load([run]).final()
    baseline = Run(run.experiment, run.profile, "baseline", run.seed, run.results_dir)
    read = load_readable([baseline]) if baseline in complete else None
    theirs = None if read is None else read.final().set_index(["group", "split"])["error"]
    rows = []
    for row in final.to_dict("records"):
        place = (row["group"], row["split"])
        rows.append({"group": place[0], "split": place[1], "error": row["error"]})
        if theirs is not None:
            rows[-1]["baseline"] = theirs[place]
    return rows


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
