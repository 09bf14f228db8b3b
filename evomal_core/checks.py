"""Checks of what a user gives: names, with the nearest known one, numbers, and losses that take weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn


def hint(value: Any, known: Iterable[str], otherwise: str = "") -> str:
    """The nearest known value as a question; all of them, or something else, if none is near."""
    known = list(known)
    near = get_close_matches(str(value), known, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"known are {', '.join(known)}"


def refuse_unknown(what: str, value: Any, known: Sequence[str]) -> None:
    """Raise ValueError, naming the nearest known value, unless `value` is known."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; {hint(value, known)}")


def is_number(value: Any, kind: type) -> bool:
    """Whether the value is a `numbers.Real` or `numbers.Integral`, as NumPy's are, too, and not True or False."""
    return isinstance(value, kind) and not isinstance(value, bool)


def takes_weight(function: Any) -> bool:
    """Whether the third argument of a loss or metric is the weights of rows: whether its name says so.

    PyTorch's own losses take weights of classes there, if any.
    """
    called = function.forward if isinstance(function, nn.Module) else function
    if str(getattr(called, "__module__", "")).startswith("torch.nn."):
        return False
    try:
        names = list(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return False
    return len(names) > 2 and "weight" in names[2]
