"""Conversion of arrays of any library to NumPy: features, labels and weights, and parts joined to one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evomal_core.kinds import IGNORED, Kind
from evomal_core.lazy import LazyModule

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = LazyModule("pandas", "evomal[paper]")


def as_array(values: Any, name: str) -> np.ndarray:
    """Return a NumPy array; a tensor may need gradients or lie on a GPU, a table's columns must be of one kind."""
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
    if name == "y" and array.dtype.kind == "U" and isinstance(values, list | tuple):
        return np.asarray(values, dtype=object)  # with numbers as numbers, for `labels` to refuse
    if name == "x" and array.dtype == object and hasattr(values, "select_dtypes"):
        if columns := list(values.select_dtypes(exclude=["number", "bool"]).columns):
            raise ValueError(
                f"column {columns[0]!r} of x holds no numbers; encode it, e.g. by pandas.get_dummies(x)"
            )
        return np.asarray(values.astype(float))
    return array


def as_tensor(values: Any, name: str) -> Tensor:
    """Return a tensor of numbers: tensors as they are, others as a copy."""
    if isinstance(values, Tensor):
        return values
    array = as_array(values, name)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def check_order(given: Mapping[str, Any], where: str = "") -> None:
    """Raise ValueError if tables have the same rows in different orders: rows are paired by position.

    Args:
        given: x, y, and what else has a value a row, by name; the first table is compared with the others.
        where: the part that they are of, for the message.
    """
    tables = {name: table for name, table in given.items() if hasattr(table, "index") and hasattr(table, "iloc")}
    if not tables:
        return
    first, x = next(iter(tables.items()))
    for name, y in tables.items():
        same = len(x) == len(y) and x.index.is_unique and set(x.index) == set(y.index)
        if same and not x.index.equals(y.index):
            raise ValueError(
                f"{first} and {name}{where} have the same index in different orders, and rows are paired by "
                f"position; give {name}.loc[{first}.index], or {name}.to_numpy() if they fit as they are"
            )


def rows_of(values: Any, name: str) -> int:
    """Number of rows of an array or a table.

    Raises:
        ValueError: it has none, as a number.
    """
    if isinstance(values, Dataset | DataLoader) or hasattr(values, "toarray"):
        as_array(values, name)  # which refuses them
    try:
        return len(values)
    except TypeError:
        raise ValueError(
            f"{name} must be an array (rows, …), got {type(values).__name__} {values!r:.40}"
        ) from None


def features(x: np.ndarray) -> np.ndarray:
    """Features as a task holds them, float32; of one column also (rows,).

    Raises:
        ValueError: they are no finite real numbers, or vary too little for float32.
    """
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


