"""Trial calls of task losses and rivals on the untrained network's outputs for some rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core.learners import Learner

log = logging.getLogger("evomal")


def try_out(learner: Learner) -> None:
    """Call the task loss once, so that a fault in it ends a search before it begins.

    A warning is logged if the network seems to end in a sigmoid or softmax, as losses take logits.

    Raises:
        ValueError: the task loss fails, or gives no differentiable number.
    """
    output, labels = first_batch(learner)
    if learner.task.task_loss is not None:
        _check_loss(f"task_loss {_name(learner.task.task_loss)}", learner.task.task_loss, output, labels)
    if learner.task.kind != "regression" and _are_probabilities(output.detach(), learner):
        log.warning(
            "the network's outputs look like probabilities, but losses take logits: leave out the sigmoid or "
            "softmax at its end"
        )


def try_losses(losses: Mapping[str, Any], learner: Learner) -> None:
    """Call user-defined losses, by name, on the untrained network's outputs.

    Raises:
        ValueError: one fails, or gives no differentiable number.
    """
    output, labels = first_batch(learner)
    for name, loss in losses.items():
        _check_loss(f"loss {name!r}", loss, output, labels)


def first_batch(learner: Learner) -> tuple[Tensor, list[Tensor]]:
    """The untrained network's outputs for its first batch, with their graph; its labels and weights."""
    x, *labels = learner.batch(0)
    theta = {name: weights.requires_grad_() for name, weights in learner.theta.items()}
    with torch.enable_grad():
        return learner.forward(theta, x.clone()), labels


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _check_loss(what: str, loss: Any, output: Tensor, labels: Sequence[Tensor]) -> None:
    shapes = " and ".join(str(tuple(array.shape)) for array in (output, *labels))
    try:
        with torch.enable_grad():
            value = loss(output, *labels)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{what} failed, {type(error).__name__}: {said}; it was called with tensors of shapes "
            f"{shapes}: numbers or logits, then labels"
        ) from error
    if not isinstance(value, Tensor) or value.shape != () or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        got += " without gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
        raise ValueError(
            f"{what} must return one differentiable number, such as a mean, as a tensor of shape (); got {got}"
        )
    if bool(torch.isnan(value)):
        raise ValueError(
            f"{what} is NaN for the untrained network; let it leave out missing labels (NaN, and -100 for classes)"
        )
    (slope,) = torch.autograd.grad(value, output, allow_unused=True, retain_graph=True)
    if slope is None or not bool(slope.any()):
        raise ValueError(
            f"{what} has gradient 0 by all of the network's outputs, of shape {tuple(output.shape)} "
            "(nn.CrossEntropyLoss is for 'multiclass' tasks, nn.BCEWithLogitsLoss for 'binary' ones)"
        )


def _are_probabilities(output: Tensor, learner: Learner) -> bool:
    """Whether the outputs of several rows are probabilities: they sum to 1, or come from a sigmoid at the end."""
    if bool((output < 0).any()) or bool((output > 1).any()):
        return False
    if learner.task.kind == "multiclass":
        return bool(torch.allclose(output.sum(dim=1), torch.ones((), dtype=output.dtype), atol=1e-3))
    *_, last = learner.network.modules()
    return isinstance(last, nn.Sigmoid)
