"""What each switch of the search buys alone: three problems with training rows that mislead, or few steps.

python -m tests.speed.ablation [--seeds 100 101 102] [--problems outliers …] [--rows FILE]

Starts from a search without any of the switches of `em.EVERYDAY`, adds one at a time, and ends with all of them.
The problems are those of `evomal_paper.demonstrations` at other data seeds than notebook 14 shows. Each loss that
a search ends with is trained at its best rate and step on the validation part; what counts is its mean error on
the test part. FILE keeps finished rows, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import evomal_core as em
from evomal_core.known import known_losses, write
from evomal_paper.demonstrations import DEMONSTRATIONS, FACTORS
from tests.speed.rows import measured

SWITCHES: dict[str, dict[str, Any]] = {
    "larger steps": {"meta_lr": 3e-2},
    "keep_better": {"keep_better": True},
    "known": {"known": True},
    "initialisations": {"initialisations": 2},
    "finalists": {"finalists": 8},
}
WITHOUT = em.EVERYDAY.replace(meta_lr=1e-3, keep_better=False, known=False, initialisations=1, finalists=0)
"""Local search of so many steps with the papers' meta-learning rate, and no switch on."""
SETTINGS = {
    "none": WITHOUT,
    **{name: WITHOUT.replace(**change) for name, change in SWITCHES.items()},
    "all": em.EVERYDAY,
}
PROBLEMS = ("wrong labels", "outliers", "few steps")


def measure(problem: str, seed: int, setting: str) -> dict[str, Any]:
    """The test error of the loss that a search ends with, and that of the task loss, tuned alike."""
    demonstration, begun = DEMONSTRATIONS[problem], time.process_time()
    result = demonstration.search(seed, SETTINGS[setting])
    seconds = time.process_time() - begun
    assert result.problem is not None
    assert isinstance(result.best, em.LearnedLoss)
    usual = next(iter(known_losses(result.problem.tasks[0].kind).items()))
    found = result.compare(
        rivals=dict([usual]), lrs=[factor * demonstration.base.lr for factor in FACTORS], initialisations=4,
        steps=demonstration.steps or em.EVERYDAY.finalist_steps,
    )  # fmt: skip
    return {
        "problem": problem,
        "seed": seed,
        "setting": setting,
        "test": float(found.learned.errors("test").mean()),
        "task loss's test": float(found.rivals[0].errors("test").mean()),
        "seconds": seconds,
        "loss": write(result.best),
    }


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean test errors over seeds by problem and setting, and mean CPU seconds of a search."""
    rows = rows.assign(setting=pd.Categorical(rows["setting"], list(SETTINGS)))
    means = rows.pivot_table(index="setting", columns="problem", values="test", observed=True)
    means.loc["(task loss)"] = rows.groupby("problem")["task loss's test"].mean()
    means["seconds"] = rows.groupby("setting", observed=True)["seconds"].mean()
    return means


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--problems", nargs="+", choices=[*DEMONSTRATIONS], default=[*PROBLEMS])
    parser.add_argument("--rows", type=Path, help="a file of rows to go on from")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [
        (problem, seed, setting) for seed in chosen.seeds for problem in chosen.problems for setting in SETTINGS
    ]
    rows = measured(chosen.rows, wanted, ("problem", "seed", "setting"), measure)
    print(table(pd.DataFrame(rows)).to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
