"""Tasks: arrays to learn on, validate on and test on, and GECCO's distribution of sine waves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomal_core import arrays, splits
from evomal_core.kinds import IGNORED, Kind, check_kind
from evomal_core.labels import Labels, balanced_weights, check_weight, output_axis, read_labels
from evomal_core.metrics import Metric, make_metric
from evomal_core.seeds import check_seed

SPLITS = ("train", "validation", "test", "unseen")
ARRAYS = "use Task.from_arrays, which takes arrays of any kind"


@dataclass(frozen=True, eq=False)
class Scale:
    """Standardisation (a − mean) / spread, by the mean and standard deviation of training rows; both (…)."""

    mean: Tensor
    spread: Tensor
    columns: tuple[Any, ...] = ()
    """Names of the columns of the table that it is of, if any: other tables are read by them."""

    @classmethod
    def of(cls, array: np.ndarray, rows: np.ndarray) -> Scale:
        """Fit the scale on these rows; constant columns become 0."""
        train = array[rows].astype(np.float64)
        return cls._make(train.mean(axis=0), train.std(axis=0))

    @classmethod
    def of_labels(cls, y: np.ndarray, rows: np.ndarray) -> Scale:
        """Fit the scale of each output on the labels of these rows, at all positions, without missing ones."""
        missing = np.isnan(y)
        if y.ndim == 2 and not missing.any():
            return cls.of(y, rows)
        axis = output_axis(y.ndim, "regression")
        others = tuple(place for place in range(y.ndim) if place != axis)
        if not (~missing[rows]).any(axis=others).all():
            raise ValueError(
                "an output has no label in the training part; leave it out, or give another seed or split"
            )
        train = y[rows].astype(np.float64)
        return cls._make(*(of(train, axis=others, keepdims=True)[0] for of in (np.nanmean, np.nanstd)))

    @classmethod
    def _make(cls, mean: np.ndarray, spread: np.ndarray) -> Scale:
        return cls(torch.from_numpy(mean), torch.from_numpy(np.where(spread > 0, spread, 1.0)))

    def __call__(self, array: Any) -> Tensor:
        """Standardised rows, float32; of one column also (rows,), as `Task.from_arrays` takes them.

        Raises:
            ValueError: the rows have another shape than those that the scale is of, or lack a column.
        """
        rows = arrays.as_tensor(arrays.in_order(array, self.columns, "x"), "x")
        rows = rows.unsqueeze(1) if rows.ndim == 1 and self.mean.shape == (1,) else rows
        try:
            fits = torch.broadcast_shapes(rows.shape, self.mean.shape) == rows.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"a scale of rows of shape {tuple(self.mean.shape)} got {tuple(rows.shape)}")
        return ((rows - self.mean.to(rows.device)) / self.spread.to(rows.device)).float()

    def undo(self, array: Any) -> Tensor:
        """Standardised rows in their own unit again, float32."""
        array = arrays.as_tensor(array, "y")
        return (array * self.spread.to(array.device) + self.mean.to(array.device)).float()


@dataclass(frozen=True, eq=False)
class Task:
    """A learning problem T = {(x, y)} in up to three parts, and perhaps a share of the last.

    x is (rows, …) float (or int64, for an embedding). Labels have the shapes of `evomal_core.labels`: y is
    (rows, outputs) float for regression; (rows, labels) float for binary, zeros and ones or probabilities; (rows,)
    int64 class indices for multiclass, or probabilities (rows, classes). Sequences and images have positions too.
    A missing label is NaN, of a classification also −100; it counts nowhere. A task without validation or test
    rows holds None there. Where test rows repeat training rows, `unseen` holds those that do not.
    """

    name: str
    kind: Kind
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None = None
    test: tuple[Tensor, Tensor] | None = None
    unseen: tuple[Tensor, Tensor] | None = None

    x_scale: Scale | None = None
    """Standardisation of the features, if any: apply it to new rows, `task.x_scale(x_new)`."""
    y_scale: Scale | None = None
    """Standardisation of a regression's labels: `task.y_scale.undo(y_pred)` is in their own unit."""
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    """Augmentation of the images of each training batch; validation and test rows stay as they are."""
    metric: Metric | None = None
    """Measure of a trained network; None means the mean squared error or the error rate."""
    task_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    """Objective of local search, differentiable; None means squared error or cross-entropy."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, … of a classification, where known."""
    transform: Any = None
    """The fitted transformer that made the features, before `x_scale`, if one was given."""
    sample_weight: Mapping[str, Tensor] | Tensor | None = None
    """Weight of each row (rows,) or label in training, task loss and metric, by part (a tensor: "train")."""

    def __post_init__(self) -> None:
        check_kind(self.kind)
        for split, part in self.parts().items():
            if not all(isinstance(array, Tensor) for array in part):
                found = " and ".join(type(array).__name__ for array in part)
                raise ValueError(f"the {split} part of {self.name!r} holds tensors (x, y), got {found}; {ARRAYS}")
            x, y = part
            if len(x) != len(y):
                raise ValueError(f"the {split} part of {self.name!r} has {len(x)} rows of x but {len(y)} of y")
            self._check_labels(y)
            if not len(x):
                raise ValueError(f"the {split} part of {self.name!r} has no rows; a part without rows is None")
            for array, rows, first in zip("xy", part, self.train, strict=True):
                if (rows.dtype, rows.shape[1:]) != (first.dtype, first.shape[1:]):
                    raise ValueError(
                        f"a row of {array} has shape {tuple(rows.shape[1:])} and {rows.dtype} in the {split} part "
                        f"of {self.name!r}, but {tuple(first.shape[1:])} and {first.dtype} in the training part"
                    )
        self._check_weights()

    def _check_labels(self, y: Tensor) -> None:
        if self.kind == "multiclass":
            if (y.dtype == torch.int64 and y.ndim) or (y.is_floating_point() and y.ndim > 1):
                return
            raise ValueError(
                "a multiclass task's labels are class indices (rows, …) of torch.int64, or probabilities "
                f"(rows, classes, …), got {tuple(y.shape)} of {y.dtype}; {ARRAYS}"
            )
        if y.ndim < 2:
            raise ValueError(
                f"a {self.kind} task's labels are (rows, outputs), got {tuple(y.shape)}; write y.unsqueeze(1), or "
                f"{ARRAYS}"
            )

    def _check_weights(self) -> None:
        given = self.sample_weight
        weights = given if isinstance(given, Mapping) else {} if given is None else {"train": given}
        for split, weight in weights.items():
            if split not in self.parts():
                raise ValueError(f"sample_weight is by part, {', '.join(self.parts())}, got {split!r}")
            check_weight(weight, self.parts()[split][1], self.kind)
        object.__setattr__(self, "sample_weight", weights or None)

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        kind: Kind,
        *,
        name: str = "task",
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        validation: tuple[Any, ...] | None = None,
        test: tuple[Any, ...] | None = None,
        groups: Any = None,
        stratify: bool = False,
        transform: Any = None,
        standardise: bool = True,
        indices: bool = False,
        sample_weight: Any = None,
        seed: int = 0,
    ) -> Task:
        """A task from your own arrays, shuffled and split.

        Args:
            x: features, (rows, …).
            y: labels. Of "regression": real numbers (rows,) or (rows, outputs). Of "binary": two classes, or
                probabilities of the second, (rows,), with several columns a label each. Of "multiclass": any
                number of classes (rows,), numbered in sorted order, or probabilities (rows, classes). Sequences
                and images may have labels at each position, see `evomal_core.labels`; NaN, and −100 for classes,
                mark missing ones.
            kind: "regression", "binary" or "multiclass".
            name: shown in tables.
            split: shares of training, validation and test rows.
            validation: rows (x, y), or (x, y, weight), of a validation part of your own, such as a few whose
                labels are known to be right; x is then split into the other parts.
            test: the same for the test part.
            groups: what rows belong to, (rows,), such as a patient: rows of one group stay in one part.
            stratify: whether each part gets its share of each class.
            transform: a transformer of scikit-learn, such as a ColumnTransformer for a pandas table, fitted on
                the training rows; `task.transform` is the fitted one, for new rows.
            standardise: whether features, and labels of a regression, get mean 0 and standard
                deviation 1 on the training part.
            indices: whether x holds whole numbers from 0 that the network looks up in an `nn.Embedding`: they
                are kept, as int64. Otherwise numbers of any type become float32.
            sample_weight: how much each row of x counts, (rows,), each position or label, in the shape of the
                labels, 0 where one is not to count; or "balanced": each class of the training part the same,
                rows / (classes · rows of the class).
            seed: of the shuffle.

        Raises:
            ValueError: x and y have different lengths, rows of unequal lengths, missing or infinite values,
                dates, a dtype that is not numeric, or fewer than two classes; a column varies too little for
                float32; x can't be indices; or the two are tables of the same rows in different orders.
        """
        check_kind(kind)
        for option, value in {"standardise": standardise, "stratify": stratify, "indices": indices}.items():
            if not isinstance(value, bool):
                raise ValueError(f"{option} is True or False, got {type(value).__name__} {value!r:.40}")
        arrays.check_order({"x": x, "y": y, "groups": groups, "sample_weight": sample_weight})
        theirs = {"validation": validation, "test": test}
        x, y, own = arrays.joined(x, y, theirs, tables=transform is not None)
        columns, y = getattr(x, "columns", ()), arrays.as_array(y, "y")
        if transform is None:
            x = arrays.as_array(x, "x")
            x = arrays.indices(x) if indices else arrays.features(x)
        y, classes = arrays.labels(y, kind)
        parts = splits.split_own(
            len(y), split, own, check_seed(seed), groups, _strata(y, kind) if stratify else None
        )
        if transform is not None:
            transform, x = splits.transformed(transform, x, parts[0])
            columns = getattr(x, "columns", ())
            x = arrays.features(arrays.as_array(x, "x"))
        x_scale = None
        if standardise and not indices:
            x_scale = replace(Scale.of(x, parts[0]), columns=tuple(columns))
        y_scale = Scale.of_labels(y, parts[0]) if standardise and kind == "regression" else None
        x_rows, y_rows = (torch.from_numpy(np.ascontiguousarray(array)) for array in (x, y))
        whole = x_scale(x_rows) if x_scale else x_rows, y_scale(y_rows) if y_scale else y_rows
        numbered = zip(splits.PARTS, map(torch.from_numpy, parts), strict=True)
        rows = {split: numbers for split, numbers in numbered if len(numbers)}
        made: dict[str, Any] = {split: (whole[0][numbers], whole[1][numbers]) for split, numbers in rows.items()}
        weights = _weights(sample_weight, whole[1], rows, theirs, kind)
        return cls(
            name, kind, **made, x_scale=x_scale, y_scale=y_scale, classes=classes, sample_weight=weights,
            transform=transform,
        )  # fmt: skip

    @property
    def outputs(self) -> int:
        """Number of outputs that a base network needs for this task."""
        y = self.train[1]
        if self.kind == "multiclass" and not y.is_floating_point():
            return int(max(part[1].max() for part in self.parts().values())) + 1
        return y.shape[output_axis(y.ndim, self.kind)]

    def output_shape(self, rows: int) -> tuple[int, ...]:
        """The shape of a base network's output for so many rows."""
        y = self.train[1]
        if self.kind == "multiclass" and not y.is_floating_point():
            return (rows, self.outputs, *y.shape[1:])
        return (rows, *y.shape[1:])

    @cached_property
    def incomplete(self) -> bool:
        """Whether labels are missing in any part."""
        return any(self.labels(split).weight is not None for split in self.parts())

    @property
    def plain(self) -> bool:
        """Whether the labels are (rows, outputs) or (rows,), none of them missing, soft classes or weighted."""
        y = self.train[1]
        soft = self.kind == "multiclass" and y.is_floating_point()
        flat = y.ndim == (1 if self.kind == "multiclass" else 2)
        return flat and not soft and self.sample_weight is None and not self.incomplete

    def labels(self, split: str, dtype: torch.dtype = torch.float32) -> Labels:
        """The labels of a part as numbers (rows, outputs), without the weights of rows."""
        return read_labels(self.parts()[split][1].cpu(), self.kind, self.outputs, dtype)

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return tuple(self.train[0].shape[1:])

    @property
    def measure(self) -> Metric:
        """The performance metric L_P."""
        return make_metric(self.metric, self.kind)

    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The non-empty parts by name."""
        named = {split: getattr(self, split) for split in SPLITS}
        return {split: part for split, part in named.items() if part is not None}

    def labelled(self, split: str) -> tuple[Tensor, ...]:
        """The rows of a part: features, labels, and weights if there are any."""
        weights = self.sample_weight or {}
        assert isinstance(weights, Mapping)
        return (*self.parts()[split], weights[split]) if split in weights else self.parts()[split]

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Task:
        """The task with its arrays on a device, its floating-point ones in a dtype."""

        def move(array: Tensor) -> Tensor:
            return array.to(device=device, dtype=dtype if array.is_floating_point() else None)

        moved: dict[str, Any] = {split: (move(x), move(y)) for split, (x, y) in self.parts().items()}
        weights = {split: move(weight) for split, weight in dict(self.sample_weight or {}).items()}
        return replace(self, **moved, sample_weight=weights)

    def __repr__(self) -> str:
        rows = ", ".join(f"{split}={len(x)}" for split, (x, _) in self.parts().items())
        return f"Task({self.name!r}, {self.kind}, features={self.features}, outputs={self.outputs}, {rows})"


def _strata(y: np.ndarray, kind: Kind) -> np.ndarray:
    if kind == "regression" or (kind == "multiclass" and y.dtype != np.int64):
        raise ValueError(f"stratify needs labels that are classes, got {y.dtype} of a {kind} task")
    return y.reshape(len(y), -1)[:, 0]


def check_values(task: Task) -> None:
    """Refuse a task of tensors whose values can't be learned from; `Task.from_arrays` makes none.

    Raises:
        ValueError: features or labels are NaN or infinite, or class labels are out of their range.
    """
    for split, (x, y) in task.parts().items():
        where = f"of the {split} part of {task.name!r}"
        infinite = torch.isinf(y) if y.is_floating_point() else torch.zeros_like(y)
        for name, bad in (("x", ~torch.isfinite(x)), ("y", infinite)):
            if rows := int(bad.flatten(1).any(dim=1).sum()) if bad.ndim > 1 else 0:
                raise ValueError(
                    f"{name} has NaN or infinite values in {rows} row(s) {where}; drop or impute them"
                )
        _check_classes(task, y, where)
        _, given, *weights = (array.cpu() for array in task.labelled(split))
        weight = weights[0] if weights else None
        labels = read_labels(given, task.kind, task.outputs, torch.float32, weight=weight)
        if labels.weight is not None:
            empty = (labels.weight.reshape(len(y), -1) == 0).all(dim=1)
            if bool(empty.any()):
                raise ValueError(
                    f"{int(empty.sum())} row(s) {where} have no label, first row {int(empty.long().argmax())}; "
                    f"drop them (NaN, and {IGNORED} for classes, mark missing labels)"
                )


def _check_classes(task: Task, y: Tensor, where: str) -> None:
    if task.kind == "regression":
        return
    there = y[~torch.isnan(y) & (y != IGNORED)] if task.kind == "binary" else y[~torch.isnan(y)]
    low, high = (float(bound) for bound in there.aminmax()) if there.numel() else (0.0, 0.0)
    if task.kind == "binary" and (low < 0 or high > 1):
        raise ValueError(f"a binary task's labels are 0 and 1, got {low:g} to {high:g} {where}; {ARRAYS}")
    if task.kind == "multiclass" and y.is_floating_point():
        sums = y.sum(dim=1)
        if low < 0 or bool(((sums - 1).abs() > 1e-3).any()):  # NaN is above nothing
            raise ValueError(
                f"probabilities of classes are from 0 and sum to 1 along axis 1, got {low:g} to {high:g} {where}; "
                "rows with several labels are for kind='binary'"
            )
    elif task.kind == "multiclass" and bool(((y < 0) & (y != IGNORED)).any()):
        low = int(y[y != IGNORED].min())
        raise ValueError(f"a multiclass task's labels are class indices from 0, got {low} {where}; {ARRAYS}")


def missing_classes(task: Task, split: str) -> list[str]:
    """The classes of a task that have no row in one of its parts; a soft label is of each class that it has."""
    if task.kind == "regression":
        return []
    labels = task.labels(split)
    counts = (torch.ones_like(labels.y[:, :1]) if labels.weight is None else labels.weight) != 0
    if task.kind == "multiclass":
        there = ((labels.y > 0) & counts).any(dim=0).tolist()
        names = task.classes or tuple(map(str, range(task.outputs)))
        return [name for name, found in zip(names, there, strict=False) if not found]
    names = task.classes or ("0", "1")
    columns = [f" in column {column}" if task.outputs > 1 else "" for column in range(task.outputs)]
    lacking = [(~((labels.y < 1) & counts).any(dim=0)).tolist(), (~((labels.y > 0) & counts).any(dim=0)).tolist()]
    return [
        f"{name}{column}"
        for name, row in zip(names, lacking, strict=True)
        for column, lacks in zip(columns, row, strict=True)
        if lacks
    ]


def _weights(
    given: Any, y: Tensor, rows: Mapping[str, Tensor], own: Mapping[str, Sequence[Any] | None], kind: Kind
) -> dict[str, Tensor]:
    """The weights of each part's rows, of those of x as given; "balanced" ones by the classes of training rows.

    Args:
        given: "balanced", or weights of the rows of x, which stand first in y.
        y: labels of all rows.
        rows: row numbers of each part.
        own: parts of the user's own (x, y), or (x, y, weight).
        kind: of the task.
    """
    theirs = {split: arrays.weights(part[2]) for split, part in own.items() if part is not None and len(part) > 2}
    if given is None:
        return theirs
    if isinstance(given, str):
        if given != "balanced" or kind == "regression":
            raise ValueError(
                f"sample_weight is one number a row, or of a classification 'balanced', got {given!r:.40}"
            )
        weight = balanced_weights(y, rows["train"], kind)
        return {split: weight[numbers] for split, numbers in rows.items()} | theirs
    weight = arrays.weights(given)
    check_weight(weight, y[: len(y) - sum(len(part[0]) for part in own.values() if part is not None)], kind)
    return {split: weight[numbers] for split, numbers in rows.items() if own.get(split) is None} | theirs
