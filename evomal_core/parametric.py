"""Losses of a fixed form, told apart by their weights alone: ML³'s network and TaylorGLO's polynomial."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal_core import symbolic
from evomal_core.expression import Expression
from evomal_core.kinds import Kind
from evomal_core.lazy import LazyModule
from evomal_core.losses import LearnedLoss, Loss, Options
from evomal_core.seeds import torch_rng

if TYPE_CHECKING:
    import sympy
else:
    sympy = LazyModule("sympy")


class NeuralLoss(Loss):
    """ML³'s loss network (Bechtle et al. 2021): softplus(W₃ relu(W₂ relu(W₁ [f, y]))), no biases.

    With 50 units a layer it has 2,650 weights. They start from draws on the given seed: Glorot-uniform, or
    He-normal, N(0, 2/fan-in), as in the authors' code.
    """

    def __init__(
        self,
        kind: Kind = "regression",
        *,
        hidden: int = 50,
        seed: int = 0,
        init: Literal["glorot", "he_normal"] = "glorot",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(kind, **options)
        rng = torch_rng(seed, "ml3")
        draw: Any = nn.init.xavier_uniform_
        if init == "he_normal":
            draw = partial(nn.init.kaiming_normal_, nonlinearity="relu")
        self.w1, self.w2, self.w3 = (
            nn.Parameter(draw(torch.empty(shape), generator=rng))
            for shape in ((hidden, 2), (hidden, hidden), (1, hidden))
        )

    def _structure(self) -> dict[str, Any]:
        return {"family": "neural", "hidden": self.w2.shape[0]}

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

    With roles="swapped", as in the authors' code, u = y − θ₁ and v = f − θ₀, so that θ₂, θ₃ and θ₄ have no effect.
    """

    def __init__(
        self,
        kind: Kind = "regression",
        *,
        theta: Tensor | list[float] | None = None,
        roles: Literal["correct", "swapped"] = "correct",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(kind, **options)
        if roles not in ("correct", "swapped"):
            raise ValueError(f"roles is 'correct' or 'swapped', got {roles!r}")
        self.roles: Literal["correct", "swapped"] = roles
        weights = torch.zeros(8) if theta is None else torch.as_tensor(theta, dtype=torch.float32)
        if weights.shape != (8,) or not torch.isfinite(weights).all():
            raise ValueError(f"a TaylorLoss has 8 finite parameters, got {theta!r:.100}")
        self.theta = nn.Parameter(weights.detach().clone())

    def _structure(self) -> dict[str, Any]:
        return {"family": "taylor"} | ({} if self.roles == "correct" else {"roles": self.roles})

    def extra_repr(self) -> str:
        """The kind, and the roles if they are swapped, for `print(loss)`."""
        return super().extra_repr() + ("" if self.roles == "correct" else f", roles={self.roles!r}")

    def tree(self) -> LearnedLoss:
        """The same loss as an expression with weights, which the engines compute for a whole population."""
        t = [*self.theta.detach().unbind()]
        f, y = self._in_roles("f", "y")

        def u(weight: Any) -> list[tuple[str, Any]]:
            return [("sub", weight), (f, 1), ("1", t[1])]

        def v(weight: Any) -> list[tuple[str, Any]]:
            return [("sub", weight), (y, 1), ("1", t[0])]

        linear = [("add", 1), ("add", 1), ("1", t[3] / 2), *u(t[4] / 6), *v(t[6] / 2)]
        mixed = [("add", 1), ("1", t[5]), *v(t[7] / 2)]
        rest = [("add", 1), ("1", t[2]), ("mul", 1), *u(1), *linear]
        nodes = [("mul", 1), *u(-1), ("add", 1), *rest, ("mul", 1), *v(1), *mixed]
        names, weights = zip(*nodes, strict=True)
        phi = torch.stack([self.theta.new_tensor(1.0) * weight for weight in weights[1:]])
        return LearnedLoss(Expression(names), self.kind, phi=phi, **self.options)

    def elementwise(self, f: Tensor, y: Tensor) -> Tensor:
        """Values of the loss for each pair of prediction `f` and label `y`, in their common shape."""
        return _taylor(self.theta.unbind(), *self._in_roles(f, y))

    def _in_roles(self, f: Any, y: Any) -> tuple[Any, Any]:
        return (f, y) if self.roles == "correct" else (y, f)

    def sympy(self) -> sympy.Expr:
        """The loss of one output in the real symbols f and y, expanded."""
        return sympy.expand(_taylor(self.theta.detach().double().tolist(), *self._in_roles(*symbolic.variables())))

    def _source(self) -> tuple[Sequence[str], str]:
        t = self.theta.detach().tolist()
        first, second = self._in_roles("f", "y")
        lines = (
            f"u, v = {first} - ({t[1]!r}), {second} - ({t[0]!r})",
            f"value = -({t[2]!r} * u + {t[3]!r} * u * u / 2 + {t[4]!r} * u * u * u / 6"
            f" + {t[5]!r} * u * v + {t[6]!r} * u * u * v / 2 + {t[7]!r} * u * v * v / 2)",
        )
        return lines, "A third-order Taylor polynomial (TaylorGLO)."


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
