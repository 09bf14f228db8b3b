"""Metrics against scikit-learn's and NumPy's, for one network and for whole populations."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from evomal_core.kinds import Kind
from evomal_core.labels import read_pair
from evomal_core.metrics import Metric, make_metric, metric_names

ROWS, CLASSES = 60, 4


def _problem(kind: Kind, seed: int = 0, networks: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor]:
    """Predictions (2, 3, rows, outputs) with ties, and labels (2, 1, rows, …), as of a population."""
    rng = torch.Generator().manual_seed(seed)
    outputs = {"regression": 2, "binary": 1, "multiclass": CLASSES}[kind]
    y_pred = torch.round(2 * torch.randn(*networks, ROWS, outputs, generator=rng), decimals=1) + 0.01
    if kind == "multiclass":
        return y_pred, torch.randint(CLASSES, (networks[0], 1, ROWS), generator=rng)
    y_true = torch.randn(networks[0], 1, ROWS, outputs, generator=rng)
    return y_pred, (y_true > 0).float() if kind == "binary" else y_true


def _one_by_one(
    metric: Metric, y_pred: Tensor, y_true: Tensor
) -> list[list[tuple[float, np.ndarray, np.ndarray]]]:
    """The value of each network, with what scikit-learn takes: predictions or probabilities, and labels."""
    values = metric(y_pred, y_true)
    found = []
    for t in range(len(y_pred)):
        for p in range(y_pred.shape[1]):
            seen = y_pred[t, p].double()
            if metric.kind == "multiclass":
                seen = seen.softmax(dim=1)
            elif metric.kind == "binary":
                seen = seen.sigmoid()[:, 0]
            labels = y_true[t, 0] if metric.kind != "binary" else y_true[t, 0, :, 0]
            found.append((float(values[t, p]), seen.numpy(), labels.double().numpy()))
    return found


CLASSIFIERS = {
    "error rate": lambda y, c, p, classes: 1 - sk.accuracy_score(y, c),
    "balanced error": lambda y, c, p, classes: 1 - sk.balanced_accuracy_score(y, c),
    "1 - macro F1": lambda y, c, p, classes: 1 - sk.f1_score(y, c, average="macro"),
    "log loss": lambda y, c, p, classes: sk.log_loss(y, p, labels=classes),
    "Brier": lambda y, c, p, classes: np.mean(
        np.square(p - y) if p.ndim == 1 else np.square(p - np.eye(len(classes))[y.astype(int)]).sum(axis=1)
    ),
    "1 - AUC": lambda y, c, p, classes: 1 - sk.roc_auc_score(y, p, multi_class="ovr"),
}


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_metric_of_classes_is_scikit_learns(name: str, kind: Kind) -> None:
    for value, seen, labels in _one_by_one(make_metric(name, kind), *_problem(kind)):
        chosen = seen.argmax(axis=1) if kind == "multiclass" else seen > 0.5
        classes = np.arange(CLASSES if kind == "multiclass" else 2)
        assert value == pytest.approx(CLASSIFIERS[name](labels, chosen, seen, classes), abs=2e-6)


REGRESSORS = {
    "MSE": sk.mean_squared_error,
    "MAE": sk.mean_absolute_error,
    "median absolute error": lambda y, f: np.median(np.abs(y - f)),
    "pinball(0.9)": lambda y, f: sk.mean_pinball_loss(y, f, alpha=0.9),
    "1 - R2": lambda y, f: 1 - sk.r2_score(y, f),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_metric_of_numbers_is_scikit_learns(name: str) -> None:
    for value, seen, labels in _one_by_one(make_metric(name, "regression"), *_problem("regression")):
        assert value == pytest.approx(REGRESSORS[name](labels, seen), rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_the_calibration_error_is_the_sum_over_bins(kind: Kind) -> None:
    for value, seen, labels in _one_by_one(make_metric("ECE", kind), *_problem(kind)):
        p = seen if seen.ndim == 2 else np.stack((1 - seen, seen), axis=1)
        confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
        edges = np.linspace(0, 1, 16)
        bins = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
        wanted = sum(
            inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            for inside in bins
            if inside.any()
        )
        assert value == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize(
    ("name", "kind", "same"),
    [
        ("accuracy", "binary", "error rate"),
        ("balanced_accuracy", "multiclass", "balanced error"),
        ("roc_auc", "binary", "1 - AUC"),
        ("roc_auc_ovr", "multiclass", "1 - AUC"),
        ("neg_log_loss", "multiclass", "log loss"),
        ("neg_mean_absolute_error", "regression", "MAE"),
        ("r2", "regression", "1 - R2"),
    ],
)
def test_a_scorer_measures_the_same_as_the_metric_of_its_name(name: str, kind: Kind, same: str) -> None:
    y_pred, y_true = _problem(kind)
    torch.testing.assert_close(
        make_metric(name, kind)(y_pred, y_true).double(),
        make_metric(same, kind)(y_pred, y_true).double(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_scorer_and_a_function_of_ones_own() -> None:
    y_pred, y_true = _problem("binary")
    scorer = sk.make_scorer(sk.fbeta_score, beta=2)
    found = make_metric(scorer, "binary")
    assert found.name == "1 - fbeta_score"
    wanted = 1 - sk.fbeta_score(y_true[1, 0, :, 0].numpy(), y_pred[1, 2, :, 0].numpy() > 0, beta=2)
    assert float(found(y_pred, y_true)[1, 2]) == pytest.approx(wanted)

    def cost(y_pred: np.ndarray, y_true: np.ndarray) -> float:
        assert y_pred.shape == y_true.shape == (ROWS,)
        return float(np.mean(np.where(y_true > 0, 5 * (y_pred < 0.5), y_pred > 0.5)))

    mine = make_metric(cost, "binary")
    hard = y_pred[..., 0] > 0
    wanted_cost = torch.where(y_true[..., 0] > 0, 5.0 * ~hard, 1.0 * hard).double().mean(dim=-1)
    torch.testing.assert_close(mine(y_pred, y_true), wanted_cost)
    assert mine.name == "cost"


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["regression", "binary", "multiclass"]), st.integers(0, 10**6))
def test_a_population_has_the_values_of_its_networks(kind: Kind, seed: int) -> None:
    y_pred, y_true = _problem(kind, seed)
    for name in metric_names(kind):
        metric = make_metric(name, kind)
        values = metric(y_pred, y_true)
        alone = metric(*read_pair(y_pred[1, 2], y_true[1, 0], kind))
        assert float(values[1, 2]) == pytest.approx(
            float(alone), rel=1e-6
        )  # vectors round otherwise than their ends
        assert values.shape == (2, 3)


def test_a_network_with_a_prediction_that_is_not_finite_has_an_infinite_error_and_disturbs_no_other() -> None:
    for kind in ("regression", "binary", "multiclass"):
        y_pred, y_true = _problem(kind)
        broken = y_pred.clone()
        broken[0, 1, 3, 0] = torch.nan
        for name in metric_names(kind):
            metric = make_metric(name, kind)
            values, wanted = metric(broken, y_true), metric(y_pred, y_true)
            assert values[0, 1] == torch.inf
            wanted[0, 1] = torch.inf
            assert torch.equal(values, wanted)


def test_a_class_without_rows_makes_no_nan() -> None:
    y_pred, y_true = _problem("multiclass")
    for name in metric_names("multiclass"):
        assert not torch.isnan(make_metric(name, "multiclass")(y_pred, y_true.clamp(max=1))).any()
    y_pred, y_true = _problem("binary")
    assert (make_metric("1 - AUC", "binary")(y_pred, torch.ones_like(y_true)) == torch.inf).all()


@pytest.mark.parametrize(
    ("metric", "kind", "said"),
    [
        ("eror rate", "binary", "unknown metric 'eror rate'; did you mean 'error rate'? known are error rate"),
        ("MSE", "binary", "none of binary tasks"),
        ("ECE", "regression", "none of regression tasks"),
        ("pinball(2)", "regression", "no quantile between 0 and 1; write pinball(0.9)"),
        ("pinball(0.9)", "binary", "none of binary tasks"),
        (3, "regression", "a name, a scikit-learn scorer or a function, got 3"),
        (make_metric("MSE", "regression"), "binary", "made for regression tasks"),
    ],
)
def test_a_wrong_metric_is_refused(metric: object, kind: Kind, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make_metric(metric, kind)  # type: ignore[arg-type]


def test_a_function_that_returns_no_number_is_refused() -> None:
    metric = make_metric(lambda y_pred, y_true: "good", "regression")
    with pytest.raises(ValueError, match="must return one number, got 'good'"):
        metric(*_problem("regression"))


SCIKIT_LEARNS = {
    ("error rate", "binary"): lambda y, p, w: 1 - sk.accuracy_score(y, p > 0.5, sample_weight=w),
    ("balanced error", "binary"): lambda y, p, w: 1 - sk.balanced_accuracy_score(y, p > 0.5, sample_weight=w),
    ("1 - macro F1", "multiclass"): lambda y, p, w: (
        1 - sk.f1_score(y, p.argmax(1), average="macro", sample_weight=w)
    ),
    ("balanced error", "multiclass"): lambda y, p, w: (
        1 - sk.balanced_accuracy_score(y, p.argmax(1), sample_weight=w)
    ),
    ("1 - AUC", "binary"): lambda y, p, w: 1 - sk.roc_auc_score(y, p, sample_weight=w),
    ("log loss", "multiclass"): lambda y, p, w: sk.log_loss(y, p, sample_weight=w),
    ("f1", "binary"): lambda y, p, w: 1 - sk.f1_score(y, p > 0.5, sample_weight=w),
    ("1 - R2", "regression"): lambda y, p, w: 1 - sk.r2_score(y, p, sample_weight=w),
    ("neg_mean_absolute_error", "regression"): lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
    ("pinball(0.9)", "regression"): lambda y, p, w: sk.mean_pinball_loss(y, p, alpha=0.9, sample_weight=w),
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), SCIKIT_LEARNS)
def test_weights_of_rows_are_scikit_learns(name: str, kind: Kind) -> None:
    y_pred, y_true = _problem(kind)
    metric, weight = make_metric(name, kind), torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) + 0.1
    found = metric(y_pred, y_true, weight.unsqueeze(1))
    cases = _one_by_one(metric, y_pred, y_true)
    wanted = [SCIKIT_LEARNS[name, kind](labels, seen, weight.numpy()) for _, seen, labels in cases]
    np.testing.assert_allclose(found.flatten(), wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_whole_weight_counts_a_row_so_many_times(kind: Kind) -> None:
    y_pred, y_true = _problem(kind)
    times = torch.randint(0, 3, (ROWS,), generator=torch.Generator().manual_seed(2))
    often = torch.arange(ROWS).repeat_interleave(times)
    repeated = y_true[..., often] if kind == "multiclass" else y_true[..., often, :]
    for name in metric_names(kind):
        if name != "median absolute error":
            metric = make_metric(name, kind)
            found = metric(y_pred, y_true, times.float().unsqueeze(1))
            torch.testing.assert_close(found, metric(y_pred[..., often, :], repeated), rtol=1e-5, atol=1e-6)


def test_a_function_of_ones_own_gets_weights_if_it_names_them() -> None:
    def cost(y_pred: np.ndarray, y_true: np.ndarray, weight: np.ndarray | None = None) -> float:
        return float(np.average(abs(y_pred - y_true).mean(axis=1), weights=weight))

    def other(y_pred: np.ndarray, y_true: np.ndarray, threshold: float = 0.5) -> float:
        return float((abs(y_pred - y_true) > threshold).mean())

    y_pred, y_true = _problem("regression")
    weight = torch.arange(1.0, ROWS + 1).unsqueeze(1)
    found = make_metric(cost, "regression")(y_pred, y_true, weight)
    torch.testing.assert_close(found, make_metric("MAE", "regression")(y_pred, y_true, weight).double())
    with pytest.raises(ValueError, match="'other' takes no weights of rows; let it have a third argument weight"):
        make_metric(other, "regression")(y_pred, y_true, weight)


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (sk.r2_score, "the scorer's name, metric='r2'"),
        (sk.mean_absolute_percentage_error, "the scorer's name, metric='neg_mean_absolute_percentage_error'"),
        (partial(sk.fbeta_score, beta=2), "a scorer's name, such as metric='r2'"),
        (partial(partial(sk.f1_score), average="macro"), "a scorer's name, such as metric='r2'"),
    ],
)
def test_a_function_of_scikit_learn_is_refused_as_it_takes_labels_first(function, remedy):
    for kind in ("regression", "binary"):
        with pytest.raises(ValueError, match=rf"takes labels first.*give {remedy}, or make_scorer\("):
            make_metric(function, kind)
