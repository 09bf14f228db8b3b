"""Networks that are no perceptrons: local search with LeNet-5 and GECCO's two, and the memory of a meta-step."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.engines import choose_engine, fitness
from evomal_core.kinds import Kind
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.unroll import meta_gradient
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.networks import gecco_cnn, lenet5, surname_lstm
from tests.speed import reference
from tests.speed.cases import TABULAR, Row, effort, meta_step_flops, population, row, searching
from tests.speed.measure import interleaved, peak_bytes, ratio

AGAINST = "higher loop, fresh loader a step"
GOALS = {"cifar10": "≥ 2, aim 2.5", "surname": "≥ 3, aim 4"}
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
        rows.append(row(f"GECCO's {name} network, 4 candidates", AGAINST, found, GOALS[name], **more))
    return rows


CASES: dict[str, Callable[[int], list[Row]]] = {
    "lenet-search": lenet_search,
    "lenet-fitness": lenet_fitness,
    "lenet-memory": lenet_memory,
    "gecco-networks": gecco_networks,
}
