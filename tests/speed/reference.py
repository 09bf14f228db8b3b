"""The papers' way, as their public code goes about it: one candidate, one task, one data loader at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import higher
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from evomal_core.config import SGD, Optimizer
from evomal_core.learners import Learner
from evomal_core.losses import Loss
from evomal_core.unroll import task_loss


def _loader(learner: Learner) -> DataLoader:
    return DataLoader(TensorDataset(*learner.task.train), batch_size=learner.batch_size, shuffle=True)


def _redrawn(learner: Learner) -> nn.Module:
    """A copy of the network with new initial weights, drawn layer by layer as its constructors do."""
    network = copy.deepcopy(learner.network)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


def meta_step(losses: Sequence[Loss], learners: Sequence[Learner], base: SGD, loaders: bool = True) -> None:
    """One meta-step of each candidate on each task with `higher`: new initial weights, a fresh loader's batch.

    With `loaders` off, batches are indexed directly: what remains is the price of `higher` itself.
    """
    for loss in losses:
        optimiser = torch.optim.SGD(loss.parameters(), lr=1e-3)
        optimiser.zero_grad()
        for learner in learners:
            x, y = next(iter(_loader(learner))) if loaders else learner.batch(0)
            network = _redrawn(learner)
            with higher.innerloop_ctx(network, base.make(network.parameters())) as (functional, inner):
                inner.step(loss(functional(x), y))
                task_loss(learner)(functional(x), y).backward()
        optimiser.step()
        optimiser.zero_grad()


def training(
    losses: Sequence[Loss],
    learners: Sequence[Learner],
    base: SGD | Optimizer,
    steps: int,
    loaders: bool = True,
) -> None:
    """Partial training sessions, one network after another."""
    for loss in losses:
        for learner in learners:
            network = copy.deepcopy(learner.network)
            optimiser = base.make(network.parameters())
            for step in range(steps):
                x, y = next(iter(_loader(learner))) if loaders else learner.batch(step)
                optimiser.zero_grad()
                loss(network(x), y).backward()
                optimiser.step()
