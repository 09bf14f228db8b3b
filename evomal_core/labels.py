"""Predictions, labels and weights in one layout, (rows, outputs), for every loss, engine and metric.

Shapes are those of PyTorch's own losses. A position (a step of a sequence, a pixel of a mask) counts as a row:

| kind | predictions | labels |
|---|---|---|
| regression, binary | (N,), (N, outputs), (N, time, outputs), (N, outputs, height, width, …) | of the same shape |
| multiclass | logits (N, classes), (N, classes, positions, …) | class indices (N,), (N, positions, …) |
| multiclass, soft labels | logits as above | probabilities of the same shape |

Labels that are missing are left out: NaN in a regression; NaN or the `ignore_index` in a classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from evomal_core.kinds import IGNORED, Kind

Reduction = Literal["mean", "sum", "none"]
ROUNDING = 1e-3
"""Tolerance beyond 0 and 1 that rounded probabilities have."""
ClassWeight = Sequence[float] | Tensor | Literal["balanced"]


@dataclass(frozen=True)
class Labels:
    """Labels as numbers, with the weight of each.

    Attributes:
        y: (rows, outputs): numbers, or one-hot rows or probabilities of classes; 0 where left out.
        weight: (rows, outputs) or (rows, 1), 0 where a label is left out; None where all count the same.
    """

    y: Tensor
    weight: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum over rows of their weights: of each row, the mean of its outputs that are not left out."""
        if self.weight is None:
            return self.y.new_tensor(len(self.y))
        counted = (self.weight != 0).sum(dim=1).clamp(min=1)
        return (self.weight.sum(dim=1) / counted).sum()

    @property
    def share(self) -> Tensor:
        """The share of each label in the mean over rows, (rows, outputs)."""
        weight = torch.ones_like(self.y) if self.weight is None else self.weight.expand_as(self.y)
        return weight / self.total

    def hide(self, predictions: Tensor) -> Tensor:
        """Predictions (rows, outputs) with 0 where a label is left out, so that those there have no gradient."""
        return predictions if self.weight is None else torch.where(self.weight != 0, predictions, 0.0)


def output_axis(ndim: int, kind: Kind) -> int:
    """The axis of predictions that holds outputs or classes: 1, of sequences (N, time, outputs) the last."""
    return 2 if ndim == 3 and kind != "multiclass" else 1


def as_rows(array: Tensor, kind: Kind) -> Tensor:
    """Predictions, or labels of their shape, as (rows, outputs); the positions of one example stay together."""
    if array.ndim < 2:
        return array.reshape(-1, 1)
    return array.movedim(output_axis(array.ndim, kind), -1).flatten(0, -2)


def from_rows(rows: Tensor, shape: Sequence[int], kind: Kind) -> Tensor:
    """The inverse of `as_rows`: (…, rows, outputs) as (…, *shape)."""
    if len(shape) < 2:
        return rows.reshape(*rows.shape[:-2], *shape)
    axis = output_axis(len(shape), kind)
    places = [size for place, size in enumerate(shape) if place != axis]
    return rows.reshape(*rows.shape[:-2], *places, shape[axis]).movedim(-1, axis - len(shape))


def row_shape(y_pred: Tensor, kind: Kind) -> tuple[int, ...]:
    """The shape of the loss of each row: (N,), with positions (N, positions, …)."""
    if y_pred.ndim < 2:
        return tuple(y_pred.shape)
    axis = output_axis(y_pred.ndim, kind)
    return tuple(size for place, size in enumerate(y_pred.shape) if place != axis)


def check_shapes(y_pred: Tensor, y_true: Tensor, kind: Kind) -> None:
    """Refuse predictions and labels that do not fit each other or the kind.

    Raises:
        ValueError: naming both shapes and a remedy.
    """
    for name, given in (("y_pred", y_pred), ("y_true", y_true)):
        if not isinstance(given, Tensor):
            raise ValueError(f"{name} is a tensor, got a {type(given).__name__}; write torch.as_tensor({name})")
        if given.is_complex():
            raise ValueError(f"{name} holds real numbers, got {given.dtype}")
    if y_pred.is_nested or y_true.is_nested:
        raise ValueError(
            "a loss takes plain tensors, got nested ones; pad them with labels that are left out: "
            "y_true.to_padded_tensor(float('nan')), of class indices y_true.to_padded_tensor(-100)"
        )
    if kind == "multiclass":
        _check_classes(y_pred, y_true)
    elif y_pred.shape != y_true.shape:
        raise ValueError(
            f"y_pred and y_true have different shapes, {_shapes(y_pred, y_true)}; {_remedy(y_pred, y_true)}"
        )


