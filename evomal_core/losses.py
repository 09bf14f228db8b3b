"""Losses as `nn.Module`s, called as `loss(y_pred, y_true)` in any PyTorch training loop.

A loss has a *kind*, which says what `y_pred` holds: predictions (`"regression"`), or logits that the
loss turns into probabilities itself (`"binary"`, `"multiclass"`), as `nn.CrossEntropyLoss` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal_core.expression import Expression
from evomal_core.primitives import PRIMITIVES
from evomal_core.seeds import torch_rng

if TYPE_CHECKING:
    import sympy

from typing import TYPE_CHECKING

from evomal_core.kinds import Kind, check_kind

if TYPE_CHECKING:
    import sympy


def arguments(y_pred: Tensor, y_true: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The arguments f and y of a symbolic loss, both of shape (batch, outputs).

    Regression passes both through; binary applies a sigmoid to one logit; multiclass applies a softmax
    over the last axis and writes class indices as one-hot rows. Half precision, as from autocast, becomes
    float32, as in PyTorch's own losses: a square overflows float16 beyond 255.

    Raises:
        ValueError: the shapes do not fit each other or the kind.
    """
    y_pred = y_pred.to(torch.promote_types(y_pred.dtype, torch.float32))
    if kind == "multiclass":
        if y_pred.ndim != 2 or y_true.ndim != 1 or y_true.is_floating_point():
            raise ValueError(
                "a multiclass loss takes logits (batch, classes) and integer class indices (batch,), "
                f"got {tuple(y_pred.shape)} and {tuple(y_true.shape)} of {y_true.dtype}"
            )
        one_hot = functional.one_hot(y_true.long(), y_pred.shape[1]).to(y_pred.dtype)
        return torch.softmax(y_pred, dim=1), one_hot
    if y_pred.shape != y_true.shape:
        raise ValueError(
            f"y_pred and y_true have different shapes, {tuple(y_pred.shape)} and {tuple(y_true.shape)}; "
            "reshape one of them, e.g. y_true.unsqueeze(1)"
        )
    f = torch.sigmoid(y_pred) if kind == "binary" else y_pred
    rows = (len(f), -1) if f.ndim else (1, 1)
    return f.reshape(rows), y_true.to(f.dtype).reshape(rows)


class Loss(nn.Module):
    """A loss applied to each output, summed over outputs and averaged over the batch (GECCO Eq. 2).

    M(y, f) = 1/B Σ_b Σ_i M_i(y_bi, f_bi). Subclasses define `elementwise`.
    """

    def __init__(self, kind: Kind = "regression") -> None:
        super().__init__()
        check_kind(kind)
        self.kind: Kind = kind

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        raise NotImplementedError

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""
        f, y = arguments(y_pred, y_true, self.kind)
        return self.elementwise(f, y).sum(dim=1).mean()

    @property
    def size(self) -> int:
        """Number of trainable weights phi."""
        return sum(weights.numel() for weights in self.parameters())

    def save(self, path: Path | str) -> None:
        """Write the loss as JSON, atomically; `load_loss` reads it back, exactly if its weights are float32."""
        from evomal_core.library import save_loss

        save_loss(self, path)

    def sympy(self) -> sympy.Expr:
        """The loss of one output as a sympy expression in the real symbols f and y."""
        raise TypeError(f"a {type(self).__name__} has no closed formula")

    def latex(self) -> str:
        """The loss of one output in LaTeX."""
        from evomal_core.symbolic import to_latex

        return to_latex(self.sympy())

    def python_source(self, name: str = "learned_loss") -> str:
        """A stand-alone PyTorch function `name(y_pred, y_true)`, equal to this module."""
        raise TypeError(f"a {type(self).__name__} can't be written as a short function; save it as JSON instead")

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle \\mathcal{{M}}(y, f) = {self.latex()}$"


