"""Losses: the converter against sympy, the two fixed families against formulas written anew, and closure."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from helpers import SEEDS, global_generators_untouched, trees, weights_for
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional

import evomal_core as em
from evomal_core.expression import Expression, random_expression, repair
from evomal_core.kinds import link
from evomal_core.labels import as_rows, read_labels
from evomal_core.losses import initial_phi
from evomal_core.primitives import FUNCTION_SETS, PRIMITIVES
from evomal_core.symbolic import callable_formula, raw_formula

ON_ALL_KINDS = pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
EPSILON = 1e-7
REFERENCE = {  # each operation written a second time, in NumPy
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: a / np.sqrt(1 + b * b),
    "square": lambda a: a * a,
    "abs": np.abs,
    "sqrt": lambda a: np.sqrt(np.abs(a) + EPSILON),
    "log": lambda a: np.log(np.abs(a) + EPSILON),
    "min": np.minimum,
    "max": np.maximum,
    "sign": np.sign,
    "tanh": np.tanh,
    "clamped_sqrt": lambda a: np.sqrt(np.maximum(np.abs(a), EPSILON)),
    "clamped_log": lambda a: np.log(np.maximum(np.abs(a), EPSILON)),
}


def batch(kind: str, rows: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    if kind == "multiclass":
        y_true = torch.randint(0, 4, (rows,), generator=rng)
        return torch.randn(rows, 4, generator=rng, dtype=torch.float64), y_true
    y_pred = torch.randn(rows, 2, generator=rng, dtype=torch.float64)
    y_true = torch.randn(rows, 2, generator=rng, dtype=torch.float64)
    return y_pred, (y_true > 0).double() if kind == "binary" else y_true


def arguments(y_pred: torch.Tensor, y_true: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The f and y that a loss sees."""
    logits = as_rows(y_pred, kind)
    return link(logits, kind), read_labels(y_true, kind, logits.shape[1], logits.dtype).y


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_each_operation_means_the_same_in_torch_numpy_and_source(name):
    row = PRIMITIVES[name]
    values = torch.tensor([-7.5, -1.0, -1e-9, 0.0, 0.3, 1.0, 12.0], dtype=torch.float64)
    columns = torch.cartesian_prod(*[values] * row.arity).reshape(-1, row.arity).unbind(1)
    wanted = REFERENCE[name](*(column.numpy() for column in columns))
    np.testing.assert_allclose(row.torch(*columns), wanted, rtol=1e-12)
    letters = ["a", "b"][: row.arity]
    from_source = eval(row.source.format(*letters), {"torch": torch, **dict(zip(letters, columns, strict=True))})
    np.testing.assert_allclose(from_source, wanted, rtol=1e-12)


def test_derivatives_at_kinks_are_pytorchs():
    def slope(name, *values):
        leaves = [torch.tensor(v, requires_grad=True) for v in values]
        return [float(g) for g in torch.autograd.grad(PRIMITIVES[name].torch(*leaves), leaves)]

    assert slope("abs", 0.0) == [0.0]
    assert slope("sign", 0.3) == [0.0]
    assert slope("min", 1.0, 1.0) == slope("max", 1.0, 1.0) == [0.5, 0.5]


@given(trees(), SEEDS)
def test_converter_equals_sympys_lambdify(tree, seed):
    phi = weights_for(tree, seed)
    rng = np.random.default_rng(seed)
    f, y = rng.uniform(-3, 3, (2, 20))
    formula = callable_formula(raw_formula(tree, phi.double().tolist()))
    wanted = np.broadcast_to(formula(f, y), f.shape)
    loss = em.LearnedLoss(tree, phi=phi.double())
    got = loss.elementwise(torch.from_numpy(f)[:, None], torch.from_numpy(y)[:, None])[:, 0]
    np.testing.assert_allclose(got.detach(), wanted, rtol=1e-9, atol=1e-9 * (1 + abs(wanted).max()))