def _remedy(y_pred: Tensor, y_true: Tensor) -> str:
    for name, short, long in (("y_true", y_true, y_pred), ("y_pred", y_pred, y_true)):
        for axis in range(long.ndim):
            if long.shape[axis] == 1 and (*long.shape[:axis], *long.shape[axis + 1 :]) == short.shape:
                return f"write {name}.unsqueeze({axis})"
    if y_pred.numel() == y_true.numel():
        return "reshape one of them, e.g. y_true.reshape_as(y_pred)"
    return "they are never repeated to fit each other"


def _shapes(y_pred: Tensor, y_true: Tensor) -> str:
    return f"{tuple(y_pred.shape)} and {tuple(y_true.shape)}"


def _check_classes(y_pred: Tensor, y_true: Tensor) -> None:
    soft = y_true.is_floating_point()
    fits = y_pred.ndim >= 2 and y_true.shape == (y_pred.shape if soft else (*y_pred.shape[:1], *y_pred.shape[2:]))
    if fits and y_true.dtype != torch.bool:
        return
    remedy = ""
    if fits:
        remedy = "; write y_true.long()"
    elif y_pred.ndim >= 3 and y_true.shape == (y_pred.shape[:-1] if not soft else y_pred.movedim(-1, 1).shape):
        remedy = "; the classes stand on axis 1: write y_pred.movedim(-1, 1)"
    elif y_pred.ndim == 1:
        remedy = "; of one row, write y_pred.unsqueeze(0) and y_true.unsqueeze(0)"
    elif y_true.shape == y_pred.shape:
        remedy = "; of one-hot rows, write y_true.argmax(dim=1); rows with several ones are for kind='binary'"
    elif y_true.ndim == y_pred.ndim and y_true.shape[1] == 1:
        remedy = "; write y_true.squeeze(1)" + (".long()" if soft else "")
    elif soft and y_true.shape == (*y_pred.shape[:1], *y_pred.shape[2:]):
        remedy = "; write y_true.long()"
    raise ValueError(
        "a multiclass loss takes logits (batch, classes, …) and integer class indices (batch, …), or "
        f"probabilities in the shape of the logits; got {_shapes(y_pred, y_true)} of {y_true.dtype}{remedy}"
    )


def read_labels(
    y_true: Tensor,
    kind: Kind,
    outputs: int,
    dtype: torch.dtype,
    *,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    class_weight: ClassWeight | None = None,
) -> Labels:
    """Labels of a batch, of a shape that fits (see `check_shapes`), as rows.

    Args:
        y_true: the labels.
        kind: the kind of task.
        outputs: number of outputs or classes.
        dtype: of the numbers.
        weight: of each example (N,), of each row (N, positions, …) or of each label, in its shape.
        ignore_index: the class index of labels that are left out.
        class_weight: a number for each class, or "balanced": the batch's rows / (classes · rows of the class).

    Raises:
        ValueError: a class index or a probability is out of range, a weight is negative or not finite, or
            `weight` or `class_weight` has a shape that does not fit.
    """
    if _is_index(y_true, kind):
        labels = _indices(y_true, outputs, dtype, ignore_index)
    else:
        labels = _numbers(y_true, kind, dtype, ignore_index)
    if weight is not None:
        rows = _weight_rows(weight, y_true, kind)
        if _is_readable(rows) and _any(bad := _no_weight(rows)):
            raise ValueError(_weight_remedy(rows[bad]))
        labels = _times(labels, rows.to(dtype))
    if class_weight is not None:
        labels = _times(labels, _class_weights(labels, class_weight, kind))
    return labels


def _is_index(y_true: Tensor, kind: Kind) -> bool:
    return kind == "multiclass" and not y_true.is_floating_point()


def _indices(y_true: Tensor, classes: int, dtype: torch.dtype, ignore_index: int) -> Labels:
    index = y_true.reshape(-1, 1).long()
    counts = index != ignore_index
    wrong = counts & ((index < 0) | (index >= classes))
    if _any(wrong):
        raise ValueError(
            f"class index {int(index[wrong][0])} is none of the {classes} classes, 0 to {classes - 1}; labels to "
            f"leave out are ignore_index={ignore_index}"
        )
    hot = (index == torch.arange(classes, device=index.device)).to(dtype)
    return Labels(hot, None if _any(~counts) is False else counts.to(dtype))


