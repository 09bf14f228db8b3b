"""Convolutional networks: LeNet-5 and GECCO's for CIFAR-10, and a meta-step's memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import fitness
from evomal_core.kinds import Kind
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.unroll import meta_gradient
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.networks import gecco_cnn, lenet5
from tests.speed import reference
from tests.speed.cases import TABULAR, Row, effort, meta_step_flops, population, row, searching
from tests.speed.measure import interleaved, peak_bytes, ratio

AGAINST = "higher loop, fresh loader a step"
LETTERS, LONGEST = 78, 17
"""Symbols and length of the Surname data's names."""


def _learners(x: Tensor, classes: int, model: Callable[[], nn.Module], config: SearchConfig) -> list[Learner]:
    """A task of rows x with random labels, of which a quarter are for validation; binary for one class."""
    y, cut = torch.arange(len(x)) % max(classes, 2), 3 * len(x) // 4
    y = y[:, None].float() if classes == 1 else y
    task = em.Task("random", _kind(classes), (x[:cut], y[:cut]), (x[cut:], y[cut:]))
    return make_learners([task], model, config, 0, "benchmark")


def _kind(outputs: int) -> Kind:
    return "binary" if outputs == 1 else "multiclass"


def _lenet_learners(outputs: int = 10) -> list[Learner]:
    """Random images, as large as MNIST's."""
    x = torch.randn(512, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return _learners(x, outputs, partial(lenet5, outputs), TABULAR)


def lenet_search(rounds: int) -> list[Row]:
    """Local search with LeNet-5, 25 candidates; the loop is timed on every fifth one."""
    rows, steps = [], 4
    for outputs, goal in ((1, "≥ 9, aim 12"), (10, "≥ 6, aim 9")):
        losses, learners = population(25, _kind(outputs), "tpami23"), _lenet_learners(outputs)
        config = TABULAR.replace(meta_steps=steps)
        seconds = interleaved(
            {
                "higher": lambda: reference.meta_step(losses[::5], learners, TABULAR.base),  # noqa: B023
                "compiled": searching(losses, learners, config, "batched", True),
            },
            rounds,
        )
        found = steps * 5 * ratio(seconds["higher"], seconds["compiled"])
        operations = meta_step_flops(losses, learners, TABULAR)
        what = f"LeNet-5 local search, {outputs} output{'s' if outputs > 1 else ''}, 25 candidates"
        more = effort(operations, seconds["compiled"], steps)
        rows.append(
            row(what, AGAINST, found, goal, **more, reference_ms=5e3 * statistics.median(seconds["higher"]))
        )
    return rows


def lenet_fitness(rounds: int) -> list[Row]:
    """Training LeNet-5 with 25 losses, 10 steps each; the loops are timed on every fifth one."""
    losses, learners, steps = population(25, "binary"), _lenet_learners(1), 10
    config = TABULAR.replace(fitness_steps=steps)
    seconds = interleaved(
        {
            "loop, fresh loader": lambda: reference.training(losses[::5], learners, config.base, steps),
            "loop": lambda: reference.training(losses[::5], learners, config.base, steps, loaders=False),
            "compiled": lambda: fitness(losses, learners, config, "batched"),
        },
        rounds,
    )
    ms = 1e3 * statistics.median(seconds["compiled"])
    return [
        row("LeNet-5 fitness, 25 networks", loop, 5 * ratio(seconds[loop], seconds["compiled"]), goal, ms=ms)
        for loop, goal in (("loop", "≥ 3, aim 4"), ("loop, fresh loader", ""))
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


def gecco_cifar10(rounds: int) -> list[Row]:
    """Local search with GECCO's network for CIFAR-10, 4 candidates, rows of that shape."""
    images = torch.randn(512, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    config = experiment("cifar10").profiles["paper"].search.replace(meta_steps=1)
    losses, learners = population(4, "multiclass"), _learners(images, 5, partial(gecco_cnn, 5), config)
    seconds = interleaved(
        {
            "higher": lambda: reference.meta_step(losses, learners, config.base),
            "compiled": searching(losses, learners, config, "batched", True),
        },
        rounds,
    )
    more = effort(meta_step_flops(losses, learners, config), seconds["compiled"])
    found = ratio(seconds["higher"], seconds["compiled"])
    return [row("GECCO's cifar10 network, 4 candidates", AGAINST, found, "≥ 2, aim 2.5", **more)]


CASES: dict[str, Callable[[int], list[Row]]] = {
    "lenet-search": lenet_search,
    "lenet-fitness": lenet_fitness,
    "lenet-memory": lenet_memory,
    "gecco-cifar10": gecco_cifar10,
}
