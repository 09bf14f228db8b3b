"""The operations that losses are built from: one row each, and the papers' two function sets.

Sources: Raymond et al., GECCO 2023, Table 1; Raymond et al., TPAMI 2023, Table I.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomal_core.checks import hint
from evomal_core.derivatives import (
    Slope,
    check_derivatives,
    check_elementwise,
    check_same,
    check_source,
    differentiated,
    points,
)
from evomal_core.lazy import LazyModule

if TYPE_CHECKING:
    import sympy
else:
    sympy = LazyModule("sympy")

EPSILON = 1e-7
"""The epsilon of the protected logarithm and square root; the papers do not state its value."""

SOFTPLUS_THRESHOLD = 20.0
"""Above it PyTorch's softplus is the identity."""

Bound = tuple[float, float]


def _no_change(*_: Tensor) -> tuple[float, float]:
    """The curvatures of an operation that is linear wherever it has derivatives."""
    return 0.0, 0.0


def _unbounded(*_: Bound) -> Bound:
    return math.inf, math.inf


@dataclass(frozen=True)
class Primitive:
    """An operation z = h(a, b) and everything that is known of it; b is unused if it is unary.

    Derivatives are elementwise and, at kinks, those of PyTorch: 0 for sign and abs, ½ each at ties of min and max.

    Attributes:
        name: what it is called in expressions.
        arity: number of arguments, 1 or 2.
        torch: its values, of `arity` tensors.
        sympy: the same of sympy expressions.
        source: the same as text, with {} for each argument.
        slopes: (a, b, z) → (h_a, h_b).
        curvatures: (a, b, z, h_a, da, db) → the change of the slopes along a tangent (da, db),
            (h_aa·da + h_ab·db, h_ab·da + h_bb·db).
        bounds: of each argument (a bound of its values, a bound of its slopes by a leaf) → the same of z, where
            `sign` counts as if it had slope 1.
    """

    name: str
    arity: int
    torch: Callable[..., Tensor]
    sympy: Callable[..., sympy.Expr]
    source: str
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Slope, Slope]]
    curvatures: Callable[..., tuple[Slope, Slope]] = _no_change
    bounds: Callable[..., Bound] = _unbounded

    @property
    def is_linear(self) -> bool:
        """Whether its slopes never change, but at kinks."""
        return self.curvatures is _no_change


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


def _tie(a: Tensor, b: Tensor) -> Tensor:
    """1 where a > b, ½ where equal, 0 elsewhere."""
    return 0.5 * ((a > b).to(a.dtype) + (a >= b).to(a.dtype))