@given(trees(max_leaves=6), SEEDS)
def test_converter_equals_a_recursive_evaluation_with_one_weight_per_edge_and_none_on_the_root(tree, seed):
    phi = weights_for(tree, seed).double()
    f, y = np.random.default_rng(seed).normal(size=(2, 9))
    nodes = iter(tree.nodes)
    edge = itertools.count()

    def evaluate(weighted):
        name = next(nodes)
        weight = phi[next(edge)].item() if weighted else 1.0
        if name in PRIMITIVES:
            arguments = [evaluate(True) for _ in range(PRIMITIVES[name].arity)]
            return weight * REFERENCE[name](*arguments)
        return weight * {"f": f, "y": y, "1": np.ones(9), "-1": -np.ones(9)}[name]

    wanted = evaluate(False)
    assert next(edge) == tree.edges == em.LearnedLoss(tree).size
    loss = em.LearnedLoss(tree, phi=phi)
    got = loss.elementwise(torch.from_numpy(f), torch.from_numpy(y)).detach().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * (1 + abs(wanted).max()))


@given(trees("gecco23", max_leaves=5), SEEDS)
def test_gradients_of_a_learned_loss_are_finite_differences(tree, seed):
    assume("f" in tree.nodes)
    rng = torch.Generator().manual_seed(seed)
    f, y = 0.5 + torch.rand(2, 3, 1, generator=rng, dtype=torch.float64)
    phi = weights_for(tree, seed, 0.1).double().requires_grad_()
    loss = em.LearnedLoss(tree)

    def values(f, phi):
        return torch.func.functional_call(loss, {"phi": phi}, (f, y))

    f.requires_grad_()
    gradients = torch.autograd.grad(values(f, phi), (f, phi), materialize_grads=True)
    for leaf, gradient in zip((f, phi), gradients, strict=True):
        direction = torch.randn(leaf.shape, generator=rng, dtype=torch.float64)
        slopes = []
        for h in (1e-5, 1e-6):
            moved = [values(*((a + s * h * direction) if a is leaf else a for a in (f, phi))) for s in (1, -1)]
            slopes.append(float((moved[0] - moved[1]).detach()) / (2 * h))
        # A kink within a step makes the two differences disagree; there a derivative has no oracle.
        if abs(slopes[0] - slopes[1]) < 1e-5 * (1 + abs(slopes[0])):
            assert slopes[0] == pytest.approx(float((gradient * direction).sum()), rel=1e-3, abs=1e-3)


@ON_ALL_KINDS
@pytest.mark.parametrize("softplus", [False, True])
def test_learned_loss_sums_over_outputs_and_averages_over_the_batch(kind, softplus):
    y_pred, y_true = batch(kind)
    loss = em.LearnedLoss("mul(add(y, 1), square(sub(f, y)))", kind, softplus=softplus)
    f, y = arguments(y_pred, y_true, kind)
    total = 0.0
    for row in range(len(f)):
        for output in range(f.shape[1]):
            value = (float(y[row, output]) + 1) * (float(f[row, output]) - float(y[row, output])) ** 2
            total += math.log1p(math.exp(value)) if softplus else value
    assert loss(y_pred, y_true).item() == pytest.approx(total / len(f), rel=1e-12)


def test_arguments_are_probabilities_and_one_hot_rows():
    y_pred, y_true = batch("multiclass")
    f, y = arguments(y_pred, y_true, "multiclass")
    torch.testing.assert_close(f, functional.softmax(y_pred, dim=1))
    assert (y.argmax(dim=1) == y_true).all()
    assert (y.sum(dim=1) == 1).all()
    y_pred, y_true = batch("binary")
    f, y = arguments(y_pred, y_true, "binary")
    torch.testing.assert_close(f, torch.sigmoid(y_pred))
    assert y is y_true or torch.equal(y, y_true)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "loss", [em.LearnedLoss("square(sub(f, y))"), em.NeuralLoss(), em.TaylorLoss(theta=[0.1] * 8)]
)
def test_predictions_in_half_precision_have_the_loss_of_the_same_numbers_in_float32(loss, dtype):
    y_pred = torch.tensor([[300.0], [-0.25]], dtype=dtype, requires_grad=True)
    y_true = torch.tensor([[0.0], [1.0]], dtype=dtype)
    value = loss(y_pred, y_true)
    assert value.dtype == torch.float32
    assert value.item() == loss(y_pred.float(), y_true.float()).item()
    value.backward()
    assert y_pred.grad.dtype == dtype


