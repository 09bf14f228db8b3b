"""Derivatives of a user's operation by PyTorch, and checks that what else was given of it agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Slope = Tensor | float
Derivatives = tuple[Callable[..., tuple[Slope, Slope]], Callable[..., tuple[Slope, Slope]]]
"""Slopes (a, b, z) → (h_a, h_b) and curvatures, see `primitives.Primitive`."""


def differentiated(operation: Callable[..., Tensor], arity: int) -> Derivatives:
    """The slopes and curvatures of an operation by differentiating it."""

    def first(a: Tensor, b: Tensor, *, twice: bool) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [x.detach().requires_grad_() for x in (a, b)[:arity]]
        total = operation(*leaves).sum()
        if not total.requires_grad:
            return leaves, [torch.zeros_like(x) for x in leaves]
        return leaves, list(torch.autograd.grad(total, leaves, create_graph=twice, materialize_grads=True))

    def slopes(a: Tensor, b: Tensor, z: Tensor) -> tuple[Slope, Slope]:
        with torch.enable_grad():
            found = first(a, b, twice=False)[1]
        return found[0], found[1] if arity == 2 else 0.0

    def curvatures(a: Tensor, b: Tensor, z: Tensor, h: Tensor, da: Tensor, db: Tensor) -> tuple[Slope, Slope]:
        with torch.enable_grad():
            leaves, found = first(a, b, twice=True)
            along = torch.stack([(g * d).sum() for g, d in zip(found, (da, db), strict=False)]).sum()
            if not along.requires_grad:
                return 0.0, 0.0
            second = torch.autograd.grad(along, leaves, materialize_grads=True)
        return second[0], second[1] if arity == 2 else 0.0

    return slopes, curvatures


def points() -> tuple[Tensor, ...]:
    """Arguments to try an operation on, none at a kink such as 0 or 1."""
    values = torch.linspace(-2.2, 2.3, 6, dtype=torch.float64).reshape(2, 3)
    return values, values.flip(0) * 0.7, values.flip(1), values * 0.3 + 0.1, values * 0.2 - 0.4


def check_elementwise(name: str, arity: int, operation: Callable[..., Any]) -> None:
    """Refuse an operation that is not elementwise, fails, changes its arguments, or breaks the graph of gradients.

    Raises:
        ValueError: it is one of these.
    """
    arguments = points()[:arity]
    given = [x.clone() for x in arguments]
    try:
        found = operation(*given)
        first, left = (operation(*(x[at].clone() for x in arguments)) for at in (np.s_[:1], np.s_[:, :2]))
        single = operation(*(x.float().requires_grad_() * 1 for x in arguments))
    except Exception as error:  # whatever a user's function raises
        raise ValueError(
            f"operation {name!r} fails on {arity} tensor(s): {type(error).__name__}: {error}"
        ) from error
    if not all(map(torch.equal, arguments, given)):
        raise ValueError(f"operation {name!r} changes its arguments in place; let it make new tensors")
    good = isinstance(found, Tensor) and (found.shape, found.dtype) == (given[0].shape, given[0].dtype)
    good = good and isinstance(single, Tensor) and single.dtype == torch.float32
    pairs = ((first, found[:1]), (left, found[:, :2])) if good else ()
    if not good or not all(torch.allclose(part, whole, equal_nan=True) for part, whole in pairs):
        raise ValueError(f"operation {name!r} is elementwise: numbers of the shape and dtype of its arguments")


def check_derivatives(name: str, arity: int, operation: Callable[..., Any], own: Derivatives) -> None:
    """Refuse derivatives that differ from those of the operation by PyTorch, by which other engines go.

    Raises:
        ValueError: they differ, or fail.
    """
    a, b, *directions = points()
    z = operation(*(a, b)[:arity])
    da, db = directions[1], directions[2] * (arity == 2)
    slopes, curvatures = differentiated(operation, arity)
    found = _pair("slopes", "(a, b, z)", name, own[0], (a, b, z))
    _check_pair("slopes", name, found, slopes(a, b, z))
    tangent = a, b, z, found[0], da, db
    found = _pair("curvatures", "(a, b, z, h_a, da, db)", name, own[1], tangent)
    _check_pair("curvatures", name, found, curvatures(*tangent))


def _pair(
    what: str, signature: str, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """Both values of a function of derivatives, in the shape of its arguments."""
    try:
        found = function(*arguments)
        if isinstance(found, Tensor):
            raise TypeError("it returned a single tensor")
        first, second = (torch.as_tensor(x, dtype=arguments[0].dtype).expand_as(arguments[0]) for x in found)
    except Exception as error:  # whatever a user's function raises
        raise ValueError(
            f"{what} of operation {name!r} fails: {type(error).__name__}: {error}; it is a function of "
            f"{signature} that returns two tensors or numbers, the second 0 for an operation of one argument"
        ) from error
    return first, second


def _check_pair(what: str, name: str, found: tuple[Tensor, ...], wanted: tuple[Slope, Slope]) -> None:
    for mine, right in zip(found, wanted, strict=True):
        right = torch.as_tensor(right, dtype=mine.dtype).expand_as(mine)
        if not torch.allclose(mine, right, rtol=1e-5, atol=1e-8, equal_nan=True):
            raise ValueError(
                f"{what} of operation {name!r} are not its derivatives; leave them out, and PyTorch "
                "differentiates it"
            )


def check_source(name: str, arity: int, operation: Callable[..., Any], source: str) -> None:
    """Refuse source text that fails or has other values than the operation.

    The text is run: it is a literal of the program that registers the operation. Files of losses hold none.

    Raises:
        ValueError: it is one of these.
    """
    a, b = points()[:2]
    try:
        found = eval(
            source.format("a", "b"), {"torch": torch, "functional": functional, "a": a, "b": b, "f": a, "y": b}
        )
    except Exception as error:  # whatever a user's text raises
        raise ValueError(f"source of operation {name!r} fails: {type(error).__name__}: {error}") from error
    check_same(name, "source", operation(*(a, b)[:arity]), torch.as_tensor(found, dtype=a.dtype).expand_as(a))


def check_same(name: str, what: str, wanted: Tensor, found: Tensor) -> None:
    """Refuse what was given of an operation if it has other values than the operation.

    Raises:
        ValueError: it has.
    """
    if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-6, equal_nan=True):
        worst = int((found - wanted).abs().nan_to_num(torch.inf).argmax())
        raise ValueError(
            f"{what} of operation {name!r} has other values than torch, such as {found.flatten()[worst]:.4g} for "
            f"{wanted.flatten()[worst]:.4g}"
        )