class LearnedLoss(Loss):
    """The meta-loss network of an expression: its transposed tree with one weight per edge.

    Each node's output is multiplied by the weight of the edge to its parent; the root has none. An
    optional softplus ln(1 + eˣ) makes the loss non-negative (GECCO sections 3.1.3 and 3.2).

    Args:
        expression: an `Expression` or its text, e.g. `"square(sub(y, f))"`.
        kind: what predictions the loss gets, see the module's docstring.
        phi: edge weights in prefix order of the nodes below the root; all 1 if not given.
        softplus: whether the output passes through a softplus.

    Raises:
        ValueError: the expression is malformed, or phi has not one finite weight per edge.
    """

    def __init__(
        self,
        expression: Expression | str,
        kind: Kind = "regression",
        *,
        phi: Tensor | list[float] | None = None,
        softplus: bool = False,
    ) -> None:
        super().__init__(kind)
        self.expression = expression if isinstance(expression, Expression) else Expression.parse(expression)
        self.softplus = softplus
        edges = self.expression.edges
        weights = torch.ones(edges) if phi is None else torch.as_tensor(phi).detach().clone()
        if weights.shape != (edges,) or not torch.isfinite(weights).all():
            raise ValueError(
                f"{self.expression} has {edges} edges, so phi needs {edges} finite weights, got {phi!r:.100}"
            )
        self.phi = nn.Parameter(weights if weights.is_floating_point() else weights.float())

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        phi = self.phi.unbind()
        constants = {"1": torch.ones_like(f), "-1": -torch.ones_like(f), "f": f, "y": y}

        def node(position: int, name: str, children: Sequence[Tensor]) -> Tensor:
            return weighted(position, PRIMITIVES[name].torch(*children))

        def weighted(position: int, value: Tensor) -> Tensor:
            return value if position == 0 else phi[position - 1] * value

        value = self.expression.fold(lambda i, name: weighted(i, constants[name]), node)
        return functional.softplus(value) if self.softplus else value

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y: simplified, and checked to be equal."""
        from evomal_core.symbolic import loss_formula

        return loss_formula(self.expression, self.phi.detach().double().tolist(), self.softplus)

    def python_source(self, name: str = "learned_loss") -> str:
        """A stand-alone PyTorch function `name(y_pred, y_true)`, equal to this module."""
        from evomal_core.symbolic import loss_source

        return loss_source(self.expression, self.phi.detach().tolist(), self.softplus, self.kind, name)

    def extra_repr(self) -> str:
        """The expression and the kind, for `print(loss)`."""
        return f"{self.expression}, kind={self.kind!r}" + (", softplus=True" if self.softplus else "")


def initial_phi(expression: Expression, seed: int, spread: float = 1e-3) -> Tensor:
    """Edge weights near the unit form, phi ~ N(1, spread²) (GECCO section 3.2).

    They depend on the seed and the expression alone, never on what was evaluated before.
    """
    rng = torch_rng(seed, "phi", str(expression))
    return 1 + spread * torch.randn(expression.edges, generator=rng)


class TaskLoss(Loss):
    """The baseline and meta-objective: squared error or cross-entropy.

    Regression: 1/B Σ_b Σ_i (y − f)². Binary and multiclass: the cross-entropy of logits, computed stably.
    """

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """The squared error, or −y ln f (for one output also −(1 − y) ln(1 − f))."""
        if self.kind == "regression":
            return torch.square(f - y)
        tiny = torch.finfo(f.dtype).tiny
        value = -y * torch.log(f + tiny)
        return value - (1 - y) * torch.log(1 - f + tiny) if self.kind == "binary" else value

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""
        if self.kind == "multiclass":
            return functional.cross_entropy(y_pred, y_true)
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits(y_pred, y_true.to(y_pred.dtype))
        return super().forward(y_pred, y_true)

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y."""
        from evomal_core.symbolic import F, Y, sympy

        if self.kind == "regression":
            return (F - Y) ** 2
        positive = -Y * sympy.log(F)
        return positive - (1 - Y) * sympy.log(1 - F) if self.kind == "binary" else positive


class NeuralLoss(Loss):
    """ML³'s loss network (Bechtle et al. 2021): softplus(W₃ relu(W₂ relu(W₁ [f, y]))), no biases.

    With 50 units a layer it has 2,650 weights. They start from Glorot-uniform draws on the given seed.
    """

    def __init__(self, kind: Kind = "regression", *, hidden: int = 50, seed: int = 0) -> None:
        super().__init__(kind)
        rng = torch_rng(seed, "ml3")
        self.w1, self.w2, self.w3 = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape), generator=rng))
            for shape in ((hidden, 2), (hidden, hidden), (1, hidden))
        )

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        hidden = torch.relu(torch.stack((f, y), dim=-1) @ self.w1.T.to(f.dtype))
        hidden = torch.relu(hidden @ self.w2.T.to(f.dtype))
        return functional.softplus(hidden @ self.w3.T.to(f.dtype)).squeeze(-1)

    def latex(self) -> str:
        """The network in LaTeX; its weights are not written out."""
        return r"\operatorname{softplus}(W_3 \operatorname{relu}(W_2 \operatorname{relu}(W_1 [f, y])))"


class TaylorLoss(Loss):
    """TaylorGLO's third-order Taylor polynomial with 8 parameters (Gonzalez & Miikkulainen 2021, Eq. 10).

    With u = f − θ₁ and v = y − θ₀, where f is the prediction and y the label,
    M = −[θ₂u + ½θ₃u² + ⅙θ₄u³ + θ₅uv + ½θ₆u²v + ½θ₇uv²]. Terms without f are left out: they have no gradient.
    """

    def __init__(self, kind: Kind = "regression", *, theta: Tensor | list[float] | None = None) -> None:
        super().__init__(kind)
        weights = torch.zeros(8) if theta is None else torch.as_tensor(theta, dtype=torch.float32)
        if weights.shape != (8,) or not torch.isfinite(weights).all():
            raise ValueError(f"a TaylorLoss has 8 finite parameters, got {theta!r:.100}")
        self.theta = nn.Parameter(weights.detach().clone())

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        return _taylor(self.theta.unbind(), f, y)

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y, expanded."""
        from evomal_core.symbolic import F, Y, sympy

        return sympy.expand(_taylor(self.theta.detach().double().tolist(), F, Y))

    def python_source(self, name: str = "learned_loss") -> str:
        """A stand-alone PyTorch function `name(y_pred, y_true)`, equal to this module."""
        from evomal_core.symbolic import wrap_source

        t = self.theta.detach().tolist()
        lines = (
            f"u, v = f - ({t[1]!r}), y - ({t[0]!r})",
            f"value = -({t[2]!r} * u + {t[3]!r} * u * u / 2 + {t[4]!r} * u * u * u / 6"
            f" + {t[5]!r} * u * v + {t[6]!r} * u * u * v / 2 + {t[7]!r} * u * v * v / 2)",
        )
        return wrap_source(lines, self.kind, name, "A third-order Taylor polynomial (TaylorGLO).")


def _taylor(t: Sequence[Any], f: Any, y: Any) -> Any:
    """The polynomial of `TaylorLoss`, for tensors and for sympy symbols."""
    u, v = f - t[1], y - t[0]
    return -(
        t[2] * u
        + t[3] * u * u / 2
        + t[4] * u * u * u / 6
        + t[5] * u * v
        + t[6] * u * u * v / 2
        + t[7] * u * v * v / 2
    )
