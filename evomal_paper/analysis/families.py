"""Families of losses, told by what a loss does to predictions and not by its formula.

Every rule compares values or gradients within one loss, so that a positive scale and an offset change
nothing: neither changes what a network is trained towards. The names are those of TPAMI section V-C.
Descent is followed to its end; a short training can stop on the way, and use a loss that has no minimum.
"""

from typing import NamedTuple

import numpy as np

from evomal_core.losses import Loss
from evomal_paper.analysis.curves import effective_loss, value_and_slope

FAMILIES = {
    "classification": ("cross-entropy-like", "focal-like", "label-smoothing-like", "other", "degenerate"),
    "regression": (
        "squared-error-like",
        "label-weighted squared error",
        "absolute-like",
        "robust",
        "asymmetric",
        "other",
        "degenerate",
    ),
}
"""The names that `describe` gives, by group of kinds."""

NO_GRADIENT = 1e-10
"""Where no gradient is larger than this, the loss is constant: training in float32 could not follow it."""
LOPSIDED = 0.1
"""A loss is asymmetric where its two sides differ by more than this share of their sum."""


class Shape(NamedTuple):
    """Findings of `describe`: the family, and whether the two kinds of error cost differently."""

    family: str
    asymmetric: bool = False


def describe(loss: Loss, classes: int = 10) -> Shape:
    """The family of a loss: `classification` or `regression`, by its kind.

    Args:
        loss: any loss.
        classes: number of classes of a multiclass loss, since a softmax ties them together.
    """
    return regression(loss) if loss.kind == "regression" else classification(loss, classes)


def _settle(slope: np.ndarray, start: int) -> int:
    """The index at which a descent along sampled slopes comes to rest: a sign change, a plateau or an end."""
    way = -int(np.sign(slope[start]))
    if way == 0:
        return start
    ahead = slope[start:] if way > 0 else slope[start::-1]
    stops = np.flatnonzero(np.sign(ahead) != -way)
    return start + way * (int(stops[0]) if len(stops) else len(ahead) - 1)


def _explained(values: np.ndarray, shape: np.ndarray) -> float:
    """R² of the least-squares fit values ≈ a·shape + b along the last axis, a > 0 shared and b of each row."""
    values = values - values.mean(axis=-1, keepdims=True)
    shape = shape - shape.mean(axis=-1, keepdims=True)
    total = np.sum(values**2)
    scale = np.sum(values * shape) / np.sum(shape**2 * np.ones_like(values))
    return 1 - np.sum((values - scale * shape) ** 2) / total if scale > 0 and total > 0 else 0.0


P = (np.arange(400) + 0.5) / 400
"""Probabilities of the true class, from 0.00125 to 0.99875."""


def classification(loss: Loss, classes: int = 10) -> Shape:
    """The family of a classification loss, by its value V(p) when the true class has probability p.

    For a multiclass loss V is `effective_loss`; for a binary one the mean of M(1, p) and M(0, 1 − p), whose
    minima are looked at one by one. Descent starts at the uninformed prediction p₀ = 1/C. In this order:

    - *degenerate*: V is not finite or has no gradient, or descent from p₀ does not raise p by 0.01.
    - *label-smoothing-like*: it rests at a p* < 1, and V(1) − V(p*) is over 1 % of V(p₀) − V(p*): confident
      correct predictions cost more than less confident ones (TPAMI V-C.1; Müller et al. 2019).
    - *focal-like*: the share of easy examples in the loss, [V(0.9) − V(1)] / [V(0.5) − V(1)], is at most half of
      cross-entropy's, and no prediction costs more than the most wrong one (TPAMI V-C.1; in Lin et al. 2017
      γ = 2 gives 0.04 of cross-entropy's share). The Brier score is of this family too.
    - *cross-entropy-like*: a·(−ln p) + b with an a > 0 explains at least 98 % of V's variance over p (V-C.1).
    - *other*.

    It is *asymmetric* if a false negative M(1, p) − M(1, 1) and a false positive M(0, 1 − p) − M(0, 0) differ
    by over 10 % of the sum of both, summed over p (TPAMI V-C.3). Cross-entropy of one-hot labels is so too: it
    sees false positives only through the softmax.
    """
    positive, negative = value_and_slope(loss, P, 1.0), value_and_slope(loss, 1 - P, 0.0)
    if loss.kind == "multiclass":
        curves, start = [effective_loss(loss, P, classes)], 1 / classes
    else:
        curves, start = [positive, (negative[0], -negative[1])], 0.5
    value, slope = (np.mean([curve[part] for curve in curves], axis=0) for part in (0, 1))
    if not np.isfinite(value).all() or not np.isfinite(slope).all() or np.abs(slope).max() < NO_GRADIENT:
        return Shape("degenerate")
    first = int(np.searchsorted(P, start))
    rest = min(_settle(curve[1], first) for curve in curves)
    asymmetric = _is_asymmetric(positive[0] - positive[0][-1], negative[0] - negative[0][-1])
    if P[rest] < P[first] + 0.01:
        return Shape("degenerate", asymmetric)
    rise = (value[-1] - value[rest]) / (value[first] - value[rest])
    if rest < len(P) - 1 and rise > 0.01:
        return Shape("label-smoothing-like", asymmetric)
    if _easy_share(value) <= 0.5 and value.argmax() == 0:
        return Shape("focal-like", asymmetric)
    return Shape("cross-entropy-like" if _explained(value, -np.log(P)) >= 0.98 else "other", asymmetric)


