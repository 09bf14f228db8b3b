"""Tasks: arrays to learn on, validate on and test on, and GECCO's distribution of sine waves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evomal_core.kinds import Kind, check_kind
from evomal_core.seeds import check_seed, numpy_rng

SPLITS = ("train", "validation", "test", "unseen")
ARRAYS = "use Task.from_arrays, which takes arrays of any kind"


@dataclass(frozen=True, eq=False)
class Scale:
    """Standardisation (a − mean) / spread, by the mean and standard deviation of training rows; both (…)."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, array: np.ndarray, rows: np.ndarray) -> Scale:
        """That of some rows of an array; a constant column becomes 0."""
        train = array[rows].astype(np.float64)
        spread = train.std(axis=0)
        return cls(torch.from_numpy(train.mean(axis=0)), torch.from_numpy(np.where(spread > 0, spread, 1.0)))

    def __call__(self, array: Any) -> Tensor:
        """Standardised rows, float32; of one column also (rows,), as `Task.from_arrays` takes them.

        Raises:
            ValueError: the rows have another shape than those that the scale is of.
        """
        rows = array if isinstance(array, Tensor) else torch.tensor(_array(array, "x"))
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
        array = torch.as_tensor(array)
        return (array * self.spread.to(array.device) + self.mean.to(array.device)).float()


