"""The methods that EvoMAL is compared with: the baseline, ML³, TaylorGLO and its predecessor GLO."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evomal_core.evaluation import Evaluation, Found, summary
from evomal_core.lazy import LazyModule
from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_core.seeds import derive
from evomal_core.session import Search
from evomal_core.training import fitness
from evomal_core.workers import Workers

if TYPE_CHECKING:
    import cmaes
else:
    cmaes = LazyModule("cmaes")


def baseline(search: Search) -> Found:
    """No search: the task loss itself, with the fitness that it would have."""
    search.progress.start(1)
    return _single(search, TaskLoss(search.kind), diverged=False)


def ml3(search: Search) -> Found:
    """ML³ (Bechtle et al. 2021): one neural loss, tuned for `meta_steps` by unrolled differentiation."""
    config = search.config
    loss = NeuralLoss(search.kind, seed=search.seed, init=config.ml3_init).to(search.learners[0].device)
    bench = search.set_up(search.learners, search.trained, config, loss)
    search.engine = bench.engine
    search.progress.start(1)
    share = 1 / max(config.meta_steps, 1)
    with search.timed("local search"):
        (tuned,) = bench.tuned([loss], lambda: search.progress.tick(share))
    return _single(search, tuned.loss, tuned.diverged)


def _single(search: Search, loss: Loss, diverged: bool) -> Found:
    value = math.inf
    if not diverged:
        with search.timed("fitness"):
            value = fitness(loss, search.trained, search.config)
    entry = Evaluation.trained(loss, value)
    row = _row(0, [entry], entry)
    search.progress.generation(row, 1)
    return Found([entry], [row], [entry])


def _row(generation: int, population: list[Evaluation], best: Evaluation) -> dict[str, Any]:
    row = summary(generation, population, best)
    return row | {"diverged": len(population) - row["finite"], "evaluated": len(population)}


def _cma_es(search: Search, mean: np.ndarray, sigma: float, *purpose: str | int) -> cmaes.CMA:
    with np.errstate(divide="ignore"):  # fewer than four points have no weight for CMA-ES's rank-μ update
        return cmaes.CMA(
            mean=mean,
            sigma=sigma,
            population_size=max(search.config.population, 2),
            seed=derive(search.seed, *purpose) % 2**32,
        )


def taylorglo(search: Search) -> Found:
    """TaylorGLO (Gonzalez & Miikkulainen 2021): the 8 parameters of a Taylor polynomial by CMA-ES.

    CMA-ES starts from mean 0 with sigma `taylor_sigma`. Its state is not saved: a resumed search asks and
    tells the recorded generations again, which gives the same state bit by bit.
    """
    config, device = search.config, search.learners[0].device
    optimiser = _cma_es(search, np.zeros(8), config.taylor_sigma, "cma-es")
    evaluations: list[Evaluation] = []
    rows: list[dict[str, Any]] = []
    population: list[Evaluation] = []
    state = search.checkpoint.load() or {"fitness": [], "seconds": {}}
    trained = _Recorded(search, TaylorLoss(search.kind), state, "fitness")
    with search.checkpoint.reading():
        search.seconds.update(state["seconds"])
        if any(len(values) != optimiser.population_size for values in trained.recorded):
            raise ValueError("a generation of another size")
    search.progress.start(config.generations)

    def loss_of(point: np.ndarray) -> TaylorLoss:
        return TaylorLoss(search.kind, theta=torch.from_numpy(point), roles=config.taylor_roles).to(device)

    with search.interruptible(evaluations):
        while trained.given < len(trained.recorded) or not search.is_over(rows):
            # the first generation whatever the deadline: a result needs something
            with search.overtime() if not rows else nullcontext():
                population = trained.generation(optimiser, loss_of)
            evaluations += population
            rows.append(_row(len(rows), population, min(evaluations, key=Evaluation.rank)))
            search.progress.generation(rows[-1], config.generations)
    return Found(evaluations, rows, population)


def glo(search: Search, bred: Found) -> Found:
    """GLO (Gonzalez & Miikkulainen 2020): losses by genetic programming, then their weights by CMA-ES.

    The predecessor that both papers measure themselves against: `generations` of trees with all weights 1, then
    `glo_generations` of weights of each of the best `glo_trees` trees, with one partial training session for each
    point: `trained` in the generations of the result counts them. CMA-ES's state is not saved: a resumed search
    asks and tells the recorded values again, to the same state.
    """
    evaluations, rows = list(bred.evaluations), list(bred.generations)
    if search.stopped:
        return bred
    usable = [entry for entry in bred.evaluations if entry.status == "ok" and math.isfinite(entry.fitness)]
    population = list(bred.population)
    config, device = search.config, search.learners[0].device
    state = {"weights": [], **search.checkpoint.state}
    trained = _Recorded(search, LearnedLoss("square(sub(f, y))", search.kind), state, "weights")
    with search.interruptible(evaluations):
        for number, entry in enumerate(sorted(usable, key=Evaluation.rank)[: config.glo_trees]):
            tree = entry.loss
            assert isinstance(tree, LearnedLoss)
            start = tree.phi.detach().double().cpu().numpy()
            optimiser = _cma_es(search, start, config.glo_sigma, "glo", number)

            def loss_of(point: np.ndarray, tree: LearnedLoss = tree) -> LearnedLoss:
                phi = torch.from_numpy(point).float()
                return LearnedLoss(tree.expression, search.kind, phi=phi, softplus=tree.softplus).to(device)

            for _ in range(config.glo_generations):
                population = trained.generation(optimiser, loss_of)
                evaluations += population
                row = _row(len(rows), population, min(evaluations, key=Evaluation.rank))
                rows.append(row | {"trained": len(population)})
    return Found(evaluations, rows, population)


class _Recorded:
    """Generations of CMA-ES, whose fitness is first that in a checkpoint, then found by the search's workers.

    Args:
        search: the search.
        probe: one of the losses.
        state: what the checkpoint holds.
        key: the name there of the fitness of each generation.
    """

    def __init__(self, search: Search, probe: Loss, state: dict[str, Any], key: str) -> None:
        self.search, self.key, self.given = search, key, 0
        self.workers = Workers(search, probe, state)
        with search.checkpoint.reading():
            self.recorded = [list(map(float, values)) for values in state[key]]
            self.workers.begin(state.get("unfinished", {}))

    def generation(self, optimiser: cmaes.CMA, loss_of: Callable[[np.ndarray], Loss]) -> list[Evaluation]:
        """Ask for points, and tell the fitness of their losses."""
        points = [optimiser.ask() for _ in range(optimiser.population_size)]
        losses = [loss_of(point) for point in points]
        if self.given == len(self.recorded):
            with self.search.timed("fitness"):
                self.recorded.append(self.workers.fitness(losses))
            self.workers.begin({})
            state = {
                name: part for name, part in (self.search.checkpoint.state or {}).items() if name != "unfinished"
            }
            added = {self.key: [*self.recorded], "seconds": dict(self.search.seconds)}
            self.search.checkpoint.save(state | added)
        values = self.recorded[self.given]
        self.given += 1
        optimiser.tell(list(zip(points, values, strict=True)))
        return list(map(Evaluation.trained, losses, values))
