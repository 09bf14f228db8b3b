"""Baselines trained with the task loss, which base settings are chosen by, and where their errors are kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.training import train
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import Profile

MEASURED = Path(__file__).resolve().parents[2] / "results" / "calibration"
"""The folder of what was measured."""


def named(arguments: Sequence[str], module: str, known: Sequence[str]) -> list[str]:
    """The experiments named to one of the commands that measure baselines.

    Raises:
        SystemExit: help was asked for, none is named, or one is not known; before anything is measured.
    """
    parser = argparse.ArgumentParser(prog=f"python -m evomal_paper.base_settings.{module}")
    parser.add_argument("names", nargs="+", choices=known, metavar="EXPERIMENT", help=", ".join(known))
    return parser.parse_args(arguments).names


def baseline_errors(name: str, profile: Profile, seed: int, purpose: str, *, new: bool = False) -> pd.DataFrame:
    """Final errors of base networks trained with the task loss for `test_steps`: seed, task, split, error.

    Args:
        name: the experiment.
        profile: its sizes and its base optimiser.
        seed: of initial weights and batches.
        purpose: what they are for, which their random draws are derived from.
        new: whether also on the tasks that no loss is learned on, which are numbered after the others.
    """
    problem = experiment(name).problem(profile, seed)
    tasks = [*problem.train, *(problem.test if new else [])]
    rows = []
    for number, learner in enumerate(make_learners(tasks, problem.model, profile.search, seed, purpose)):
        final = train(TaskLoss(learner.task.kind), learner, profile.search.base, profile.test_steps).final
        place = {"seed": seed, "task": number}
        rows += [place | {"split": split, "error": final[split]} for split in learner.task.parts()]
    return pd.DataFrame(rows)