def test_class_indices_may_be_of_any_integer_type():
    loss = em.LearnedLoss("mul(y, sub(-1, log(f)))", "multiclass")
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    for dtype in (torch.int32, torch.uint8):
        assert loss(logits, classes.to(dtype)) == loss(logits, classes)


def test_softplus_makes_a_learned_loss_non_negative():
    y_pred, y_true = batch("regression", rows=50)
    plain, positive = (em.LearnedLoss("sub(f, y)", softplus=flag).elementwise(y_pred, y_true) for flag in (0, 1))
    assert (plain < 0).any()
    assert (positive >= 0).all()


def test_one_vector_of_predictions_is_a_batch_with_one_output():
    loss = em.LearnedLoss("square(sub(y, f))")
    f, y = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 2.0, 2.0])
    assert loss(f, y).item() == pytest.approx((1 + 0 + 9) / 3)
    assert loss(f[:, None], y[:, None]).item() == pytest.approx((1 + 0 + 9) / 3)


@pytest.mark.parametrize(
    ("kind", "pred", "true", "message"),
    [
        ("regression", torch.zeros(3, 1), torch.zeros(3), r"\(3, 1\) and \(3,\).*unsqueeze"),
        ("binary", torch.zeros(3), torch.zeros(4), "different shapes"),
        ("multiclass", torch.zeros(3, 2), torch.zeros(3), "integer class indices"),
        ("multiclass", torch.zeros(3), torch.zeros(3, dtype=torch.long), "logits"),
        ("multiclass", torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long), "class indices"),
    ],
)
def test_predictions_and_labels_that_do_not_fit_are_refused(kind, pred, true, message):
    with pytest.raises(ValueError, match=message):
        em.LearnedLoss("square(sub(y, f))", kind)(pred, true)


@pytest.mark.parametrize("make", [em.TaskLoss, em.NeuralLoss, em.TaylorLoss, lambda k: em.LearnedLoss("f", k)])
def test_unknown_kind_is_refused(make):
    with pytest.raises(ValueError, match=r"'regresion'.*regression, binary, multiclass"):
        make("regresion")


@pytest.mark.parametrize("phi", [[1.0], [1.0] * 4, [1.0, 1.0, float("nan")], [[1.0, 1.0, 1.0]], [1, 2, math.inf]])
def test_weights_of_the_wrong_number_or_not_finite_are_refused(phi):
    with pytest.raises(ValueError, match="has 3 edges"):
        em.LearnedLoss("square(sub(y, f))", phi=phi)


def test_weights_given_are_copied():
    phi = torch.ones(3)
    loss = em.LearnedLoss("square(sub(y, f))", phi=phi)
    with torch.no_grad():
        loss.phi += 1
    assert torch.equal(phi, torch.ones(3))


@ON_ALL_KINDS
def test_task_loss_equals_pytorchs_own(kind):
    y_pred, y_true = batch(kind)
    if kind == "regression":
        wanted = functional.mse_loss(y_pred, y_true) * y_pred.shape[1]  # Eq. 2 sums over outputs
        torch.testing.assert_close(
            em.TaskLoss(kind)(y_pred[:, :1], y_true[:, :1]), functional.mse_loss(y_pred[:, :1], y_true[:, :1])
        )
    elif kind == "binary":
        wanted = functional.binary_cross_entropy_with_logits(y_pred, y_true) * y_pred.shape[1]
    else:
        wanted = functional.cross_entropy(y_pred, y_true)
    torch.testing.assert_close(em.TaskLoss(kind)(y_pred, y_true), wanted)


