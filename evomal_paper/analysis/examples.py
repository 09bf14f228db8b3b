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
  in c, which no expression computes: c is built with the analytic one. In h, y/(1 + l²) is two analytic ones.

No weights make g what V-C says of it: it sees the prediction as |f| only, so it can't have its minimum at f = y.
GECCO shows one learned loss, as a tree in a figure (Figure 3a); its text gives no formula.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.losses import LearnedLoss
from evomal_paper.published.tables import facts


@dataclass(frozen=True)
class Example:
    """One row of Table VI, of `published/examples.toml`.

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
    said: list[str]
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


EXAMPLES = {
    row["name"]: Example(**{**row, "weights": {int(edge): w for edge, w in row.get("weights", {}).items()}})
    for row in facts("examples", "example")
}
"""The rows of `published/examples.toml` by their letters."""
