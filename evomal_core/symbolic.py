"""A loss's formula: sympy, LaTeX and stand-alone Python source, all folded from the same expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from keyword import iskeyword
from typing import TYPE_CHECKING

import numpy as np

from evomal_core.lazy import LazyModule
from evomal_core.primitives import EPSILON, PRIMITIVES

if TYPE_CHECKING:
    import sympy

    from evomal_core.expression import Expression
else:
    sympy = LazyModule("sympy")

# What sympy.simplify takes seconds or minutes for stays as the meta-loss network computes it.
_SIMPLIFY_UP_TO = 25  # operations


def variables() -> tuple[sympy.Symbol, sympy.Symbol]:
    """The real symbols f, the prediction, and y, the label."""
    f, y = sympy.symbols("f y", real=True)
    return f, y


def raw_formula(expression: Expression, phi: Sequence[float], softplus: bool = False) -> sympy.Expr:
    """The formula as the meta-loss network computes it, with no simplification but constant folding."""
    f, y = variables()
    leaves = {"f": f, "y": y, "1": sympy.Float(1), "-1": sympy.Float(-1)}

    def weighted(position: int, value: sympy.Expr) -> sympy.Expr:
        return value if position == 0 or phi[position - 1] == 1 else sympy.Float(phi[position - 1]) * value

    value = expression.fold(
        lambda i, name: weighted(i, leaves[name]),
        lambda i, name, children: weighted(i, PRIMITIVES[name].sympy(*children)),
    )
    return _softplus(value) if softplus else value


def _softplus(value: sympy.Expr) -> sympy.Expr:
    return sympy.log(1 + sympy.exp(value))


def _slow() -> tuple[type, ...]:
    """Functions that sympy simplifies slowly or does not know."""
    return sympy.Min, sympy.Max, sympy.sign, sympy.tanh, sympy.core.function.AppliedUndef


def loss_formula(expression: Expression, phi: Sequence[float], softplus: bool = False) -> sympy.Expr:
    """The formula simplified by sympy; the raw one if that is shorter, or differs anywhere on random points."""
    raw = raw_formula(expression, phi)
    slow = raw.count_ops() > _SIMPLIFY_UP_TO or raw.has(*_slow())
    simplified = raw if slow else _simplify(raw)
    return _softplus(simplified) if softplus else simplified


def _simplify(raw: sympy.Expr) -> sympy.Expr:
    try:
        simplified = sympy.simplify(raw)
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError):
        return raw  # sympy's rewriting of nested Min, Max and sign can fail on its own intermediate NaN
    shorter = simplified.count_ops() <= raw.count_ops()
    return simplified if shorter and numerically_equal(raw, simplified) else raw


def numerically_equal(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Whether two formulas in f and y agree on fixed random points in [−3, 3]² and (0, 1)²."""
    rng = np.random.default_rng(0)
    f, y = np.hstack((rng.uniform(-3, 3, (2, 256)), rng.uniform(0, 1, (2, 256))))
    with np.errstate(all="ignore"):
        a, b = (np.broadcast_to(callable_formula(side)(f, y), f.shape) for side in (left, right))
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True))