def _numbers(y_true: Tensor, kind: Kind, dtype: torch.dtype, ignore_index: int) -> Labels:
    y = as_rows(y_true, kind)
    missing = torch.isnan(y)
    if kind == "binary":
        missing = missing | (y == ignore_index)
    elif kind == "multiclass":
        missing = missing.any(dim=1, keepdim=True)
    y = y.to(dtype)
    labels = Labels(y)
    if _any(missing) is not False:
        labels = Labels(torch.where(missing, 0.0, y), (~missing).to(dtype))
    if kind != "regression" and _is_readable(y):
        wrong = (labels.y - 0.5).abs() > 0.5 + ROUNDING
        if _any(wrong):
            raise ValueError(
                f"labels of a {kind} loss are 0, 1 or probabilities between, got "
                f"{float(labels.y[wrong][0].detach()):g}; of −1 and 1, write (y_true + 1) / 2; labels to "
                "leave out are NaN" + (f" or ignore_index={ignore_index}" if kind == "binary" else "")
            )
    return labels


def _is_readable(array: Tensor) -> bool:
    """Whether a value can be looked at without waiting for a GPU or breaking a compiled function."""
    return array.device.type == "cpu" and not torch.compiler.is_compiling()


def _any(condition: Tensor) -> bool | None:
    """Whether any is true; None where that can't be read at once, on a GPU or in a compiled or mapped function."""
    if not _is_readable(condition):
        return None
    try:
        return bool(condition.any())
    except RuntimeError:  # within torch.vmap
        return None


def _times(labels: Labels, factor: Tensor) -> Labels:
    weight = factor if labels.weight is None else labels.weight * factor
    return replace(labels, weight=weight)


def check_weight(weight: Tensor, y_true: Tensor, kind: Kind) -> None:
    """Refuse weights that are not one a row, a position or a label.

    Raises:
        ValueError: their shape does not fit the labels, they are negative or not finite, or all of a row are 0.
    """
    _weight_rows(weight, y_true, kind)
    if bool((bad := _no_weight(weight)).any()):
        raise ValueError(_weight_remedy(weight[bad]))
    none = (weight.reshape(len(weight), -1) == 0).all(dim=1)
    if bool(none.any()):
        raise ValueError(
            f"{int(none.sum())} row(s) have weight 0, first row {int(none.long().argmax())}; drop rows that are "
            "not to count"
        )


def _no_weight(weight: Tensor) -> Tensor:
    return ~(torch.isfinite(weight) & (weight >= 0))


def _weight_remedy(bad: Tensor) -> str:
    return (
        f"weights are finite and at least 0, got {float(bad[0].detach()):g}; give 0 to what is not to count, or "
        "clamp them"
    )


def _weight_rows(weight: Tensor, y_true: Tensor, kind: Kind) -> Tensor:
    """Weights as (rows, outputs) or (rows, 1)."""
    if not isinstance(weight, Tensor):
        raise ValueError(f"weight is a tensor, got a {type(weight).__name__}; write torch.as_tensor(weight)")
    if weight.is_complex():
        raise ValueError(f"weight holds real numbers, got {weight.dtype}")
    lead = tuple(y_true.shape) if _is_index(y_true, kind) else row_shape(y_true, kind)
    if weight.shape == lead:
        return weight.reshape(-1, 1)
    if weight.shape == y_true.shape and kind != "multiclass":
        return as_rows(weight, kind)
    if weight.shape == lead[:1]:
        return weight.reshape(-1, *[1] * (len(lead) - 1)).expand(lead).reshape(-1, 1)
    raise ValueError(
        f"weight has shape {tuple(weight.shape)}; give one number a row, {lead[:1]}"
        + (f", or a position, {lead}" if len(lead) > 1 else "")
        + (f", or a label, {tuple(y_true.shape)}" if kind != "multiclass" and y_true.shape != lead else "")
    )


