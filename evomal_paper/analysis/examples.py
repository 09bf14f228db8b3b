"""The ten losses that TPAMI shows as examples of what EvoMAL learns (Table VI, Figure 6), as losses to train with.

What the table leaves open, and what was chosen:

- *Weights.* The paper omits phi. Each example has weights of 1 here. Where those contradict what section V-C
  says of it, `weights` has others under which it is as described, if there are any: a weight can be negative,
  and can be larger than 1.
- *Bars.* The text that the formulas were taken from has lost the bars of |·| in its tables: its Table I has the
  absolute value as "x". Spaces left behind show where they stood: around all of a, e, g and h, and under the
  roots of g, i and j. So the formulas are read with bars; `Example.bare` is a, e, g and h without the outer ones.
- *Epsilon.* Logarithms and roots are the function set's protected ones: ln(|x| + ε), √(|x| + ε).
- *Quotients.* The function set's is analytic, a/√(1 + b²). The table writes it out in g, but prints a plain one
  in c, which no expression computes: c is built with the analytic one, and `C_PLAIN` is as printed. In h,
  y/(1 + l²) is two analytic ones.

No weights make g what V-C says of it: it sees the prediction as |f| only, so it can't have its minimum at f = y.
GECCO shows one learned loss, as a tree in a figure (Figure 3a); its text gives no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.losses import LearnedLoss, Loss


@dataclass(frozen=True)
class Example:
    """One row of Table VI.

    Attributes:
        name: its letter.
        printed: the formula as the paper's text has it, in LaTeX.
        read: the formula as it is built here, in LaTeX.
        expression: the same as an expression of the function set.
        kind: a to e are losses of classification, f to j of regression.
        said: the families that agree with section V-C.
        quoted: what section V-C says.
        weights: weights other than 1, by edge, under which the loss is as described.
    """

    name: str
    printed: str
    read: str
    expression: str
    kind: Kind
    said: tuple[str, ...]
    quoted: str
    weights: Mapping[int, float] = field(default_factory=dict)

    def loss(self, weighted: bool = False) -> LearnedLoss:
        """The loss with weights of 1, or with those of `weights`."""
        loss = LearnedLoss(self.expression, self.kind).requires_grad_(False)
        for edge, weight in self.weights.items() if weighted else ():
            loss.phi[edge] = weight
        return loss

    def bare(self) -> LearnedLoss:
        """The loss with weights of 1 and without the outermost bars, where it has any."""
        nodes = Expression.parse(self.expression).nodes
        return LearnedLoss(Expression(nodes[nodes[0] == "abs" :]), self.kind).requires_grad_(False)


class PlainLoss(Loss):
    """A loss of one output that is a function of PyTorch, without weights."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], kind: Kind) -> None:
        super().__init__(kind)
        self.function = function

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        return self.function(f, y)


C_PLAIN = PlainLoss(lambda f, y: ((y - f) / f) ** 4, "multiclass")
"""Example c with the plain quotient that the table prints; it has a pole at f = 0."""

_CROSS_ENTROPY = "closely resembles the cross-entropy loss"
_FOCAL = "as the focal loss: little loss for confident correct predictions, much for confident wrong ones"
_SMOOTHING = "more loss for confident correct than for unconfident correct predictions: label smoothing"
_ROOT = "the square root decreases the loss of increasingly large errors"
_LOG = "log(sub(y, 1))"

EXAMPLES = {
    row.name: row
    for row in (
        Example(
            "a",
            r"\log(\sqrt{y \cdot f_\theta(x)} + \epsilon)",
            r"\left|\log(\sqrt{y \cdot f_\theta(x)} + \epsilon)\right|",
            "abs(log(sqrt(mul(y, f))))",
            "multiclass",
            ("cross-entropy-like",),
            _CROSS_ENTROPY,
        ),
        Example(
            "b",
            r"\log(y \cdot f_\theta(x)) + \sqrt{\log(y \cdot f_\theta(x))}^2",
            r"\log(y \cdot f_\theta(x)) + \sqrt{|\log(y \cdot f_\theta(x))|}^2",
            "add(log(mul(y, f)), square(sqrt(log(mul(y, f)))))",
            "multiclass",
            ("cross-entropy-like",),
            _CROSS_ENTROPY,
            {0: -1.0},
        ),
        Example(
            "c",
            r"((y - f_\theta(x))/f_\theta(x))^4",
            r"((y - f_\theta(x))/\sqrt{1 + f_\theta(x)^2})^4",
            "square(square(div(sub(y, f), f)))",
            "multiclass",
            ("focal-like",),
            _FOCAL,
        ),
        Example(
            "d",
            r"y^3 + f_\theta(x)^3 + f_\theta(x) \cdot y^2 + f_\theta(x)^2 \cdot y",
            r"y^3 + f_\theta(x)^3 + f_\theta(x) \cdot y^2 + f_\theta(x)^2 \cdot y",
            "add(add(add(mul(square(y), y), mul(square(f), f)), mul(f, square(y))), mul(square(f), y))",
            "multiclass",
            ("focal-like",),
            _FOCAL,
            {10: -1.0, 14: -1.0},
        ),
        Example(
            "e",
            r"\log((y \cdot f_\theta(x))^2 + \epsilon)",
            r"\left|\log((y \cdot f_\theta(x))^2 + \epsilon)\right|",
            "abs(log(square(mul(y, f))))",
            "multiclass",
            ("label-smoothing-like",),
            _SMOOTHING,
            {1: 1.5},
        ),
        Example(
            "f",
            r"(f_\theta(x) - \min(\max(y, -1), 1))^2",
            r"(f_\theta(x) - \min(\max(y, -1), 1))^2",
            "square(sub(f, min(max(y, -1), 1)))",
            "regression",
            ("squared-error-like",),
            "the squared loss with a threshold that limits the label",
        ),
        Example(
            "g",
            r"y \cdot (\sqrt{y/\sqrt{1 + f_\theta(x)^2}})",
            r"\left|y \cdot (\sqrt{\left|y/\sqrt{1 + f_\theta(x)^2}\right|})\right|",
            "abs(mul(y, sqrt(div(y, f))))",
            "regression",
            ("robust",),
            _ROOT,
        ),
        Example(
            "h",
            r"(y/(1 + \log(y - 1)^2)) - f_\theta(x)",
            r"\left|(y/(1 + \log(|y - 1|)^2)) - f_\theta(x)\right|",
            f"abs(sub(div(div(y, {_LOG}), {_LOG}), f))",
            "regression",
            ("absolute-like", "robust"),
            "a cross between the absolute loss and the Cauchy loss",
        ),
        Example(
            "i",
            r"\sqrt{y \cdot (y - f_\theta(x))}",
            r"\sqrt{|y \cdot (y - f_\theta(x))|}",
            "sqrt(mul(y, sub(y, f)))",
            "regression",
            ("robust",),
            _ROOT,
        ),
        Example(
            "j",
            r"\sqrt{y - f_\theta(x)}",
            r"\sqrt{|y - f_\theta(x)|}",
            "sqrt(sub(y, f))",
            "regression",
            ("robust",),
            _ROOT,
        ),
    )
}
"""Table VI by letter."""
