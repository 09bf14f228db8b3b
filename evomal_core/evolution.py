"""Genetic programming over losses: EvoMAL, GP-LFL (no local search) and random search.

Sources: Raymond et al., GECCO 2023, section 3; Raymond et al., TPAMI 2023, section III.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from evomal_core.config import SearchConfig
from evomal_core.deadlines import OutOfTimeError
from evomal_core.evaluation import Evaluation, Found, summary
from evomal_core.expression import Expression, crossover, mutate, random_expression, repair
from evomal_core.filters import gradient_signature, is_irrelevant, is_rejected
from evomal_core.losses import LearnedLoss, initial_phi
from evomal_core.seeds import python_rng
from evomal_core.session import Search
from evomal_core.workers import Workers

log = logging.getLogger("evomal")


def evomal(search: Search) -> Found:
    """EvoMAL: genetic programming whose candidates are tuned by unrolled differentiation."""
    return _evolve(search, tuned=True, bred=True)


def gp_lfl(search: Search) -> Found:
    """GP-LFL: the same genetic programming without local search."""
    return _evolve(search, tuned=False, bred=True)


def random_search(search: Search) -> Found:
    """Random search: new random expressions in each generation, without local search."""
    return _evolve(search, tuned=False, bred=False)


def _evolve(search: Search, *, tuned: bool, bred: bool) -> Found:
    config = search.config
    evaluator = Evaluator(search, tuned)
    rows: list[dict[str, Any]] = []
    population: list[Evaluation] = []
    if (state := search.checkpoint.load()) is not None:
        with search.checkpoint.reading():
            rows, population = list(state["generations"]), evaluator.restore(state)
            evaluator.workers.begin(state.get("unfinished", {}))
            search.seconds.update(state["seconds"])
    search.progress.start(config.generations)
    for row in rows:
        search.progress.generation(row, config.generations)
    with search.interruptible(evaluator.archive):
        while not search.is_over(rows):
            generation = len(rows)
            if not bred or generation == 0:
                expressions = _random_population(search, generation)
            else:
                expressions = breed(population, config, python_rng(search.seed, "breed", generation))
            population, counts = evaluator.evaluate(expressions)
            if generation == 0:
                warn_if_inert(config, evaluator.moved)
            evaluator.workers.begin({})
            best = min(evaluator.archive.values(), key=Evaluation.rank)
            rows.append(summary(generation, population, best) | counts)
            search.checkpoint.save(
                {"generations": [*rows], "seconds": dict(search.seconds), **evaluator.state(population)}
            )
            search.progress.generation(rows[-1], config.generations)
    return Found(list(evaluator.archive.values()), rows, population)


def _random_population(search: Search, generation: int) -> list[Expression]:
    """Ramped half-and-half trees, repaired; in the first generation after the losses that a search starts from.

    The known losses leave room for half a population of random trees, so the first generation may be larger.
    """
    config = search.config
    known = [expression for expression in search.known if expression not in search.initial]
    first = [*search.initial, *known] if generation == 0 else []
    population = list(first)
    fewest = config.population // 2 if search.known else 0
    for index in range(len(first), max(config.population, len(first) + fewest)):
        rng = python_rng(search.seed, "random tree", generation, index)
        tree = random_expression(rng, config.operations, config.initial_heights)
        repaired = repair(rng, tree, config.operations, config.repair_with)
        population.append(repaired if repaired.height <= config.height_limit else _grown(rng, config))
    return population


def _grown(rng: random.Random, config: SearchConfig) -> Expression:
    """A repaired random tree within the height limit, where repair made the first one too high."""
    while True:
        tree = random_expression(rng, config.operations, (0, config.height_limit))
        tree = repair(rng, tree, config.operations, config.repair_with)
        if tree.height <= config.height_limit:
            return tree


def breed(population: Sequence[Evaluation], config: SearchConfig, rng: random.Random) -> list[Expression]:
    """The next generation's expressions: elites, then crossover and mutation of tournament winners.

    The best `config.elites` stay. Each other place is filled by crossover, mutation or reproduction; the
    rates are of the whole population, elites included (70 + 25 + 5 % in the papers), so they are divided by
    1 − elitism_rate here; with elitism="reproduction" nothing stays but by winning a tournament. A child above the
    height limit, checked after repair, gives way to its parent.
    """
    ranked = sorted(population, key=lambda e: e.fitness)
    children = [_expression(entry) for entry in ranked[: config.elites]]
    others = 1 - (config.elitism_rate if config.elitism == "elite" else 0)
    while len(children) < config.population:
        draw = rng.random() * others
        parent = _select(population, config, rng)
        if draw < config.crossover_rate:
            child = crossover(rng, parent, _select(population, config, rng), config.operations)
        elif draw < config.crossover_rate + config.mutation_rate:
            child = mutate(rng, parent, config.operations, trees=config.mutation_trees)
        else:
            child = parent
        child = repair(rng, child, config.operations, config.repair_with)
        children.append(child if child.height <= config.height_limit else parent)
    return children


def _expression(entry: Evaluation) -> Expression:
    assert isinstance(entry.loss, LearnedLoss)
    return entry.loss.expression


def _select(population: Sequence[Evaluation], config: SearchConfig, rng: random.Random) -> Expression:
    """A tournament of `config.tournament`, lowest fitness first; with parsimony, two winners compared by size."""
    winner = _tournament(population, config.tournament, rng)
    if config.parsimony > 1:
        # Luke & Panait 2002: of two winners the smaller is taken with probability parsimony / 2.
        pair = sorted((winner, _tournament(population, config.tournament, rng)), key=lambda e: e.complexity)
        winner = pair[0] if rng.random() < config.parsimony / 2 else pair[1]
    return _expression(winner)


def _tournament(population: Sequence[Evaluation], size: int, rng: random.Random) -> Evaluation:
    return min(rng.choices(population, k=size), key=lambda e: e.fitness)


def warn_if_inert(config: SearchConfig, moved: Sequence[float]) -> None:
    """Warn if local search moved no weight of the first generation by INERT, or can hardly move one."""
    reach = config.meta_lr * config.meta_steps if config.meta_optimizer == "adam" else math.inf
    if not moved or (max(moved) >= INERT and reach >= REACH):
        return
    log.warning(
        "local search hardly moves the weights of losses (by %.1e at most in the first generation), so losses are "
        "searched almost untuned; take larger steps of Adam or more of them, e.g. meta_lr=3e-2, meta_steps=50 "
        "(now %r, %g, %d)",
        max(moved),
        config.meta_optimizer,
        config.meta_lr,
        config.meta_steps,
    )


REACH = 0.99
"""Distance that Adam must be able to move a weight for local search to be of use (1, but for rounding)."""
INERT = 1e-2
"""A change of phi that leaves a loss as it was."""
FILTERED = ("rejected early", "rejected", "equivalent")
"""The statuses of candidates that are neither trained with nor found to diverge."""


class Evaluator:
    """Fitness of expressions: local search, filters and a partial training session, with an archive.

    An evaluation is a function of the seed and the expression alone (the gradient-equivalence filter also
    looks at what came before), so neither the order nor an interruption changes a result. Without the symbolic
    archive a tree that comes again is evaluated again, and the gradient-equivalence filter, if it is on, finds it
    equivalent to itself: it is tuned but not trained with a second time, and counts as "equivalent".
    """

    def __init__(self, search: Search, tuned: bool) -> None:
        self.search = search
        self.tuned = tuned
        self.archive: dict[Expression, Evaluation] = {}
        self.signatures: dict[tuple[str, ...], float] = {}
        self.moved: list[float] = []
        """Largest change of a weight in each local search."""
        probe = LearnedLoss("square(sub(f, y))", search.kind)
        empty = {"generations": [], "seconds": {}, **self.state([])}
        unrolled = tuned and search.config.meta_steps > 0
        self.workers = Workers(search, probe, empty, unrolled=unrolled)

    def evaluate(self, expressions: Sequence[Expression]) -> tuple[list[Evaluation], dict[str, int]]:
        """Evaluate a population; return its evaluations, and how many were cached, rejected, …"""
        with self.search.timed("filters"), self.search.timed("filter: symbolic archive"):
            archive = self.archive if self.search.config.symbolic_archive else {}
            new = [e for e in dict.fromkeys(expressions) if e not in archive]
        try:
            fresh, counts = self._evaluate_new(new)
        except OutOfTimeError:
            if not self.archive:
                self._evaluate_some(new)
            raise
        for expression, entry in zip(new, fresh, strict=True):
            # Without the symbolic archive a tree is evaluated again, to the same fitness, which its own signature
            # lends it: what stays is that it was trained with.
            self.archive.setdefault(expression, entry)
        statuses = Counter(entry.status for entry in fresh)
        counts = {"cached": len(expressions) - len(new), **counts}
        counts |= {status: statuses[status] for status in (*FILTERED, "diverged")}
        counts["evaluated"] = len(new) - sum(statuses[status] for status in FILTERED)
        return [self.archive[expression] for expression in expressions], counts

    def _evaluate_some(self, expressions: Sequence[Expression]) -> None:
        """Evaluate the first unit past the deadline, so that a search out of time has a result."""
        some = expressions[: self.workers.unit]
        self.workers.begin({})
        with self.search.overtime():
            fresh, _ = self._evaluate_new(some)
        self.archive.update(zip(some, fresh, strict=True))

    def _evaluate_new(self, expressions: Sequence[Expression]) -> tuple[list[Evaluation], dict[str, int]]:
        """The evaluations, and how many were optimised, skipped by local search, and trained with."""
        losses, done, counts = self._tune(expressions)
        if self.tuned and self.search.config.keep_better:
            losses += [self._untuned(expression) for expression in expressions]
        self._reject(losses, done, "rejected")
        signatures = self._signatures(losses, done)
        leaders: dict[tuple[str, ...], int] = {}
        for index, signature in signatures.items():
            leaders.setdefault(signature, index)
        train = [
            index
            for index in range(len(losses))
            if index not in done
            and (index not in signatures or leaders[signatures[index]] == index)
            and signatures.get(index) not in self.signatures
        ]
        with self.search.timed("fitness"):
            values = self.workers.fitness([losses[i] for i in train])
        for index, value in zip(train, values, strict=True):
            done[index] = Evaluation.trained(losses[index], value)
            if index in signatures:
                self.signatures[signatures[index]] = value
        for index, signature in signatures.items():
            if index not in done:
                done[index] = Evaluation(losses[index], self.signatures[signature], "equivalent")
        step = max(len(expressions), 1)
        found = [
            min((done[i] for i in range(index, len(losses), step)), key=Evaluation.rank)
            for index in range(len(expressions))
        ]
        return found, counts | {"trained": len(train)}

    def _tune(
        self, expressions: Sequence[Expression]
    ) -> tuple[list[LearnedLoss], dict[int, Evaluation], dict[str, int]]:
        """The losses after local search (if the method has one), the evaluations already known, and counts."""
        search, config = self.search, self.search.config
        losses = [self._start(expression) for expression in expressions]
        done: dict[int, Evaluation] = {}
        if not self.tuned or not losses:
            return losses, done, {"optimised": 0, "skipped": 0}
        if config.reject_first:
            self._reject(losses, done, "rejected early")
        waiting = [index for index in range(len(losses)) if index not in done]
        chosen = waiting
        if config.skip_irrelevant:
            with search.timed("filters"), search.timed("filter: irrelevant weights"):
                chosen = [index for index in waiting if not is_irrelevant(expressions[index])]
        share = 1 / (max(len(chosen), 1) * max(config.meta_steps, 1))
        with search.timed("local search"):
            candidates = [losses[index] for index in chosen]
            tuned = self.workers.local_search(candidates, lambda: search.progress.tick(share))
        for index, outcome in zip(chosen, tuned, strict=True):
            assert isinstance(outcome.loss, LearnedLoss)
            self.moved.append(float((outcome.loss.phi - losses[index].phi).detach().abs().max()))
            losses[index] = outcome.loss
            if outcome.diverged:
                done[index] = Evaluation(outcome.loss, math.inf, "diverged")
        return losses, done, {"optimised": len(chosen), "skipped": len(waiting) - len(chosen)}

    def _start(self, expression: Expression) -> LearnedLoss:
        """The loss that local search starts from: weights near those of a known loss, near 1 of another."""
        loss = self._untuned(expression)
        if self.tuned:
            with torch.no_grad():
                loss.phi.mul_(initial_phi(expression, self.search.seed).to(loss.phi.device))
        return loss

    def _untuned(self, expression: Expression) -> LearnedLoss:
        """The loss as it is in textbooks if it is known, all weights 1 if it is not."""
        known = self.search.known.get(expression)
        phi = torch.ones(expression.edges) if known is None else known.phi
        loss = LearnedLoss(expression, self.search.kind, phi=phi, softplus=self.search.config.softplus)
        return loss.to(self.search.learners[0].device)

    def _reject(self, losses: Sequence[LearnedLoss], done: dict[int, Evaluation], status: str) -> None:
        """Mark the losses that the rejection protocol finds unpromising as done."""
        search = self.search
        if not search.config.rejection_steps:
            return
        waiting = [index for index in range(len(losses)) if index not in done]
        part = "rejection" if status == "rejected" else "early rejection"
        with search.timed("filters"), search.timed(f"filter: {part}"):
            candidates = [losses[index] for index in waiting]
            found = self.workers.rejection(candidates)
        for index, g in zip(waiting, found, strict=True):
            if is_rejected(g):
                done[index] = Evaluation(losses[index], math.inf, status)

    def _signatures(
        self, losses: Sequence[LearnedLoss], done: dict[int, Evaluation]
    ) -> dict[int, tuple[str, ...]]:
        """The gradient signatures of the losses that are not done."""
        if not self.search.config.gradient_equivalence:
            return {}
        with self.search.timed("filters"), self.search.timed("filter: gradient equivalence"):
            waiting = [index for index in range(len(losses)) if index not in done]
            signed = not self.search.config.rejection_steps
            found = {index: gradient_signature(losses[index], self.workers.samples, signed) for index in waiting}
        return {index: signature for index, signature in found.items() if signature is not None}

    def state(self, population: Sequence[Evaluation]) -> dict[str, Any]:
        """Archive, signatures and population as JSON-ready data."""
        order = {id(entry): index for index, entry in enumerate(self.archive.values())}
        return {
            "archive": [
                [str(e), entry.fitness, entry.status, *(w.tolist() for w in entry.loss.parameters())]
                for e, entry in self.archive.items()
            ],
            "signatures": [[list(key), value] for key, value in self.signatures.items()],
            "population": [order[id(entry)] for entry in population],
        }

    def restore(self, state: dict[str, Any]) -> list[Evaluation]:
        """Restore a saved state; return the population."""
        kind, softplus = self.search.kind, self.search.config.softplus
        for text, value, status, phi in state["archive"]:
            loss = LearnedLoss(text, kind, softplus=softplus)
            with torch.no_grad():
                loss.phi.copy_(torch.tensor(phi).reshape(loss.phi.shape))  # diverged ones would be refused above
            loss.to(self.search.learners[0].device)
            self.archive[loss.expression] = Evaluation(loss, value, status)
        self.signatures = {tuple(key): value for key, value in state["signatures"]}
        entries = list(self.archive.values())
        return [entries[index] for index in state["population"]]
