"""Splitting rows into training, validation and test parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evomal_core.lazy import LazyModule
from evomal_core.seeds import numpy_rng

if TYPE_CHECKING:
    from sklearn import base
else:
    base = LazyModule("sklearn.base", "evomal[paper]")

PARTS = ("train", "validation", "test")
Shares = tuple[float, float, float]


def check_shares(split: Shares) -> np.ndarray:
    """The shares of the parts.

    Raises:
        ValueError: they are not three shares that sum to 1, the first above 0.
    """
    try:
        shares = np.asarray(split, dtype=float)
    except (TypeError, ValueError):
        shares = np.zeros(0)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1) or shares[0] == 0:
        raise ValueError(
            f"split is three shares that sum to 1, the first above 0, such as (0.6, 0.2, 0.2), got {split!r:.40}"
        )
    return shares


def split_rows(
    rows: int, split: Shares, seed: int, *, groups: Any = None, strata: np.ndarray | None = None
) -> list[np.ndarray]:
    """Row numbers of each part, shuffled.

    Args:
        rows: how many there are.
        split: shares of training, validation and test rows.
        seed: of the shuffle.
        groups: what rows belong to, (rows,): rows of one group stay in one part.
        strata: classes, (rows,): each part gets its share of each of them.

    Raises:
        ValueError: the shares are none, a part with a share above 0 would be empty, or groups or strata don't fit.
    """
    shares = check_shares(split)
    rng = numpy_rng(seed, "split")
    if groups is not None and strata is not None:
        raise ValueError("groups and stratify can't both be kept to; leave one of them out")
    if groups is not None:
        parts = _by_groups(_column(groups, rows, "groups"), shares, rng)
    elif strata is not None:
        parts = _by_strata(_column(strata, rows, "stratify"), shares, rng)
    else:
        ends = np.round(np.cumsum(shares) * rows).astype(int)
        parts = np.split(rng.permutation(rows), ends[:2])
    for part, share, name in zip(parts, shares, PARTS, strict=True):
        if share > 0 and not len(part):
            raise ValueError(f"{rows} row(s) are too few for split {split}: the {name} part is empty")
    return parts


def split_own(
    rows: int, split: Shares, own: Sequence[np.ndarray], seed: int, groups: Any, strata: np.ndarray | None
) -> list[np.ndarray]:
    """Split rows of which the last are validation or test parts of the user's own, see `arrays.joined`."""
    shares = check_shares(split)
    kept = rows - sum(len(part) for part in own)
    wanted = shares * [1.0, not len(own[0]), not len(own[1])]
    first, second, third = (float(share) for share in wanted / wanted.sum())
    parts = split_rows(
        kept, (first, second, third), seed, groups=groups, strata=None if strata is None else strata[:kept]
    )
    return [parts[0], *(mine if len(mine) else part for mine, part in zip(own, parts[1:], strict=True))]


def _column(values: Any, rows: int, name: str) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (rows,):
        raise ValueError(f"{name} has one value a row, ({rows},), got shape {column.shape}")
    return np.unique(column, return_inverse=True)[1]


def _by_groups(groups: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups in random order, each to the part that lacks most rows; few groups give rough shares."""
    lacking = shares * len(groups)
    chosen = np.zeros(groups.max() + 1, int)
    sizes = np.bincount(groups)
    order = rng.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        chosen[group] = int(np.argmax(lacking))
        lacking[chosen[group]] -= sizes[group]
    part_of = chosen[groups]
    return [rng.permutation(np.flatnonzero(part_of == number)) for number in range(3)]


def _by_strata(strata: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of each stratum in random order at even places in [0, 1), cut at the cumulative shares."""
    part_of = np.empty(len(strata), int)
    for stratum in range(strata.max() + 1):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        places = (np.arange(len(rows)) + rng.random()) / len(rows)
        part_of[rows] = np.searchsorted(np.cumsum(shares)[:2], places, side="right")
    return [rng.permutation(np.flatnonzero(part_of == number)) for number in range(3)]


def transformed(transformer: Any, x: Any, rows: np.ndarray) -> tuple[Any, Any]:
    """Fit a scikit-learn transformer on some rows; return it and all rows transformed.

    Raises:
        ValueError: it is no transformer, needs labels, or does not keep the rows.
    """
    if not (hasattr(transformer, "fit") and hasattr(transformer, "transform")):
        raise ValueError(f"transform is a scikit-learn transformer, got a {type(transformer).__name__}")
    try:
        fitted = base.clone(transformer).fit(x.iloc[rows] if hasattr(x, "iloc") else np.asarray(x)[rows])
    except (TypeError, ValueError) as error:
        if "requires y" in str(error) or "argument: 'y'" in str(error):
            raise ValueError(
                f"transform is fitted without y, but {transformer!r:.60} needs it; transform x before, by one "
                "fitted on the training rows only, and give each part as validation=… and test=…"
            ) from error
        raise
    made = fitted.transform(x)
    if np.shape(made)[:1] != (len(x),):
        raise ValueError(
            f"transform made an array of shape {np.shape(made)} of {len(x)} rows of x; it has to keep the rows: "
            "drop them from x and y before"
        )
    return fitted, made.toarray() if hasattr(made, "toarray") else made
