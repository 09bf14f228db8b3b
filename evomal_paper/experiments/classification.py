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

from evomal_core.config import SGD
from evomal_core.learners import ModelFactory
from evomal_core.models import logistic, mlp
from evomal_core.seeds import torch_rng
from evomal_core.tasks import Task
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments.augmentation import Augmentation
from evomal_paper.experiments.image_tasks import image_task, some_images
from evomal_paper.experiments.profiles import TINY, Experiment, Problem, Profile, literal
from evomal_paper.experiments.protocols import TPAMI23, few_steps, whole_ml3
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
        return partial(logistic, pixels, classes)
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


PLAIN = SGD(lr=0.01)
"""The optimiser of the authors' code on MNIST."""


def _experiment(
    dataset: str, network: str, table: str, profiles: dict[str, Profile], minutes: Iterable[float]
) -> Experiment:
    """A row of the table; minutes of `smoke`, `quick` and `paper`."""
    smoke, quick, paper = minutes
    return Experiment(
        f"{dataset}-{network}",
        f"{TITLES[dataset]}, {NETWORKS[network]['title']}",
        f"TPAMI'23 section IV-B, {table}",
        "II",
        "07_classification",
        profiles,
        {"smoke": smoke, "quick": quick, "paper": paper, "text": paper},
        partial(_problem, dataset, network),
        DATASETS[dataset],
        (
            *("images", "test_images", "validation_draw", "network"),
            *("augment_train", "augment_validation", "augment_test"),
            *(["hidden"] if network == "mlp" else []),
        ),
    )


def _small(dataset: str, network: str) -> dict[str, Profile]:
    """The profiles of a row of MNIST's protocol."""
    search = TPAMI23.replace(base=PLAIN, rejection_steps=100, gradient_equivalence=network == "lenet5")
    deep = network == "mlp"
    paper = Profile(search=search, test_steps=10_000, seeds=5, hidden=(1000, 1000) if deep else ())
    smoke = paper.replace(search=search.replace(**TINY), test_steps=5, seeds=1, hidden=(8,) if deep else ())
    quick = paper.replace(
        search=search.replace(generations=25, **few_steps(50), fitness_steps=250),
        methods=whole_ml3(search),
        test_steps=1000,
        seeds=3,
        hidden=(100, 100) if deep else (),
        points=20,
    )
    if network == "lenet5":
        # Small batches: many candidates and steps matter more to a small search than gradients without noise.
        fewer = search.replace(base=PLAIN.replace(batch_size=32), **few_steps(50), fitness_steps=250)
        quick = quick.replace(search=fewer.replace(population=16, generations=8))
        if dataset == "mnist":
            fewer = fewer.replace(population=25, generations=20)
            quick = quick.replace(search=fewer, points=5, images=12_000)
    profiles = {"smoke": smoke.replace(images=200, test_images=100), "quick": quick, "paper": paper}
    text = literal(paper, initialisation="default", base=TPAMI23.base, rejection_steps=TPAMI23.rejection_steps)
    return profiles | {"text": text.replace(augment_train=True)}


def _large(dataset: str, network: str) -> dict[str, Profile]:
    """The profiles of a row of the protocol for CIFAR and SVHN."""
    search = TPAMI23.replace(initialisation=NETWORKS[network]["initialisation"], gradient_equivalence=True)
    paper = Profile(
        search=search,
        test_steps=150_000,
        seeds=5,
        test_milestones=(100_000, 135_000),
        augment_train=True,
        augment_validation=True,
        augment_test=dataset == "svhn",
    )
    one = {"population": 2, "generations": 1, "meta_steps": 1, "fitness_steps": 1, "rejection_steps": 20}
    smoke = paper.replace(
        search=search.replace(**TINY | one, base=search.base.replace(batch_size=2)),
        test_steps=2,
        test_milestones=(1,),
        seeds=1,
        images=120 if dataset == "cifar100" else 24,
        test_images=6,
        points=1,
    )
    few = {"population": 6, "generations": 4, "fitness_steps": 30, "rejection_steps": 100, **few_steps(10)}
    quick = paper.replace(
        search=search.replace(**few, base=search.base.replace(batch_size=32)),
        test_steps=200,
        test_milestones=(133, 180),
        seeds=2,
        images=5000,
        test_images=1000,
        points=4,
    )
    return {"smoke": smoke, "quick": quick, "paper": paper, "text": literal(paper, initialisation="default")}


def _experiments(row: Mapping[str, Any]) -> Iterator[Experiment]:
    """The experiments of a row of `published/experiments.toml`: one of its data set for each network."""
    dataset, table = row["dataset"], row["table"]
    for network, minutes in row.get("small", {}).items():
        yield _experiment(dataset, network, table, _small(dataset, network), (0.1, *minutes))
    for network in row.get("large", ()):
        yield _experiment(dataset, network, table, _large(dataset, network), NETWORKS[network]["minutes"])


CLASSIFICATION: tuple[Experiment, ...] = tuple(
    entry for row in facts("experiments", "row") for entry in _experiments(row)
)
"""The stand-ins, the thirteen rows of Table II, and the targets of Table IV's transfers that are none of these."""
