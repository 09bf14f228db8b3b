"""Operations of one's own: derivatives by PyTorch, searches, files, formulas."""

from __future__ import annotations

import logging

import pytest
import sympy
import torch
from helpers import regression_task, small_model, tiny_config

import evomal_core as em
from evomal_core import bench, sending
from evomal_core.engines import Bench
from evomal_core.expression import Expression
from evomal_core.learners import make_learners
from evomal_core.population import candidates
from evomal_core.population.local_search import batched_meta_gradients
from evomal_core.population.trees import Program
from evomal_core.primitives import PRIMITIVES
from evomal_core.unroll import meta_gradient

TEXTS = ["huber(sub(f, y))", "mul(bend(f, y), huber(add(y, mul(f, f))))", "square(sub(f, y))"]


def huber(a: torch.Tensor) -> torch.Tensor:
    return torch.where(a.abs() < 1, 0.5 * a * a, a.abs() - 0.5)


@pytest.fixture(autouse=True)
def operations():
    """Two operations: a unary one with a formula and source, and a binary one without."""
    em.primitives.register(
        "huber",
        arity=1,
        torch=huber,
        sympy=lambda a: sympy.Piecewise((a**2 / 2, abs(a) < 1), (abs(a) - sympy.Rational(1, 2), True)),
        source="functional.huber_loss({}, torch.zeros_like(f), reduction='none')",
    )
    em.primitives.register("bend", arity=2, torch=lambda a, b: torch.sin(a) * torch.exp(-b * b))
    yield
    for name in ("huber", "bend"):
        em.primitives.unregister(name)


def test_derivatives_of_a_population_are_those_of_each_loss_by_pytorch():
    rng = torch.Generator().manual_seed(0)
    losses = [em.LearnedLoss(text).double() for text in TEXTS]
    f, u = torch.randn(2, 3, 7, generator=rng, dtype=torch.float64)
    y = torch.randn(7, generator=rng, dtype=torch.float64)
    program = Program([loss.expression for loss in losses])
    phi = program.pad([loss.phi + 0.3 * torch.randn(loss.size, generator=rng).double() for loss in losses])
    slope, tape = program.slope(phi, f, y)
    by_phi, by_f = program.mixed(tape, u)
    for p, loss in enumerate(losses):
        leaf, weights = f[p].clone().requires_grad_(), phi[p, : loss.size].clone().requires_grad_()

        def value(leaf=leaf, weights=weights, loss=loss):
            return torch.func.functional_call(loss.replace(reduction="sum"), {"phi": weights}, (leaf, y))

        (wanted,) = torch.autograd.grad(value(), leaf, create_graph=True)
        torch.testing.assert_close(slope[p], wanted.detach())
        mixed = torch.autograd.grad((wanted * u[p]).sum(), (weights, leaf), materialize_grads=True)
        torch.testing.assert_close(by_phi[p, : loss.size], mixed[0])
        torch.testing.assert_close(by_f[p], mixed[1])


