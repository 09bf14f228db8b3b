"""The population program against PyTorch's double backward through each loss on its own."""

from __future__ import annotations

import pytest
import sympy
import torch
from helpers import SEEDS, trees, weights_for
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import evomal_core as em
from evomal_core import symbolic
from evomal_core.expression import Expression
from evomal_core.filters import is_irrelevant
from evomal_core.losses import LearnedLoss
from evomal_core.population import compiled
from evomal_core.population.trees import Program
from evomal_core.primitives import PRIMITIVES, Primitive

ELEMENTS = 24
POPULATIONS = st.lists(trees(max_leaves=12), min_size=1, max_size=6)


def inputs(count: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """f, y and u with zeros, ones and ties of f and y among them: the kinks."""
    rng = torch.Generator().manual_seed(seed)
    f, u = (torch.randn(count, ELEMENTS, generator=rng, dtype=dtype) for _ in range(2))
    y = torch.randn(ELEMENTS, generator=rng, dtype=dtype)
    f[:, :3], f[:, 3:5] = 0.0, 1.0
    y[2:6] = 0.0
    f[:, 6:9] = y[6:9]
    return f, y, u


def by_autograd(loss: LearnedLoss, f: Tensor, y: Tensor, u: Tensor) -> dict[str, Tensor]:
    f = f.clone().requires_grad_()
    value = loss.elementwise(f[None], y[None])[0]
    parts = {"slope": torch.zeros_like(f)}
    parts |= {"by_phi": torch.zeros_like(loss.phi), "by_f": torch.zeros_like(f)}
    if value.requires_grad:
        (slope,) = torch.autograd.grad(value.sum(), [f], create_graph=True, materialize_grads=True)
        parts["slope"] = slope.detach()
        if slope.requires_grad:
            both = torch.autograd.grad((slope * u).sum(), [loss.phi, f], materialize_grads=True)
            parts["by_phi"], parts["by_f"] = both
    return parts


def assert_agree(expressions: list[Expression], softplus: bool, seed: int, scale: float = 1.0) -> None:
    f, y, u = inputs(len(expressions), seed)
    f, y = f * scale, y * scale
    losses = [LearnedLoss(e, phi=weights_for(e, seed).double(), softplus=softplus) for e in expressions]
    program = Program(expressions, softplus)
    phi = program.pad([loss.phi for loss in losses])
    slope, tape = program.slope(phi, f, y)
    by_phi, by_f = program.mixed(tape, u)
    for i, loss in enumerate(losses):
        got = {"slope": slope[i], "by_phi": by_phi[i, : loss.size], "by_f": by_f[i]}
        for name, wanted in by_autograd(loss, f[i], y, u[i]).items():
            if torch.isfinite(wanted).all():
                error = torch.linalg.vector_norm(got[name] - wanted)
                size = torch.linalg.vector_norm(wanted)
                assert error <= 1e-10 * size + 1e-12, f"{name} of {loss}: {error:.1e} of {size:.1e}"
            else:
                assert not torch.isfinite(got[name]).all(), f"{name} of {loss} should not be finite"


@given(POPULATIONS, st.booleans(), SEEDS)
def test_slopes_and_mixed_products_are_those_of_autograd(
    expressions: list[Expression], softplus: bool, seed: int
) -> None:
    assert_agree(expressions, softplus, seed)


@given(st.lists(trees(max_leaves=60), min_size=1, max_size=3), SEEDS)
def test_deep_trees_agree(expressions: list[Expression], seed: int) -> None:
    assert_agree(expressions, False, seed, scale=0.5)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_operation_agrees_at_its_kinks(name: str) -> None:
    arguments = {1: ["f", "sub(f, y)"], 2: ["f, y", "y, f", "f, f", "f, 1", "square(f), f"]}[
        PRIMITIVES[name].arity
    ]
    assert_agree([Expression.parse(f"{name}({text})") for text in arguments], False, seed=0)


@pytest.mark.usefixtures("with_kernels")
def test_one_row_makes_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = Primitive(
        "cube",
        1,
        lambda a: a * a * a,
        sympy=lambda a: a**3,
        source="({0} * {0} * {0})",
        slopes=lambda a, b, z: (3 * a * a, 0.0),
        curvatures=lambda a, b, z, h, da, db: (6 * a * da, 0.0),
    )
    monkeypatch.setitem(PRIMITIVES, "cube", cube)
    expression = Expression.parse("cube(sub(mul(f, y), square(f)))")
    assert_agree([expression, Expression.parse("square(sub(y, f))")], True, seed=0)
    loss = em.LearnedLoss(expression)
    assert not compiled.take(torch.zeros(1), [loss])
    f, y = symbolic.variables()
    assert sympy.expand(loss.sympy() - (f * y - f**2) ** 3) == 0
    assert "** 3" not in loss.python_source()
    assert not is_irrelevant(expression)


def test_the_program_of_lone_terminals() -> None:
    program = Program([Expression(("f",)), Expression(("y",)), Expression(("-1",))])
    f, y, u = inputs(3, 0)
    slope, tape = program.slope(torch.ones(3, 1, dtype=torch.float64), f, y)
    assert torch.equal(slope, torch.tensor([1.0, 0.0, 0.0]).double()[:, None].expand_as(f))
    assert not any(part.any() for part in program.mixed(tape, u))


@given(POPULATIONS, SEEDS)
def test_company_changes_no_bit(expressions: list[Expression], seed: int) -> None:
    """Alone or beside others, one of which overflows, a candidate has the same results bit by bit."""
    overflows = Expression.parse("square(square(square(square(mul(f, log(f))))))")
    together = [overflows, *expressions]
    f, y, u = inputs(len(together), seed, torch.float32)
    f[0] *= 1e9
    phi = [torch.ones(overflows.edges), *(weights_for(e, seed) for e in expressions)]

    def results(chosen: list[int]) -> list[Tensor]:
        program = Program([together[i] for i in chosen])
        slope, tape = program.slope(program.pad([phi[i] for i in chosen]), f[chosen], y)
        by_phi, by_f = program.mixed(tape, u[chosen])
        assert not torch.isfinite(by_phi[0]).all() or chosen[0]
        return [slope[-1], by_phi[-1, : len(phi[chosen[-1]])], by_f[-1]]

    last = len(expressions)
    for ours, alone in zip(results(list(range(last + 1))), results([last]), strict=True):
        torch.testing.assert_close(ours, alone, rtol=0, atol=0, equal_nan=True)


def test_launches_do_not_grow_with_the_population() -> None:
    one = Expression.parse("add(square(sub(f, y)), log(mul(f, y)))")
    other = Expression.parse("add(square(mul(f, y)), log(sub(y, f)))")

    def launches(count: int) -> int:
        program = Program([one, other] * count)
        f, y, u = inputs(2 * count, 0)
        phi = torch.ones(2 * count, program.width, dtype=torch.float64)
        with torch.profiler.profile() as profile:
            program.mixed(program.slope(phi, f, y)[1], u)
        return sum(event.count for event in profile.key_averages())

    launches(1)
    assert launches(1) == launches(40)
