"""Scaling of a search: recorded runs replayed on any number of simulated workers.

`python -m tests.speed.scaling` writes results/cluster/scaling.csv and docs/images/scaling.png. The
records of runs say how many candidates each generation had, and the seconds of its phases and of the caller alone;
results/cluster/measured.json, how candidates of one generation differ in duration, and what sending one costs.
"""

from __future__ import annotations

import argparse
import heapq
import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from evomal_core.files import read_json, write_atomic
from evomal_core.seeds import numpy_rng
from evomal_paper.plots.style import loss_line, new_figure, render, styled
from evomal_paper.runs.run import Run, complete_runs

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
POPULATION = 1000
PHASES = ("local search", "fitness", "meta-test")


@dataclass(frozen=True)
class Phase:
    """Work between two things that the caller does alone: seconds of the caller, and of each unit."""

    caller: float
    units: np.ndarray


Replay = Sequence[Phase]
"""A run as phases, each of which begins when the one before is done."""


def alone(run: Run) -> float:
    """Seconds of a recorded run outside of its phases: breeding, filters, loading, waiting for a machine."""
    seconds = run.finished().record["seconds"]
    return max(seconds["last session"] - sum(seconds.get(name, 0.0) for name in PHASES), 0.0)


def replay(run: Run, spread: Sequence[float], caller_alone: float, grown: float = 1.0) -> list[Phase]:
    """A recorded run as phases.

    Args:
        run: a complete run.
        spread: durations of candidates of one generation; only their ratios matter.
        caller_alone: seconds that the caller needs itself, in all.
        grown: how many times as many candidates each generation has as were recorded.
    """
    finished = run.finished()
    seconds = finished.record["seconds"]
    tested, known = seconds.get("meta-test", 0.0), seconds.get("local search", 0.0) + seconds.get("fitness", 0.0)
    rows = pd.read_csv(io.StringIO(finished.tables["history"]))
    phases = []
    if known and "trained" in rows:
        rng = numpy_rng(run.seed, "scaling", run.method)
        counts = {"local search": rows["optimised"], "fitness": rows["trained"]}
        means = {name: seconds.get(name, 0.0) / max(float(n.sum()), 1.0) for name, n in counts.items()}
        for generation in range(len(rows)):
            caller = grown * caller_alone / len(rows)
            for name, mean in means.items():
                units = mean * rng.choice(spread, round(grown * counts[name].iloc[generation])) / np.mean(spread)
                if mean and len(units):
                    phases.append(Phase(caller, units))
                    caller = 0.0
    else:  # it has no generations, and is one unit
        phases.append(Phase(0.0, np.array([caller_alone + known])))
    return [*phases, Phase(0.0, np.array([tested]))]


def makespan(runs: Sequence[Replay], workers: int, overhead: float) -> float:
    """Seconds until all runs, begun at once, are done by workers who take the unit that has waited longest.

    Args:
        runs: what each run consists of.
        workers: how many.
        overhead: seconds that a run's caller needs to send a unit, one after the other.
    """
    numbers = count()
    events: list[
        tuple[float, int, int, float | None]
    ] = []  # when, in which order, of which run, a unit sent or done
    waiting: deque[tuple[int, float]] = deque()
    place, left, free, now = [0] * len(runs), [0] * len(runs), workers, 0.0

    def begin(run: int) -> None:
        if place[run] < len(runs[run]):
            phase = runs[run][place[run]]
            place[run], left[run] = place[run] + 1, len(phase.units)
            for number, unit in enumerate(phase.units, 1):
                sent = now + phase.caller + number * overhead
                heapq.heappush(events, (sent, next(numbers), run, float(unit)))

    for run in range(len(runs)):
        begin(run)
    while events:
        now, _, run, unit = heapq.heappop(events)
        if unit is not None:
            waiting.append((run, unit))
        else:
            free += 1
            left[run] -= 1
            if not left[run]:
                begin(run)
        while free and waiting:
            other, seconds = waiting.popleft()
            free -= 1
            heapq.heappush(events, (now + seconds, next(numbers), other, None))
    return now


def scaling(runs: Sequence[Run], spread: Sequence[float], overhead: float) -> pd.DataFrame:
    """Speed-up by number of workers against one process alone, a row per case and number of workers.

    The cases are one search, all runs at once, and one search whose generations hold POPULATION candidates.
    """
    # the median over seeds, as single runs waited for kernels to be compiled, or for the machine
    caller = {
        name: float(np.median([alone(r) for r in runs if r.method == name])) for name in {r.method for r in runs}
    }
    searches = [run for run in runs if run.method == "evomal"][:3]
    population = searches[0].sizes.search.population
    every = [replay(run, spread, caller[run.method]) for run in runs]
    single = [[replay(run, spread, caller["evomal"])] for run in searches]
    large = [[replay(run, spread, caller["evomal"], POPULATION / population)] for run in searches]
    cases = {
        f"one search, population {population}": single,
        f"{len(runs)} runs at once": [every],
        f"one search, population {POPULATION:,}": large,
    }
    rows = []
    for name, groups in cases.items():
        work = [sum(phase.caller + phase.units.sum() for run in group for phase in run) for group in groups]
        callers = [sum(phase.caller for run in group for phase in run) for group in groups]
        units = np.mean([len(phase.units) for group in groups for run in group for phase in run])
        for workers in WORKERS:
            sped = [a / makespan(group, workers, overhead) for a, group in zip(work, groups, strict=True)]
            mean = float(np.mean(sped))
            share = sum(callers) / sum(work)
            rows.append((name, workers, mean, mean / workers, float(units), share))
    columns = ["case", "workers", "speed-up", "efficiency", "units a phase", "share of the caller alone"]
    return pd.DataFrame(rows, columns=columns)


@styled
def speed_up_by_workers(table: pd.DataFrame) -> Figure:
    """Speed-up by the number of workers, a line per case of `scaling`, and the diagonal; logarithmic axes."""
    figure, ((axes,),) = new_figure(6.4, 4.2)
    axes.plot(WORKERS, WORKERS, color="0.6", linewidth=1, linestyle=":", label="as many times as workers")
    for number, (name, part) in enumerate(table.groupby("case", sort=False)):
        axes.plot(part["workers"], part["speed-up"], label=name, **loss_line(name, number))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(xlabel="workers", ylabel="speed-up against one process (simulated)")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Write the table and the figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.speed.scaling", description=__doc__)
    parser.add_argument("--experiment", default="sine")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--results-dir", default="results", type=Path)
    parser.add_argument("--figure", default="docs/images/scaling.png", type=Path)
    options = parser.parse_args()
    runs = [
        run
        for run in complete_runs(options.results_dir)
        if (run.experiment, run.profile) == (options.experiment, options.profile)
    ]
    if not any(run.method == "evomal" for run in runs):
        parser.error(
            f"{options.results_dir} has no run of evomal on {options.experiment}, profile {options.profile}"
        )
    folder = options.results_dir / "cluster"
    measured = read_json(folder / "measured.json")
    table = scaling(runs, measured["seconds of candidates"], measured["overhead a candidate, ms"] / 1000)
    write_atomic(folder / "scaling.csv", table.round(4).to_csv(index=False))
    write_atomic(options.figure, render(speed_up_by_workers(table), dpi=110))
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
