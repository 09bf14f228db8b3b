"""Kinds of task: their link function, task loss, and the mark of missing labels."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["regression", "binary", "multiclass"]
KINDS: tuple[str, ...] = get_args(Kind)
TASK_LOSSES = {"regression": "squared error", "binary": "cross-entropy", "multiclass": "cross-entropy"}
"""Name of the task loss of each kind."""
IGNORED = -100
"""The class index of labels to leave out, as in `nn.CrossEntropyLoss`."""


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is one of the three kinds of task."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")


def link(logits: Tensor, kind: Kind) -> Tensor:
    """Apply the link function to logits (…, C): identity, sigmoid or softmax."""
    if kind == "multiclass":
        return torch.softmax(logits, dim=-1)
    return torch.sigmoid(logits) if kind == "binary" else logits


def through_link(f: Tensor, change: Tensor, kind: Kind) -> Tensor:
    """The link's Jacobian, which is symmetric, times a tangent or cotangent; f is the link's value."""
    if kind == "multiclass":
        return f * (change - (f * change).sum(dim=-1, keepdim=True))
    return f * (1 - f) * change if kind == "binary" else change