def _quotient_slopes(a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.rsqrt(1 + b * b)
    return r, -z * (b * r) * r


def _quotient_curvatures(
    a: Tensor, b: Tensor, z: Tensor, r: Tensor, da: Tensor, db: Tensor
) -> tuple[Tensor, Tensor]:
    cube = r * r * r
    mixed = -b * cube
    return mixed * db, mixed * da + a * cube * (3 * (b * r) ** 2 - 1) * db


def _slope_of_clamped(a: Tensor) -> Tensor:
    """d/da max(|a|, ε)."""
    return torch.sign(a) * (torch.abs(a) >= EPSILON)


def _sum_of_bounds(a: Bound, b: Bound) -> Bound:
    return a[0] + b[0], a[1] + b[1]


def _root_bounds(a: Bound) -> Bound:
    return 1 + a[0], a[1] / math.sqrt(EPSILON)


def _log_bounds(a: Bound) -> Bound:
    return max(a[0], -math.log(EPSILON)), a[1] / EPSILON


def _unit_bounds(a: Bound) -> Bound:
    return max(a[0], 1.0), a[1]


_ROWS = (
    Primitive(
        "add",
        2,
        torch.add,
        sympy=lambda a, b: a + b,
        source="({} + {})",
        slopes=lambda a, b, z: (1.0, 1.0),
        bounds=_sum_of_bounds,
    ),
    Primitive(
        "sub",
        2,
        torch.sub,
        sympy=lambda a, b: a - b,
        source="({} - {})",
        slopes=lambda a, b, z: (1.0, -1.0),
        bounds=_sum_of_bounds,
    ),
    Primitive(
        "mul",
        2,
        torch.mul,
        sympy=lambda a, b: a * b,
        source="({} * {})",
        slopes=lambda a, b, z: (b, a),
        curvatures=lambda a, b, z, h, da, db: (db, da),
        bounds=lambda a, b: (a[0] * b[0], a[0] * b[1] + b[0] * a[1]),
    ),
    Primitive(
        "div",
        2,
        analytic_quotient,
        sympy=lambda a, b: a / sympy.sqrt(1 + b**2),
        source="({} / torch.sqrt(1 + torch.square({})))",
        slopes=_quotient_slopes,
        curvatures=_quotient_curvatures,
        bounds=lambda a, b: (a[0], a[1] + a[0] * b[1]),  # 1 / √(1 + b²) and its slope are at most 1
    ),
    Primitive(
        "square",
        1,
        torch.square,
        sympy=lambda a: a**2,
        source="torch.square({})",
        slopes=lambda a, b, z: (2 * a, 0.0),
        curvatures=lambda a, b, z, h, da, db: (2 * da, 0.0),
        bounds=lambda a: (a[0] * a[0], 2 * a[0] * a[1]),
    ),
    Primitive(
        "abs",
        1,
        torch.abs,
        sympy=lambda a: sympy.Abs(a),
        source="torch.abs({})",
        slopes=lambda a, b, z: (torch.sign(a), 0.0),
        bounds=_unit_bounds,
    ),
    Primitive(
        "sqrt",
        1,
        protected_sqrt,
        sympy=lambda a: sympy.sqrt(abs(a) + EPSILON),
        source=f"torch.sqrt(torch.abs({{}}) + {EPSILON})",
        slopes=lambda a, b, z: (torch.sign(a) * 0.5 / z, 0.0),
        curvatures=lambda a, b, z, h, da, db: (-(h * h) / z * da, 0.0),
        bounds=_root_bounds,
    ),
    Primitive(
        "log",
        1,
        protected_log,
        sympy=lambda a: sympy.log(abs(a) + EPSILON),
        source=f"torch.log(torch.abs({{}}) + {EPSILON})",
        slopes=lambda a, b, z: (torch.sign(a) / (torch.abs(a) + EPSILON), 0.0),
        curvatures=lambda a, b, z, h, da, db: (-(h * h) * da, 0.0),
        bounds=_log_bounds,
    ),
    Primitive(
        "min",
        2,
        torch.minimum,
        sympy=lambda a, b: sympy.Min(a, b),
        source="torch.minimum({}, {})",
        slopes=lambda a, b, z: (_tie(b, a), _tie(a, b)),
        bounds=_sum_of_bounds,
    ),
    Primitive(
        "max",
        2,
        torch.maximum,
        sympy=lambda a, b: sympy.Max(a, b),
        source="torch.maximum({}, {})",
        slopes=lambda a, b, z: (_tie(a, b), _tie(b, a)),
        bounds=_sum_of_bounds,
    ),
    Primitive(
        "sign",
        1,
        torch.sign,
        sympy=lambda a: sympy.sign(a),
        source="torch.sign({})",
        slopes=lambda a, b, z: (0.0, 0.0),
        bounds=_unit_bounds,
    ),
    Primitive(
        "tanh",
        1,
        torch.tanh,
        sympy=lambda a: sympy.tanh(a),
        source="torch.tanh({})",
        slopes=lambda a, b, z: (1 - z * z, 0.0),
        curvatures=lambda a, b, z, h, da, db: (-2 * z * h * da, 0.0),
        bounds=_unit_bounds,
    ),
    Primitive(
        "clamped_sqrt",
        1,
        clamped_sqrt,
        sympy=lambda a: sympy.sqrt(sympy.Max(abs(a), EPSILON)),
        source=f"torch.sqrt(torch.clamp(torch.abs({{}}), min={EPSILON}))",
        slopes=lambda a, b, z: (_slope_of_clamped(a) * 0.5 / z, 0.0),
        curvatures=lambda a, b, z, h, da, db: (-(h * h) / z * da, 0.0),
        bounds=_root_bounds,
    ),
    Primitive(
        "clamped_log",
        1,
        clamped_log,
        sympy=lambda a: sympy.log(sympy.Max(abs(a), EPSILON)),
        source=f"torch.log(torch.clamp(torch.abs({{}}), min={EPSILON}))",
        slopes=lambda a, b, z: (_slope_of_clamped(a) / torch.clamp(torch.abs(a), min=EPSILON), 0.0),
        curvatures=lambda a, b, z, h, da, db: (-(h * h) * da, 0.0),
        bounds=_log_bounds,
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

FunctionSet = str | tuple[str, ...]
"""A name in FUNCTION_SETS, or the names of operations."""


def function_names(function_set: FunctionSet) -> tuple[str, ...]:
    """The names of a function set's operations.

    Raises:
        ValueError: the set or one of its operations is unknown, or none takes two arguments.
    """
    if isinstance(function_set, str):
        if function_set not in FUNCTION_SETS:
            raise ValueError(f"unknown function set {function_set!r}; known are {', '.join(FUNCTION_SETS)}")
        return FUNCTION_SETS[function_set]
    for name in function_set:
        if name not in PRIMITIVES:
            remedy = hint(name, PRIMITIVES, "register it first, see primitives.register")
            raise ValueError(f"unknown operation {name!r} in a function set; {remedy}")
    if not any(arity(name) == 2 for name in function_set):
        raise ValueError(
            f"a function set has an operation of two arguments, got {', '.join(function_set) or 'none'}"
        )
    return tuple(function_set)


def register(
    name: str,
    arity: int,
    torch: Callable[..., Tensor],
    sympy: Callable[..., sympy.Expr] | None = None,
    source: str = "",
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Slope, Slope]] | None = None,
    curvatures: Callable[..., tuple[Slope, Slope]] | None = None,
) -> None:
    """Add a user-defined operation, for expressions and for a search's `function_set`.

    Derivatives are PyTorch's unless they are given. A population that has such an operation is computed without
    compiled kernels. A file of a loss names the operations that it needs; a process that loads it registers them
    first. An executor's workers are sent them.

    Args:
        name: as it is written in expressions, e.g. "huber".
        arity: number of arguments, 1 or 2.
        torch: the operation, elementwise on tensors and twice differentiable almost everywhere.
        sympy: the same for sympy's symbols; without it, formulas have an undefined function of that name.
        source: PyTorch source with a place `{}` for each argument, for `python_source`.
        slopes: first derivatives, see `Primitive`.
        curvatures: changes of the slopes, see `Primitive`.

    Raises:
        ValueError: the name is taken or can't be written in an expression, the operation is not elementwise, or
            the derivatives, formula or source given are not its own.
    """
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise ValueError(f"an operation's name is a Python identifier, got {name!r:.40}")
    if name in PRIMITIVES or name in TERMINALS:
        raise ValueError(f"operation {name!r} is there already; choose another name, or unregister your own first")
    if arity not in (1, 2):
        raise ValueError(f"an operation has 1 or 2 arguments, got arity={arity!r}")
    if source and source.count("{}") != arity:
        raise ValueError(f"source has a place {{}} for each of {arity} argument(s), got {source!r:.60}")
    check_elementwise(name, arity, torch)
    if source:
        source = f"({source.replace('{}', '({})')})"  # any text may stand around it, and for its arguments
        check_source(name, arity, torch, source)
    if sympy:
        _check_formula(name, arity, torch, sympy)
    by_torch = differentiated(torch, arity)
    derivatives = slopes or by_torch[0], curvatures or by_torch[1]
    if slopes or curvatures:
        check_derivatives(name, arity, torch, derivatives)
    PRIMITIVES[name] = Primitive(name, arity, torch, sympy or _undefined(name), source, *derivatives)


def _check_formula(
    name: str, arity: int, operation: Callable[..., Tensor], formula: Callable[..., sympy.Expr]
) -> None:
    """Refuse a formula that fails or has other values than the operation, where both are real numbers."""
    symbols = sympy.symbols("f y", real=True)[:arity]
    arguments = points()[:arity]
    try:
        expression = sympy.sympify(formula(*symbols))
        values = [
            expression.subs(dict(zip(symbols, map(float, point), strict=True))).evalf()
            for point in zip(*(x.flatten() for x in arguments), strict=True)
        ]
    except Exception as error:  # whatever a user's function raises
        raise ValueError(f"sympy of operation {name!r} fails: {type(error).__name__}: {error}") from error
    found = torch.tensor([float(value) if value.is_Float else torch.nan for value in values], dtype=torch.float64)
    wanted = operation(*arguments).flatten()
    known = torch.isfinite(found) & torch.isfinite(wanted)
    check_same(name, "sympy", wanted[known], found[known])


def unregister(name: str) -> None:
    """Remove a user-defined operation.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in own_operations():
        raise ValueError(
            f"{name!r} is no operation of your own; those are {', '.join(own_operations()) or 'none'}"
        )
    del PRIMITIVES[name]


def own_operations() -> list[str]:
    """The names of the operations that were registered."""
    return list(PRIMITIVES)[len(_ROWS) :]


def _undefined(name: str) -> Callable[..., sympy.Expr]:
    return lambda *arguments: sympy.Function(name)(*arguments)


ARITHMETIC = ("add", "sub", "mul", "div")
"""Operations with which the authors' code repairs expressions."""


def arity(name: str) -> int:
    """Number of subtrees of the node `name`: 1 or 2 for a primitive, 0 for a terminal."""
    return PRIMITIVES[name].arity if name in PRIMITIVES else 0
