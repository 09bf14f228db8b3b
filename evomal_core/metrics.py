"""Performance metrics: named ones for whole populations, scikit-learn's scorers, and user-defined functions.

A metric measures what a trained network predicts; lower is better, and it need not be differentiable. It takes
the predictions of any number of networks at once, (*, rows, outputs): numbers for a regression, logits for a
classification, and labels that broadcast against them: (*, rows, outputs), or class indices (*, rows) for several
classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal_core.checks import takes_weight
from evomal_core.kinds import Kind, check_kind, link
from evomal_core.lazy import LazyModule

if TYPE_CHECKING:
    from sklearn import metrics as sklearn_metrics
    from sklearn import utils
else:
    sklearn_metrics = LazyModule("sklearn.metrics", "evomal[paper]")
    utils = LazyModule("sklearn.utils", "evomal[paper]")

Compute = Callable[..., Tensor]
"""Values (*) of predictions (*, rows, outputs) and labels, of some metrics with weights (rows,) third."""

BY_ROW = ("MSE", "MAE", "error rate", "log loss", "Brier")
"""The named metrics that are means over rows; so is the pinball loss."""
UNWEIGHTED = "let it have a third argument weight, metric(y_pred, y_true, weight), or choose another"
BALANCED = ("balanced error", "1 - macro F1", "1 - AUC")
"""The named metrics to which a rare class matters as much as a common one."""
ECE_BINS = 15
"""Bins of equal width of the expected calibration error (Guo et al. 2017)."""


@dataclass(frozen=True)
class Metric:
    """A performance metric of one kind of task; lower is better.

    Attributes:
        name: shown in tables and results.
        kind: the kind of task whose predictions it takes.
        compute: its values for predictions (*, rows, outputs), one for each network.
        balanced: whether each class counts the same, however rare it is.
        by_row: whether it is a mean over rows of what depends on a row alone, so that rows can have weights.
        takes_weight: whether `compute` takes weights (rows,) as a third argument.
    """

    name: str
    kind: Kind
    compute: Compute
    balanced: bool = False
    by_row: bool = False
    takes_weight: bool = False

    def __call__(self, y_pred: Tensor, y_true: Tensor, weight: Tensor | None = None) -> Tensor:
        """Values (*) of predictions (*, rows, outputs); inf for a network with a prediction that is not finite.

        Args:
            y_pred: numbers or logits (*, rows, outputs).
            y_true: numbers that broadcast against them, or class indices (*, rows).
            weight: of labels, (rows, outputs or 1), or of several tasks (T, 1, rows, outputs or 1) for predictions
                (T, P, rows, outputs); where it is 0 a label is left out.

        Raises:
            ValueError: the weights differ, and the metric takes none.
        """
        if weight is None:
            return self._of_all(y_pred, y_true)
        if weight.ndim == 4:
            return torch.stack([self(p, y, w[0]) for p, y, w in zip(y_pred, y_true, weight, strict=True)])
        columns = weight.unbind(dim=1)
        if all(torch.equal(column, columns[0]) for column in columns[1:]):
            return self._of_counted(y_pred, y_true, columns[0])
        values = [
            self._of_counted(y_pred[..., c : c + 1], y_true[..., c : c + 1], column) * column.sum()
            for c, column in enumerate(columns)
            if bool(column.any())
        ]
        return torch.stack(values).sum(dim=0) / weight.sum()

    def _of_counted(self, y_pred: Tensor, y_true: Tensor, weight: Tensor) -> Tensor:
        """The value of the rows whose weight is not 0."""
        keep = weight != 0
        y_pred, weight = y_pred[..., keep, :], weight[keep]
        y_true = y_true[..., keep] if self.kind == "multiclass" else y_true[..., keep, :]
        if bool((weight == weight[0]).all()):
            return self._of_all(y_pred, y_true)
        if self.takes_weight:
            return self._of_all(y_pred, y_true, weight)
        if not self.by_row:
            raise ValueError(f"metric {self.name!r} takes no weights of rows; {UNWEIGHTED}")
        one = y_true.unsqueeze(-1) if self.kind == "multiclass" else y_true.unsqueeze(-2)
        each = self._of_all(y_pred.unsqueeze(-2), one)  # as if each row were a network's
        return (each * weight).sum(dim=-1) / weight.sum()

    def _of_all(self, y_pred: Tensor, y_true: Tensor, *weight: Tensor) -> Tensor:
        finite = torch.isfinite(y_pred).flatten(-2).all(dim=-1)
        value = self.compute(torch.where(finite[..., None, None], y_pred, 0.0), y_true, *weight)
        return torch.where(finite & ~torch.isnan(value), value, torch.inf)


def make_metric(metric: str | Callable[..., Any] | Metric | None, kind: Kind) -> Metric:
    """The metric of a name, of a scikit-learn scorer or its name, or of a function `(y_pred, y_true) -> float`.

    A function gets NumPy arrays: predictions (rows,) or (rows, outputs) of a regression; probabilities of the
    second class (rows,) of a binary task, or of all classes (rows, classes); labels (rows,) or (rows, outputs);
    and, where a task has weights, those of the rows as a third argument named weight. A scorer's score s becomes
    1 − s, or −s if it is an error with its sign turned, as "neg_mean_absolute_error".

    Args:
        metric: None means the mean squared error or the error rate.
        kind: the kind of task.

    Raises:
        ValueError: the name is unknown, or the metric is for another kind of task.
    """
    check_kind(kind)
    if metric is None:
        metric = "MSE" if kind == "regression" else "error rate"
    if isinstance(metric, Metric):
        if metric.kind != kind:
            raise ValueError(f"metric {metric.name!r} was made for {metric.kind} tasks, not for {kind}")
        return metric
    if isinstance(metric, str):
        return _named(metric, kind)
    if not callable(metric):
        raise ValueError(f"metric is a name, a scikit-learn scorer or a function, got {metric!r:.60}")
    if hasattr(metric, "_score_func"):
        return _from_scorer(metric, str(getattr(metric._score_func, "__name__", metric)), kind)
    name = str(getattr(metric, "__name__", type(metric).__name__))
    _refuse_scikit_function(metric)
    if isinstance(metric, nn.Module) or str(getattr(metric, "__module__", "")).startswith("torch."):
        raise ValueError(
            f"{name} takes tensors, but a metric gets NumPy arrays; give it as task_loss=, and as metric= a "
            f"function of arrays or one of {', '.join(metric_names(kind))}"
        )
    return Metric(name, kind, _each(metric, kind, name), takes_weight=takes_weight(metric))


def _refuse_scikit_function(metric: Callable[..., Any]) -> None:
    """Refuse a function of `sklearn.metrics`: it takes labels first, and many are scores, higher is better."""
    function: Any = metric
    while isinstance(function, partial):
        function = function.func
    if not f"{getattr(function, '__module__', '')}.".startswith("sklearn.metrics."):
        return
    name = str(getattr(function, "__name__", function))
    short = name.removesuffix("_score").removesuffix("_loss")
    likely = (name, short, f"neg_{name}", f"neg_{short}") if function is metric else ()
    scorer = next((each for each in likely if each in sklearn_metrics.get_scorer_names()), None)
    remedy = "a scorer's name, such as metric='r2'" if scorer is None else f"the scorer's name, metric={scorer!r}"
    raise ValueError(
        f"sklearn.metrics.{name} takes labels first, and may be better when it is higher; give {remedy}, or "
        f"make_scorer({name}, …), with greater_is_better=False if it is an error"
    )


def metric_names(kind: Kind) -> list[str]:
    """The names of the metrics of a kind, beside those of scikit-learn's scorers."""
    return ["pinball(0.9)", *_REGRESSION] if kind == "regression" else list(_CLASSIFICATION)


