"""The base learning rate of a quick profile: `python -m evomal_paper.base_settings.quick_rate mnist`.

The short trainings of `quick` would learn nothing at GECCO's 1e-3. Of RATES, theirs is the one at which the
baseline comes nearest to its published in-sample error, |ln(measured / published)|, on the training rows of the
task that is learned on. It trains with the task loss only: no learned loss can have been favoured. A stand-in
takes the published error of the data set that it stands for. What it measured is kept in results/calibration.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from evomal_core.devices import one_thread
from evomal_core.files import write_atomic
from evomal_paper.base_settings.baselines import MEASURED, baseline_errors, named
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.published.tables import published

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SEEDS = range(3)
STANDS_FOR = {"digits": "mnist", "digits5": "cifar10"}


def measure(name: str) -> pd.DataFrame:
    """The baseline's training errors on the task that is learned on: rate, seed, error."""
    parts = []
    for rate in RATES:
        profile = experiment(name).profile("quick").changed(f"base.lr={rate}")
        for seed in SEEDS:
            errors = baseline_errors(name, profile, seed, "quick rate").query("split == 'train'")
            parts.append(errors[["seed", "error"]].assign(rate=rate))
            print(f"{name}: rate {rate:g}, seed {seed}: training error {errors['error'].item():.4f}", flush=True)
    return pd.concat(parts, ignore_index=True)[["rate", "seed", "error"]]


def nearest(name: str, measured: pd.DataFrame) -> float:
    """The rate whose mean error is nearest to the published baseline's; of equals, the lower."""
    cells = published("2").query("method == 'baseline' and group == 'in-sample'").set_index("experiment")["mean"]
    means = measured.groupby("rate")["error"].mean().clip(lower=1e-9)
    return float(np.log(means / cells[STANDS_FOR.get(name, name)]).abs().idxmin())


def main(names: list[str]) -> int:
    """Measure, and print the rate of each experiment named."""
    known = list(dict.fromkeys(published("2")["experiment"]))
    for name in named(names, "quick_rate", [*known, *STANDS_FOR]):
        with one_thread():
            measured = measure(name)
        write_atomic(MEASURED / f"quick-rate-{name}.csv", measured.to_csv(index=False))
        print(f"{name}: {nearest(name, measured):g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
