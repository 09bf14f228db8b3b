"""The base learning rate of a quick profile: `python -m evomal_core.protocols.quick_rate mnist`.

The short trainings of `quick` would learn nothing at GECCO's 1e-3. Of RATES, theirs is the one at which the
baseline comes nearest to its published in-sample error, |ln(measured / published)|, on the training rows of the
task that is learned on. It trains with the task loss only: no learned loss can have been favoured. A stand-in
takes the published error of the data set that it stands for.
"""

from __future__ import annotations

import math
import sys

from evomal_core.experiment import experiment
from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.paper import published
from evomal_core.threads import one_thread
from evomal_core.training import train

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SEEDS = range(3)
STANDS_FOR = {"digits": "mnist", "digits5": "cifar10"}


def errors(name: str) -> dict[float, float]:
    """The baseline's mean training error, over seeds, at each rate."""
    profile = experiment(name).profile("quick")
    problems = [experiment(name).problem(profile, seed) for seed in SEEDS]
    found = {}
    for rate in RATES:
        search = profile.changed(f"base.lr={rate}").search
        total = 0.0
        for seed, problem in zip(SEEDS, problems, strict=True):
            (learner,) = make_learners(problem.train, problem.model, search, seed, "quick rate")
            loss = TaskLoss(learner.task.kind)
            total += train(loss, learner, search.base, profile.test_steps, splits=["train"]).final["train"]
        found[rate] = total / len(SEEDS)
    return found


def quick_rate(name: str) -> float:
    """The rate whose baseline is nearest to the published one; of equals, the lower."""
    cells = published("2").query("method == 'baseline' and group == 'in-sample'").set_index("experiment")["mean"]
    target = float(cells[STANDS_FOR.get(name, name)])
    measured = errors(name)
    for rate, value in measured.items():
        print(f"{name}: rate {rate:g}: training error {value:.4f} (published in-sample {target:g})", flush=True)
    return min(RATES, key=lambda rate: abs(math.log(max(measured[rate], 1e-9) / target)))


def main(names: list[str]) -> int:
    """Print the rate of each experiment named."""
    with one_thread():
        for name in names:
            print(f"{name}: {quick_rate(name):g}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
