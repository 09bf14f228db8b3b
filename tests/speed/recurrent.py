"""Surname's LSTM: local search and fitness; and what a second thread brings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from evomal_core.engines import fitness
from evomal_core.learners import Learner
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.networks import LetterLSTM
from tests.speed import reference
from tests.speed.cases import SINE, Row, effort, meta_step_flops, population, row, searching, sine_learners
from tests.speed.measure import interleaved, ratio
from tests.speed.networks import AGAINST, LETTERS, LONGEST, _learners

SURNAME = experiment("surname").profile("paper").search


def _surname_learners() -> list[Learner]:
    """Random names with nine classes, as long as the longest of the data."""
    names = torch.randint(0, LETTERS, (512, LONGEST), generator=torch.Generator().manual_seed(0))
    return _learners(names, 9, partial(LetterLSTM, 9, LETTERS), SURNAME)


def surname_search(rounds: int) -> list[Row]:
    """Local search with 8 candidates; the loop is timed on every fourth one."""
    losses, learners, steps = population(8, "multiclass"), _surname_learners(), 4
    config = SURNAME.replace(meta_steps=steps)
    seconds = interleaved(
        {
            "higher": lambda: reference.meta_step(losses[::4], learners, config.base),
            "compiled": searching(losses, learners, config, "batched", True),
        },
        rounds,
    )
    more = effort(meta_step_flops(losses, learners, config), seconds["compiled"], steps)
    found = steps * 4 * ratio(seconds["higher"], seconds["compiled"])
    loop = 4e3 * statistics.median(seconds["higher"])
    what = "Surname's LSTM local search, 8 candidates"
    return [row(what, AGAINST, found, "≥ 3, aim 4", **more, reference_ms=loop)]


def surname_fitness(rounds: int) -> list[Row]:
    """Training 8 networks for 10 steps; the loops are timed on every fourth loss."""
    losses, learners, steps = population(8, "multiclass"), _surname_learners(), 10
    config = SURNAME.replace(fitness_steps=steps)
    seconds = interleaved(
        {
            "loop, fresh loader": lambda: reference.training(losses[::4], learners, config.base, steps),
            "loop": lambda: reference.training(losses[::4], learners, config.base, steps, loaders=False),
            "compiled": lambda: fitness(losses, learners, config, "batched"),
        },
        rounds,
    )
    ms = 1e3 * statistics.median(seconds["compiled"])
    return [
        row("Surname's LSTM fitness, 8 networks", loop, 4 * ratio(seconds[loop], seconds["compiled"]), goal, ms=ms)
        for loop, goal in (("loop", "≥ 1.8, aim 2.5"), ("loop, fresh loader", ""))
    ]


def two_threads(rounds: int) -> list[Row]:
    """Seconds that pass on one thread over those on two; of no meaning where other work has the second core."""

    def passing(work: Callable[[], object], threads: int) -> float:
        torch.set_num_threads(threads)
        try:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        finally:
            torch.set_num_threads(1)

    surname = searching(
        population(8, "multiclass"), _surname_learners(), SURNAME.replace(meta_steps=4), "batched", True
    )
    sine = searching(population(25, "regression"), sine_learners(), SINE.replace(meta_steps=50), "batched", True)
    rows = []
    for name, work in (("Sine", sine), ("Surname's LSTM", surname)):
        work()
        found = [passing(work, 1) / passing(work, 2) for _ in range(rounds)]
        rows.append(row(f"{name} local search on two threads", "one thread", statistics.median(found), ""))
    return rows


CASES: dict[str, Callable[[int], list[Row]]] = {
    "surname-search": surname_search,
    "surname-fitness": surname_fitness,
    "two-threads": two_threads,
}
