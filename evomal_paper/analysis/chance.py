"""Trainings that learned nothing: they end hardly better than always answering the most frequent class."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from evomal_core.tasks import Task
from evomal_paper.experiments.profiles import Problem

KEYS = ["group", "task"]
MARGIN = 0.01
"""Margin by which a training error must be below a constant answer's for the network to have learned anything."""


def constant_answers(problem: Problem) -> pd.DataFrame:
    """The training error rate of always answering the most frequent class: group, task (numbered), error."""
    groups: dict[str, Sequence[Task]] = {"in-sample": problem.train, "out-of-sample": problem.test}
    rows = [
        {"group": group, "task": number, "error": _of_the_most_frequent(task)}
        for group, tasks in groups.items()
        for number, task in enumerate(tasks)
    ]
    return pd.DataFrame(rows)


def _of_the_most_frequent(task: Task) -> float:
    labels = task.train[1].flatten().long()
    return 1 - labels.bincount().max().item() / len(labels)


def learned_nothing(last: pd.DataFrame, constant: pd.DataFrame) -> pd.DataFrame:
    """Count the trainings whose final training error is not below a constant answer's by MARGIN.

    Args:
        last: `Results.last()` of one experiment of classification.
        constant: of `constant_answers`, for the same tasks.

    Returns:
        One row per group and method: trainings (seeds times tasks), and how many of them learned nothing.
    """
    ends = last[last["split"] == "train"].merge(constant, on=KEYS, suffixes=("", " of a constant"))
    ends = ends.assign(nothing=ends["error"] > ends["error of a constant"] - MARGIN)
    grouped = ends.groupby(["group", "method"], sort=False, observed=True)["nothing"]
    return grouped.agg(**{"trainings": "size", "learned nothing": "sum"}).reset_index()
