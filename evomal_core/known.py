"""Losses that are known to train, as formulas from which a search may start."""

from __future__ import annotations

from evomal_core.expression import Expression
from evomal_core.losses import Kind, check_kind

_ERRORS = ("square(sub(y, f))", "abs(sub(y, f))")
_KNOWN: dict[Kind, tuple[str, ...]] = {
    "regression": _ERRORS,
    "binary": ("mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))", *_ERRORS),
    "multiclass": ("mul(-1, mul(y, log(f)))", *_ERRORS),
}


def known_losses(kind: Kind) -> list[Expression]:
    """The usual losses of a kind of task, to start a search from: `learn_loss(..., initial=known_losses(kind))`.

    Cross-entropy −y ln f, of a binary task also −(1 − y) ln(1 − f), for classification; and of every kind the
    squared error (y − f)² and the absolute error |y − f|. Both function sets have all of them.

    Raises:
        ValueError: the kind is unknown.
    """
    check_kind(kind)
    return [Expression.parse(text) for text in _KNOWN[kind]]
