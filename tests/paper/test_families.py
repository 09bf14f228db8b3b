"""Known losses get their names, whatever their unit and offset; the papers' examples are what was found."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import evomal_core as em
from evomal_core.losses import Loss, TaskLoss
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_paper.analysis import families
from evomal_paper.analysis.curves import effective_loss, value_and_slope
from evomal_paper.analysis.examples import EXAMPLES

CLASSES = 10


class PlainLoss(Loss):
    """A loss of one output that is a function of PyTorch, without weights."""

    def __init__(self, function, kind):
        super().__init__(kind)
        self.elementwise = function


def cross_entropy(f, y):
    return -y * torch.log(f)


def binary_cross_entropy(f, y):
    return -y * torch.log(f) - (1 - y) * torch.log(1 - f)


def focal(gamma):
    return lambda f, y: -y * (1 - f) ** gamma * torch.log(f)


def binary_focal(f, y):
    right = torch.where(y == 1, f, 1 - f)
    return -((1 - right) ** 2) * torch.log(right)


def smoothed(share, classes):
    return lambda f, y: cross_entropy(f, y * (1 - share) + share / classes)


def huber(delta):
    return lambda f, y: functional.huber_loss(f, y, reduction="none", delta=delta)


CLASSIFICATION = {
    "cross-entropy": (cross_entropy, "multiclass", "cross-entropy-like"),
    "one-against-all": (binary_cross_entropy, "multiclass", "cross-entropy-like"),
    "binary cross-entropy": (binary_cross_entropy, "binary", "cross-entropy-like"),
    "focal": (focal(2), "multiclass", "focal-like"),
    "weak focal": (focal(0.5), "multiclass", "focal-like"),
    "strong focal": (focal(5), "multiclass", "focal-like"),
    "binary focal": (binary_focal, "binary", "focal-like"),
    "Brier": (lambda f, y: (f - y) ** 2, "multiclass", "focal-like"),
    "label smoothing": (smoothed(0.1, CLASSES), "multiclass", "label-smoothing-like"),
    "binary smoothing": (
        lambda f, y: binary_cross_entropy(f, 0.9 * y + 0.05),
        "binary",
        "label-smoothing-like",
    ),
    "absolute": (lambda f, y: abs(f - y), "multiclass", "other"),
    "negated cross-entropy": (lambda f, y: -cross_entropy(f, y), "multiclass", "degenerate"),
    "no negatives": (cross_entropy, "binary", "degenerate"),
    "constant": (lambda f, y: 0 * f + y, "multiclass", "degenerate"),
    "not finite": (lambda f, y: torch.log(f - 0.5), "multiclass", "degenerate"),
}
REGRESSION = {
    "squared": (lambda f, y: (f - y) ** 2, "squared-error-like"),
    "offset of the label": (lambda f, y: (f - y) ** 2 + torch.exp(y), "squared-error-like"),
    "shrunk target": (lambda f, y: (f - 0.8 * y) ** 2, "squared-error-like"),
    "weighted": (lambda f, y: (y * (f - y)) ** 2, "label-weighted squared error"),
    "absolute": (lambda f, y: abs(f - y), "absolute-like"),
    "Huber": (huber(1.0), "robust"),
    "wide Huber": (huber(2.0), "robust"),
    "Cauchy": (lambda f, y: torch.log1p((f - y) ** 2), "robust"),
    "Geman–McClure": (lambda f, y: (f - y) ** 2 / (1 + (f - y) ** 2), "robust"),
    "square root": (lambda f, y: torch.sqrt(abs(f - y) + 1e-7), "robust"),
    "log cosh": (lambda f, y: torch.log(torch.cosh(f - y)), "robust"),
    "pinball": (lambda f, y: torch.maximum(0.7 * (y - f), 0.3 * (f - y)), "asymmetric"),
    "linex": (lambda f, y: torch.exp(f - y) - (f - y), "asymmetric"),
    "quartic": (lambda f, y: (f - y) ** 4, "other"),
    "negated": (lambda f, y: -((f - y) ** 2), "degenerate"),
    "monotone": (lambda f, y: y - f, "degenerate"),
    "label ignored": (lambda f, y: f**2, "degenerate"),
    "prediction ignored": (lambda f, y: y**2, "degenerate"),
}
SCALES = st.floats(0.01, 100)
OFFSETS = st.floats(-100, 100)


def changed(function, scale, offset):
    return lambda f, y: scale * function(f, y) + offset


@pytest.mark.parametrize("name", CLASSIFICATION)
@settings(max_examples=20)
@given(SCALES, OFFSETS)
def test_classification_losses_get_their_names_in_any_unit(name, scale, offset):
    function, kind, family = CLASSIFICATION[name]
    assert families.describe(PlainLoss(changed(function, scale, offset), kind), CLASSES).family == family


@pytest.mark.parametrize("name", REGRESSION)
@settings(max_examples=20)
@given(SCALES, OFFSETS)
def test_regression_losses_get_their_names_in_any_unit(name, scale, offset):
    function, family = REGRESSION[name]
    assert families.describe(PlainLoss(changed(function, scale, offset), "regression")).family == family


def test_every_name_is_listed_and_found():
    found = {
        "classification": {family for *_, family in CLASSIFICATION.values()},
        "regression": {family for _, family in REGRESSION.values()},
    }
    assert {group: set(names) for group, names in families.FAMILIES.items()} == found


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_the_baselines_are_what_they_are_called_after(kind):
    expected = "squared-error-like" if kind == "regression" else "cross-entropy-like"
    assert families.describe(TaskLoss(kind)).family == expected


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_losses_without_a_formula_have_a_family_too(kind):
    for loss in (NeuralLoss(kind, seed=1), TaylorLoss(kind, theta=[0.5, 0.1, -1, 0.3, 0, 0.7, 0, 0])):
        group = "regression" if kind == "regression" else "classification"
        assert families.describe(loss).family in families.FAMILIES[group]


@pytest.mark.parametrize(
    ("function", "kind", "asymmetric"),
    [
        (lambda f, y: abs(f - y), "multiclass", False),
        (binary_cross_entropy, "binary", False),
        (cross_entropy, "multiclass", True),
        (lambda f, y: binary_cross_entropy(f, y) * (1 + y), "binary", True),
        (lambda f, y: (f - y) ** 2, "regression", False),
        (REGRESSION["pinball"][0], "regression", True),
    ],
)
def test_asymmetry(function, kind, asymmetric):
    assert families.describe(PlainLoss(function, kind)).asymmetric is asymmetric


@pytest.mark.parametrize("classes", [2, 10])
def test_the_effective_loss_is_that_of_logits_with_equal_rests(classes):
    loss = EXAMPLES["d"].loss(weighted=True).double()
    p = np.array([0.05, 0.3, 0.9])
    logits = torch.full((len(p), classes), 0.0, dtype=torch.double)
    logits[:, 0] = torch.tensor(np.log(p * (classes - 1) / (1 - p)))
    expected = [float(loss(row[None], torch.tensor([0]))) for row in logits]
    value, slope = effective_loss(loss, p, classes)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    step = 1e-6
    ahead, behind = (effective_loss(loss, p + side * step, classes)[0] for side in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


def test_slopes_are_derivatives_and_the_loss_is_left_alone():
    loss = em.LearnedLoss("mul(tanh(f), sub(y, f))", phi=[0.5, 2.0, 1.0, 1.0, -1.0])
    f, y = np.linspace(-2, 2, 7), 0.3
    value, slope = value_and_slope(loss, f[:, None], np.array([y, -y]))
    assert value.shape == slope.shape == (7, 2)
    t = np.tanh(2 * f)
    np.testing.assert_allclose(value[:, 0], 0.5 * t * (y + f), rtol=1e-12)
    np.testing.assert_allclose(slope[:, 0], 0.5 * (2 * (1 - t**2) * (y + f) + t), rtol=1e-12)
    assert loss.phi.dtype == torch.float32
    assert loss.phi.grad is None


PRINTED = {
    "a": lambda f, y: abs(np.log(np.sqrt(y * f) + 1e-7)),
    "b": lambda f, y: np.log(y * f + 1e-7) + np.sqrt(abs(np.log(y * f + 1e-7))) ** 2,
    "c": lambda f, y: ((y - f) / np.sqrt(1 + f**2)) ** 4,
    "d": lambda f, y: y**3 + f**3 + f * y**2 + f**2 * y,
    "e": lambda f, y: abs(np.log((y * f) ** 2 + 1e-7)),
    "f": lambda f, y: (f - np.minimum(np.maximum(y, -1), 1)) ** 2,
    "g": lambda f, y: abs(y * np.sqrt(abs(y / np.sqrt(1 + f**2)))),
    "h": lambda f, y: abs(y / (1 + np.log(abs(y - 1)) ** 2) - f),
    "i": lambda f, y: np.sqrt(abs(y * (y - f))),
    "j": lambda f, y: np.sqrt(abs(y - f)),
}


@pytest.mark.parametrize("name", PRINTED)
def test_examples_compute_the_printed_formulas(name):
    example = EXAMPLES[name]
    if example.kind == "multiclass":
        f, y = np.meshgrid(np.linspace(0.05, 0.95, 19), [0.0, 1.0])
    else:
        f, y = np.meshgrid(np.linspace(-2.95, 2.95, 30), [-1.7, -0.4, 0.6, 1.8])
    value, _ = value_and_slope(example.loss(), f, y)
    kept = (y > 0) | (name != "a")  # at y = 0 the root under a's logarithm is √ε, not 0
    np.testing.assert_allclose(value[kept], PRINTED[name](f, y)[kept], rtol=1e-5, atol=1e-6)


def test_the_plain_quotient_of_c_has_the_same_family():
    plain = PlainLoss(lambda f, y: ((y - f) / f) ** 4, "multiclass")  # as printed, with a pole at f = 0
    assert families.describe(plain).family == families.describe(EXAMPLES["c"].loss()).family == "focal-like"


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_what_the_examples_are(classes):
    unit = {name: families.describe(example.loss(), classes).family for name, example in EXAMPLES.items()}
    weighted = {
        name: families.describe(example.loss(weighted=True), classes).family for name, example in EXAMPLES.items()
    }
    agreeing = [name for name, example in EXAMPLES.items() if unit[name] in example.said]
    assert "".join(agreeing) == "acfhij"
    assert {unit["b"], unit["d"], unit["g"]} == {"degenerate"}
    assert unit["e"] == "cross-entropy-like"
    assert [name for name, example in EXAMPLES.items() if weighted[name] not in example.said] == ["g"]


def test_without_the_outer_bars_no_minimum_is_left():
    for name in ("a", "e", "g", "h"):
        assert families.describe(EXAMPLES[name].bare()).family == "degenerate"
    assert EXAMPLES["c"].bare().expression == EXAMPLES["c"].loss().expression


def minimal_at_the_label(loss):
    """Whether the loss falls with f for y = 1, and rises for y = 0."""
    f = np.linspace(0.01, 0.99, 50)
    return (value_and_slope(loss, f, 1.0)[1] <= 0).all() and (value_and_slope(loss, f, 0.0)[1] >= 0).all()


def test_no_single_sign_puts_the_minimum_of_d_at_the_label():
    example = EXAMPLES["d"]
    for edge in range(example.loss().size):
        loss = example.loss()
        loss.phi[edge] = -1
        assert not minimal_at_the_label(loss)
    assert len(example.weights) == 2
    weighted = example.loss(weighted=True)
    assert minimal_at_the_label(weighted)
    f, y = np.meshgrid(np.linspace(0, 1, 11), [0.0, 1.0])
    np.testing.assert_allclose(value_and_slope(weighted, f, y)[0], (y - f) ** 2 * (y + f), atol=1e-12)


def test_no_signs_give_g_a_minimum_at_the_label():
    example = EXAMPLES["g"]
    for signs in itertools.product((-1.0, 1.0), repeat=example.loss().size):
        assert families.describe(em.LearnedLoss(example.expression, phi=list(signs))).family == "degenerate"
        bare = em.LearnedLoss(example.bare().expression, phi=list(signs[1:]))
        assert families.describe(bare).family == "degenerate"
