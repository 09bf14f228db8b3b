"""The nearest base learning rate that trains: `python -m evomal_paper.base_settings.base_rate california`.

It trains the baseline of a tabular data set's `paper` profile with the stated rate, then with smaller ones, until
one trains. Only the task loss is used, and no published number: no learned loss can have been favoured. What it
measured is kept in results/calibration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from evomal_core.devices import one_thread
from evomal_core.files import write_atomic
from evomal_paper.base_settings.baselines import MEASURED, baseline_errors, named
from evomal_paper.experiments.profiles import Profile
from evomal_paper.experiments.tabular import TABULAR

RATES = (0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0002, 0.0001)
"""The stated rate, and round ones below it."""
SEEDS = range(5)


def measure(name: str, profile: Profile, rates: Sequence[float] = RATES) -> pd.DataFrame:
    """The baseline's training errors, by rate and seed, up to the first rate that trains: rate, seed, error.

    A rate trains if it ends below a constant's error, 1, at every seed; one that does not is left at once.
    """
    rows = []
    for rate in rates:
        for seed in SEEDS:
            errors = baseline_errors(name, profile.changed(f"base.lr={rate}"), seed, "base rate")
            error = errors.query("split == 'train'")["error"].item()
            print(f"{name}: rate {rate:g}, seed {seed}: training error {error:.4g}", flush=True)
            rows.append({"rate": rate, "seed": seed, "error": error})
            if not error < 1:
                break
        else:
            break
    return pd.DataFrame(rows)


def nearest(name: str, measured: pd.DataFrame) -> float:
    """The largest rate that trains.

    Raises:
        ValueError: none does.
    """
    worst = measured.groupby("rate")["error"].max()
    if not (worst < 1).any():
        raise ValueError(f"none of the rates {', '.join(f'{rate:g}' for rate in worst.index[::-1])} trains {name}")
    return float(worst[worst < 1].index.max())


def main(names: list[str], steps: int = 1000) -> int:
    """Measure the `paper` profiles of the data sets named, for so many steps, and print their nearest rates."""
    known = {entry.name: entry.profile("paper") for entry in TABULAR}
    for name in named(names, "base_rate", list(known)):
        with one_thread():
            measured = measure(name, known[name].replace(test_steps=steps))
        write_atomic(MEASURED / f"base-rate-{name}.csv", measured.to_csv(index=False))
        print(f"{name}: {nearest(name, measured):g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
