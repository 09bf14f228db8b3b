"""Choice of the engine, and local search, fitness, rejection and training by it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from evomal_core import training, unroll
from evomal_core.checkpoints import Snapshot
from evomal_core.config import SGD, Optimizer, SearchConfig
from evomal_core.deadlines import check_time
from evomal_core.filters import Samples, minimise_predictions, sample_predictions
from evomal_core.kinds import Kind
from evomal_core.labels import read_pair
from evomal_core.learners import Learner
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.metrics import Metric, make_metric
from evomal_core.population import compiled
from evomal_core.population.batches import as_tree
from evomal_core.population.local_search import (
    batched_local_search,
    batched_meta_gradients,
    check_batchable,
    compiles,
)
from evomal_core.population.networks import MLPStack, NotBatchable, make_stacks
from evomal_core.population.optimisers import kernel_steps
from evomal_core.population.training import batched_fitness, batched_minimise_predictions, train_stack
from evomal_core.primitives import PRIMITIVES, Primitive, own_operations
from evomal_core.training import train
from evomal_core.tuning import Curves
from evomal_core.unroll import ENGINES, Tuned, meta_gradient

log = logging.getLogger("evomal")


def promises(
    losses: Sequence[Loss],
    samples: Samples,
    config: SearchConfig,
    kind: Kind,
    engine: str = "autograd",
    measure: Metric | None = None,
) -> list[float]:
    """The rejection protocol's correlation g of each loss (Eq. 10 and 11), summed over tasks.

    g = Σ_b [L_P(ŷ_b, y_b) − L_P(ŷ*_b, y_b)], where ŷ* are the predictions after minimising the loss over
    them directly, by `rejection_steps` steps of Adam. A loss with g ≤ 0, or NaN, is not worth training with.
    All losses are minimised at once with the engine "batched".
    """
    measure = make_metric(measure, kind)
    totals = [0.0] * len(losses)
    for y_pred, y_true, *weights in samples:
        if engine == "batched" and losses:
            minima: Iterator[Tensor] = iter(batched_minimise_predictions(losses, y_pred, y_true, config, *weights))
        else:
            minima = (minimise_predictions(loss, y_pred, y_true, config, *weights) for loss in losses)
        before = measure(*read_pair(y_pred, y_true, kind, *weights))
        for index, best in enumerate(minima):
            totals[index] += len(y_true) * float(before - measure(*read_pair(best, y_true, kind, *weights)))
    return totals


_WARNED: WeakSet[Learner] = WeakSet()
"""Learners already warned about one-at-a-time training: once a search, not each generation."""


def fitness(
    losses: Sequence[Loss], learners: Sequence[Learner], config: SearchConfig, engine: str = "autograd"
) -> list[float]:
    """The fitness of each loss: its mean error over the tasks after a partial training session (Eq. 9).

    Lower is better; inf if training diverged on any task. With the engine "batched", all networks are
    trained at once wherever the losses and the network allow it.
    """
    if engine == "batched" and losses:
        try:
            return batched_fitness(losses, learners, config)
        except NotBatchable as reason:
            if learners[0] not in _WARNED:
                _WARNED.add(learners[0])
                log.warning("training one network at a time (%s)", reason)
    return [training.fitness(loss, learners, config) for loss in losses]


def choose_engine(
    learners: Sequence[Learner], config: SearchConfig, loss: Loss | None = None, *, unrolled: bool = True
) -> str:
    """Return the first engine that supports this network, from the one asked for on; log those skipped.

    The order is `batched` (which takes symbolic losses only), `jvp`, `autograd`, `higher`. A network falls past
    `jvp`, for example, if one of its operations has no forward-mode derivative. A method that unrolls nothing,
    and so needs no second derivatives, trains by `batched` unless another engine is asked for.

    Raises:
        ValueError: no engine takes the network.
    """

    if not unrolled:
        return "batched" if config.engine == "auto" else config.engine
    probe = loss or LearnedLoss("square(sub(f, y))", learners[0].task.kind).to(learners[0].device)
    order = ["batched", *ENGINES]
    if not isinstance(probe, LearnedLoss):
        order.remove("batched")
    start = order.index(config.engine) if config.engine in order else 0
    problem = ""
    for name in order[start:]:
        try:
            if name == "batched":
                check_batchable(learners, config)
            else:
                meta_gradient(probe, learners[0], 0, config, name)
            if name in ("batched", "jvp"):
                _check_forward_mode(name, probe, learners[0], config)
        except torch.OutOfMemoryError:
            raise
        except (NotBatchable, NotImplementedError, RuntimeError) as error:
            problem = shorten(str(error).splitlines()[0], 200)
            log.warning("engine %s can't take this network (%s)", name, problem)
        else:
            if problem:
                log.warning("using engine %s", name)
            return name
    raise ValueError(
        f"no engine can differentiate this network twice: {problem}; gp-lfl, random and taylorglo need not do so"
    )


def _check_forward_mode(engine: str, probe: Loss, learner: Learner, config: SearchConfig) -> None:
    """Compare an engine's meta-gradient with double backward, on a few rows in float64.

    PyTorch differentiates some forward-mode derivatives wrongly (those of layer and instance norm, by a
    hundredth for several unrolled steps, PyTorch 2.13), and dropout within attention draws anew in forward mode.

    Raises:
        RuntimeError: they disagree. Where double backward fails or overflows, nothing is compared.
    """

    if engine == "batched":
        (stack,) = make_stacks([learner])
        if stack.by_hand or compiles(stack, config):
            return
    small, loss = learner.small(), copy.deepcopy(probe).to("cpu", torch.float64)
    try:
        wanted = parameters_to_vector(meta_gradient(loss, small, 0, config, "autograd")[1])
    except (RuntimeError, TypeError, ValueError):
        return
    if not torch.isfinite(wanted).all():
        return
    if engine == "batched":
        assert isinstance(loss, LearnedLoss)
        found = batched_meta_gradients([loss, loss], [small], config, 0)[1][0]
    else:
        found = parameters_to_vector(meta_gradient(loss, small, 0, config, engine)[1])
    error, size = torch.linalg.vector_norm(found - wanted), torch.linalg.vector_norm(wanted)
    if not error <= 1e-6 * size:  # nor is it where the error is NaN
        raise RuntimeError(
            f"its meta-gradient would be off by {error / size:.0e}: forward mode is wrong or draws anew in a layer"
        )


def local_search(
    losses: Sequence[Loss],
    learners: Sequence[Learner],
    config: SearchConfig,
    engine: str,
    tick: Callable[[], None] = lambda: None,
) -> list[Tuned]:
    """Tune the weights of each loss for `meta_steps` steps (Algorithm 1); the losses given stay as they are.

    A candidate whose task loss or meta-gradient leaves the finite numbers is frozen and marked diverged;
    it never disturbs another.

    Args:
        losses: the candidates; those without weights are returned as they are.
        learners: the meta-training tasks with their base networks.
        config: see `SearchConfig`.
        engine: the engine, from `choose_engine`.
        tick: called after each candidate's meta-step, for progress.
    """
    if engine == "batched":
        if all(isinstance(loss, LearnedLoss) for loss in losses):
            return batched_local_search(losses, learners, config, tick)
        engine = "jvp"  # a loss that is no expression has no program
    return [unroll.local_search(loss, learners, config, engine, tick) for loss in losses]


def train_all(
    loss: Loss,
    learners: Sequence[Learner],
    base: SGD | Optimizer,
    steps: int,
    record: Collection[int] = (),
    milestones: Collection[int] = (),
    snapshots: Sequence[Snapshot] = (),
    tick: Callable[[int], None] = lambda steps: None,
) -> list[list[dict[str, float]]]:
    """The curve of `training.train` for each learner: all at once or by the kernels where networks and loss allow.

    Networks that are trained one after the other, convolutional ones by the kernels among them, keep a snapshot
    each, where `snapshots` are given.

    The choice depends on the loss and the networks alone. By the kernels a network's errors are the same, bit
    by bit, whatever it is trained with; by PyTorch the last digits may depend on the learners given.
    """
    stacks, tree = make_stacks(learners), as_tree(loss)
    kernels = kernel_steps(base) is not None
    if all(
        (kernels and compiled.fits(stack, [tree])) or (isinstance(stack, MLPStack) and len(learners) > 1)
        for stack in stacks
    ):
        with suppress(NotBatchable):
            (row,) = train_stack(
                [loss], learners, base, steps, record, milestones=milestones, snapshots=snapshots, tick=tick
            )
            return [trained.curve for trained in row]
    kept: Sequence[Snapshot | None] = snapshots or [None] * len(learners)
    return [
        train(loss, learner, base, steps, record, milestones=milestones, snapshot=snapshot, tick=tick).curve
        for learner, snapshot in zip(learners, kept, strict=True)
    ]


def curves_of(
    losses: Sequence[nn.Module],
    learners: Sequence[Learner],
    base: SGD | Optimizer,
    record: Sequence[int],
    splits: Sequence[str],
    until: float = math.inf,
) -> list[Curves]:
    """The errors of each loss by learner and recorded step; inf from where a training has diverged."""

    def curve(loss: nn.Module, learner: Learner) -> list[dict[str, float]]:
        check_time(until)
        return train(loss, learner, base, record[-1], record, splits).curve

    check_time(until)
    try:
        rows = [
            [t.curve for t in row]
            for row in train_stack(losses, learners, base, record[-1], record, splits, modules=True)
        ]
    except NotBatchable:
        rows = [[curve(loss, learner) for learner in learners] for loss in losses]
    return [
        {split: np.array([[point[split] for point in curve] for curve in row]) for split in splits} for row in rows
    ]


Tick = Callable[[], None]
UNIT = 5
"""Candidates evaluated together where their rounding could depend on their company, on a CPU."""
UNIT_ON_CUDA = 25


@dataclass(frozen=True, eq=False)
class Bench:
    """The tasks with their networks, the configuration and the engine: evaluations are a function of these.

    `local_search`, `rejection` and `fitness` take candidates and give one JSON-ready result for each.
    """

    learners: list[Learner]
    trained: list[Learner]
    """The learners that fitness is measured by."""
    config: SearchConfig
    engine: str
    samples: Samples
    operations: dict[str, Primitive] = field(default_factory=lambda: {n: PRIMITIVES[n] for n in own_operations()})
    """Operations that were registered, which a worker lacks."""

    def tuned(self, losses: Sequence[Loss], tick: Tick) -> list[Tuned]:
        """Each loss after local search."""
        return local_search(losses, self.learners, self.config, self.engine, tick)

    def local_search(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The tuned weights of each loss, and whether they diverged."""
        tuned = self.tuned(losses, tick)
        return [[[w.tolist() for w in each.loss.parameters()], each.diverged] for each in tuned]

    def rejection(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The rejection protocol's correlation of each loss."""
        task = self.learners[0].task
        return promises(losses, self.samples, self.config, task.kind, self.engine, task.measure)

    def fitness(self, losses: Sequence[Loss], tick: Tick) -> list[Any]:
        """The fitness of each loss."""
        return fitness(losses, self.trained, self.config, self.engine)

    def unit(self, probe: Loss, apart: bool) -> int | None:
        """Largest number of candidates evaluated together; None for all.

        A function of the network, configuration and engine alone where company may change the rounding.

        Args:
            probe: one of the losses.
            apart: whether small units are wanted, to spread them or to stop between them.
        """
        if self.engine != "batched":
            return 1 if apart else None
        if self.learners[0].device.type == "cuda":
            return UNIT_ON_CUDA
        try:
            stacks = make_stacks(self.learners)
        except NotBatchable:
            return UNIT
        # the kernels compute each candidate by itself; meta-steps and training have theirs
        if all(compiled.fits(stack, [probe]) and compiles(stack, self.config) for stack in stacks):
            return 1 if apart else None
        return UNIT


def set_up(
    learners: list[Learner],
    trained: list[Learner],
    config: SearchConfig,
    loss: Loss | None = None,
    *,
    unrolled: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Bench:
    """The bench of a search with the first engine that takes its network, see `choose_engine`.

    Args:
        learners: the tasks with their base networks.
        trained: those that fitness is measured by.
        config: see `SearchConfig`.
        loss: one like those to tune, where it is no expression.
        unrolled: whether the method unrolls training.
        say: called with what takes long.
    """
    if (
        loss is None
        and config.engine in ("auto", "batched")
        and compiled.must_compile(make_stacks(learners), config)
    ):
        say("compiling the kernels, once on this machine")
    engine = choose_engine(learners, config, loss, unrolled=unrolled)
    return Bench(learners, trained, config, engine, sample_predictions(learners, config))
