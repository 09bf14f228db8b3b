"""Formulas shown to a person: sympy, LaTeX and Python source say what the module computes."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch
from helpers import SEEDS, trees, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st

import evomal_core as em
from evomal_core.symbolic import (
    callable_formula,
    loss_formula,
    numerically_equal,
    raw_formula,
    rounded,
    to_latex,
    variables,
)

F, Y = variables()

KINDS = st.sampled_from(["regression", "binary", "multiclass"])


def batch(kind: str, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y_pred = torch.randn(6, 3, generator=rng, dtype=dtype)
    if kind == "multiclass":
        return y_pred, torch.randint(0, 3, (6,), generator=rng)
    y_true = torch.randn(6, 3, generator=rng, dtype=dtype)
    return y_pred, (y_true > 0).to(dtype) if kind == "binary" else y_true


def from_source(loss: em.Loss, name: str = "learned_loss"):
    namespace: dict[str, object] = {}
    exec(compile(loss.python_source(name), "learned_loss.py", "exec"), namespace)
    return namespace[name]


def value_and_slope(function, y_pred, y_true):
    leaf = y_pred.clone().requires_grad_()
    value = function(leaf, y_true)
    if not value.requires_grad:
        return value, torch.zeros_like(leaf)
    return value.detach(), torch.autograd.grad(value, [leaf], materialize_grads=True)[0]


@given(trees(), KINDS, st.booleans(), st.sampled_from([torch.float32, torch.float64]), SEEDS, st.booleans())
def test_python_source_has_the_values_and_gradients_of_the_module(tree, kind, softplus, dtype, seed, tuned):
    phi = weights_for(tree, seed) if tuned else None
    loss = em.LearnedLoss(tree, kind, phi=phi, softplus=softplus)
    y_pred, y_true = batch(kind, seed, dtype)
    ours = value_and_slope(loss, y_pred, y_true)
    written = value_and_slope(from_source(loss), y_pred, y_true)
    for a, b in zip(ours, written, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


@given(KINDS, SEEDS)
def test_python_source_of_a_taylor_loss_has_its_values_and_gradients(kind, seed):
    rng = torch.Generator().manual_seed(seed)
    loss = em.TaylorLoss(kind, theta=torch.randn(8, generator=rng))
    y_pred, y_true = batch(kind, seed, torch.float64)
    for a, b in zip(*(value_and_slope(f, y_pred, y_true) for f in (loss, from_source(loss))), strict=True):
        torch.testing.assert_close(a, b)


def test_python_source_leaves_out_weights_of_one():
    loss = em.LearnedLoss("square(sub(y, f))", phi=[1.0, 2.0, 1.0])
    assert "value = torch.square((2.0 * y - f))" in loss.python_source()


def test_python_source_needs_nothing_but_torch_and_keeps_the_name_given():
    loss = em.LearnedLoss("log(div(sub(y, f), 1))", "multiclass", softplus=True)
    source = loss.python_source("my_loss")
    imports = [line for line in source.splitlines() if "import" in line]
    assert imports == ["import torch", "from torch.nn import functional"]
    assert callable(from_source(loss, "my_loss"))
    for bad in ("my loss", "1st", "f(); import os\ndef g"):
        with pytest.raises(ValueError, match="identifier"):
            loss.python_source(bad)


def test_weights_of_1_are_not_written():
    loss = em.LearnedLoss("square(sub(y, f))", phi=[1.0, 2.0, 1.0])
    assert "value = torch.square((2.0 * y - f))" in loss.python_source()
    assert str(em.LearnedLoss("abs(max(y, f))").sympy()) == "Abs(Max(f, y))"


@pytest.mark.parametrize("bad", ["class", "lambda", "None", "torch", "functional"])
def test_python_source_refuses_a_keyword_or_a_module_of_its_own_as_name(bad):
    with pytest.raises(ValueError, match="identifier"):
        em.LearnedLoss("square(sub(y, f))").python_source(bad)


@pytest.mark.parametrize("loss", [em.NeuralLoss(), em.TaskLoss()])
def test_losses_without_short_source_say_so(loss):
    with pytest.raises(TypeError, match="save it as JSON"):
        loss.python_source()


@settings(max_examples=40)
@given(trees(max_leaves=5), st.booleans(), SEEDS)
def test_simplified_formula_equals_the_module(tree, softplus, seed):
    loss = em.LearnedLoss(tree, phi=weights_for(tree, seed).double(), softplus=softplus)
    f, y = np.random.default_rng(seed).uniform(-2, 2, (2, 30))
    shown = np.broadcast_to(callable_formula(loss.sympy())(f, y), f.shape)
    meant = loss.elementwise(torch.from_numpy(f), torch.from_numpy(y)).detach().numpy()
    close = np.isclose(shown, meant, rtol=1e-6, atol=1e-6 * (1 + abs(meant).max()))
    # sympy's exp overflows where softplus does not
    assert close[abs(meant) < 500].all()


@given(trees(max_leaves=6), SEEDS)
def test_a_formula_has_no_symbols_but_f_and_y(tree, seed):
    formula = raw_formula(tree, weights_for(tree, seed).tolist())
    assert formula.free_symbols <= {F, Y}


def test_simplification_joins_what_belongs_together():
    loss = em.LearnedLoss("sub(mul(f, sub(f, y)), mul(f, f))")
    assert loss.sympy() == -F * Y
    assert loss.sympy().count_ops() < raw_formula(loss.expression, loss.phi.tolist()).count_ops()


def test_a_simplification_that_changes_values_is_not_shown(monkeypatch):
    tree = em.Expression.parse("square(sub(f, y))")
    monkeypatch.setattr(sympy, "simplify", lambda formula: formula + sympy.Rational(1, 1000))
    assert loss_formula(tree, [1.0, 1.0, 1.0]) == raw_formula(tree, [1.0, 1.0, 1.0])


@pytest.mark.parametrize("error", [RecursionError, TypeError, ValueError, ZeroDivisionError, AttributeError])
def test_a_simplification_that_fails_leaves_the_raw_formula(monkeypatch, error):
    def fail(formula):
        raise error

    tree = em.Expression.parse("square(sub(f, y))")
    monkeypatch.setattr(sympy, "simplify", fail)
    assert loss_formula(tree, [1.0, 1.0, 1.0]) == raw_formula(tree, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ((F + Y) ** 2, F**2 + 2 * F * Y + Y**2, True),
        (F, F + 1e-6, False),
        (sympy.Abs(F), F, False),
        (sympy.log(F), sympy.log(sympy.Abs(F)), False),  # NaN on one side alone
        (sympy.Integer(1), F - F + 1, True),
    ],
)
def test_numerical_equality_tells_formulas_apart(left, right, equal):
    assert numerically_equal(left, right) is equal


def test_a_constant_minimum_can_be_computed():
    loss = em.LearnedLoss("add(min(f, 1), max(-1, y))")
    f, y = np.array([-2.0, 0.5, 3.0]), np.array([-4.0, 0.0, 2.0])
    np.testing.assert_allclose(callable_formula(loss.sympy())(f, y), np.minimum(f, 1) + np.maximum(-1, y))


def test_shown_numbers_are_rounded_and_the_protection_is_an_epsilon():
    formula = 1.0 * F + 0.123456789 * Y + sympy.log(sympy.Abs(F) + 1e-7)
    assert str(rounded(formula)) == "f + 0.1235*y + log(epsilon + Abs(f))"
    assert to_latex(sympy.Float(1.2345678e30) * F) == r"1.235 \cdot 10^{30} f_\theta(x)"
    assert to_latex(sympy.Float(-2.0) * Y) == "- 2 y"


@given(trees(max_leaves=5), SEEDS)
def test_latex_is_written_in_the_papers_symbols(tree, seed):
    loss = em.LearnedLoss(tree, phi=weights_for(tree, seed))
    text = loss._repr_latex_()
    assert text.startswith(r"$\displaystyle \mathcal{M}(y, f) = ")
    assert text.endswith("$")
    assert text.count("{") == text.count("}")
    assert (r"f_\theta(x)" in text) == loss.sympy().has(F)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_every_family_has_latex(kind):
    for loss in (em.TaskLoss(kind), em.NeuralLoss(kind), em.TaylorLoss(kind, theta=[0.5] * 8)):
        assert loss.latex()
    expected = {"regression": (F - Y) ** 2, "multiclass": -Y * sympy.log(F)}
    if kind in expected:
        assert em.TaskLoss(kind).sympy() == expected[kind]


def test_softplus_is_part_of_the_formula():
    formula = em.LearnedLoss("sub(f, y)", softplus=True).sympy()
    assert float(formula.subs({F: 2, Y: 2})) == pytest.approx(float(np.log(2)))
    assert to_latex(formula).count("log") == 1