def _easy_share(value: np.ndarray) -> float:
    """[V(0.9) − V(1)] / [V(0.5) − V(1)] in units of cross-entropy's; infinite where V(0.5) is not above V(1)."""
    easy, hard = (np.interp(p, P, value) - value[-1] for p in (0.9, 0.5))
    reference = (np.log(P[-1]) - np.log(0.9)) / (np.log(P[-1]) - np.log(0.5))
    return easy / hard / reference if hard > 0 else np.inf


def _is_asymmetric(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).sum() > LOPSIDED * (np.abs(left) + np.abs(right)).sum())


Y = np.array([-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
"""Standardised labels. None is 0 or ±1, where an expression of those constants is no typical one."""
F = np.arange(-800, 800) / 100 + 0.005
"""Predictions in standard deviations of the label."""
STARTS = (-1.0, -0.5, 0.5, 1.0)
"""First predictions: those of an untrained network, near the mean of the labels."""
ERRORS = np.arange(300) / 100 + 0.005
"""Distances from a label's own minimum, to both sides of which a loss is looked at."""


def regression(loss: Loss) -> Shape:
    """The family of a regression loss, by where descent ends and how the loss grows from there.

    Labels y are eight values within ±1.75, as of standardised data. Descent along ∂M/∂f from predictions
    within ±1 rests at f*(y); with V(u) = M(y, f* + u) − M(y, f*) for |u| ≤ 3, in this order:

    - *degenerate*: not finite, or the f* explain less than half of the labels' variance (1 − E(f* − y)²/Var y,
      the R² of a perfectly trained network): there is no minimum near f = y, training pushes outward, or the
      label is ignored.
    - *squared-error-like*: a·u² + b(y), with one a > 0 for all labels, explains at least 99 % of the variance,
      and the mean gradient doubles from |u| = 4 to 8 (within 10 %), as that of u² does.
    - *label-weighted squared error*: the same with an a(y) > 0 of each label.
    - *absolute-like*: a·|u| + b(y) explains 99 %, and the mean gradient is the same at 4 and 8 (within 10 %).
    - *asymmetric*: V(u) and V(−u) differ by over 10 % of their sum, summed over u and y.
    - *robust*: the mean gradient is not larger at 8 than at 4 (by 5 %), as those of Huber's, Cauchy's and all
      sublinear losses are not (TPAMI V-C.2: robustness to outliers).
    - *other*.

    An offset that depends on y is ignored, since it has no gradient. The minimum need not lie at f = y.
    """
    values, slopes = value_and_slope(loss, F, Y[:, None])
    if not np.isfinite(values).all() or not np.isfinite(slopes).all() or np.abs(slopes).max() < NO_GRADIENT:
        return Shape("degenerate")
    starts = [int(np.searchsorted(F, start)) for start in STARTS]
    rests = np.array([[F[_settle(slope, start)] for start in starts] for slope in slopes])
    if 1 - np.mean((rests - Y[:, None]) ** 2) / Y.var() < 0.5:
        return Shape("degenerate")
    middle = np.median(rests, axis=1)[:, None]
    right, left = (value_and_slope(loss, middle + side * ERRORS, Y[:, None])[0] for side in (1, -1))
    both = np.hstack((left[:, ::-1], right))
    u = np.hstack((-ERRORS[::-1], ERRORS))
    lowest = value_and_slope(loss, middle, Y[:, None])[0]
    asymmetric, tail = _is_asymmetric(left - lowest, right - lowest), _tail(loss, middle)
    if _explained(both, u**2) >= 0.99 and abs(tail - 2) <= 0.2:
        return Shape("squared-error-like", asymmetric)
    if min(_explained(row, u**2) for row in both) >= 0.99 and abs(tail - 2) <= 0.2:
        return Shape("label-weighted squared error", asymmetric)
    if _explained(both, np.abs(u)) >= 0.99 and abs(tail - 1) <= 0.1:
        return Shape("absolute-like", asymmetric)
    if asymmetric:
        return Shape("asymmetric", asymmetric)
    return Shape("robust" if tail <= 1.05 else "other", asymmetric)


def _tail(loss: Loss, middle: np.ndarray) -> float:
    """Factor by which the mean |∂M/∂f| grows from errors of ±4 to errors of ±8."""
    near, far = (
        np.abs(value_and_slope(loss, middle + np.array([-error, error]), Y[:, None])[1]).mean()
        for error in (4.0, 8.0)
    )
    return float(far / near) if near > 0 else np.inf
