"""Shared parts of the batched algorithms: slopes, cotangents, groups and chunks of candidates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core.devices import out_of_memory
from evomal_core.kinds import Kind, link, through_link
from evomal_core.losses import LearnedLoss, Loss
from evomal_core.population.networks import NotBatchable
from evomal_core.population.rows import Rows
from evomal_core.population.trees import Program

log = logging.getLogger("evomal")


Slopes = Callable[[Tensor, Tensor], Tensor]
"""dM/df for all candidates: f (P, N), y (N,) → (P, N)."""


def slopes_of(losses: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> Slopes:
    """The slopes of a population of `LearnedLoss`es and `TaylorLoss`es, with their weights as they are.

    Raises:
        NotBatchable: the losses are of other types, or some have a softplus and others have none.
    """
    learned = [tree for loss in losses if isinstance(tree := as_tree(loss), LearnedLoss)]
    if len(learned) == len(losses) and len({loss.softplus for loss in learned}) == 1:
        program = Program([loss.expression for loss in learned], learned[0].softplus, device)
        phi = program.pad([loss.phi.to(device, dtype) for loss in learned])
        return lambda f, y: program.slope(phi, f, y)[0]
    kinds = ", ".join(sorted({type(loss).__name__ for loss in losses}))
    raise NotBatchable(f"only LearnedLosses that agree on softplus, and TaylorLosses, form a program, not {kinds}")


def as_tree(loss: nn.Module) -> nn.Module:
    """A loss in the form of an expression if it has one, see `Loss.tree`; other modules as they are."""
    return loss.tree() if isinstance(loss, Loss) else loss


Cotangents = Callable[[Tensor, Rows], Tensor]
"""The gradient of all candidates' losses by predictions (T, P, B, C)."""


def cotangents_of(losses: Sequence[nn.Module], kind: Kind, dtype: torch.dtype, device: torch.device) -> Cotangents:
    """The gradients of a population's losses by predictions: by their program, or by differentiating each loss."""
    try:
        slopes = slopes_of(losses, dtype, device)
    except NotBatchable:
        return lambda predictions, rows: _differentiated(losses, predictions, rows)

    def cotangents(predictions: Tensor, rows: Rows) -> Tensor:
        f = link(rows.hide(predictions), kind)
        slope = slopes(flat(f, len(losses)), rows.y.reshape(-1)).view(len(losses), *rows.shape).transpose(0, 1)
        return rows.averaged(through_link(f, slope, kind))

    return cotangents


def _differentiated(losses: Sequence[nn.Module], predictions: Tensor, rows: Rows) -> Tensor:
    leaf = predictions.detach().requires_grad_()
    with torch.enable_grad():
        total = leaf.new_zeros(())
        for p, loss in enumerate(losses):
            if (
                isinstance(loss, Loss) and rows.share is None
            ):  # a mean over rows, which all tasks have equally many of
                together = replace(rows, given=rows.given.flatten(0, 1).unsqueeze(0))
                y_pred = leaf[:, p].flatten(0, 1)
                total = total + len(leaf) * together.loss(loss, 0, y_pred)
                continue
            for t in range(len(leaf)):
                total = total + rows.loss(loss, t, leaf[t, p])
        return torch.autograd.grad(total, leaf)[0]


def flat(x: Tensor, candidates: int) -> Tensor:
    """(T, P or 1, B, C) → (P, T·B·C)."""
    return x.transpose(0, 1).expand(candidates, -1, -1, -1).reshape(candidates, -1)


def groups_of(losses: Sequence[nn.Module]) -> list[tuple[list[int], list[Any]]]:
    """Losses that are evaluated together, as trees: without softplus and with it; then other modules."""
    trees, groups = [as_tree(loss) for loss in losses], []
    for number in range(3):
        indices = [i for i, loss in enumerate(trees) if _group(loss) == number]
        if indices:
            groups.append((indices, [trees[i] for i in indices]))
    return groups


def _group(loss: nn.Module) -> int:
    return int(loss.softplus) if isinstance(loss, LearnedLoss) else 2


def in_chunks(
    losses: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]], size: int | None = None
) -> list[Any]:
    """The results of `work` on all losses, at most `size` at a time; out of memory halves that and goes on.

    Chunks are about equally large, because small ones make poor use of the machine.
    """
    results: list[Any] = []
    chunks = math.ceil(len(losses) / size) if size and losses else 1
    size = math.ceil(len(losses) / chunks)
    while len(results) < len(losses):
        chunk = losses[len(results) : len(results) + size]
        try:
            results += work(chunk)
        except RuntimeError as error:
            if not out_of_memory(error) or len(chunk) == 1:
                raise
            size = (len(chunk) + 1) // 2
            log.warning("out of memory: going on with %d candidates at a time", size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return results


@contextmanager
def stackable() -> Iterator[None]:
    """Context manager: raise `NotBatchable` where `torch.func` can't take a network."""
    try:
        yield
    except NotBatchable:
        raise
    except RuntimeError as error:  # NotImplementedError is one
        if out_of_memory(error):
            raise
        raise NotBatchable((str(error) or type(error).__name__).splitlines()[0]) from error