def test_all_engines_have_one_meta_gradient():
    config = em.SearchConfig(base=em.SGD(batch_size=8))
    learners = make_learners([regression_task().to(dtype=torch.float64)], small_model(), config, 0, "test")
    losses = [em.LearnedLoss(text).double() for text in TEXTS]
    rows = batched_meta_gradients(losses, learners, config, 0)[1]
    for row, loss in zip(rows, losses, strict=True):
        (wanted,) = meta_gradient(loss, learners[0], 0, config, "autograd")[1]
        assert (row[: loss.size] - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.usefixtures("with_kernels")
def test_a_search_uses_the_operations_that_it_is_given_without_kernels_and_says_so_once(caplog):
    caplog.set_level(logging.INFO, "evomal")
    candidates._LACKING.clear()
    config = tiny_config(function_set=["sub", "mul", "huber"], generations=2, meta_steps=1)
    result = em.learn_loss(
        [regression_task()],
        small_model(),
        config=config,
        progress=False,
        compare=False,  # which would train with the task loss, by kernels
        initial=["huber(sub(f, y))"],
    )
    names = {name for entry in result.evaluations for name in entry.loss.expression.nodes}
    assert "huber" in names
    assert names <= {"sub", "mul", "huber", "f", "y", "1", "-1"}
    assert sum("losses with huber are computed by PyTorch" in line for line in caplog.messages) == 1
    assert "huber" in result.table()["loss"].str.cat()
    result._repr_html_()


def test_formulas_and_exported_functions():
    loss = em.LearnedLoss("huber(sub(f, y))", phi=[1.5, 1.0, 0.5])
    f, y = torch.randn(9), torch.randn(9)
    wanted = huber(1.5 * (f - 0.5 * y))
    torch.testing.assert_close(loss.elementwise(f, y), wanted)
    space: dict = {}
    exec(loss.python_source("exported"), space)
    torch.testing.assert_close(space["exported"](f, y), loss(f, y))
    assert "Piecewise" in str(loss.sympy())
    other = em.LearnedLoss("bend(f, y)")
    assert "bend(" in str(other.sympy())
    assert "bend" in other.latex()
    with pytest.raises(ValueError, match="operation 'bend' has no source; register it with source="):
        other.python_source()


def test_a_file_names_the_operations_that_it_needs(tmp_path):
    loss = em.LearnedLoss("huber(bend(f, y))", phi=[0.5, 1.0, 2.0])
    loss.save(tmp_path / "loss.json")
    assert torch.equal(em.load_loss(tmp_path / "loss.json").phi, loss.phi)
    assert loss.record()["operations"] == ["bend", "huber"]
    assert "operations" not in em.LearnedLoss("square(sub(f, y))").record()
    em.primitives.unregister("bend")
    try:
        with pytest.raises(ValueError, match="needs the operation 'bend', which is not registered; define it"):
            em.load_loss(tmp_path / "loss.json")
        with pytest.raises(ValueError, match="unknown name 'bend'"):
            Expression.parse("bend(f, y)")
    finally:
        em.primitives.register("bend", arity=2, torch=lambda a, b: a * b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "add"}, "operation 'add' is there already"),
        ({"name": "huber"}, "is there already; choose another name, or unregister"),
        ({"name": "f"}, "is there already"),
        ({"name": "a b"}, "is a Python identifier, got 'a b'"),
        ({"arity": 3}, "has 1 or 2 arguments, got arity=3"),
        ({"source": "abs({}, {})"}, r"a place {} for each of 1 argument\(s\)"),
        ({"torch": lambda a: a.sum()}, "operation 'mine' is elementwise"),
        ({"torch": lambda a: a - a.mean()}, "operation 'mine' is elementwise"),
        ({"torch": lambda a: a.softmax(-1)}, "operation 'mine' is elementwise"),
        ({"torch": lambda a: a.mul_(2)}, "operation 'mine' changes its arguments in place"),
        ({"torch": torch.atan2}, r"operation 'mine' fails on 1 tensor\(s\): TypeError"),
        ({"torch": 3}, r"operation 'mine' fails on 1 tensor\(s\): TypeError"),
        ({"name": 3}, "is a Python identifier, got 3"),
        ({"torch": lambda a: torch.from_numpy(a.numpy() ** 2)}, "operation 'mine' fails on 1 tensor.*numpy"),
        ({"torch": lambda a: a.double()}, "operation 'mine' is elementwise: numbers of the shape and dtype"),
        ({"source": "torch.cos({})"}, "source of operation 'mine' has other values than torch, such as"),
        ({"source": "np.sin({})"}, "source of operation 'mine' fails: NameError"),
        ({"sympy": sympy.cos}, "sympy of operation 'mine' has other values than torch, such as"),
        ({"sympy": lambda a: sympy.root(a)}, "sympy of operation 'mine' fails: TypeError"),
        (
            {"slopes": lambda a, b, z: (2 * torch.cos(a), 0.0)},
            "slopes of operation 'mine' are not its derivatives",
        ),
        (
            {
                "slopes": lambda a, b, z: (torch.cos(a), 0.0),
                "curvatures": lambda a, b, z, h, da, db: (z * da, 0.0),
            },
            "curvatures of operation 'mine' are not its derivatives",
        ),
        (
            {"slopes": lambda a: torch.cos(a)},
            r"slopes of operation 'mine' fails: TypeError.*a function of \(a, b, z\) that returns two tensors",
        ),
        ({"slopes": lambda a, b, z: torch.cos(a)}, "slopes of operation 'mine' fails: .* a single tensor"),
        (
            {"slopes": lambda a, b, z: (torch.cos(a), 0.0), "curvatures": lambda a, b, z: (0.0, 0.0)},
            r"curvatures of operation 'mine' fails: TypeError.*a function of \(a, b, z, h_a, da, db\)",
        ),
    ],
)
def test_an_operation_that_can_not_be_one_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        em.primitives.register(**{"name": "mine", "arity": 1, "torch": torch.sin} | changes)
    with pytest.raises(ValueError, match="'mine' is no operation of your own; those are huber, bend"):
        em.primitives.unregister("mine")


