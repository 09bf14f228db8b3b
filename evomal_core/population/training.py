"""Training stacks of base networks: fitness and meta-testing, and the rejection protocol, all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core.checkpoints import Snapshot
from evomal_core.config import SGD, Optimizer, SearchConfig
from evomal_core.kinds import link, through_link
from evomal_core.labels import as_rows, from_rows, read_labels
from evomal_core.learners import Learner
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.population import compiled
from evomal_core.population.batches import cotangents_of, groups_of, in_chunks, slopes_of, stackable
from evomal_core.population.candidates import KernelTraining
from evomal_core.population.compiled_convolutions import ConvolutionTraining
from evomal_core.population.compiled_perceptrons import PerceptronTraining
from evomal_core.population.compiled_recurrent import RecurrentTraining
from evomal_core.population.networks import (
    ConvolutionStack,
    MLPStack,
    NotBatchable,
    RecurrentStack,
    Stack,
    make_stacks,
)
from evomal_core.population.optimisers import ELEMENTWISE, SGDSteps, TorchSteps, kernel_steps
from evomal_core.population.steps import Stacked
from evomal_core.training import Trained, learning_rates, rows_at_once


def train_stack(
    losses: Sequence[nn.Module],
    learners: Sequence[Learner],
    base: SGD | Optimizer,
    steps: int,
    record: Collection[int] = (),
    splits: Sequence[str] | None = None,
    milestones: Collection[int] = (),
    modules: bool = False,
    snapshots: Sequence[Snapshot] = (),
    tick: Callable[[int], None] = lambda steps: None,
) -> list[list[Trained]]:
    """Train the network of every learner with every loss, all at once; see `training.train`.

    Args:
        losses: the losses.
        learners: the tasks with their base networks.
        base: the optimiser's hyper-parameters.
        steps: number of gradient steps.
        record: steps after which errors are measured, beside the last.
        splits: the parts of the tasks to measure; all by default.
        milestones: steps after which the learning rate is multiplied by 0.1.
        modules: whether losses that form no program are taken too, by differentiating each of them.
        snapshots: with a single loss, where a convolutional network of each learner saves its state.
        tick: called with the number of steps that one network, or several at once, have done since its last call.

    Returns:
        For each loss, the errors for each learner.

    Raises:
        NotBatchable: the losses form no program, or the network or the optimiser can't be stacked.
    """
    if isinstance(base, Optimizer) and base.name not in ELEMENTWISE:
        raise NotBatchable(f"{base.name} does not treat each weight alone, so it can't train a population at once")
    wanted = tuple(sorted({step for step in record if 0 <= step <= steps} | {steps}))
    kept = dict(zip(map(id, learners), snapshots, strict=True)) if snapshots and len(losses) == 1 else {}
    plan = _Plan(base, learning_rates(base, steps, milestones), wanted, splits, kept, tick)
    results: dict[int, list[Trained]] = {}
    for indices, group in groups_of(losses):
        if not modules:
            slopes_of(group, torch.float32, torch.device("cpu"))  # or NotBatchable
        trained = in_chunks(group, lambda part: _train(part, learners, plan))
        results.update(zip(indices, trained, strict=True))
    return [results[index] for index in range(len(losses))]


LOOK = 25
"""Steps between two looks at which networks can still be trained."""


@dataclass(frozen=True)
class _Plan:
    """Settings of training: configuration, steps that are measured, and where states are saved."""

    base: SGD | Optimizer
    rates: Sequence[float]
    """The learning rate of each step."""
    wanted: Sequence[int]
    splits: Sequence[str] | None
    snapshots: Mapping[int, Snapshot]
    """Snapshots by id of the learner."""
    tick: Callable[[int], None]


def _train(losses: Sequence[nn.Module], learners: Sequence[Learner], plan: _Plan) -> list[list[Trained]]:
    found: dict[int, list[Trained]] = {}  # by id of the learner
    for stack in make_stacks(learners):
        columns = _train_one_stack(losses, stack, plan)
        found.update(zip(map(id, stack.learners), columns, strict=True))
    return [[found[id(learner)][p] for learner in learners] for p in range(len(losses))]


def _train_one_stack(losses: Sequence[nn.Module], stack: Stack, plan: _Plan) -> list[list[Trained]]:
    names = tuple(plan.splits or stack.learners[0].task.parts())
    training: Any = _training(losses, stack, plan.base)
    errors: list[dict[str, Tensor]] = []
    snapshot = plan.snapshots.get(id(stack.learners[0])) if isinstance(training, ConvolutionTraining) else None
    if snapshot is not None and (state := snapshot.load()):
        training.resume(state["training"])
        errors = state["errors"]
    plan.tick(training.done * len(stack.learners))
    for step in plan.wanted:
        while training.done < step:
            before = training.done
            training.advance(plan.rates[before : min(step, before + STRIDE)])
            plan.tick((training.done - before) * len(stack.learners))
            if snapshot is not None and snapshot.is_due:
                snapshot.save({"training": training.state(), "errors": errors})
        if len(errors) <= plan.wanted.index(step):
            errors.append({"step": torch.tensor(step), **training.errors(names)})
    if snapshot is not None:
        snapshot.save({"training": training.state(), "errors": errors})
    finite = training.finite()
    tasks, candidates = range(len(stack.learners)), range(len(losses))
    return [[_trained(errors, t, p, bool(finite[t, p])) for p in candidates] for t in tasks]


STRIDE = 100
"""Steps between two reports of progress."""


KERNELS: dict[type[Stack], Callable[..., KernelTraining]] = {
    MLPStack: PerceptronTraining,
    RecurrentStack: RecurrentTraining,
    ConvolutionStack: ConvolutionTraining,
}


def _training(losses: Sequence[nn.Module], stack: Stack, base: SGD | Optimizer) -> StackTraining | KernelTraining:
    """The networks of a stack in training, by the kernels where they fit."""
    steps = kernel_steps(base)
    if steps is not None and compiled.fits(stack, losses):
        return KERNELS[type(stack)](losses, stack, steps)
    return StackTraining(losses, stack, base)


class StackTraining:
    """The networks of a stack, trained for all candidates with whole tensors.

    A network whose weights are no longer finite never recovers. Candidates with no other network are left out as
    training goes on; their errors are infinite.
    """

    def __init__(self, losses: Sequence[nn.Module], stack: Stack, base: SGD | Optimizer) -> None:
        self.losses, self.stack, self.base = losses, stack, base
        self.theta = stack.start(len(losses))
        self.move = SGDSteps(base) if isinstance(base, SGD) else TorchSteps(base, self.theta)
        self._train_only(torch.arange(len(losses), device=self.theta[0].device))
        self.done = 0

    def _train_only(self, candidates: Tensor) -> None:
        """Let the weights be those of the candidates with these numbers."""
        self.candidates = candidates
        losses = [self.losses[p] for p in candidates.tolist()]
        self.cotangents = cotangents_of(losses, self.stack.kind, self.theta[0].dtype, candidates.device)
        moves = torch.tensor([_depends_on_f(loss) for loss in losses], device=candidates.device)
        self.moving = None if bool(moves.all()) else moves  # without f nothing trains, not even by weight decay
        self.factored = isinstance(self.base, SGD) and (self.moving is None or not self.base.weight_decay)

    def _leave_out_diverged(self) -> None:
        alive = _finite(self.theta).any(dim=0)
        if not alive.any() or alive.all():
            return
        self.theta = [w[:, alive] for w in self.theta]
        self.move.keep(alive, self.theta)
        self.stack.keep(alive)
        self._train_only(self.candidates[alive])

    def advance(self, rates: Sequence[float]) -> None:
        """Take a step at each of these learning rates."""
        for number, rate in enumerate(rates, start=self.done):
            if number % LOOK == 0:
                self._leave_out_diverged()
            rows = self.stack.held_rows("train", [learner.batch(number) for learner in self.stack.learners])
            with torch.no_grad(), stackable():
                predictions, pullback = self.stack.train_step(self.theta, rows.features, number, self.factored)
                gradient = pullback(self.cotangents(predictions.expand(-1, len(self.candidates), -1, -1), rows))
                self.move(self.theta, gradient, rate, self.moving)
        self.done += len(rates)

    def errors(self, splits: Sequence[str]) -> dict[str, Tensor]:
        """The performance metric (T, P) of each part."""
        found = _errors(self.stack, self.theta, splits)
        return {name: self._of_all(values, torch.inf) for name, values in found.items()}

    def finite(self) -> Tensor:
        """Whether all weights of each network are finite, (T, P)."""
        return self._of_all(_finite(self.theta), False)

    def _of_all(self, values: Tensor, otherwise: float) -> Tensor:
        """Values (T, candidates in training) for all candidates (T, P)."""
        filled = values.new_full((len(values), len(self.losses)), otherwise)
        return filled.index_copy_(1, self.candidates, values)


def _finite(theta: Stacked) -> Tensor:
    """Whether all weights of each network are finite, (T, P)."""
    return torch.stack([torch.isfinite(w).unsqueeze(2).flatten(2).all(dim=2) for w in theta]).all(dim=0)


def _trained(errors: list[dict[str, Tensor]], task: int, candidate: int, finite: bool) -> Trained:
    curve = [
        {
            "step": int(row["step"]),
            **{name: float(e[task, candidate]) for name, e in row.items() if name != "step"},
        }
        for row in errors
    ]
    return Trained(curve, not finite or any(value == float("inf") for value in curve[-1].values()))


def _depends_on_f(loss: nn.Module) -> bool:
    return not isinstance(loss, LearnedLoss) or "f" in loss.expression.nodes


@torch.no_grad()
def _errors(stack: Stack, theta: Stacked, splits: Sequence[str]) -> dict[str, Tensor]:
    """The performance metric (T, P) of each part, as `training.error` has it."""
    found, size = {}, rows_at_once(stack.learners[0].task)
    if theta[0].is_cuda and not isinstance(stack, MLPStack):
        size = math.ceil(size / theta[0].shape[1])  # the activations of all candidates are there at once
    for name in splits:
        parts = [learner.task.labelled(name) for learner in stack.learners]
        rows = stack.rows(parts)
        with stackable():
            chunks = rows.features.split(size, dim=stack.row_axis)
            pieces = [stack.evaluate(theta, x, number) for number, x in enumerate(chunks)]
        y_pred = torch.cat(pieces, dim=2)
        found[name] = stack.learners[0].task.measure(y_pred, rows.labels, rows.share)
    return found


def batched_fitness(losses: Sequence[Loss], learners: Sequence[Learner], config: SearchConfig) -> list[float]:
    """Compute `training.fitness` for all losses at once.

    Raises:
        NotBatchable: the losses form no program, or the network can't be stacked.
    """
    stacks = train_stack(losses, learners, config.base, config.fitness_steps, splits=[config.fitness_on])
    return [
        float("inf") if any(t.diverged for t in row) else sum(t.final[config.fitness_on] for t in row) / len(row)
        for row in stacks
    ]


def batched_minimise_predictions(
    losses: Sequence[Loss], y_pred: Tensor, y_true: Tensor, config: SearchConfig, weight: Tensor | None = None
) -> Tensor:
    """Run `filters.minimise_predictions` for all losses at once: (P, *y_pred.shape).

    Raises:
        NotBatchable: the losses form no program.
    """
    kind, start = losses[0].kind, as_rows(y_pred.detach(), losses[0].kind)
    labels = read_labels(y_true, kind, start.shape[1], y_pred.dtype, weight=weight)
    slopes = slopes_of(losses, y_pred.dtype, y_pred.device)  # or NotBatchable, for the kernels too
    if labels.weight is None and compiled.take(y_pred, losses):
        learned = [loss for loss in losses if isinstance(loss, LearnedLoss)]
        return from_rows(compiled.minimise_predictions(learned, start, labels.y, config), y_pred.shape, kind)
    best = start.expand(len(losses), *start.shape).clone()
    optimiser = torch.optim.Adam([best], lr=config.rejection_lr)
    for _ in range(config.rejection_steps):
        f = link(labels.hide(best), kind)
        slope = slopes(f.flatten(1), labels.y.reshape(-1)).view_as(best)
        slope = through_link(f, slope, kind)
        if labels.weight is None:
            best.grad = slope / len(start)
        else:
            best.grad = torch.where(labels.weight != 0, slope * labels.share, 0.0)
        optimiser.step()
    return from_rows(best.detach(), y_pred.shape, kind)