def callable_formula(formula: sympy.Expr) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The formula as a NumPy function of f and y."""
    return sympy.lambdify(variables(), formula, modules="numpy")


DIGITS = 4
"""Significant digits of numbers in formulas that are read."""


def rounded(formula: sympy.Expr) -> sympy.Expr:
    """The formula with its numbers rounded for reading: 1.0 becomes 1, and the protecting 1e-7 an ε."""

    def short(number: sympy.Float) -> sympy.Expr:
        if float(number) == EPSILON:
            return sympy.Symbol("epsilon", positive=True)
        value = float(f"{float(number):.{DIGITS}g}")
        whole = value.is_integer() and abs(value) < 10**DIGITS
        return sympy.Integer(int(value)) if whole else sympy.Float(value, DIGITS)

    return formula.xreplace({number: short(number) for number in formula.atoms(sympy.Float)})


def to_latex(formula: sympy.Expr) -> str:
    """LaTeX of a formula with its numbers rounded."""
    f, y = variables()
    return sympy.latex(rounded(formula), symbol_names={f: r"f_\theta(x)", y: "y"})


def source_lines(expression: Expression, phi: Sequence[float], softplus: bool) -> tuple[str, ...]:
    """Lines of PyTorch that compute `value` from f and y."""

    def weighted(position: int, value: str) -> str:
        return value if position == 0 or phi[position - 1] == 1 else f"{phi[position - 1]!r} * {value}"

    if lacking := [name for name in expression.nodes if name in PRIMITIVES and not PRIMITIVES[name].source]:
        raise ValueError(
            f"operation {lacking[0]!r} has no source; register it with source='...', a {{}} an argument"
        )
    constants = {"1": "torch.ones_like(f)", "-1": "-torch.ones_like(f)"}
    value = expression.fold(
        lambda i, leaf: weighted(i, constants.get(leaf, leaf)),
        lambda i, node, children: weighted(i, PRIMITIVES[node].source.format(*children)),
    )
    if softplus:
        value = f"functional.softplus({value})"
    return (f"value = {value}",)


_SAME_SHAPE = (
    "if y_pred.shape != y_true.shape:",
    '    raise ValueError(f"y_pred {tuple(y_pred.shape)} and y_true {tuple(y_true.shape)} differ in shape")',
)
_CLASS_SHAPES = (
    "soft = y_true.is_floating_point()",
    "wanted = y_pred.shape if soft else y_pred.shape[:1] + y_pred.shape[2:]",
    "if y_pred.ndim < 2 or y_true.shape != wanted:",
    '    raise ValueError(f"logits {tuple(y_pred.shape)} and labels {tuple(y_true.shape)} do not fit each other")',
)
_FLOAT = "y_pred = y_pred.to(torch.promote_types(y_pred.dtype, torch.float32))"
_ROWS = (  # outputs last, and positions of sequences and images beside the rows
    "axis = 2 if y_pred.ndim == 3 else 1",
    "pair = y_pred, y_true.to(y_pred.dtype)",
    "f, y = (a.movedim(axis, -1).flatten(0, -2) if a.ndim > 1 else a.reshape(-1, 1) for a in pair)",
)
_HIDE = "f, y = torch.where(counts, f, 0.0), torch.where(counts, y, 0.0)"
_PRELUDE = {
    "regression": (*_SAME_SHAPE, _FLOAT, *_ROWS, "counts = ~torch.isnan(y)", _HIDE),
    "binary": (
        *_SAME_SHAPE, _FLOAT, *_ROWS, "counts = ~torch.isnan(y) & (y != -100)", _HIDE, "f = torch.sigmoid(f)",
    ),
    "multiclass": (
        *_CLASS_SHAPES,
        _FLOAT,
        "classes = y_pred.shape[1]",
        "f = y_pred.movedim(1, -1).flatten(0, -2)",
        "if soft:",
        "    y = y_true.to(f.dtype).movedim(1, -1).flatten(0, -2)",
        "    counts = ~torch.isnan(y).any(dim=1, keepdim=True)",
        "else:",
        "    counts = y_true.reshape(-1, 1) != -100",
        "    y = functional.one_hot(y_true.reshape(-1).long() * counts[:, 0], classes).to(f.dtype)",
        _HIDE,
        "f = torch.softmax(f, dim=1)",
    ),
}  # fmt: skip
_TAKES = {
    "regression": "predictions and labels of the same shape; NaN labels are left out",
    "binary": "logits and 0/1 labels of the same shape; labels that are NaN or -100 are left out",
    "multiclass": "logits (batch, classes, ...) and class indices (batch, ...), -100 left out, or probabilities",
}


def wrap_source(lines: Sequence[str], kind: str, name: str, summary: str) -> str:
    """A function around the lines that compute `value` from f and y.

    Raises:
        ValueError: `name` can't name a Python function, or names a module that the function uses.
    """
    if not name.isidentifier() or iskeyword(name) or name in ("torch", "functional"):
        raise ValueError(
            f"a function name is a Python identifier, no keyword, 'torch' or 'functional', got {name!r}"
        )
    mean = "return torch.where(counts, value, 0.0).sum() / counts.any(dim=1).sum()"
    body = "\n    ".join((*_PRELUDE[kind], *lines, mean))
    return (
        "import torch\nfrom torch.nn import functional\n\n\n"
        f'def {name}(y_pred, y_true):\n    """{summary}\n\n    Takes {_TAKES[kind]}.\n    """\n    {body}\n'
    )
