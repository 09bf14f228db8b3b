"""GECCO'23's experiments: Sine, and the tasks made of MNIST, CIFAR-10 and Surname (section 4.1).

The paper does not say which classes form which task. Here, by one fixed rule, MNIST's five pairs are (0, 1),
(2, 3) and so on, CIFAR-10's halves are classes 0–4 and 5–9, and Surname's are the first and the last nine
nationalities in alphabetical order. The loss is learned on the first task, or the one that `Profile.learn_on`
numbers; the others are new to it. The stand-ins `digits` and `digits5` make the same tasks of scikit-learn's
digits, which need no download.

At the stated base learning rate (1e-3) some of the short trainings of the `quick` profiles would learn nothing.
Theirs is the round one at which the baseline comes nearest to its published in-sample error, on the training rows
of the task that is learned on: `python -m evomal_paper.base_settings quick-rate mnist`. CIFAR-10's is lower: the
baseline comes nearest at its best rate, where a learned loss has nothing to gain.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from evomal_core.models import mlp
from evomal_core.seeds import numpy_rng
from evomal_core.tasks import Task
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments.image_tasks import image_tasks, some_images
from evomal_paper.experiments.profiles import Experiment, Problem, Profile, calibrated, profiles_of
from evomal_paper.experiments.protocols import GECCO23
from evomal_paper.experiments.text_tasks import surname_tasks
from evomal_paper.networks import LetterLSTM, gecco_cnn, lenet5
from evomal_paper.published.tables import facts

PARTITIONS = {row["name"]: row["classes"] for row in facts("experiments", "sizes") if "classes" in row}
"""The classes of each task, by experiment."""

SOURCE = "GECCO'23 section 4.1, Tables 2 and 3, Figures 5 and 6"


def _sine_problem(profile: Profile, seed: int) -> Problem:
    return Problem(
        train=sine_tasks(seed, 5, -2.0, 2.0, purpose="meta-train"),
        test=sine_tasks(seed, 5, -5.0, 5.0, purpose="meta-test"),
        model=partial(mlp, 1, list(profile.hidden), 1),
    )


def _image_problem(dataset: str, partition: Sequence[Sequence[int]], profile: Profile, seed: int) -> Problem:
    tasks = [
        replace(
            task, train=some_images(task.train, profile.images), test=some_images(task.test, profile.test_images)
        )
        for task in image_tasks(dataset, partition)
        if task.test is not None
    ]
    channels, size, _ = tasks[0].features
    network = lenet5 if tasks[0].kind == "binary" else gecco_cnn
    return Problem(*_learned_and_new(tasks, profile), partial(network, tasks[0].outputs, size, channels))


def _surname_problem(profile: Profile, seed: int) -> Problem:
    tasks, symbols = surname_tasks(PARTITIONS["surname"])
    return Problem(*_learned_and_new(tasks, profile), partial(LetterLSTM, tasks[0].outputs, symbols))


def _learned_and_new(tasks: list[Task], profile: Profile) -> tuple[list[Task], list[Task]]:
    """The task that the loss is learned on, and the others; a ValueError if there are not as many tasks."""
    if profile.learn_on >= len(tasks):
        raise ValueError(f"learn_on is one of 0 to {len(tasks) - 1}, got {profile.learn_on}")
    return [tasks[profile.learn_on]], [task for i, task in enumerate(tasks) if i != profile.learn_on]


def _experiment(row: Mapping[str, Any]) -> Experiment:
    """The experiment of a row of sizes in `published/experiments.toml`."""
    name, dataset = row["name"], row.get("dataset", "")
    problem: Callable[[Profile, int], Problem] = _surname_problem if dataset else _sine_problem
    settings = ["learn_on"] if dataset else ["hidden"]
    if name not in ("sine", "surname"):
        problem = partial(_image_problem, dataset, PARTITIONS[name])
        settings += ["images", "test_images"]
    profiles = profiles_of(name, GECCO23)
    profiles |= calibrated(name, profiles["paper"])
    return Experiment(
        name,
        row["title"],
        SOURCE if dataset != "digits" else f"a stand-in that needs no download, for {SOURCE}",
        "2",
        row["notebook"],
        profiles,
        row["minutes"],
        problem,
        DATASETS.get(dataset),
        tuple(settings),
    )


GECCO = tuple(_experiment(row) for row in facts("experiments", "sizes") if "notebook" in row)


def sine_tasks(seed: int, count: int, low: float, high: float, *, purpose: str, rows: int = 100) -> list[Task]:
    """Sine waves y = A·sin(x + p), A ~ U[0.2, 5], p ~ U[−π, π], x ~ U[low, high] (GECCO section 4.1).

    Each task has `rows` training points (the paper's batch) and as many held-out test points.
    """
    tasks = []
    for index in range(count):
        rng = numpy_rng(seed, "sine", purpose, index)
        amplitude, phase = rng.uniform(0.2, 5.0), rng.uniform(-math.pi, math.pi)
        x = rng.uniform(low, high, (2, rows, 1)).astype(np.float32)
        y = (amplitude * np.sin(x + phase)).astype(np.float32)
        train, test = ((torch.from_numpy(x[i]), torch.from_numpy(y[i])) for i in range(2))
        tasks.append(Task(f"{amplitude:.2f}·sin(x {phase:+.2f})", "regression", train, test=test))
    return tasks
