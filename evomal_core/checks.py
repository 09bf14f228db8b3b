"""Errors that name the nearest known name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any


def refuse_unknown(what: str, value: Any, known: Sequence[str]) -> None:
    """Raise ValueError, naming the nearest known value, unless `value` is known."""
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"unknown {what} {value!r}; {hint}")