def _named(name: str, kind: Kind) -> Metric:
    if kind == "regression" and name in _REGRESSION:
        return Metric(name, kind, _REGRESSION[name], by_row=name in BY_ROW, takes_weight=name == "1 - R2")
    if kind != "regression" and name in _CLASSIFICATION:
        by_row = name in BY_ROW
        compute = _CLASSIFICATION[name](kind)
        return Metric(name, kind, compute, name in BALANCED, by_row=by_row, takes_weight=not by_row)
    if kind == "regression" and name.startswith("pinball"):
        if found := re.fullmatch(r"pinball\((0?\.\d+)\)", name):
            return Metric(name, kind, _pinball(float(found[1])), by_row=True)
        raise ValueError(f"{name!r} names no quantile between 0 and 1; write pinball(0.9)")
    if name in _CLASSIFICATION or name in _REGRESSION or name.startswith("pinball"):
        raise ValueError(f"metric {name!r} is none of {kind} tasks; known are {', '.join(metric_names(kind))}")
    return _from_scorer_name(name, kind)


# ---- regression --------------------------------------------------------------------------------------


def _mse(f: Tensor, y: Tensor) -> Tensor:
    return torch.square(f - y).mean(dim=(-2, -1))


def _mae(f: Tensor, y: Tensor) -> Tensor:
    return torch.abs(f - y).mean(dim=(-2, -1))


