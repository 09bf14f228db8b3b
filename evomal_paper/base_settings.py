"""Base settings that the papers leave open, chosen by the baseline alone; results/calibration keeps its errors.

`python -m evomal_paper.base_settings COMMAND EXPERIMENT...` trains with the task loss only: no learned loss can
have been favoured. The commands:

- `calibration mnist`: settings under which the baseline meets its own published errors, which it does not at
  GECCO's stated rate (1e-3, no momentum) on MNIST, CIFAR-10 and Surname. Only the baseline's two published cells
  of Table 2 are seen. The nearest are frozen in `calibrated.json`, for the profile `calibrated`.
- `base-rate california`: the nearest rate at which the `paper` profile of tabular data trains at all. No published
  number is seen.
- `quick-rate mnist`: the rate of a profile `quick`, whose short trainings would learn nothing at 1e-3: the one at
  which the baseline comes nearest to its published in-sample error, on the training rows of the task that is
  learned on. A stand-in takes the published error of the data set that it stands for.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evomal_core.devices import one_thread
from evomal_core.files import read_json, write_atomic, write_json
from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.training import train
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import CALIBRATED, Profile
from evomal_paper.experiments.tabular import TABULAR
from evomal_paper.published.tables import COMPARED, published
from evomal_paper.runs.meta_test import GROUPS

MEASURED = Path(__file__).resolve().parents[1] / "results" / "calibration"
"""The folder of measured errors."""

GRID = tuple(itertools.product((1e-3, 2e-3, 5e-3, 1e-2, 2e-2), (0.0, 0.9)))
"""Settings (lr, momentum) of a calibration."""
SEEDS = range(3)
SHORTLIST = 3
"""Settings that a calibration spends all seeds on, after one seed on each."""

BASE_RATES = (0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0002, 0.0001)
"""The stated rate of tabular data, and round ones below it."""
BASE_SEEDS = range(5)
BASE_STEPS = 1000

QUICK_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
STANDS_FOR = {"digits": "mnist", "digits5": "cifar10"}


def baseline_errors(name: str, profile: Profile, seed: int, purpose: str, *, new: bool = False) -> pd.DataFrame:
    """Final errors of base networks trained with the task loss for `test_steps`: seed, task, split, error.

    The random draws are derived from the seed and the purpose. Tasks that no loss is learned on, with `new`, are
    numbered after the others.
    """
    problem = experiment(name).problem(profile, seed)
    tasks = [*problem.train, *(problem.test if new else [])]
    rows = []
    for number, learner in enumerate(make_learners(tasks, problem.model, profile.search, seed, purpose)):
        final = train(TaskLoss(learner.task.kind), learner, profile.search.base, profile.test_steps).final
        rows += [(seed, number, split, final[split]) for split in learner.task.parts()]
    return pd.DataFrame(rows, columns=["seed", "task", "split", "error"])


# ---- calibration ------------------------------------------------------------------------------------


def calibrate(name: str, folder: Path = MEASURED) -> dict[str, float | int]:
    """Screen all settings with one seed, measure the nearest with all seeds, and freeze the nearest of these."""
    cells = [published_error(name, group) for group in GROUPS]
    screened = scores(measure_grid(name, folder, GRID, SEEDS[:1]), *cells).assign(seeds=1)
    pairs = list(zip(screened["lr"], screened["momentum"], strict=True))
    shortlist = list(dict.fromkeys(pairs))[:SHORTLIST]
    ranked = scores(measure_grid(name, folder, shortlist, SEEDS), *cells).assign(seeds=len(SEEDS))
    others = screened[[pair not in shortlist for pair in pairs]]
    table = pd.concat([ranked, others], ignore_index=True)
    write_atomic(folder / f"{name}.csv", table.to_csv(index=False))
    nearest = ranked.to_dict("records")[0]
    known = read_json(CALIBRATED) if CALIBRATED.exists() else {}
    write_json(CALIBRATED, known | {name: nearest})
    return nearest


def published_error(name: str, group: str) -> float:
    """The baseline's error in GECCO's Table 2; a stand-in takes that of the data set that it stands for."""
    cells = published("2").query("method == 'baseline'").set_index(["experiment", "group"])["mean"]
    return float(cells[STANDS_FOR.get(name, name), group])


def measure_grid(
    name: str, folder: Path, settings: Iterable[tuple[float, float]], seeds: Iterable[int]
) -> pd.DataFrame:
    """The baseline's final errors at these settings, on every task: lr, momentum, seed, task, split, error.

    One file for each setting and seed is kept in the folder, so that a stopped measurement goes on.
    """
    parts = []
    for (lr, momentum), seed in itertools.product(settings, seeds):
        path = folder / name / f"lr-{lr:g}_momentum-{momentum:g}_seed-{seed}.csv"
        if not path.exists():
            write_atomic(path, _at_setting(name, lr, momentum, seed).to_csv(index=False))
            print(path, flush=True)
        parts.append(pd.read_csv(path))
    return pd.concat(parts, ignore_index=True)


def _at_setting(name: str, lr: float, momentum: float, seed: int) -> pd.DataFrame:
    profile = experiment(name).profile("paper").changed(f"base.lr={lr},base.momentum={momentum}")
    errors = baseline_errors(name, profile, seed, "calibration", new=True)
    return errors.assign(lr=lr, momentum=momentum)[["lr", "momentum", *errors]]


def scores(measured: pd.DataFrame, in_sample: float, out_of_sample: float) -> pd.DataFrame:
    """Distance of each setting from the two published errors, nearest first.

    A setting is (lr, momentum, learn_on): `learn_on` is the task that is learned on, the others are the test
    tasks. Errors are those of the part that cells of Table 2 are compared with (`paper.COMPARED`). The distance is
    |ln(measured / published)|, summed over both cells; of equals, the stated rate is first.
    """
    compared = measured[measured["split"] == COMPARED["2"][0]]
    means = compared.groupby(["lr", "momentum", "task"])["error"].mean()
    rows = []
    for (lr, momentum), errors in means.groupby(level=[0, 1]):
        errors = errors.droplevel([0, 1])
        for learn_on in errors.index:
            cells = np.array([errors[learn_on], errors.drop(learn_on).mean()])
            with np.errstate(divide="ignore", invalid="ignore"):
                off = np.abs(np.log(cells / [in_sample, out_of_sample]))
            row = {"lr": lr, "momentum": momentum, "learn_on": int(learn_on)}
            rows.append(row | {"in-sample": cells[0], "out-of-sample": cells[1], "distance": off.sum()})
    table = pd.DataFrame(rows).fillna({"distance": np.inf})
    return table.sort_values(["distance", "lr", "momentum", "learn_on"], ignore_index=True)


# ---- rates ------------------------------------------------------------------------------------------


def measure_rate(name: str, profile: Profile, rate: float, seed: int, purpose: str) -> dict[str, float]:
    """The baseline's training error at a rate, on the task that is learned on: rate, seed, error."""
    errors = baseline_errors(name, profile.changed(f"base.lr={rate}"), seed, purpose)
    error = errors.query("split == 'train'")["error"].item()
    print(f"{name}: rate {rate:g}, seed {seed}: training error {error:.4g}", flush=True)
    return {"rate": rate, "seed": seed, "error": error}