@dataclass(frozen=True, eq=False)
class Task:
    """A learning problem T = {(x, y)} in up to three parts, and perhaps a share of the last.

    x is (rows, …) float (or int64, for an embedding). y is (rows, outputs) float for regression,
    (rows, 1) float zeros and ones for binary, (rows,) int64 class indices for multiclass. A task
    without validation or test rows holds None there. Where test rows repeat training rows, `unseen` holds
    those that do not.
    """

    name: str
    kind: Kind
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None = None
    test: tuple[Tensor, Tensor] | None = None
    unseen: tuple[Tensor, Tensor] | None = None

    x_scale: Scale | None = None
    """How the features were standardised, if they were: apply it to new rows, `task.x_scale(x_new)`."""
    y_scale: Scale | None = None
    """How the labels of a regression were standardised: `task.y_scale.undo(y_pred)` is in their own unit."""
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    """What is done to the images of each training batch; validation and test rows stay as they are."""
    classes: tuple[str, ...] = ()
    """What the labels 0, 1, … of a classification stand for, where that is known."""

    def __post_init__(self) -> None:
        check_kind(self.kind)
        for split, part in self.parts().items():
            if not all(isinstance(array, Tensor) for array in part):
                found = " and ".join(type(array).__name__ for array in part)
                raise ValueError(f"the {split} part of {self.name!r} holds tensors (x, y), got {found}; {ARRAYS}")
            x, y = part
            if len(x) != len(y):
                raise ValueError(f"the {split} part of {self.name!r} has {len(x)} rows of x but {len(y)} of y")
            if self.kind == "multiclass" and (y.ndim != 1 or y.dtype != torch.int64):
                raise ValueError(
                    f"a multiclass task's labels are class indices (rows,) of torch.int64, got {tuple(y.shape)} "
                    f"of {y.dtype}; {ARRAYS}"
                )
            if self.kind != "multiclass" and y.ndim < 2:
                raise ValueError(
                    f"a {self.kind} task's labels are (rows, outputs), got {tuple(y.shape)}; write "
                    f"y.unsqueeze(1), or {ARRAYS}"
                )
            if not len(x):
                raise ValueError(f"the {split} part of {self.name!r} has no rows; a part without rows is None")
            for array, rows, first in zip("xy", part, self.train, strict=True):
                if (rows.dtype, rows.shape[1:]) != (first.dtype, first.shape[1:]):
                    raise ValueError(
                        f"a row of {array} has shape {tuple(rows.shape[1:])} and {rows.dtype} in the {split} part "
                        f"of {self.name!r}, but {tuple(first.shape[1:])} and {first.dtype} in the training part"
                    )

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        kind: Kind,
        *,
        name: str = "task",
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        standardise: bool = True,
        indices: bool = False,
        seed: int = 0,
    ) -> Task:
        """A task from your own arrays, shuffled and split.

        Args:
            x: features, (rows, …).
            y: labels: real numbers (rows,) or (rows, outputs) for "regression", two classes for
                "binary", any number of classes for "multiclass" (numbered in sorted order).
            kind: "regression", "binary" or "multiclass".
            name: shown in tables.
            split: shares of training, validation and test rows.
            standardise: whether features, and labels of a regression, get mean 0 and standard
                deviation 1 on the training part.
            indices: whether x holds whole numbers from 0 that the network looks up in an `nn.Embedding`: they
                are kept, as int64. Otherwise numbers of any type become float32.
            seed: of the shuffle.

        Raises:
            ValueError: x and y have different lengths, rows of unequal lengths, missing or infinite values,
                dates, a dtype that is not numeric, or fewer than two classes; a column varies too little for
                float32; x can't be indices; or the two are tables of the same rows in different orders.
        """
        check_kind(kind)
        if not isinstance(standardise, bool):
            raise ValueError(f"standardise is True or False, got {standardise!r}")
        _check_order(x, y)
        x, y = _array(x, "x"), _array(y, "y")
        x = _indices(x) if indices else _features(x)
        if y.ndim and len(x) != len(y):
            raise ValueError(f"x has {len(x)} rows but y has {len(y)}; they must be equally many")
        y, classes = _labels(y, kind)
        parts = _split_rows(len(x), split, check_seed(seed))
        x_scale = Scale.of(x, parts[0]) if standardise and not indices else None
        y_scale = Scale.of(y, parts[0]) if standardise and kind == "regression" else None
        x_rows, y_rows = (torch.from_numpy(np.ascontiguousarray(array)) for array in (x, y))
        whole = x_scale(x_rows) if x_scale else x_rows, y_scale(y_rows) if y_scale else y_rows
        train, validation, test = (
            (whole[0][rows], whole[1][rows]) if len(rows) else None for rows in map(torch.from_numpy, parts)
        )
        assert train is not None  # _split_rows leaves no training part empty
        return cls(name, kind, train, validation, test, x_scale=x_scale, y_scale=y_scale, classes=classes)

    @property
    def outputs(self) -> int:
        """Number of outputs that a base network needs for this task."""
        if self.kind == "multiclass":
            return int(max(part[1].max() for part in self.parts().values())) + 1
        return self.train[1].shape[1]

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one row of x."""
        return tuple(self.train[0].shape[1:])

    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The non-empty parts by name."""
        named = {split: getattr(self, split) for split in SPLITS}
        return {split: part for split, part in named.items() if part is not None}

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Task:
        """The task with its arrays on a device, its floating-point ones in a dtype."""

        def move(array: Tensor) -> Tensor:
            return array.to(device=device, dtype=dtype if array.is_floating_point() else None)

        moved: dict[str, Any] = {split: (move(x), move(y)) for split, (x, y) in self.parts().items()}
        return replace(self, **moved)

    def __repr__(self) -> str:
        rows = ", ".join(f"{split}={len(x)}" for split, (x, _) in self.parts().items())
        return f"Task({self.name!r}, {self.kind}, features={self.features}, outputs={self.outputs}, {rows})"


def _array(values: Any, name: str) -> np.ndarray:
    """As NumPy has it; a tensor may require gradients or lie on a GPU, a table's columns must be of one kind."""
    if isinstance(values, Tensor):
        # NumPy has no bfloat16
        return (values.float() if values.dtype == torch.bfloat16 else values).detach().cpu().numpy()
    if isinstance(values, Dataset | DataLoader):
        rows = "loader.dataset" if isinstance(values, DataLoader) else "dataset"
        raise ValueError(f"{name} is a {type(values).__name__}; give arrays: x, y = zip(*{rows})")
    if hasattr(values, "toarray"):
        raise ValueError(f"{name} is a sparse matrix; write {name}.toarray()")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has {np.ma.count_masked(values)} masked value(s); drop or impute them")
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} has rows of unequal lengths; pad or cut them to one length") from None
    if array.dtype.kind in "mM":
        raise ValueError(f"{name} holds dates or times ({array.dtype}); make numbers or classes of them")
    if name == "x" and array.dtype == object and hasattr(values, "select_dtypes"):
        if columns := list(values.select_dtypes(exclude=["number", "bool"]).columns):
            raise ValueError(
                f"column {columns[0]!r} of x holds no numbers; encode it, e.g. by pandas.get_dummies(x)"
            )
        return np.asarray(values.astype(float))
    return array