def indices(x: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 that an `nn.Embedding` looks up, int64.

    Raises:
        ValueError: they are anything else.
    """
    if not np.issubdtype(x.dtype, np.integer) or x.ndim == 0 or not x.size:
        raise ValueError(
            f"indices are an array of whole numbers (rows, …), got dtype {x.dtype} of shape {x.shape}"
        )
    if x.min() < 0:
        raise ValueError(f"indices are whole numbers from 0, got {x.min()}")
    return (x.reshape(len(x), 1) if x.ndim == 1 else x).astype(np.int64)


def _single(array: np.ndarray, name: str) -> np.ndarray:
    """Return float32; a number beyond its range becomes infinite, and is then refused as such.

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


def labels(y: np.ndarray, kind: Kind) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as a task holds them, and what the numbers of its classes stand for.

    Missing ones are NaN; of class indices IGNORED.

    Raises:
        ValueError: they are no labels of this kind, or a row has none.
    """
    if not y.ndim or not y.size:
        raise ValueError(f"y of a {kind} task has shape (rows,) or (rows, …), got {y.shape}")
    if y.dtype == object and (missing := sum(map(_is_missing, y.flat))):
        raise ValueError(f"y has {missing} missing value(s); drop those rows")
    if y.dtype == object:
        y = _of_one_type(y)
    if kind == "regression":
        return _numbers(y), ()
    if y.dtype == object:
        if not all(isinstance(label, int | float | np.number | np.bool_) for label in y.flat):
            raise ValueError("y has dtype object; give class labels of one type, numbers or strings")
        y = np.array(y.tolist())  # 1 and 1.0 are one class
    if np.issubdtype(y.dtype, np.complexfloating):
        raise ValueError(f"y of a {kind} task holds class labels, got complex numbers")
    return _binary(y) if kind == "binary" else _multiclass(y)


def _of_one_type(y: np.ndarray) -> np.ndarray:
    """Text as such, such as a pandas column of strings; other labels as they are."""
    text = np.array([isinstance(label, str) for label in y.flat])
    if text.all():
        return y.astype(str)
    if text.any():
        raise ValueError(
            f"y has labels of text and of other types, such as {y.flat[text.argmax()]!r} and "
            f"{y.flat[text.argmin()]!r}; give labels of one type, numbers or strings, in all parts"
        )
    return y


def _is_missing(label: Any) -> bool:
    """Whether a label is None, NaN, or what pandas writes for a missing value."""
    nan = isinstance(label, float | np.floating) and label != label
    return label is None or nan or type(label).__name__ in ("NAType", "NaTType")


def _numbers(y: np.ndarray) -> np.ndarray:
    if y.dtype == bool:
        raise ValueError(
            "y of a regression task holds real numbers, got booleans; write y.astype(float), or kind='binary'"
        )
    if not np.issubdtype(y.dtype, np.number) or np.issubdtype(y.dtype, np.complexfloating):
        hint = "; write y.astype(float)" if y.dtype == object else ""
        raise ValueError(f"y of a regression task holds real numbers, got dtype {y.dtype}{hint}")
    y = _single(y.reshape(len(y), -1) if y.ndim == 1 else y, "y")
    _check_rows(_gone(y, mark=None))
    return y


def _gone(y: np.ndarray, mark: int | None = IGNORED) -> np.ndarray:
    """Mask of the missing labels: NaN, or the mark.

    Raises:
        ValueError: labels are infinite.
    """
    if not np.issubdtype(y.dtype, np.number):
        return np.zeros(y.shape, bool)
    if infinite := np.count_nonzero(np.isinf(y)):
        raise ValueError(f"y has {infinite} infinite value(s); drop those rows")
    return np.isnan(y) if mark is None else np.isnan(y) | (y == mark)


def _check_rows(missing: np.ndarray) -> None:
    empty = np.flatnonzero(missing.reshape(len(missing), -1).all(axis=1))
    if len(empty):
        raise ValueError(
            f"y has no label in {len(empty)} row(s), first in row {empty[0]} (NaN, and {IGNORED} for classes, "
            "mark missing ones); drop those rows"
        )


def _binary(y: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Zeros and ones, or probabilities of the second class; several columns are labels of their own."""
    y = y.reshape(-1, 1) if y.ndim == 1 else y
    missing = _gone(y)
    _check_rows(missing)
    values, codes = np.unique(y[~missing], return_inverse=True)
    if np.issubdtype(y.dtype, np.floating) and (values != np.round(values)).any():
        if values[0] < 0 or values[-1] > 1:
            raise ValueError(
                f"y of a binary task holds two classes, or probabilities from 0 to 1, got {values[0]:g} to "
                f"{values[-1]:g}; is this a regression?"
            )
        return np.where(missing, np.nan, y).astype(np.float32), ("0", "1")
    if len(values) < 2:
        raise ValueError(f"y has only one class, {values[0]}; a binary task needs at least two")
    if len(values) > 2:
        raise ValueError(f"y of a binary task has two classes, got {len(values)}; use kind='multiclass'")
    found: Any = np.full(y.shape, np.nan, np.float32)
    found[~missing] = codes.reshape(-1)
    if found.ndim == 2 and found.shape[1] == 2 and (found.sum(axis=1) == 1).all():
        raise ValueError(
            "y of a binary task has one column a label, got two of which each row has one; of one-hot rows, give "
            "y.argmax(axis=1)"
        )
    return found, tuple(map(str, values))


def _multiclass(y: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices of rows or positions, in sorted order, or probabilities with the classes on axis 1."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    missing = _gone(y)
    if y.ndim > 1 and (np.issubdtype(y.dtype, np.floating) or _is_one_hot(y)):
        return _probabilities(y)
    _check_rows(missing)
    classes, codes = np.unique(y[~missing], return_inverse=True)
    if np.issubdtype(y.dtype, np.floating) and len(fractions := classes[classes != np.round(classes)]):
        raise ValueError(
            f"y of a multiclass task holds class labels, got fractions such as {fractions[0]}; "
            "is this a regression?"
        )
    if len(classes) < 2:
        raise ValueError(f"y has only one class, {classes[0]}; a multiclass task needs at least two")
    found = np.full(y.shape, IGNORED, np.int64)
    found[~missing] = codes.reshape(-1)
    return found, tuple(map(str, classes))


def _is_one_hot(y: np.ndarray) -> bool:
    if not np.issubdtype(y.dtype, np.number) and y.dtype != bool:
        return False
    return bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def _probabilities(y: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if _is_one_hot(y):
        raise ValueError(
            f"y of a multiclass task has shape (rows,), got {y.shape}; of one-hot rows, give y.argmax(axis=1)"
        )
    missing = np.isnan(y).any(axis=1)
    _check_rows(missing)
    sums, there = y.sum(axis=1)[~missing], np.moveaxis(y, 1, -1)[~missing]
    if (there < 0).any() or (there > 1).any():
        raise ValueError(
            f"y of a multiclass task has shape (rows,), got {y.shape} of {y.dtype}; give classes of positions as "
            f"y.astype(int), with {IGNORED} where a label is missing; probabilities lie from 0 to 1"
        )
    if (wrong := abs(sums - 1) > 1e-3).any():
        raise ValueError(
            f"probabilities of classes sum to 1 along axis 1 of y, got {sums[wrong][0]:g}; rows with several "
            "labels or none are for kind='binary', with one column a label"
        )
    return y.astype(np.float32), tuple(map(str, range(y.shape[1])))


def weights(values: Any) -> Tensor:
    """Weights as numbers, float32.

    Raises:
        ValueError: they are anything else.
    """
    array = as_array(values, "sample_weight")
    if array.dtype != bool and not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"sample_weight is one number a row, or 'balanced', got dtype {array.dtype}")
    return torch.from_numpy(array.astype(np.float32))


def joined(
    x: Any, y: Any, others: Mapping[str, tuple[Any, ...] | None], *, tables: bool = False
) -> tuple[Any, Any, list[np.ndarray]]:
    """Append the user's own parts to the arrays; return the arrays and the row numbers of each part.

    Tables stay tables, with the columns of the first.

    Args:
        x: features.
        y: labels.
        others: the parts by name.
        tables: whether x of each part has to be a table if one is, as a transformer may go by names of columns.

    Raises:
        ValueError: a part is no (x, y), perhaps with weights, has no rows or is in another order than its labels,
            or a table lacks a column of x.
    """
    end = _check_lengths(x, y)
    columns: list[tuple[Any, Any]] = [(x, y)]
    places: list[np.ndarray] = []
    for name, part in others.items():
        if part is None:
            places.append(np.arange(0))
            continue
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise ValueError(
                f"validation and test are arrays (x, y), or (x, y, weight), got a {type(part).__name__}"
            )
        where = f" of the {name} part"
        rows = _check_lengths(part[0], part[1], where)
        if not rows:
            raise ValueError(f"the {name} part has no rows; leave it out to split x")
        check_order(dict(zip(("x", "y", "weight"), part, strict=False)), where)
        if tables and hasattr(x, "columns") != hasattr(part[0], "columns"):
            array, table = (f"x{where}", "x") if hasattr(x, "columns") else ("x", f"x{where}")
            raise ValueError(
                f"{table} is a table and {array} is not; give a table of the same columns for transform"
            )
        columns.append((part[0], part[1]))
        places.append(np.arange(end, end + rows))
        end += rows
    if len(columns) == 1:
        return x, y, places
    first, second = ([pair[number] for pair in columns] for number in range(2))
    return _stacked(first, "x"), _stacked(second, "y"), places


def _check_lengths(x: Any, y: Any, where: str = "") -> int:
    rows, labels = rows_of(x, f"x{where}"), rows_of(y, f"y{where}")
    if rows != labels:
        raise ValueError(f"x{where} has {rows} rows but y{where} has {labels}; they must be equally many")
    return rows


def in_order(table: Any, columns: Sequence[Any], name: str) -> Any:
    """A table with these columns in this order; anything else as it is."""
    if not columns or not hasattr(table, "columns") or list(table.columns) == list(columns):
        return table
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{name} lacks column {missing[0]!r}")
    return table[list(columns)]


def _stacked(tables: list[Any], name: str) -> Any:
    if hasattr(tables[0], "columns") and all(hasattr(table, "columns") for table in tables):
        ordered = [in_order(table, list(tables[0].columns), f"a part's {name}") for table in tables]
        return pd.concat(ordered, ignore_index=True)
    rows = [as_array(table, name) for table in tables]
    shapes = {array.shape[1:] for array in rows}
    if len(shapes) > 1:
        raise ValueError(f"rows of {name} differ in shape between parts: {', '.join(map(str, sorted(shapes)))}")
    if len({array.dtype.kind == "U" for array in rows}) > 1:  # NumPy would make text of numbers
        rows = [array.astype(object) for array in rows]
    return np.concatenate(rows)
