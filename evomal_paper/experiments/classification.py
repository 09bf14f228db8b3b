"""TPAMI'23's image classification (section IV-B, Table II), and stand-ins that need no download.

As published: 10 % of the training images are for validation, which the task loss and the fitness are measured on;
the test part is the data set's own; 500 steps of SGD for fitness. From the authors' code: the optimiser and the
steps of meta-testing with its falling learning rate. Where the two differ, or are silent:

- the paper augments the training images of all data sets, the code those of CIFAR and SVHN, whose digits it
  mirrors too; stand-ins are treated as MNIST is;
- the validation images are drawn class by class.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from evomal_core.learners import ModelFactory
from evomal_core.models import mlp
from evomal_core.seeds import torch_rng
from evomal_core.tasks import Task
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments.augmentation import Augmentation
from evomal_paper.experiments.image_tasks import image_task, some_images
from evomal_paper.experiments.profiles import Experiment, Problem, Profile, profiles_of
from evomal_paper.experiments.protocols import TPAMI23
from evomal_paper.networks import in_form, lenet5
from evomal_paper.published.tables import facts

TITLES = {"digits": "Digits", "mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}
NETWORKS = {row["name"]: row for row in facts("experiments", "network")}
VALIDATION = 0.1
"""Share of the training images (TPAMI section IV-B)."""


def _problem(dataset: str, network: str, profile: Profile, seed: int) -> Problem:
    draw = seed if profile.validation_draw == "seed" else 0
    task = _sampled(image_task(dataset, validation=VALIDATION, draw=draw), profile)
    augmented = {"validation": profile.augment_validation, "test": profile.augment_test}
    if profile.augment_train or any(augmented.values()):
        assert task.x_scale is not None
        black = task.x_scale(torch.zeros_like(task.x_scale.mean))
        augment = Augmentation(black=tuple(black.flatten().tolist()))
        parts: dict[str, Any] = {}
        for part, (x, y) in task.parts().items():
            if augmented.get(part):
                parts[part] = augment(x, torch_rng(draw, f"augmented {part} images")), y
        task = replace(task, augment=augment if profile.augment_train else None, **parts)
    return Problem([task], [], _model(network, task, len(DATASETS[dataset].classes), profile))


def _model(network: str, task: Task, classes: int, profile: Profile) -> ModelFactory:
    pixels = int(np.prod(task.features))
    if network == "logistic":
        return partial(mlp, pixels, [], classes)
    if network == "mlp":
        return partial(mlp, pixels, profile.hidden, classes)
    if network == "lenet5":
        return partial(lenet5, classes, task.features[-1])
    return partial(in_form(network, profile.network), classes)


def _sampled(task: Task, profile: Profile) -> Task:
    """The task with as many images as the profile uses."""
    held = round(VALIDATION * profile.images)
    counts = {"train": profile.images - held, "validation": held, "test": profile.test_images}
    parts: dict[str, Any] = {part: some_images(task.parts()[part], count) for part, count in counts.items()}
    return replace(task, **parts)


def _experiment(dataset: str, network: str, table: str, sizes: str, minutes: Iterable[float]) -> Experiment:
    """A row of the table; minutes of `smoke`, `quick` and `paper`."""
    search = TPAMI23.replace(initialisation=NETWORKS[network]["initialisation"])
    return Experiment(
        f"{dataset}-{network}",
        f"{TITLES[dataset]}, {NETWORKS[network]['title']}",
        f"TPAMI'23 section IV-B, {table}",
        "II",
        "07_classification",
        profiles_of(sizes, search),
        dict(zip(("smoke", "quick", "paper"), minutes, strict=True)),
        partial(_problem, dataset, network),
        DATASETS[dataset],
        (
            *("images", "test_images", "validation_draw", "network"),
            *("augment_train", "augment_validation", "augment_test"),
            *(["hidden"] if network == "mlp" else []),
        ),
    )


def _experiments(row: Mapping[str, Any]) -> Iterator[Experiment]:
    """The experiments of a row of `published/experiments.toml`: one of its data set for each network."""
    dataset, table = row["dataset"], row["table"]
    for network, minutes in row.get("small", {}).items():
        sizes = "mnist-lenet5" if (dataset, network) == ("mnist", "lenet5") else network
        yield _experiment(dataset, network, table, sizes, (0.1, *minutes))
    for network in row.get("large", ()):
        sizes = "large" if dataset == "cifar10" else dataset
        yield _experiment(dataset, network, table, sizes, NETWORKS[network]["minutes"])


CLASSIFICATION: tuple[Experiment, ...] = tuple(
    entry for row in facts("experiments", "row") for entry in _experiments(row)
)
"""The stand-ins, the thirteen rows of Table II, and the targets of Table IV's transfers that are none of these."""
