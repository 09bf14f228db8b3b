"""Training stacks of base networks: fitness and meta-testing, and the rejection protocol, all at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from evomal_core.config import SGD, SearchConfig
from evomal_core.learners import Learner
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.population import (
    flat,
    groups_of,
    in_chunks,
    link,
    same_batches,
    slopes_of,
    stack_rows,
    stackable,
    through_link,
)
from evomal_core.stacks import Stack, Stacked, make_stacks
from evomal_core.training import ROWS_AT_ONCE


@dataclass(frozen=True)
class Trained:
    """The errors of one network of a stack at the recorded steps, as `training.Training` has them."""

    curve: list[dict[str, float]]
    diverged: bool

    @property
    def final(self) -> dict[str, float]:
        """The errors after the last step."""
        return self.curve[-1]


def train_stack(
    losses: Sequence[Loss],
    learners: Sequence[Learner],
    base: SGD,
    steps: int,
    record: Collection[int] = (),
    splits: Sequence[str] | None = None,
) -> list[list[Trained]]:
    """Train the network of every learner with every loss, all at once; see `training.train`.

    Returns:
        For each loss, the errors for each learner.

    Raises:
        NotBatchable: the losses form no program, or the network can't be stacked.
    """
    wanted = sorted({step for step in record if 0 <= step <= steps} | {steps})
    results: dict[int, list[Trained]] = {}
    for indices, group in groups_of(losses):
        trained = in_chunks(group, lambda part: _train(part, learners, base, wanted, splits))
        results.update(zip(indices, trained, strict=True))
    return [results[index] for index in range(len(losses))]


def _train(
    losses: Sequence[Loss],
    learners: Sequence[Learner],
    base: SGD,
    wanted: Sequence[int],
    splits: Sequence[str] | None,
) -> list[list[Trained]]:
    found: dict[int, list[Trained]] = {}  # by id of the learner
    for stack in make_stacks(learners):
        for learner, column in zip(
            stack.learners, _train_one_stack(losses, stack, base, wanted, splits), strict=True
        ):
            found[id(learner)] = column
    return [[found[id(learner)][p] for learner in learners] for p in range(len(losses))]


def _train_one_stack(
    losses: Sequence[Loss], stack: Stack, base: SGD, wanted: Sequence[int], splits: Sequence[str] | None
) -> list[list[Trained]]:
    theta = stack.start(len(losses))
    slopes = slopes_of(losses, theta[0].dtype, theta[0].device)
    moves = torch.tensor([_depends_on_f(loss) for loss in losses], device=theta[0].device)
    moving = None if bool(moves.all()) else moves  # a loss without f trains nothing, not even by weight decay
    velocity: Stacked | None = None
    errors: list[dict[str, Tensor]] = []
    held: list[tuple[Tensor, Tensor]] | None = None
    done = 0
    for step in wanted:
        for number in range(done, step):
            batches = [learner.batch(number) for learner in stack.learners]
            if held is None or not same_batches(held, batches):
                rows, held = stack_rows(stack, batches), batches
            with torch.no_grad(), stackable():
                predictions, pullback = stack.train_step(theta, rows.features, number)
                f = link(predictions, stack.kind)
                slope = slopes(flat(f, len(losses)), rows.y.reshape(-1))
                slope = slope.view(len(losses), *rows.shape).transpose(0, 1)
                gradient = pullback(through_link(f, slope, stack.kind) / rows.shape[1])
                velocity = _sgd_in_place(theta, gradient, velocity, base, moving)
        done = step
        errors.append({"step": torch.tensor(float(step)), **_errors(stack, theta, splits)})
    finite = torch.stack([torch.isfinite(w).flatten(2).all(dim=2) for w in theta]).all(dim=0)
    return [
        [_trained(errors, t, p, bool(finite[t, p])) for p in range(len(losses))]
        for t in range(len(stack.learners))
    ]


def _trained(errors: list[dict[str, Tensor]], task: int, candidate: int, finite: bool) -> Trained:
    curve = [
        {
            "step": int(row["step"]),
            **{name: float(e[task, candidate]) for name, e in row.items() if name != "step"},
        }
        for row in errors
    ]
    return Trained(curve, not finite or any(value == float("inf") for value in curve[-1].values()))


def _depends_on_f(loss: Loss) -> bool:
    return not isinstance(loss, LearnedLoss) or "f" in loss.expression.nodes


def _sgd_in_place(
    theta: Stacked, gradient: Stacked, velocity: Stacked | None, base: SGD, moving: Tensor | None
) -> Stacked | None:
    """One step of `torch.optim.SGD` on all networks; see `SGD`."""
    if base.weight_decay:
        torch._foreach_add_(gradient, theta, alpha=base.weight_decay)
    step = gradient
    if base.momentum:
        if velocity is None:
            velocity = [g.clone() for g in gradient]
        else:
            torch._foreach_mul_(velocity, base.momentum)
            torch._foreach_add_(velocity, gradient)
        step = velocity
        if base.nesterov:
            torch._foreach_add_(gradient, velocity, alpha=base.momentum)
            step = gradient
    if moving is not None:
        step = [torch.where(moving.view(1, -1, *[1] * (s.ndim - 2)), s, 0.0) for s in step]
    torch._foreach_add_(theta, step, alpha=-base.lr)
    return velocity


@torch.no_grad()
def _errors(stack: Stack, theta: Stacked, splits: Sequence[str] | None) -> dict[str, Tensor]:
    """The performance metric (T, P) of each part, as `training.error` has it."""
    found = {}
    for name in splits or stack.learners[0].task.parts():
        parts = [learner.task.parts()[name] for learner in stack.learners]
        rows = stack_rows(stack, parts)
        with stackable():
            pieces = [stack.evaluate(theta, x) for x in rows.features.split(ROWS_AT_ONCE, dim=stack.row_axis)]
        y_pred = torch.cat(pieces, dim=2)
        if stack.kind == "regression":
            change = y_pred - rows.y
            value = (change * change).mean(dim=(2, 3))
        elif stack.kind == "binary":
            value = ((y_pred > 0) != (rows.y > 0.5)).float().mean(dim=(2, 3))
        else:
            value = (y_pred.argmax(dim=3) != rows.given.unsqueeze(1)).float().mean(dim=2)
        found[name] = torch.where(torch.isfinite(y_pred).flatten(2).all(dim=2), value, torch.inf)
    return found


def batched_fitness(losses: Sequence[Loss], learners: Sequence[Learner], config: SearchConfig) -> list[float]:
    """As `training.fitness`, for all losses at once.

    Raises:
        NotBatchable: the losses form no program, or the network can't be stacked.
    """
    stacks = train_stack(losses, learners, config.base, config.fitness_steps, splits=[config.fitness_on])
    return [
        float("inf") if any(t.diverged for t in row) else sum(t.final[config.fitness_on] for t in row) / len(row)
        for row in stacks
    ]


def batched_minimise_predictions(
    losses: Sequence[Loss], y_pred: Tensor, y_true: Tensor, config: SearchConfig
) -> Tensor:
    """As `filters.minimise_predictions`, for all losses at once: (P, *y_pred.shape).

    Raises:
        NotBatchable: the losses form no program.
    """
    kind = losses[0].kind
    slopes = slopes_of(losses, y_pred.dtype, y_pred.device)
    best = y_pred.detach().expand(len(losses), *y_pred.shape).clone()
    labels = functional.one_hot(y_true, y_pred.shape[1]) if kind == "multiclass" else y_true
    labels = labels.to(y_pred.dtype).reshape(-1)
    optimiser = torch.optim.Adam([best], lr=config.rejection_lr)
    for _ in range(config.rejection_steps):
        f = link(best, kind)
        slope = slopes(f.flatten(1), labels).view_as(best)
        best.grad = through_link(f, slope, kind) / len(y_pred)
        optimiser.step()
    return best.detach()
