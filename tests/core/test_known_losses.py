"""Each known loss against its textbook formula, written in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import evomal_core as em
from evomal_core.kinds import Kind
from evomal_core.known import KNOWN, known_losses, read, write

Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]
RARE = 0.1  # the share of class 1 in the binary task


def _gce(q: float) -> Formula:
    return lambda p, hot: ((1 - (p * hot).sum(1) ** q) / q)[:, None]


def _focal(gamma: float) -> Formula:
    return lambda p, hot: (-((1 - (p * hot).sum(1)) ** gamma) * np.log((p * hot).sum(1)))[:, None]


def _label_smoothing(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    return -(0.9 * hot + 0.1 / p.shape[1]) * np.log(p)


def _symmetric(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    log_label = np.where(hot == 1, 0.0, -4.0)
    return -0.1 * hot * np.log(p) - p * log_label


def _taylor(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    miss = 1 - (p * hot).sum(1)
    return (miss + miss**2 / 2)[:, None]


def _weighted(formula: Formula) -> Formula:
    """Each row times rows / (2 · rows of its class)."""
    return lambda p, hot: formula(p, hot) * (hot / (2 * np.array([1 - RARE, RARE]))).sum(1, keepdims=True)


def _logit_adjusted(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """Cross-entropy of the softmax of logits + ln priors, less the constant ln prior of a true class."""
    priors = np.array([1 - RARE, RARE])
    adjusted = p * priors / (p * priors).sum(1, keepdims=True)
    return -hot * (np.log(adjusted) - np.log(priors)) - hot * np.log(priors[0])


def _log_cosh_of_logit(p: np.ndarray, hot: np.ndarray) -> np.ndarray:
    return np.log(np.cosh(np.log(p[:, 1:] / p[:, :1]) - (2 * hot[:, 1:] - 1)))


# Of probabilities (rows, classes) and one-hot labels, summed over the columns.
CLASSIFICATION: dict[str, Formula] = {
    "cross-entropy": lambda p, hot: -hot * np.log(p),
    "Brier": lambda p, hot: (p - hot) ** 2,
    "absolute error": lambda p, hot: abs(p - hot),
    "GCE 0.25": _gce(0.25),
    "GCE 0.5": _gce(0.5),
    "GCE 0.75": _gce(0.75),
    "focal 1": _focal(1),
    "focal 2": _focal(2),
    "Taylor cross-entropy 2": _taylor,
    "label smoothing": _label_smoothing,
    "symmetric cross-entropy": _symmetric,
    "Brier + absolute error": lambda p, hot: (p - hot) ** 2 + abs(p - hot),
    "log-cosh of the logit": _log_cosh_of_logit,
    "balanced cross-entropy": _weighted(lambda p, hot: -hot * np.log(p)),
    "balanced Brier": _weighted(lambda p, hot: (p - hot)[:, 1:] ** 2),
    "balanced absolute error": _weighted(lambda p, hot: abs(p - hot)[:, 1:]),
    "balanced focal 2": _weighted(_focal(2)),
    "logit-adjusted cross-entropy": _logit_adjusted,
}
ONE_COLUMN = ("Brier", "absolute error")
"""A binary task has one output, so losses that sum over two equal columns have half their value."""
REGRESSION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squared error": lambda r: r**2,
    "absolute error": abs,
    "log-cosh": lambda r: np.log(np.cosh(r)),
    "r tanh r": lambda r: r * np.tanh(r),
    "Huber": lambda r: np.where(abs(r) < 1, r**2 / 2, abs(r) - 0.5),
    "Huber 0.2": lambda r: np.where(abs(r) < 0.2, r**2 / 2, 0.2 * (abs(r) - 0.1)),
    "pseudo-Huber": lambda r: np.sqrt(1 + r**2) - 1,
    "Cauchy": lambda r: np.log(1 + r**2),
    "Cauchy 0.2": lambda r: np.log(1 + (r / 0.2) ** 2),
    "Geman–McClure": lambda r: r**2 / (1 + r**2),
    "Welsch-like": lambda r: np.tanh(r**2),
    "truncated squared error": lambda r: np.minimum(1, r**2),
    "truncated absolute error": lambda r: np.minimum(1, abs(r)),
    "square root of the error": lambda r: np.sqrt(abs(r)),
    **{
        f"quantile {q}": lambda r, q=q: np.where(r > 0, q * r, (q - 1) * r)  # type: ignore[misc]
        for q in (0.1, 0.25, 0.75, 0.9)
    },
}


def _task(kind: Kind) -> em.Task:
    rng = np.random.default_rng(0)
    y = np.arange(100) % 5 if kind == "multiclass" else np.arange(100) % 10 == 0
    return em.Task.from_arrays(rng.normal(size=(100, 2)), y.astype(int), kind, split=(1, 0, 0))


@pytest.mark.parametrize("name", REGRESSION)
def test_a_known_loss_of_a_regression_is_its_formula(name: str) -> None:
    y, f = torch.linspace(-3, 3, 41).double(), torch.linspace(2, -2.2, 41).double()
    loss = known_losses("regression")[name].double()
    np.testing.assert_allclose(
        loss.elementwise(f, y).detach().numpy(), REGRESSION[name]((y - f).numpy()), rtol=1e-3, atol=5e-4
    )


@pytest.mark.parametrize("name", [row.name for row in KNOWN["multiclass"]])
def test_a_known_loss_of_several_classes_is_its_formula(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(30, 5, generator=rng, dtype=torch.float64), dim=1)
    hot = torch.eye(5).double()[torch.arange(30) % 5]
    found = known_losses("multiclass", _task("multiclass"))[name].double().elementwise(p, hot).sum(dim=1)
    np.testing.assert_allclose(
        found.detach().numpy(), CLASSIFICATION[name](p.numpy(), hot.numpy()).sum(axis=1), rtol=1e-4
    )


@pytest.mark.parametrize("name", [row.name for row in KNOWN["binary"]])
def test_a_known_loss_of_two_classes_is_its_formula(name: str) -> None:
    f = torch.linspace(0.02, 0.98, 30).double().unsqueeze(1)
    y = (torch.arange(30) % 3 == 0).double().unsqueeze(1)
    loss = known_losses("binary", _task("binary"))[name].double()
    p, hot = (np.concatenate((1 - column, column), axis=1) for column in (f.numpy(), y.numpy()))
    wanted = CLASSIFICATION[name](p, hot).sum(axis=1) / (2 if name in ONE_COLUMN else 1)
    np.testing.assert_allclose(loss.elementwise(f, y).detach().numpy()[:, 0], wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", KNOWN)
def test_known_losses_differ_in_their_expressions(kind: Kind) -> None:
    losses = known_losses(kind, _task(kind) if kind != "regression" else None)
    assert list(losses) == [row.name for row in KNOWN[kind]]
    assert len({loss.expression for loss in losses.values()}) == len(losses)
    assert all(loss.expression.is_loss for loss in losses.values())


def test_losses_that_weight_classes_need_a_task() -> None:
    assert {*known_losses("binary", _task("binary"))} - {*known_losses("binary")} == {
        "balanced cross-entropy",
        "balanced Brier",
        "balanced absolute error",
        "balanced focal 2",
        "logit-adjusted cross-entropy",
    }


@pytest.mark.parametrize("kind", KNOWN)
def test_the_small_function_set_has_those_without_min_max_sign_and_tanh(kind: Kind) -> None:
    names = {name for loss in known_losses(kind, None, "gecco23").values() for name in loss.expression.nodes}
    assert not names & {"min", "max", "sign", "tanh"}
    with pytest.raises(ValueError, match="unknown function set 'gecco'"):
        known_losses(kind, None, "gecco")


@pytest.mark.parametrize("kind", KNOWN)
def test_a_loss_with_its_weights_is_read_as_it_was_written(kind: Kind) -> None:
    rng = torch.Generator().manual_seed(0)
    for loss in known_losses(kind).values():
        for phi in (loss.phi, torch.randn(loss.size, generator=rng) * 1e-6, torch.randn(loss.size, generator=rng)):
            wanted = em.LearnedLoss(loss.expression, kind, phi=phi)
            found = read(write(wanted), kind)
            assert found.expression == wanted.expression
            assert torch.equal(found.phi, wanted.phi)