def read_pair(
    y_pred: Tensor, y_true: Tensor, kind: Kind, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One network's predictions, labels and weights in the shapes that metrics take.

    Probabilities of several classes count as the most probable one.
    """
    rows = as_rows(y_pred, kind)
    labels = read_labels(y_true, kind, rows.shape[1], rows.dtype, weight=weight)
    return rows, labels.y.argmax(dim=1) if kind == "multiclass" else labels.y, labels.weight


def check_class_weight(given: ClassWeight, kind: Kind) -> None:
    """Refuse weights of classes that no labels of this kind can have.

    Raises:
        ValueError: they are no finite numbers from 0 (two of a binary task), or "balanced"; or it is a regression.
    """
    if kind == "regression":
        raise ValueError(f"class_weight is for classification, got {given!r:.40} for a regression; use weight=")
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"class_weight is a number for each class, or 'balanced', got {given!r:.40}")
        return
    if isinstance(given, Mapping):
        raise ValueError(f"class_weight is a list in the order of the classes, got {given!r:.40}")
    try:
        numbers = torch.as_tensor(given)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        numbers = torch.zeros(())
    if numbers.ndim != 1 or numbers.is_complex() or not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
        raise ValueError(f"class_weight is one finite number from 0 for each class, got {given!r:.60}")
    if kind == "binary" and len(numbers) != 2:
        raise ValueError(f"class_weight of a binary loss has two numbers, of labels 0 and 1, got {given!r:.60}")


def _class_weights(labels: Labels, given: ClassWeight, kind: Kind) -> Tensor:
    """The weight of each label by its class; of soft labels, the mean over classes by their probability."""
    y = labels.y
    if isinstance(given, str):
        each = balanced(labels, kind)
    else:
        each = torch.as_tensor(given, dtype=y.dtype, device=y.device)
    return _by_class(y, each, kind)


def _by_class(y: Tensor, each: Tensor, kind: Kind) -> Tensor:
    if kind == "binary":
        return each[0] + (each[1] - each[0]) * y
    if each.shape != y.shape[1:]:
        raise ValueError(f"class_weight has {len(each)} numbers, but there are {y.shape[1]} classes")
    return (y * each).sum(dim=1, keepdim=True)


def balanced(labels: Labels, kind: Kind) -> Tensor:
    """Weights that give each class the same total: rows / (classes · rows of the class), as in scikit-learn.

    Returns:
        (classes,) for multiclass, (2, outputs) for binary, each output on its own; 0 for a class without rows.
    """
    y, weight = labels.y, labels.weight
    counts = torch.ones_like(y[:, :1]) if weight is None else weight
    if kind == "binary":
        sums = torch.stack(((counts * (1 - y)).sum(dim=0), (counts * y).sum(dim=0)))
    else:
        sums = (counts * y).sum(dim=0)
    present = (sums > 0).sum(dim=0)
    return torch.where(sums > 0, sums.sum(dim=0) / (present * sums).clamp(min=torch.finfo(y.dtype).tiny), 0.0)


def balanced_weights(y_true: Tensor, rows: Tensor, kind: Kind) -> Tensor:
    """Weights by which each class of these rows counts the same, for all labels: of each row, or each label."""
    soft = not _is_index(y_true, kind)
    outputs = y_true.shape[output_axis(y_true.ndim, kind)] if soft else int(y_true.max()) + 1
    counted, whole = (read_labels(y, kind, outputs, torch.float32) for y in (y_true[rows], y_true))
    each = balanced(counted, kind)
    weights = _by_class(whole.y, torch.where(each > 0, each, 1.0), kind)
    if kind == "binary":
        return weights[:, 0] if y_true.shape[1:] == (1,) else from_rows(weights, y_true.shape, kind)
    return weights.reshape(row_shape(y_true, kind) if soft else y_true.shape)


def reduce(values: Tensor, labels: Labels, reduction: Reduction, shape: Sequence[int]) -> Tensor:
    """Losses (rows, outputs), summed over outputs and brought together over rows.

    With weights w the mean is Σ w·loss / Σ w, as in `nn.CrossEntropyLoss`; of no rows it is NaN, as there.

    Args:
        values: the loss of each row and output.
        labels: with their weights.
        reduction: "mean" or "sum" over rows, or "none".
        shape: of the result where nothing is reduced.
    """
    if labels.weight is not None:
        values = torch.where(labels.weight != 0, labels.weight * values, 0.0)
    each = values.sum(dim=1)
    if reduction == "none":
        return each.reshape(shape)
    if reduction == "sum":
        return each.sum()
    return each.mean() if labels.weight is None else each.sum() / labels.total