def measure_base_rates(name: str, profile: Profile, rates: Sequence[float] = BASE_RATES) -> pd.DataFrame:
    """Training errors by rate and seed, up to the first rate that trains: rate, seed, error.

    A rate trains if it ends below a constant's error, 1, at every seed; one that does not is left at once.
    """
    rows: list[dict[str, float]] = []
    for rate in rates:
        for seed in BASE_SEEDS:
            rows.append(measure_rate(name, profile, rate, seed, "base rate"))
            if not rows[-1]["error"] < 1:
                break
        else:
            break
    return pd.DataFrame(rows)


def largest_rate(name: str, measured: pd.DataFrame) -> float:
    """The largest rate that trains; a ValueError if none does."""
    worst = measured.groupby("rate")["error"].max()
    if not (worst < 1).any():
        raise ValueError(f"none of the rates {', '.join(f'{rate:g}' for rate in worst.index[::-1])} trains {name}")
    return float(worst[worst < 1].index.max())


def nearest_rate(name: str, measured: pd.DataFrame) -> float:
    """The rate whose mean error is nearest to the published baseline's, |ln(measured / published)|."""
    means = measured.groupby("rate")["error"].mean().clip(lower=1e-9)
    return float(np.log(means / published_error(name, "in-sample")).abs().idxmin())


# ---- commands ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the experiments named, and print the settings found."""
    in_table_2 = list(dict.fromkeys(published("2")["experiment"]))
    known: dict[str, tuple[Callable[[str], Any], list[str]]] = {
        "calibration": (calibrate, in_table_2),
        "base-rate": (_base_rate, [entry.name for entry in TABULAR]),
        "quick-rate": (_quick_rate, [*in_table_2, *STANDS_FOR]),
    }
    parser = argparse.ArgumentParser(prog="python -m evomal_paper.base_settings")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (_, names) in known.items():
        each = commands.add_parser(command)
        each.add_argument("names", nargs="+", choices=names, metavar="EXPERIMENT", help=", ".join(names))
    chosen = parser.parse_args(arguments)
    for name in chosen.names:
        with one_thread():
            print(name, known[chosen.command][0](name))
    return 0


def _base_rate(name: str) -> float:
    profile = experiment(name).profile("paper").replace(test_steps=BASE_STEPS)
    return largest_rate(name, _kept("base-rate", name, measure_base_rates(name, profile)))


def _quick_rate(name: str) -> float:
    profile = experiment(name).profile("quick")
    pairs = itertools.product(QUICK_RATES, SEEDS)
    rows = [measure_rate(name, profile, rate, seed, "quick rate") for rate, seed in pairs]
    return nearest_rate(name, _kept("quick-rate", name, pd.DataFrame(rows)))


def _kept(command: str, name: str, measured: pd.DataFrame) -> pd.DataFrame:
    write_atomic(MEASURED / f"{command}-{name}.csv", measured.to_csv(index=False))
    return measured


if __name__ == "__main__":
    sys.exit(main())