@ON_ALL_KINDS
def test_elementwise_task_loss_is_the_one_of_a_batch(kind):
    y_pred, y_true = batch(kind)
    if kind == "binary":
        y_pred, y_true = y_pred[:, :1], y_true[:, :1]
    loss = em.TaskLoss(kind)
    elementwise = loss.elementwise(*arguments(y_pred, y_true, kind)).sum(dim=1).mean()
    torch.testing.assert_close(elementwise, loss(y_pred, y_true))


def test_cross_entropy_is_stable_for_saturated_logits():
    y_pred = torch.tensor([[300.0, -300.0]])
    assert em.TaskLoss("multiclass")(y_pred, torch.tensor([1])).item() == pytest.approx(600)
    assert em.TaskLoss("binary")(torch.tensor([[-300.0]]), torch.ones(1, 1)).item() == pytest.approx(300)


def test_ml3_has_the_papers_2650_weights_and_no_bias():
    loss = em.NeuralLoss()
    assert loss.size == 2650
    assert [tuple(w.shape) for w in loss.parameters()] == [(50, 2), (50, 50), (1, 50)]
    origin = torch.zeros(1, 1)
    assert loss(origin, origin).item() == pytest.approx(math.log(2))  # softplus(0): no bias moves it


def test_ml3_equals_a_network_of_layers():
    loss = em.NeuralLoss(seed=3).double()
    layers = torch.nn.Sequential(
        torch.nn.Linear(2, 50, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(50, 50, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(50, 1, bias=False),
        torch.nn.Softplus(),
    ).double()
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(loss.parameters()), layers.parameters()
    )
    y_pred, y_true = batch("regression")
    wanted = sum(layers(torch.stack((y_pred[:, i], y_true[:, i]), dim=1)).mean() for i in range(2))
    torch.testing.assert_close(loss(y_pred, y_true), wanted)


def test_ml3_starts_from_its_seed_alone():
    with global_generators_untouched():
        first = em.NeuralLoss(seed=5)
    torch.manual_seed(99)
    again, other = em.NeuralLoss(seed=5), em.NeuralLoss(seed=6)
    assert torch.equal(first.w2, again.w2)
    assert not torch.equal(first.w2, other.w2)
    bound = math.sqrt(6 / 100)  # Glorot
    assert first.w2.abs().max() <= bound
    assert first.w2.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


THETA = [0.3, -0.4, 0.7, -1.1, 0.9, 1.3, -0.6, 0.8]


def test_taylor_loss_equals_the_polynomial_written_by_powers():
    t = [torch.tensor(value, dtype=torch.float32).double().item() for value in THETA]
    y_pred, y_true = batch("regression")
    coefficients = {
        (1, 0): t[2],
        (2, 0): t[3] / 2,
        (3, 0): t[4] / 6,
        (1, 1): t[5],
        (2, 1): t[6] / 2,
        (1, 2): t[7] / 2,
    }
    f, y = y_pred - t[1], y_true - t[0]
    wanted = -sum(c * f**i * y**j for (i, j), c in coefficients.items())
    loss = em.TaylorLoss(theta=THETA)
    torch.testing.assert_close(loss.elementwise(y_pred, y_true), wanted, rtol=1e-6, atol=1e-6)
    formula = callable_formula(loss.sympy())
    np.testing.assert_allclose(formula(y_pred.numpy(), y_true.numpy()), wanted, rtol=1e-6, atol=1e-6)


def test_every_taylor_parameter_changes_the_gradient_that_a_network_sees():
    y_pred, y_true = batch("regression")

    def slope(theta):
        leaf = y_pred.clone().requires_grad_()
        return torch.autograd.grad(em.TaylorLoss(theta=theta)(leaf, y_true), [leaf])[0]

    for index in range(8):
        moved = [value + (0.1 if i == index else 0.0) for i, value in enumerate(THETA)]
        assert (slope(moved) - slope(THETA)).abs().max() > 1e-3, f"theta_{index} has no effect on training"


@pytest.mark.parametrize("roles", ["correct", "swapped"])
def test_a_taylor_loss_equals_its_tree(roles):
    y_pred, y_true = batch("regression")
    loss = em.TaylorLoss(theta=THETA, roles=roles, reduction="none").double()
    values, slopes = [], []
    for form in (loss, loss.tree()):
        leaf = y_pred.double().requires_grad_()
        values.append(form(leaf, y_true.double()))
        slopes.append(torch.autograd.grad(values[-1].sum(), leaf)[0])
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("theta", [[0.0] * 7, [0.0] * 7 + [math.nan], [[0.0] * 8]])
def test_taylor_loss_needs_eight_finite_parameters(theta):
    with pytest.raises(ValueError, match="8 finite parameters"):
        em.TaylorLoss(theta=theta)


def test_initial_weights_are_normal_around_one_with_standard_deviation_a_thousandth():
    trees_ = [random_expression(random.Random(seed), "tpami23", (3, 4)) for seed in range(800)]
    phi = torch.cat([initial_phi(tree, seed) for seed, tree in enumerate(trees_)]) - 1
    assert len(phi) > 5000
    assert abs(phi.mean().item()) < 5e-5
    assert phi.std().item() == pytest.approx(1e-3, rel=0.05)
    assert (phi.abs() < 1e-3).float().mean().item() == pytest.approx(0.683, abs=0.03)


@given(trees(), SEEDS)
def test_initial_weights_depend_on_seed_and_expression_alone(tree, seed):
    with global_generators_untouched():
        first = initial_phi(tree, seed)
        initial_phi(Expression.parse("add(f, y)"), seed)
    assert torch.equal(first, initial_phi(tree, seed))
    if tree.edges:
        assert not torch.equal(first, initial_phi(tree, seed + 1))


@pytest.mark.parametrize("function_set", sorted(FUNCTION_SETS))
def test_closure_over_thousands_of_random_trees(function_set):
    """Values and gradients are finite for f and y in [−10, 10] and trees of the initial heights.

    A product or square doubles the degree, so a repaired tree of height 5 reaches at most 10³², which
    float32 holds; beyond that a candidate's divergence is handled by the search, see test_search.
    """
    special = [0.0, 1e-30, 1e-7, 1.0, -1.0, 10.0, -10.0]
    grid = torch.cartesian_prod(torch.tensor(special), torch.tensor(special))
    rng = torch.Generator().manual_seed(0)
    points = torch.cat((grid, 20 * torch.rand(15, 2, generator=rng) - 10))
    y = points[:, 1:]
    for seed in range(1000):
        tree_rng = random.Random(seed)
        tree = repair(tree_rng, random_expression(tree_rng, function_set, (2, 4)), function_set)
        loss = em.LearnedLoss(tree, phi=initial_phi(tree, seed))
        f = points[:, :1].clone().requires_grad_()
        values = loss.elementwise(f, y)
        slopes = torch.autograd.grad(values.mean(), (f, loss.phi), materialize_grads=True)
        finite = torch.cat([part.detach().flatten() for part in (values, *slopes)])
        assert torch.isfinite(finite).all(), f"{tree} left the finite numbers"


@given(st.sampled_from(["regression", "binary"]), SEEDS)
def test_python_floats_and_tensors_of_weights_mean_the_same(kind, seed):
    tree = Expression.parse("div(sub(f, y), log(add(f, 1)))")
    phi = weights_for(tree, seed)
    y_pred, y_true = batch(kind, seed=seed)
    a, b = (em.LearnedLoss(tree, kind, phi=given_phi)(y_pred, y_true) for given_phi in (phi, phi.tolist()))
    assert torch.equal(a, b)