def _median_absolute_error(f: Tensor, y: Tensor) -> Tensor:
    """The median of an even number is the mean of the middle two, as NumPy has it."""
    error = torch.abs(f - y).flatten(-2).sort(dim=-1).values
    n = error.shape[-1]
    return (error[..., (n - 1) // 2] + error[..., n // 2]) / 2


def _pinball(q: float) -> Compute:
    """The quantile loss of Koenker & Bassett (1978)."""

    def compute(f: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(q * (y - f), (q - 1) * (y - f)).mean(dim=(-2, -1))

    return compute


def _unexplained(f: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 − R², the mean over outputs: squared error over that of the labels' mean."""
    w = torch.ones_like(y[..., :1]) if weight is None else weight.unsqueeze(-1)
    mean = (w * y).sum(dim=-2, keepdim=True) / w.sum(dim=-2, keepdim=True)
    spread = (w * torch.square(y - mean)).sum(dim=-2)
    return ((w * torch.square(f - y)).sum(dim=-2) / spread).mean(dim=-1)


_REGRESSION: dict[str, Compute] = {
    "MSE": _mse,
    "MAE": _mae,
    "median absolute error": _median_absolute_error,
    "1 - R2": _unexplained,
}


# ---- classification ----------------------------------------------------------------------------------


def _classes(logits: Tensor, y: Tensor, kind: Kind) -> tuple[Tensor, Tensor, int]:
    """Predicted and true classes (*, rows), and their number; of a binary task (*, C, rows), each output alone."""
    if kind == "multiclass":
        predicted = logits.argmax(dim=-1)
        return predicted, y.expand_as(predicted), logits.shape[-1]
    return (logits > 0).long().mT, (y > 0.5).long().expand_as(logits).mT, 2


def _probabilities(logits: Tensor, y: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot labels (*, rows, classes); of a binary task (*, C, rows, 2), each output alone."""
    if kind == "multiclass":
        hot = functional.one_hot(y, logits.shape[-1]).to(logits.dtype)
        return link(logits, kind), hot.expand_as(logits)
    positive, label = link(logits, kind).mT, (y > 0.5).to(logits.dtype).expand_as(logits).mT
    return torch.stack((1 - positive, positive), dim=-1), torch.stack((1 - label, label), dim=-1)


def _over_outputs(value: Tensor, kind: Kind) -> Tensor:
    """The mean over the outputs of a binary task, (*, C) → (*)."""
    return value.mean(dim=-1) if kind == "binary" else value


def _error_rate(kind: Kind) -> Compute:
    def compute(logits: Tensor, y: Tensor) -> Tensor:
        if kind == "multiclass":
            return (logits.argmax(dim=-1) != y).float().mean(dim=-1)
        return ((logits > 0) != (y > 0.5)).float().mean(dim=(-2, -1))

    return compute


def _per_class(kind: Kind, value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Compute:
    """The mean over classes of a function of their hits, true and predicted rows; NaN leaves a class out."""

    def compute(logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        predicted, true, number = _classes(logits, y, kind)
        w = 1.0 if weight is None else weight.double()
        values = []
        for k in range(number):
            is_predicted, is_true = (predicted == k) * w, (true == k) * w
            hits = is_predicted * (true == k)
            values.append(value(*(of.sum(dim=-1, dtype=torch.float64) for of in (hits, is_true, is_predicted))))
        return _over_outputs(torch.stack(values).nanmean(dim=0), kind)

    return compute


def _balanced_error(kind: Kind) -> Compute:
    """1 − the mean recall of the classes that have rows."""
    return _per_class(kind, lambda hits, true, predicted: 1 - hits / true)


def _macro_f1_loss(kind: Kind) -> Compute:
    """1 − the mean F₁ of the classes that have rows or are predicted."""
    return _per_class(kind, lambda hits, true, predicted: 1 - 2 * hits / (true + predicted))


def _log_loss(kind: Kind) -> Compute:
    def compute(logits: Tensor, y: Tensor) -> Tensor:
        if kind == "binary":
            labels = y.to(logits.dtype).expand_as(logits)
            value = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            return value.mean(dim=(-2, -1))
        logs = torch.log_softmax(logits, dim=-1)
        return -logs.gather(-1, y.expand(logits.shape[:-1]).unsqueeze(-1)).mean(dim=(-2, -1))

    return compute


def _brier(kind: Kind) -> Compute:
    """Σ over classes of (p − y)² for multiclass (Brier 1950), (p − y)² of the second class for binary."""

    def compute(logits: Tensor, y: Tensor) -> Tensor:
        p, hot = _probabilities(logits, y, kind)
        squared = torch.square(p - hot).sum(dim=-1).mean(dim=-1)
        return _over_outputs(squared / 2, kind) if kind == "binary" else squared

    return compute


def _ece(kind: Kind) -> Compute:
    """Σ over bins of their share of rows × |accuracy − mean confidence| (Guo et al. 2017)."""

    def compute(logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        p, hot = _probabilities(logits, y, kind)
        confidence, chosen = p.max(dim=-1)
        right = hot.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        bins = torch.ceil(confidence * ECE_BINS).long().clamp(1, ECE_BINS) - 1
        gaps = torch.zeros(*confidence.shape[:-1], ECE_BINS, dtype=torch.float64, device=p.device)
        gap = (right - confidence).double()
        gaps.scatter_add_(-1, bins, gap if weight is None else gap * weight)
        total = confidence.shape[-1] if weight is None else weight.sum()
        return _over_outputs(gaps.abs().sum(dim=-1) / total, kind)

    return compute


def _auc_loss(kind: Kind) -> Compute:
    """1 − the area under the ROC curve, by ranks; of several classes the mean of one against the rest.

    Its area is the share of pairs of a positive and a negative row that are in order, ties counting half.
    """

    def compute(logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        p, hot = _probabilities(logits.double(), y, kind)
        # a sigmoid would make ties where it saturates
        score, positive = (p.mT, hot.mT) if kind == "multiclass" else (logits.mT, hot[..., 1])
        w = torch.ones_like(positive) if weight is None else weight.to(positive.dtype)
        ordered, order = score.contiguous().sort(dim=-1)
        places = (torch.searchsorted(ordered, score.contiguous(), side=s) for s in ("left", "right"))
        negative = functional.pad((w * (1 - positive)).gather(-1, order).cumsum(dim=-1), (1, 0))
        below, up_to = (negative.gather(-1, place) for place in places)
        area = (w * positive * (below + up_to) / 2).sum(dim=-1)
        loss = 1 - area / ((w * positive).sum(dim=-1) * (w * (1 - positive)).sum(dim=-1))
        return loss.nanmean(dim=-1)

    return compute


_CLASSIFICATION: dict[str, Callable[[Kind], Compute]] = {
    "error rate": _error_rate,
    "balanced error": _balanced_error,
    "1 - macro F1": _macro_f1_loss,
    "log loss": _log_loss,
    "Brier": _brier,
    "ECE": _ece,
    "1 - AUC": _auc_loss,
}


# ---- scikit-learn's scorers, and user-defined functions ------------------------------------------------


def _each(function: Callable[..., Any], kind: Kind, name: str) -> Compute:
    """A function of NumPy arrays, called for one network after the other."""

    def compute(y_pred: Tensor, y_true: Tensor, *weight: Tensor) -> Tensor:
        batch = y_pred.shape[:-2]
        labels = y_true if kind == "multiclass" else y_true.expand_as(y_pred)
        if kind == "multiclass":
            labels = labels.expand(y_pred.shape[:-1])
        given = [w.detach().double().cpu().numpy() for w in weight]
        values = [_value(function, name, p, y, *given) for p, y in _arrays(y_pred, labels, kind)]
        return torch.tensor(values, dtype=torch.float64, device=y_pred.device).reshape(batch)

    return compute


def _arrays(y_pred: Tensor, labels: Tensor, kind: Kind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predictions and labels of each network, as user-defined functions get them."""
    f = link(y_pred.detach().double(), kind)
    rows = f.shape[-2:]
    predictions = f.reshape(-1, *rows).cpu().numpy()
    if kind == "multiclass":
        yield from zip(predictions, labels.reshape(-1, rows[0]).cpu().numpy(), strict=True)
        return
    for p, y in zip(predictions, labels.reshape(-1, *rows).cpu().numpy(), strict=True):
        yield (p[:, 0], y[:, 0]) if rows[1] == 1 else (p, y)


def _value(function: Callable[..., Any], name: str, *arrays: np.ndarray) -> float:
    """The value of a function or scorer for one network; whatever fails in it is an error of that metric."""
    try:
        value = function(*arrays)
    except Exception as error:
        shapes = " and ".join(str(array.shape) for array in arrays)
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        called = f"it was called with NumPy arrays of shapes {shapes}: numbers or probabilities, then labels"
        raise ValueError(f"metric {name!r} failed, {said}; {called}") from error
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {name!r} must return one number, got {value!r:.60}") from None


@dataclass(frozen=True)
class _Predicted:
    """An estimator that has made its predictions: a classifier or regressor, as scorers ask for."""

    values: np.ndarray
    kind: Kind

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(2 if self.kind == "binary" else self.values.shape[1])

    def fit(self, *_: Any) -> _Predicted:
        return self

    def predict(self, _: Any) -> np.ndarray:
        if self.kind == "regression":
            return self.values
        return (self.values > 0.5).astype(int) if self.kind == "binary" else self.values.argmax(axis=1)

    def predict_proba(self, _: Any) -> np.ndarray:
        if self.kind == "binary":
            return np.stack((1 - self.values, self.values), axis=1)
        return self.values

    def decision_function(self, _: Any) -> np.ndarray:
        return self.values

    def __sklearn_tags__(self) -> Any:
        what = "regressor" if self.kind == "regression" else "classifier"
        targets = utils.TargetTags(required=True)
        return utils.Tags(what, targets, None, utils.ClassifierTags(), utils.RegressorTags())


def _from_scorer_name(name: str, kind: Kind) -> Metric:
    folded = {known.casefold(): known for known in metric_names(kind)}
    near = get_close_matches(name.casefold(), folded, n=1)
    meant = f"did you mean {folded[near[0]]!r}? " if near else ""
    try:
        scorer = sklearn_metrics.get_scorer(name)
    except (ImportError, ValueError, KeyError) as error:
        lacking = f" ({error})" if isinstance(error, ImportError) else ""
        raise ValueError(
            f"unknown metric {name!r}; {meant}known are {', '.join(folded.values())}, the names of scikit-learn's "
            f"scorers{lacking}, and functions (y_pred, y_true) -> float"
        ) from None
    return _from_scorer(scorer, name, kind)


def _from_scorer(scorer: Any, name: str, kind: Kind) -> Metric:
    turned = getattr(scorer, "_sign", 1) < 0

    def error(predictions: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None) -> float:
        labels = labels if kind == "regression" else labels.astype(int)
        weights = {} if weight is None else {"sample_weight": weight}
        score = float(scorer(_Predicted(predictions, kind), labels, labels, **weights))
        return -score if turned else 1 - score

    shown, balanced = name.removeprefix("neg_") if turned else f"1 - {name}", "balanced" in name or "macro" in name
    weighted = "sample_weight" in inspect.signature(scorer._score_func).parameters
    return Metric(shown, kind, _each(error, kind, name), balanced, takes_weight=weighted)
