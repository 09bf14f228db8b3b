"""Kinds of task: their link function, task loss and performance metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["regression", "binary", "multiclass"]
KINDS: tuple[str, ...] = get_args(Kind)
TASK_LOSSES = {"regression": "squared error", "binary": "cross-entropy", "multiclass": "cross-entropy"}
"""What the task loss of each kind is called."""


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is one of the three kinds of task."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")


Metric = Callable[[Tensor, Tensor], Tensor]


def metric(kind: Kind) -> Metric:
    """The performance metric L_P of a kind: mean squared error, or the error rate in [0, 1]."""
    return {"regression": _mean_squared_error, "binary": _binary_error, "multiclass": _multiclass_error}[kind]


METRIC_NAMES = {"regression": "MSE", "binary": "error rate", "multiclass": "error rate"}


def _finite_or_inf(value: Tensor, y_pred: Tensor) -> Tensor:
    return torch.where(torch.isfinite(y_pred).all(), value, torch.inf)


def _mean_squared_error(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return _finite_or_inf(torch.square(y_pred - y_true).mean(), y_pred)


def _binary_error(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return _finite_or_inf(((y_pred > 0) != (y_true > 0.5)).float().mean(), y_pred)


def _multiclass_error(y_pred: Tensor, y_true: Tensor) -> Tensor:
    return _finite_or_inf((y_pred.argmax(dim=1) != y_true).float().mean(), y_pred)


def link(logits: Tensor, kind: Kind) -> Tensor:
    """What a symbolic loss sees of logits (…, C): themselves, their sigmoid or their softmax."""
    if kind == "multiclass":
        return torch.softmax(logits, dim=-1)
    return torch.sigmoid(logits) if kind == "binary" else logits


def through_link(f: Tensor, change: Tensor, kind: Kind) -> Tensor:
    """The link's Jacobian, which is symmetric, times a tangent or cotangent; f is the link's value."""
    if kind == "multiclass":
        return f * (change - (f * change).sum(dim=-1, keepdim=True))
    return f * (1 - f) * change if kind == "binary" else change
