"""GLO (Gonzalez & Miikkulainen 2020): losses by genetic programming, then their weights by CMA-ES.

The predecessor that both papers measure themselves against. Trees evolve with all weights 1; then CMA-ES searches
the weights of each of the best trees, with one partial training session for each point: `trained` in the
generations of the result counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evomal_core.bench import Bench
from evomal_core.evolution import gp_lfl
from evomal_core.filters import sample_predictions
from evomal_core.lazy import LazyModule
from evomal_core.losses import LearnedLoss
from evomal_core.result import Evaluation, SearchResult
from evomal_core.seeds import derive
from evomal_core.session import Search
from evomal_core.workers import Workers

if TYPE_CHECKING:
    import cmaes
else:
    cmaes = LazyModule("cmaes")


def glo(search: Search) -> SearchResult:
    """GLO: `generations` of genetic programming, then `glo_generations` of CMA-ES for each of `glo_trees` trees.

    CMA-ES's state is not saved: a resumed search asks and tells the recorded values again, to the same state.
    """
    bred = gp_lfl(search)
    evaluations, rows = list(bred.evaluations), list(bred.generations)
    if bred.stopped:
        return bred
    usable = [entry for entry in bred.evaluations if entry.status == "ok" and math.isfinite(entry.fitness)]
    population = list(bred.population)
    trained = _Points(search)
    with search.interruptible(evaluations):
        for number, entry in enumerate(sorted(usable, key=Evaluation.rank)[: search.config.glo_trees]):
            assert isinstance(entry.loss, LearnedLoss)
            population = _tune_weights(search, trained, entry.loss, number, evaluations, rows)
    return SearchResult.of(search, evaluations, rows, population)


class _Points:
    """Fitness of generations of weights, first those in the checkpoint, then by the search's workers."""

    def __init__(self, search: Search) -> None:
        self.search, self.given = search, 0
        samples = sample_predictions(search.learners, search.config)
        bench = Bench(search.learners, search.trained, search.config, search.engine, samples)
        state = search.checkpoint.state
        self.workers = Workers(search, bench, LearnedLoss("square(sub(f, y))", search.kind), state)
        with search.checkpoint.reading():
            self.recorded = [list(map(float, values)) for values in state.get("weights", [])]
            self.workers.begin(state.get("unfinished", {}))

    def fitness(self, losses: Sequence[LearnedLoss]) -> list[float]:
        """The fitness of the next generation."""
        if self.given == len(self.recorded):
            with self.search.timed("fitness"):
                self.recorded.append(self.workers.fitness(losses))
            self.workers.begin({})
            state = {name: part for name, part in self.search.checkpoint.state.items() if name != "unfinished"}
            added = {"weights": [*self.recorded], "seconds": dict(self.search.seconds)}
            self.search.checkpoint.save(state | added)
        self.given += 1
        return self.recorded[self.given - 1]


def _tune_weights(
    search: Search,
    trained: _Points,
    loss: LearnedLoss,
    number: int,
    evaluations: list[Evaluation],
    rows: list[dict[str, Any]],
) -> list[Evaluation]:
    """Search the weights of one tree; adds to the evaluations and generations, and returns the last population."""
    config, device = search.config, search.learners[0].device
    start = loss.phi.detach().double().cpu().numpy()
    with np.errstate(divide="ignore"):  # fewer than four points have no weight for CMA-ES's rank-μ update
        optimiser = cmaes.CMA(
            mean=start,
            sigma=config.glo_sigma,
            population_size=max(config.population, 2),
            seed=derive(search.seed, "glo", number) % 2**32,
        )
    population: list[Evaluation] = []
    for _ in range(config.glo_generations):
        points = [optimiser.ask() for _ in range(optimiser.population_size)]
        losses = [
            LearnedLoss(loss.expression, search.kind, phi=torch.from_numpy(point).float(), softplus=loss.softplus)
            for point in points
        ]
        values = trained.fitness([item.to(device) for item in losses])
        optimiser.tell(list(zip(points, values, strict=True)))
        population = [
            Evaluation(item, value, "ok" if math.isfinite(value) else "diverged")
            for item, value in zip(losses, values, strict=True)
        ]
        evaluations += population
        finite = [value for value in values if math.isfinite(value)]
        best = min(evaluations, key=Evaluation.rank)
        rows.append(
            {
                "generation": len(rows),
                "best_fitness": best.fitness,
                "mean_fitness": sum(finite) / len(finite) if finite else math.inf,
                "finite": len(finite),
                "best_complexity": best.complexity,
                "best_loss": str(getattr(best.loss, "expression", "")),
                "evaluated": len(losses),
                "trained": len(losses),
                "diverged": len(losses) - len(finite),
            }
        )
    return population
