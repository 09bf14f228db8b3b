"""Methods with a fixed form of loss: the baseline, ML³ and TaylorGLO."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evomal_core.bench import Bench
from evomal_core.engines import choose_engine, fitness, local_search
from evomal_core.evaluation import Evaluation
from evomal_core.lazy import LazyModule
from evomal_core.losses import Loss, TaskLoss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_core.result import SearchResult
from evomal_core.seeds import derive
from evomal_core.session import Search
from evomal_core.workers import Workers

if TYPE_CHECKING:
    import cmaes
else:
    cmaes = LazyModule("cmaes")


def baseline(search: Search) -> SearchResult:
    """No search: the task loss itself, with the fitness that it would have."""
    search.progress.start(1)
    return _single(search, TaskLoss(search.kind), diverged=False)


def ml3(search: Search) -> SearchResult:
    """ML³ (Bechtle et al. 2021): one neural loss, tuned for `meta_steps` by unrolled differentiation."""
    config = search.config
    loss = NeuralLoss(search.kind, seed=search.seed, init=config.ml3_init).to(search.learners[0].device)
    search.engine = choose_engine(search.learners, config, loss)
    search.progress.start(1)
    share = 1 / max(config.meta_steps, 1)
    with search.timed("local search"):
        (tuned,) = local_search(
            [loss], search.learners, config, search.engine, lambda: search.progress.tick(share)
        )
    return _single(search, tuned.loss, tuned.diverged)


def _single(search: Search, loss: Loss, diverged: bool) -> SearchResult:
    value = math.inf
    if not diverged:
        with search.timed("fitness"):
            (value,) = fitness([loss], search.trained, search.config)
    entry = Evaluation(loss, value, "ok" if math.isfinite(value) else "diverged")
    row = _row(0, [entry], entry)
    search.progress.generation(row, 1)
    return SearchResult.of(search, [entry], [row], [entry])


def _row(generation: int, population: list[Evaluation], best: Evaluation) -> dict[str, Any]:
    finite = [entry.fitness for entry in population if math.isfinite(entry.fitness)]
    return {
        "generation": generation,
        "best_fitness": best.fitness,
        "mean_fitness": sum(finite) / len(finite) if finite else math.inf,
        "finite": len(finite),
        "diverged": len(population) - len(finite),
        "evaluated": len(population),
    }


def _values(search: Search, workers: Workers, losses: list[TaylorLoss], whole: bool) -> list[float]:
    """The fitness of a generation, of the first one `whole` whatever the deadline: a result needs something."""
    with search.overtime() if whole else nullcontext():
        return workers.fitness(losses)


def taylorglo(search: Search) -> SearchResult:
    """TaylorGLO (Gonzalez & Miikkulainen 2021): the 8 parameters of a Taylor polynomial by CMA-ES.

    CMA-ES starts from mean 0 with sigma `taylor_sigma`. Its state is not saved: a resumed search asks and
    tells the recorded generations again, which gives the same state bit by bit.
    """
    config = search.config
    with np.errstate(divide="ignore"):  # fewer than four points have no weight for CMA-ES's rank-μ update
        optimiser = cmaes.CMA(
            mean=np.zeros(8),
            sigma=config.taylor_sigma,
            population_size=max(config.population, 2),
            seed=derive(search.seed, "cma-es") % 2**32,
        )
    search.engine = choose_engine(search.learners, config, unrolled=False)
    evaluations: list[Evaluation] = []
    rows: list[dict[str, Any]] = []
    population: list[Evaluation] = []
    empty: dict[str, Any] = {"fitness": [], "seconds": {}}
    bench = Bench(search.learners, search.trained, config, search.engine, [])
    workers = Workers(search, bench, TaylorLoss(search.kind), empty)
    state = search.checkpoint.load() or empty
    with search.checkpoint.reading():
        search.seconds.update(state["seconds"])
        recorded = [list(map(float, values)) for values in state["fitness"]]
        if any(len(values) != optimiser.population_size for values in recorded):
            raise ValueError("a generation of another size")
        workers.begin(state.get("unfinished", {}))
    search.progress.start(config.generations)
    with search.interruptible(evaluations):
        while len(rows) < len(recorded) or not search.is_over(rows):
            points = [optimiser.ask() for _ in range(optimiser.population_size)]
            device = search.learners[0].device
            losses = [
                TaylorLoss(search.kind, theta=torch.from_numpy(point), roles=config.taylor_roles).to(device)
                for point in points
            ]
            if len(rows) == len(recorded):
                with search.timed("fitness"):
                    recorded.append(_values(search, workers, losses, whole=not rows))
                workers.begin({})
                search.checkpoint.save({"fitness": [*recorded], "seconds": dict(search.seconds)})
            values = recorded[len(rows)]
            optimiser.tell(list(zip(points, values, strict=True)))
            population = [
                Evaluation(loss, value, "ok" if math.isfinite(value) else "diverged")
                for loss, value in zip(losses, values, strict=True)
            ]
            evaluations += population
            rows.append(_row(len(rows), population, min(evaluations, key=Evaluation.rank)))
            search.progress.generation(rows[-1], config.generations)
    return SearchResult.of(search, evaluations, rows, population)