def _check_order(x: Any, y: Any) -> None:
    """Raise ValueError if x and y are tables of the same rows in different orders: rows are paired by position."""
    if not all(hasattr(table, "index") and hasattr(table, "iloc") for table in (x, y)) or x.index.equals(y.index):
        return
    if len(x) == len(y) and x.index.is_unique and set(x.index) == set(y.index):
        raise ValueError(
            "x and y have the same index in different orders, and rows are paired by position; give "
            "y.loc[x.index], or y.to_numpy() if they fit as they are"
        )


def _features(x: np.ndarray) -> np.ndarray:
    if x.ndim == 0 or not (np.issubdtype(x.dtype, np.number) or x.dtype == bool):
        hint = "; of numbers, write x.astype(float)" if x.ndim and x.dtype == object else ""
        raise ValueError(f"x must be an array of numbers (rows, features), got dtype {x.dtype}{hint}")
    if np.issubdtype(x.dtype, np.complexfloating):
        raise ValueError("x must hold real numbers, got complex ones")
    if not x.size:
        raise ValueError(f"x has no rows or no features: its shape is {x.shape}")
    x = _single(x.reshape(len(x), 1) if x.ndim == 1 else x, "x")
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"x has NaN or infinite values in {len(bad)} row(s), first in row {bad[0]}; drop or impute them"
        )
    return x


def _indices(x: np.ndarray) -> np.ndarray:
    if not np.issubdtype(x.dtype, np.integer) or x.ndim == 0 or not x.size:
        raise ValueError(
            f"indices are an array of whole numbers (rows, …), got dtype {x.dtype} of shape {x.shape}"
        )
    if x.min() < 0:
        raise ValueError(f"indices are whole numbers from 0, got {x.min()}")
    return (x.reshape(len(x), 1) if x.ndim == 1 else x).astype(np.int64)