@pytest.mark.parametrize(
    ("arity", "name"), [(PRIMITIVES[name].arity, name) for name in ("div", "square", "log", "tanh", "max", "mul")]
)
def test_right_derivatives_are_taken(arity, name):
    row = PRIMITIVES[name]
    em.primitives.register("mine", arity, row.torch, slopes=row.slopes, curvatures=row.curvatures)
    em.primitives.unregister("mine")


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_formulas_and_sources_of_the_known_operations_are_taken(name):
    row = PRIMITIVES[name]
    em.primitives.register("mine", row.arity, row.torch, sympy=row.sympy, source=row.source)
    em.primitives.unregister("mine")


def test_a_formula_is_compared_where_both_are_real():
    em.primitives.register("root", 1, torch.sqrt, sympy=sympy.sqrt, source="torch.sqrt({})")
    em.primitives.register("unknown", 1, torch.erf, sympy=sympy.Function("E"))
    for name in ("root", "unknown"):
        em.primitives.unregister(name)


def test_a_source_without_parentheses_binds_no_looser_than_the_operation():
    em.primitives.register("cube", 1, lambda a: a**3, source="{}**3")
    em.primitives.register("less", 2, lambda a, b: a - b, source="{} - {}")
    loss = em.LearnedLoss("mul(cube(f), less(y, less(-1, cube(f))))", phi=[2.0, 3.0, 2.0, 1.0, 4.0, 1.0, 0.5, 2.0])
    scope: dict = {}
    exec(loss.python_source(), scope)
    y_pred, y_true = torch.randn(2, 6, 1, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.allclose(scope["learned_loss"](y_pred, y_true), loss(y_pred, y_true))
    for name in ("cube", "less"):
        em.primitives.unregister(name)


@pytest.mark.usefixtures("with_kernels")
def test_each_operation_that_the_kernels_lack_is_named_once(caplog):
    caplog.set_level(logging.INFO, "evomal")
    candidates._LACKING.clear()
    for text in ("huber(f)", "bend(f, huber(y))", "huber(bend(f, y))", "square(f)"):
        assert candidates.knows(Expression.parse(text)) == ("square" in text)
    assert [line.split(" are ")[0] for line in caplog.messages] == ["losses with huber", "losses with bend"]


def test_a_worker_that_lacks_an_operation_is_sent_it():
    config = tiny_config(function_set=("sub", "mul", "bend"))
    learners = make_learners([regression_task()], lambda: em.models.mlp(3, [4], 1), config, 0, "meta-train")
    losses = [em.LearnedLoss("bend(f, sub(y, f))")]
    made = Bench(learners, learners, config, "autograd", [])
    wanted = made.fitness(losses, lambda: None)
    content, candidates = sending.packed(made), sending.packed(losses)
    em.primitives.unregister("bend")
    answer = bench.work(bench.versions(), "a bench", content, "fitness", candidates, "another 1")
    assert answer.found == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sub", "hubr"], "unknown operation 'hubr' in a function set; did you mean 'huber'"),
        (["huber"], "has an operation of two arguments, got huber"),
        ([], "has an operation of two arguments, got none"),
        ("gecco", "a function set is 'gecco23', 'tpami23' or a list of operations"),
    ],
)
def test_a_function_set_of_unknown_names_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        em.SearchConfig(function_set=given)
