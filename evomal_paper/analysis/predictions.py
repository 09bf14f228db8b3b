"""Errors and predictions for single test rows of base networks trained with different losses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from evomal_core.devices import repeatable
from evomal_core.kinds import link
from evomal_core.losses import Loss
from evomal_core.tasks import Task
from evomal_core.training import rows_at_once
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.experiments.profiles import Problem
from evomal_paper.published.tables import LABELS
from evomal_paper.runs.meta_test import base_trainings

MARGIN = 0.01
"""Margin by which a training error must be below a constant answer's for the network to have learned anything."""
Key = tuple[str, str, int]
"""Experiment, method and seed."""


def predictions(
    name: str, profile: str, seed: int, losses: Mapping[str, Loss], device: str = "cpu"
) -> tuple[Task, pd.DataFrame]:
    """Train networks as in meta-testing on the first new task of an experiment, and predict its test rows.

    The same seed gives the same networks as the run of that seed, whose errors they have.

    Returns:
        The task, and a table of its test rows: row, label (a number), and for each loss the class that its network
        takes for the most probable one, in a column of that loss's name, and its probability, `p NAME`.
    """
    entry = experiment(name)
    sizes = entry.profile(profile)
    problem = entry.problem(sizes, seed)
    columns: dict[str, np.ndarray] = {}
    for known_as, loss in losses.items():
        learner, trained = next(base_trainings(loss, problem, sizes, seed, "out-of-sample", device))
        shares = probabilities(trained.network, learner.task)
        columns[known_as] = shares.argmax(dim=1).numpy()
        columns[f"p {known_as}"] = shares.amax(dim=1).numpy()
    task = problem.test[0]
    assert task.test is not None
    label = task.test[1].flatten().long().numpy()
    return task, pd.DataFrame({"row": np.arange(len(label)), "label": label} | columns)


def worst_rows(
    name: str, profile: str, losses: Mapping[Key, Loss], worst: int, device: str = "cpu"
) -> pd.DataFrame:
    """Test errors of a regression with and without the rows that are predicted worst.

    A mean of squares can be that of very few rows. Networks are trained anew, as in meta-testing from new starts
    but by PyTorch alone: of losses whose training hangs on rounding, errors are others than the runs'.

    Returns:
        One row a loss of `Results.losses` of that experiment: experiment, method, seed, mean squared error, the
        same without so many worst rows, and their share of the sum.
    """
    entry = experiment(name)
    sizes = entry.profile(profile)
    found = []
    for (of, method, seed), loss in losses.items():
        if of != name:
            continue
        learner, trained = next(base_trainings(loss, entry.problem(sizes, seed), sizes, seed, "in-sample", device))
        assert learner.task.test is not None
        x, y = learner.task.test
        with torch.no_grad():
            errors = (trained.network(x) - y).square().flatten().sort(descending=True).values.double()
        row = {"experiment": name, "method": method, "seed": seed, "MSE": errors.mean().item()}
        row |= {f"without {worst} rows": errors[worst:].mean().item()}
        found.append(row | {"share of these rows": (errors[:worst].sum() / errors.sum()).item()})
    return pd.DataFrame(found)


@repeatable()
@torch.no_grad()
def probabilities(network: nn.Module, task: Task) -> Tensor:
    """The network's probabilities for the task's test rows: (rows, classes), two of a binary task."""
    assert task.test is not None
    network.eval()
    logits = torch.cat([network(rows) for rows in task.test[0].split(rows_at_once(task))]).cpu()
    shares = link(logits, task.kind)
    return torch.cat([1 - shares, shares], dim=1) if task.kind == "binary" else shares


def right_and_wrong(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Number of test rows that the networks of two losses get right: both, one alone, or neither."""
    ours, theirs = (table[name] == table["label"] for name in (first, second))
    counts = {"both right": ours & theirs, f"only {first} right": ours & ~theirs}
    counts |= {f"only {second} right": ~ours & theirs, "both wrong": ~ours & ~theirs}
    return pd.DataFrame(counts).sum().to_frame().T


def only_right_by(table: pd.DataFrame, better: str, other: str, most: int = 12) -> pd.DataFrame:
    """The first rows of the test part that one loss's network gets right and the other's wrong."""
    return table[(table[better] == table["label"]) & (table[other] != table["label"])].head(most)


def in_names(shown: pd.DataFrame, task: Task, texts: Sequence[str]) -> pd.DataFrame:
    """Rows of `predictions` for reading: the text (of all test rows'), its class, each network's answer."""
    rows = []
    for row in shown.to_dict("records"):
        said = {"text": texts[row["row"]], "class": task.classes[row["label"]]}
        for name in (column for column in shown if f"p {column}" in row):
            known_as = LABELS.get(name, name)
            said |= {f"{known_as} says": task.classes[row[name]], f"{known_as}'s probability": row[f"p {name}"]}
        rows.append(said)
    return pd.DataFrame(rows)


def constant_answers(problem: Problem) -> pd.DataFrame:
    """The training error rate of always answering the most frequent class: group, task (numbered), error."""
    groups: dict[str, Sequence[Task]] = {"in-sample": problem.train, "out-of-sample": problem.test}
    rows = []
    for group, tasks in groups.items():
        for number, task in enumerate(tasks):
            labels = task.train[1].flatten().long()
            share = labels.bincount().max().item() / len(labels)
            rows.append({"group": group, "task": number, "error": 1 - share})
    return pd.DataFrame(rows)


def learned_nothing(last: pd.DataFrame, constant: pd.DataFrame) -> pd.DataFrame:
    """Count the trainings whose final training error is not below a constant answer's by MARGIN.

    One row per group and method: trainings (seeds times tasks), and how many of them learned nothing; of
    `Results.last()` of one experiment of classification, and of `constant_answers` for the same tasks.
    """
    ends = last[last["split"] == "train"].merge(constant, on=["group", "task"], suffixes=("", " of a constant"))
    ends = ends.assign(nothing=ends["error"] > ends["error of a constant"] - MARGIN)
    grouped = ends.groupby(["group", "method"], sort=False, observed=True)["nothing"]
    return grouped.agg(**{"trainings": "size", "learned nothing": "sum"}).reset_index()
