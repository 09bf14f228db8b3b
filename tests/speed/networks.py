"""Networks that are no perceptrons: local search with LeNet-5 and GECCO's two, and the memory of a meta-step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import choose_engine
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.unroll import meta_gradient
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.networks import gecco_cnn, lenet5, surname_lstm
from tests.speed import reference
from tests.speed.cases import TABULAR, Row, effort, meta_step_flops, population, row, searching
from tests.speed.measure import interleaved, peak_bytes, ratio

AGAINST = "higher loop, fresh loader a step"
LETTERS, LONGEST = 78, 17
"""Symbols and length of the Surname data's names."""


def _learners(x: Tensor, classes: int, model: Callable[[], nn.Module], config: SearchConfig) -> list[Learner]:
    """A task of rows x with random labels, of which a quarter are for validation."""
    y, cut = torch.arange(len(x)) % classes, 3 * len(x) // 4
    task = em.Task("random", "multiclass", (x[:cut], y[:cut]), (x[cut:], y[cut:]))
    return make_learners([task], model, config, 0, "benchmark")


def _lenet_learners() -> list[Learner]:
    """Random images with ten classes, as large as MNIST's."""
    x = torch.randn(512, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return _learners(x, 10, partial(lenet5, 10), TABULAR)


def lenet_search(rounds: int) -> list[Row]:
    """Local search with LeNet-5, 10 classes, 8 candidates."""
    losses, learners = population(8, "multiclass", "tpami23"), _lenet_learners()
    seconds = interleaved(
        {
            "higher": lambda: reference.meta_step(losses, learners, TABULAR.base),
            "jvp": searching(losses, learners, TABULAR, "jvp", True),
            "batched": searching(losses, learners, TABULAR, "batched", True),
        },
        rounds,
    )
    operations = meta_step_flops(losses, learners, TABULAR)
    goals = {"batched": "≥ 1.8, aim 2.5", "jvp": ""}
    return [
        row(
            f"LeNet-5 local search, 8 candidates, {name}",
            AGAINST,
            ratio(seconds["higher"], seconds[name]),
            goal,
            **effort(operations, seconds[name]),
        )
        for name, goal in goals.items()
    ]


def lenet_memory(rounds: int) -> list[Row]:
    """Peak memory of one LeNet-5 meta-step, per candidate; the same in every round."""
    (learner,) = _lenet_learners()
    loss = LearnedLoss("mul(y, log(f))", "multiclass")

    def peak(engine: str) -> int:
        return peak_bytes(lambda: meta_gradient(loss, learner, 0, TABULAR, engine))

    ours, theirs = peak("jvp"), peak("higher")
    mebibytes = {"mebibytes": ours / 2**20, "reference_mebibytes": theirs / 2**20}
    return [row("LeNet-5 meta-step, peak memory, jvp", "higher", ours / theirs, "≤ 0.55, aim 0.5", **mebibytes)]


def gecco_networks(rounds: int) -> list[Row]:
    """Local search with GECCO's networks for CIFAR-10 and Surname, 4 candidates, rows of those shapes."""
    rng = torch.Generator().manual_seed(0)
    images, names = (
        torch.randn(512, 3, 32, 32, generator=rng),
        torch.randint(0, LETTERS, (512, LONGEST), generator=rng),
    )
    networks = {
        "cifar10": (images, 5, partial(gecco_cnn, 5)),
        "surname": (names, 9, partial(surname_lstm, 9, LETTERS)),
    }
    rows = []
    for name, (x, classes, model) in networks.items():
        config = experiment(name).profiles["paper"].search.replace(meta_steps=1)
        losses, learners = population(4, "multiclass"), _learners(x, classes, model, config)
        engine = choose_engine(learners, config)
        seconds = interleaved(
            {
                "higher": lambda: reference.meta_step(losses, learners, config.base),  # noqa: B023
                "ours": searching(losses, learners, config, engine, True),
            },
            rounds,
        )
        operations = meta_step_flops(losses, learners, config)
        found, more = ratio(seconds["higher"], seconds["ours"]), effort(operations, seconds["ours"])
        rows.append(row(f"GECCO's {name} network, 4 candidates, {engine}", AGAINST, found, "", **more))
    return rows


CASES: dict[str, Callable[[int], list[Row]]] = {
    "lenet-search": lenet_search,
    "lenet-memory": lenet_memory,
    "gecco-networks": gecco_networks,
}
