"""Trial calls before a search: the metric, the task loss and the network's output each on some rows."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from evomal_core.learners import Learner
from evomal_core.training import error

log = logging.getLogger("evomal")


def try_out(learner: Learner) -> None:
    """Call the task's metric and task loss once, so that a fault in them ends a search before it begins.

    A warning is logged if the network seems to end in a sigmoid or softmax, as losses take logits.

    Raises:
        ValueError: the metric or the task loss fails, or the latter gives no differentiable number.
    """
    error(learner.network, learner.task, learner.task.labelled(learner.config.fitness_on))
    x, *labels = learner.batch(0)
    theta = {name: weights.requires_grad_() for name, weights in learner.theta.items()}
    with torch.enable_grad():
        output = learner.forward(theta, x.clone())
        if learner.task.task_loss is not None:
            _check_task_loss(learner.task.task_loss, output, labels)
    if learner.task.kind != "regression" and _are_probabilities(output.detach(), learner):
        log.warning(
            "the network's outputs look like probabilities, but losses take logits: leave out the sigmoid or "
            "softmax at its end"
        )


def _check_task_loss(task_loss: object, output: Tensor, labels: list[Tensor]) -> None:
    name = str(getattr(task_loss, "__name__", type(task_loss).__name__))
    shapes = " and ".join(str(tuple(array.shape)) for array in (output, *labels))
    assert callable(task_loss)
    try:
        value = task_loss(output, *labels)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"task_loss {name} failed, {type(error).__name__}: {said}; it was called with tensors of shapes "
            f"{shapes}: numbers or logits, then labels"
        ) from error
    if not isinstance(value, Tensor) or value.shape != () or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        got += " without gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
        raise ValueError(
            f"task_loss {name} must return one differentiable number, such as a mean, as a tensor of shape (); "
            f"got {got}"
        )
    if bool(torch.isnan(value)):
        raise ValueError(
            f"task_loss {name} is NaN for the untrained network; let it leave out missing labels (NaN, and -100 "
            "for classes)"
        )
    (slope,) = torch.autograd.grad(value, output, allow_unused=True)
    if slope is None or not bool(slope.any()):
        raise ValueError(
            f"task_loss {name} has gradient 0 by all of the network's outputs, of shape {tuple(output.shape)} "
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
