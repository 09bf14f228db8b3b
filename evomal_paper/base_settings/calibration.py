"""Calibrated profiles: `python -m evomal_paper.base_settings.calibration mnist`.

At GECCO's stated base learning rate (1e-3, no momentum) the baseline does not reach its own published errors
on MNIST, CIFAR-10 and Surname, and the paper does not say which classes form which task. This command looks
for settings under which it does. It trains with the task loss only and sees only the baseline's two published
cells (in-sample and out-of-sample, Table 2); no learned loss is trained here, so none can have been favoured.

What it finds is frozen in `calibrated.json`, which the profile `calibrated` reads.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from evomal_core.devices import one_thread
from evomal_core.files import read_json, write_atomic, write_json
from evomal_paper.base_settings.baselines import MEASURED, baseline_errors, named
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import CALIBRATED
from evomal_paper.published.tables import COMPARED, published

LEARNING_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
MOMENTA = (0.0, 0.9)
GRID = tuple(itertools.product(LEARNING_RATES, MOMENTA))
SEEDS = range(3)
SHORTLIST = 3
"""Settings (lr, momentum) that all seeds are spent on, after one seed on each."""


def measure(
    name: str, folder: Path, settings: Iterable[tuple[float, float]], seeds: Iterable[int]
) -> pd.DataFrame:
    """The baseline's final errors at these settings, on every task: lr, momentum, seed, task, split, error.

    One file for each setting and seed is kept in the folder, so that a stopped measurement goes on.
    """
    parts = []
    for (lr, momentum), seed in itertools.product(settings, seeds):
        path = folder / name / f"lr-{lr:g}_momentum-{momentum:g}_seed-{seed}.csv"
        if not path.exists():
            write_atomic(path, _baseline(name, lr, momentum, seed).to_csv(index=False))
            print(path, flush=True)
        parts.append(pd.read_csv(path))
    return pd.concat(parts, ignore_index=True)


def _baseline(name: str, lr: float, momentum: float, seed: int) -> pd.DataFrame:
    profile = experiment(name).profile("paper").changed(f"base.lr={lr},base.momentum={momentum}")
    errors = baseline_errors(name, profile, seed, "calibration", new=True)
    return pd.concat([pd.DataFrame({"lr": lr, "momentum": momentum}, index=errors.index), errors], axis=1)


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


def published_cells(name: str) -> tuple[float, float]:
    """The baseline's two published errors, in-sample and out-of-sample.

    Raises:
        ValueError: the experiment has no such cells.
    """
    cells = published("2").query("experiment == @name and method == 'baseline'").set_index("group")["mean"]
    if set(cells.index) != {"in-sample", "out-of-sample"}:
        raise ValueError(f"GECCO's Table 2 has no baseline of {name!r}; it has sine, mnist, cifar10 and surname")
    return float(cells["in-sample"]), float(cells["out-of-sample"])


def calibrate(name: str, folder: Path) -> dict[str, float | int]:
    """Screen all settings with one seed, measure the nearest with all seeds, and freeze the nearest of these.

    Raises:
        ValueError: the experiment has no published baseline in-sample and out-of-sample.
    """
    cells = published_cells(name)
    with one_thread():
        screened = scores(measure(name, folder, GRID, SEEDS[:1]), *cells).assign(seeds=1)
        pairs = list(zip(screened["lr"], screened["momentum"], strict=True))
        shortlist = list(dict.fromkeys(pairs))[:SHORTLIST]
        ranked = scores(measure(name, folder, shortlist, SEEDS), *cells).assign(seeds=len(SEEDS))
    others = screened[[pair not in shortlist for pair in pairs]]
    table = pd.concat([ranked, others], ignore_index=True)
    write_atomic(folder / f"{name}.csv", table.to_csv(index=False))
    nearest = ranked.to_dict("records")[0]
    known = read_json(CALIBRATED) if CALIBRATED.exists() else {}
    write_json(CALIBRATED, known | {name: nearest})
    return nearest


def main(names: list[str]) -> int:
    """Calibrate the experiments named; the measurements go to results/calibration."""
    for name in named(names, "calibration", list(dict.fromkeys(published("2")["experiment"]))):
        print(name, calibrate(name, MEASURED))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
