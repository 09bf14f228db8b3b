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
)

PRIMITIVES: dict[str, Primitive] = {row.name: row for row in _ROWS}
TERMINALS: tuple[str, ...] = ("f", "y", "1", "-1")
"""The prediction f(x), the label y, and the constants +1 and −1."""

FUNCTION_SETS: dict[str, tuple[str, ...]] = {
    "gecco23": ("add", "sub", "mul", "div", "square", "abs", "sqrt", "log"),
    "tpami23": tuple(PRIMITIVES),
}


def arity(name: str) -> int:
    """Number of subtrees of the node `name`: 1 or 2 for a primitive, 0 for a terminal."""
    return PRIMITIVES[name].arity if name in PRIMITIVES else 0
