"""Training a base network with a loss: for fitness (GECCO Algorithm 2) and for meta-testing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core.checkpoints import Snapshot
from evomal_core.config import SGD, Optimizer, SearchConfig
from evomal_core.labels import read_pair
from evomal_core.learners import Learner
from evomal_core.seeds import isolated_torch
from evomal_core.tasks import Task

ROWS_AT_ONCE = 4096
CACHED = 2**19
"""Features of rows that a CPU's cache holds along with what a network makes of them."""


@dataclass(frozen=True)
class Trained:
    """The errors of a trained network on each part of its task at the recorded steps.

    `curve` holds rows {"step", "train", "validation", "test"}; an error is inf once the network's output
    or weights have left the finite numbers.
    """

    curve: list[dict[str, float]]
    diverged: bool

    @property
    def final(self) -> dict[str, float]:
        """The errors after the last step."""
        return self.curve[-1]


@dataclass(frozen=True)
class Training(Trained):
    """A trained base network and its errors."""

    network: nn.Module


def train(
    loss: nn.Module,
    learner: Learner,
    base: SGD | Optimizer,
    steps: int,
    record: Collection[int] = (),
    splits: Sequence[str] | None = None,
    milestones: Collection[int] = (),
    snapshot: Snapshot | None = None,
    tick: Callable[[int], None] = lambda steps: None,
) -> Training:
    """Train a copy of the learner's network with the loss.

    By SGD, theta ← theta − α ∇_theta M_phi(y, f_theta(x)) for `steps` batches, as at meta-testing time.

    Args:
        loss: used in place of the task loss; its weights stay as they are.
        learner: the task with the network's initial weights and batches.
        base: the optimiser and its hyper-parameters.
        steps: number of gradient steps.
        record: steps (from 0, before training) after which errors are measured, beside the last.
        splits: the parts of the task to measure; all by default.
        milestones: steps after which the learning rate is multiplied by 0.1.
        snapshot: where the state is saved and taken up again.
        tick: called with the number of steps done since its last call.
    """
    network = copy.deepcopy(learner.network)
    optimiser = base.make(network.parameters())
    wanted = sorted({step for step in record if 0 <= step <= steps} | {steps})
    rates = learning_rates(base, steps, milestones)
    parts = {name: learner.task.labelled(name) for name in (splits or learner.task.parts())}
    done, curve = _take_up(snapshot, network, optimiser)
    tick(done)
    with _frozen(loss):
        for step in wanted[len(curve) :]:
            for number in range(done, step):
                for group in optimiser.param_groups:
                    group["lr"] = rates[number]
                optimiser.step(partial(_descend, loss, learner, network, number))
                tick(1)
                _put_down(snapshot, network, optimiser, number + 1, curve)
            done = step
            errors = {name: error(network, learner.task, part) for name, part in parts.items()}
            curve.append({"step": step, **errors})
            _put_down(snapshot, network, optimiser, done, curve, finished=step == steps)
    diverged = not all(torch.isfinite(weights).all() for weights in network.parameters())
    diverged = diverged or any(value == float("inf") for value in curve[-1].values())
    return Training(curve, diverged, network)


def fitness(loss: nn.Module, learners: Sequence[Learner], config: SearchConfig) -> float:
    """The mean error over the tasks after a partial training session (Eq. 9); inf if training diverged on any."""
    total = 0.0
    for learner in learners:
        trained = train(loss, learner, config.base, config.fitness_steps, splits=[config.fitness_on])
        if trained.diverged:
            return float("inf")
        total += trained.final[config.fitness_on]
    return total / len(learners)


def learning_rates(base: SGD | Optimizer, steps: int, milestones: Collection[int] = ()) -> list[float]:
    """The learning rate of each step of a training: the optimiser's, times 0.1 from each milestone on."""
    rates = [base.rate(step, steps) for step in range(steps)]
    for milestone in milestones:
        rates[milestone:] = [0.1 * rate for rate in rates[milestone:]]
    return rates


def _descend(loss: nn.Module, learner: Learner, network: nn.Module, step: int) -> Any:
    """The loss of a step's batch, with its gradient left in the network; none where it does not depend on it."""
    x, *labels = learner.batch(step)
    network.zero_grad(set_to_none=True)
    with learner.dropout(step):
        y_pred = network(x)
    value = loss(y_pred, *labels)
    if value.requires_grad:
        value.backward()
    return value


def _take_up(
    snapshot: Snapshot | None, network: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Return steps done and errors so far; a snapshot, if there is one, restores network and optimiser too."""
    state = None if snapshot is None else snapshot.load()
    if state is None:
        return 0, []
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return state["done"], state["curve"]


def _put_down(
    snapshot: Snapshot | None,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    done: int,
    curve: list[dict[str, float]],
    finished: bool = False,
) -> None:
    # A short training that is finished is kept too: several of them are more than a kill may lose.
    if snapshot is not None and (finished or snapshot.is_due):
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        snapshot.save({**state, "done": done, "curve": curve})


@contextmanager
def _frozen(loss: nn.Module) -> Iterator[None]:
    """Context manager: do not compute gradients for the loss's weights."""
    weights = [weight for weight in loss.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def rows_at_once(task: Task) -> int:
    """Number of a task's rows evaluated together: on a CPU, which is twice as fast then, few large ones."""
    x, _ = task.train
    return ROWS_AT_ONCE if x.is_cuda else min(ROWS_AT_ONCE, max(64, CACHED // x[0].numel()))


@torch.no_grad()
def error(network: nn.Module, task: Task, part: tuple[Tensor, ...]) -> float:
    """The performance metric of a network in evaluation mode, inf if a prediction is not finite.

    A network that draws random numbers in evaluation mode too draws the same each time.
    """
    x, *labels = part
    was_training = network.training
    network.eval()
    pieces = []
    for number, rows in enumerate(x.split(rows_at_once(task))):
        with isolated_torch(0, "evaluation", number):
            pieces.append(network(rows))
    y_pred = torch.cat(pieces)
    network.train(was_training)
    return float(task.measure(*read_pair(y_pred, labels[0], task.kind, *labels[1:])))
