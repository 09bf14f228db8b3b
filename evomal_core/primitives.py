"""The operations that losses are built from: one row each, and the papers' two function sets.

Sources: Raymond et al., GECCO 2023, Table 1; Raymond et al., TPAMI 2023, Table I.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomal_core.lazy import LazyModule

if TYPE_CHECKING:
    import sympy
else:
    sympy = LazyModule("sympy")

EPSILON = 1e-7
"""The epsilon of the protected logarithm and square root; the papers do not state its value."""


@dataclass(frozen=True)
class Primitive:
    """One operation: its name, number of arguments, and its meaning in PyTorch, sympy and source."""

    name: str
    arity: int
    torch: Callable[..., Tensor]
    sympy: Callable[..., sympy.Expr]
    source: str


def analytic_quotient(a: Tensor, b: Tensor) -> Tensor:
    """Analytic quotient a / √(1 + b²) (Ni et al. 2013)."""
    return a / torch.sqrt(1 + torch.square(b))


def protected_sqrt(x: Tensor) -> Tensor:
    """Protected square root √(|x| + ε)."""
    return torch.sqrt(torch.abs(x) + EPSILON)


def protected_log(x: Tensor) -> Tensor:
    """Protected natural logarithm ln(|x| + ε)."""
    return torch.log(torch.abs(x) + EPSILON)


def clamped_sqrt(x: Tensor) -> Tensor:
    """Square root √max(|x|, ε), whose slope is 0 for |x| < ε."""
    return torch.sqrt(torch.clamp(torch.abs(x), min=EPSILON))


def clamped_log(x: Tensor) -> Tensor:
    """Natural logarithm ln max(|x|, ε), whose slope is 0 for |x| < ε."""
    return torch.log(torch.clamp(torch.abs(x), min=EPSILON))


_ROWS = (
    Primitive("add", 2, torch.add, lambda a, b: a + b, "({} + {})"),
    Primitive("sub", 2, torch.sub, lambda a, b: a - b, "({} - {})"),
    Primitive("mul", 2, torch.mul, lambda a, b: a * b, "({} * {})"),
    Primitive(
        "div",
        2,
        analytic_quotient,
        lambda a, b: a / sympy.sqrt(1 + b**2),
        "({} / torch.sqrt(1 + torch.square({})))",
    ),
    Primitive("square", 1, torch.square, lambda a: a**2, "torch.square({})"),
    Primitive("abs", 1, torch.abs, lambda a: sympy.Abs(a), "torch.abs({})"),
    Primitive(
        "sqrt",
        1,
        protected_sqrt,
        lambda a: sympy.sqrt(abs(a) + EPSILON),
        f"torch.sqrt(torch.abs({{}}) + {EPSILON})",
    ),
    Primitive(
        "log",
        1,
        protected_log,
        lambda a: sympy.log(abs(a) + EPSILON),
        f"torch.log(torch.abs({{}}) + {EPSILON})",
    ),
    Primitive("min", 2, torch.minimum, lambda a, b: sympy.Min(a, b), "torch.minimum({}, {})"),
    Primitive("max", 2, torch.maximum, lambda a, b: sympy.Max(a, b), "torch.maximum({}, {})"),
    Primitive("sign", 1, torch.sign, lambda a: sympy.sign(a), "torch.sign({})"),
    Primitive("tanh", 1, torch.tanh, lambda a: sympy.tanh(a), "torch.tanh({})"),
    Primitive(
        "clamped_sqrt",
        1,
        clamped_sqrt,
        lambda a: sympy.sqrt(sympy.Max(abs(a), EPSILON)),
        f"torch.sqrt(torch.clamp(torch.abs({{}}), min={EPSILON}))",
    ),
    Primitive(
        "clamped_log",
        1,
        clamped_log,
        lambda a: sympy.log(sympy.Max(abs(a), EPSILON)),
        f"torch.log(torch.clamp(torch.abs({{}}), min={EPSILON}))",
    ),
)

PRIMITIVES: dict[str, Primitive] = {row.name: row for row in _ROWS}
TERMINALS: tuple[str, ...] = ("f", "y", "1", "-1")
"""The prediction f(x), the label y, and the constants +1 and −1."""

CLAMPED = {"sqrt": "clamped_sqrt", "log": "clamped_log"}
"""The protected operations, and their forms in the authors' code, which clamp |x| instead of adding ε to it."""

_GECCO = ("add", "sub", "mul", "div", "square", "abs", "sqrt", "log")
_TPAMI = (*_GECCO, "min", "max", "sign", "tanh")

FUNCTION_SETS: dict[str, tuple[str, ...]] = {
    "gecco23": _GECCO,
    "tpami23": _TPAMI,
    "gecco23 clamped": tuple(CLAMPED.get(name, name) for name in _GECCO),
    "tpami23 clamped": tuple(CLAMPED.get(name, name) for name in _TPAMI),
}

ARITHMETIC = ("add", "sub", "mul", "div")
"""What the authors' code repairs expressions with."""


def arity(name: str) -> int:
    """Number of subtrees of the node `name`: 1 or 2 for a primitive, 0 for a terminal."""
    return PRIMITIVES[name].arity if name in PRIMITIVES else 0