def _single(array: np.ndarray, name: str) -> np.ndarray:
    """In float32; a number beyond its range becomes infinite, and is then refused as such.

    Raises:
        ValueError: a column spans less than a hundred of float32's steps, so that rounding would drown it.
    """
    if not np.can_cast(array.dtype, np.float32) and array.size:
        low, high = (bound(axis=0).astype(np.float64) for bound in (array.min, array.max))
        with np.errstate(invalid="ignore", over="ignore"):
            span, size = high - low, np.maximum(abs(low), abs(high))
            # What varies by less than float64 resolves is a constant with rounding errors.
            drowned = (span > 1e-12 * size) & (span < 100 * np.finfo(np.float32).eps * size)
        for column in np.argwhere(drowned)[:1]:
            place, column = ", ".join(map(str, column)), tuple(column)
            raise ValueError(
                f"column {place} of {name} varies by {span[column]:.3g} around {low[column]:.6g}, which float32 "
                "can't resolve; subtract its mean first"
            )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _labels(y: np.ndarray, kind: Kind) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as a task holds them, and what the numbers of classes stand for."""
    if y.ndim not in (1, 2) or (y.ndim == 2 and kind != "regression" and y.shape[1] != 1):
        wanted = "(rows,) or (rows, outputs)" if kind == "regression" else "(rows,)"
        one_hot = "; of one-hot rows, give y.argmax(axis=1)" if y.ndim == 2 else ""
        raise ValueError(f"y of a {kind} task has shape {wanted}, got {y.shape}{one_hot}")
    if y.dtype == object and (missing := sum(map(_is_missing, y.flat))):
        raise ValueError(f"y has {missing} missing value(s); drop those rows")
    if kind == "regression":
        if y.dtype == bool:
            raise ValueError(
                "y of a regression task holds real numbers, got booleans; write y.astype(float), or kind='binary'"
            )
        if not np.issubdtype(y.dtype, np.number) or np.issubdtype(y.dtype, np.complexfloating):
            hint = "; write y.astype(float)" if y.dtype == object else ""
            raise ValueError(f"y of a regression task holds real numbers, got dtype {y.dtype}{hint}")
        return _finite(_single(y.reshape(len(y), -1), "y")), ()
    if y.dtype == object:
        if not all(isinstance(label, str) for label in y.flat):
            raise ValueError("y has dtype object; give class labels of one type, numbers or strings")
        y = y.astype(str)  # a pandas column of strings
    classes, indices = np.unique(_finite(y).reshape(-1), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has only one class, {classes[0]}; a {kind} task needs at least two")
    names = tuple(map(str, classes))
    if kind == "multiclass":
        if np.issubdtype(y.dtype, np.floating) and len(fractions := classes[classes != np.round(classes)]):
            raise ValueError(
                f"y of a multiclass task holds class labels, got fractions such as {fractions[0]}; "
                "is this a regression?"
            )
        return indices.astype(np.int64), names
    if len(classes) > 2:
        raise ValueError(f"y of a binary task has two classes, got {len(classes)}; use kind='multiclass'")
    return indices.reshape(-1, 1).astype(np.float32), names


def _is_missing(label: Any) -> bool:
    """Whether a label is None, NaN, or what pandas writes for a missing value."""
    nan = isinstance(label, float | np.floating) and label != label
    return label is None or nan or type(label).__name__ in ("NAType", "NaTType")


def _finite(y: np.ndarray) -> np.ndarray:
    if np.issubdtype(y.dtype, np.number) and not np.isfinite(y).all():
        raise ValueError(f"y has {np.count_nonzero(~np.isfinite(y))} NaN or infinite value(s); drop those rows")
    return y


def _split_rows(rows: int, split: tuple[float, float, float], seed: int) -> list[np.ndarray]:
    shares = np.asarray(split, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1) or shares[0] == 0:
        raise ValueError(f"split is three shares that sum to 1, the first above 0, got {split}")
    ends = np.round(np.cumsum(shares) * rows).astype(int)
    parts = np.split(numpy_rng(seed, "split").permutation(rows), ends[:2])
    for part, share, name in zip(parts, shares, SPLITS[:3], strict=True):
        if share > 0 and not len(part):
            raise ValueError(f"{rows} row(s) are too few for split {split}: the {name} part is empty")
    return parts


def check_values(task: Task) -> None:
    """Refuse a task of tensors whose values can't be learned from; `Task.from_arrays` makes none.

    Raises:
        ValueError: features or labels are NaN or infinite, or class labels are out of their range.
    """
    for split, (x, y) in task.parts().items():
        for name, array in (("x", x), ("y", y)):
            if bad := int((~torch.isfinite(array.flatten(1))).any(dim=1).sum() if array.ndim > 1 else 0):
                raise ValueError(
                    f"{name} has NaN or infinite values in {bad} row(s) of the {split} part of {task.name!r}; "
                    "drop or impute them"
                )
        if task.kind == "binary" and (y.min() < 0 or y.max() > 1):
            raise ValueError(
                f"a binary task's labels are 0 and 1, got {y.min().item():g} to {y.max().item():g} in the {split} "
                f"part of {task.name!r}; {ARRAYS}"
            )
        if task.kind == "multiclass" and y.min() < 0:
            raise ValueError(
                f"a multiclass task's labels are class indices from 0, got {y.min().item()} in the {split} part "
                f"of {task.name!r}; {ARRAYS}"
            )


def missing_classes(task: Task, split: str) -> list[str]:
    """The classes of a task that have no row in one of its parts."""
    if task.kind == "regression":
        return []
    number = 2 if task.kind == "binary" else task.outputs
    there = set(task.parts()[split][1].unique().tolist())
    names = task.classes or tuple(map(str, range(number)))
    return [name for index, name in enumerate(names[:number]) if index not in there]
