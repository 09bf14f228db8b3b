"""The nearest base learning rate that trains: `python -m evomal_core.protocols.base_rate california`.

It trains the baseline of a tabular data set's `paper` profile with the stated rate, then with smaller ones, until
one trains. Only the task loss is used, and no published number: no learned loss can have been favoured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.protocols.profiles import Profile
from evomal_core.protocols.tabular import TABULAR, tabular_problem
from evomal_core.search import refuse_unknown
from evomal_core.threads import one_thread
from evomal_core.training import train

RATES = (0.01, 0.005, 0.003, 0.002, 0.001, 0.0005, 0.0003, 0.0002, 0.0001)
"""The stated rate, and round ones below it."""


def trains(name: str, profile: Profile, steps: int, seeds: Sequence[int] = range(5)) -> bool:
    """Whether the baseline ends below a constant's error, 1, on the training rows at every seed."""
    problem = tabular_problem(name, profile, seed=0)
    base = profile.search.base
    for seed in seeds:
        (learner,) = make_learners(problem.train, problem.model, profile.search, seed, "base rate")
        error = train(TaskLoss("regression"), learner, base, steps, splits=["train"]).final["train"]
        print(f"{name}: rate {base.lr:g}, seed {seed}: training error {error:.4g}", flush=True)
        if not error < 1:
            return False
    return True


def nearest_rate(name: str, steps: int = 1000) -> float:
    """The largest of RATES at which the baseline of the `paper` profile trains for so many steps.

    Raises:
        ValueError: the data set is unknown, or none of the rates trains it.
    """
    known = {entry.name: entry.profile("paper") for entry in TABULAR}
    refuse_unknown("data set", name, list(known))
    for rate in RATES:
        if trains(name, known[name].changed(f"base.lr={rate}"), steps):
            return rate
    raise ValueError(f"none of the rates {', '.join(map(str, RATES))} trains {name}")


def main(names: list[str]) -> int:
    """Print the nearest rate of each data set named."""
    with one_thread():
        for name in names:
            print(f"{name}: {nearest_rate(name):g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
