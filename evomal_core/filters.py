"""Time-saving filters: what need not be trained to be known (TPAMI section III-E).

The symbolic archive is the search's own dictionary, keyed by expression; here are the two pre-evaluation
filters, which look at an untrained network's predictions for a sample of training rows, and one that the paper
lacks: losses whose weights provably can't matter, which look at nothing but the expression.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomal_core.config import SearchConfig
from evomal_core.expression import Expression
from evomal_core.learners import Batch, Learner
from evomal_core.losses import Loss, TaskLoss
from evomal_core.primitives import PRIMITIVES
from evomal_core.seeds import torch_rng

Samples = list[Batch]
"""For each task, predictions of the untrained network, their labels, and weights if there are any."""


def sample_predictions(learners: Sequence[Learner], config: SearchConfig) -> Samples:
    """Predictions ŷ_b of each untrained network f_theta_0 for B random training rows, with labels y_b."""
    samples = []
    for learner in learners:
        x, *labels = learner.task.labelled("train")
        order = torch.randperm(len(x), generator=torch_rng(learner.seed, "filter sample"))
        rows = order[: config.rejection_samples].to(x.device)
        with torch.no_grad():
            samples.append((learner.forward(learner.theta, x[rows]), *(array[rows] for array in labels)))
    return samples


def is_rejected(g: float) -> bool:
    """Whether a correlation g marks an unpromising loss; NaN does."""
    return not g > 0


def minimise_predictions(
    loss: Loss, y_pred: Tensor, y_true: Tensor, config: SearchConfig, weight: Tensor | None = None
) -> Tensor:
    """ŷ* = argmin over ŷ of M(ŷ, y), by Adam from the given predictions (Eq. 11)."""
    best = y_pred.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([best], lr=config.rejection_lr)
    for _ in range(config.rejection_steps):
        best.grad = _slope(loss(best, y_true, weight), best)
        optimiser.step()
    return best.detach()


def _slope(value: Tensor, y_pred: Tensor) -> Tensor:
    """∇_ŷ of a loss, zero for a loss without predictions such as M = y."""
    if not value.requires_grad:
        return torch.zeros_like(y_pred)
    return torch.autograd.grad(value, [y_pred], materialize_grads=True)[0]


def gradient_signature(loss: Loss, samples: Samples, signed: bool = False) -> tuple[str, ...] | None:
    """The norms ‖∇_ŷ_b M‖₂ to two significant digits (Eq. 12); None if any is not finite.

    Two losses with the same signature are functionally equivalent, so one of them need not be trained. Norms do
    not tell M from −M, which is left to the rejection protocol. Where that is off, a `signed` signature ends with
    the sign of ⟨∇_ŷ M, ∇_ŷ L_T⟩: + where descent on M lowers the task loss. The paper has no sign.
    """
    norms = []
    pull = 0.0
    for y_pred, *labels in samples:
        leaf = y_pred.detach().clone().requires_grad_()
        slope = _slope(loss(leaf, *labels) * len(y_pred), leaf)
        norms.append(torch.linalg.vector_norm(slope.reshape(len(slope), -1), dim=1))
        if signed:
            pull += float((slope * _slope(TaskLoss(loss.kind)(leaf, *labels), leaf)).sum())
    joined = torch.cat(norms)
    if not torch.isfinite(joined).all():
        return None
    rounded = tuple(f"{norm:.1e}" for norm in joined.tolist())
    return (*rounded, "+" if pull > 0 else "-") if signed else rounded


def is_irrelevant(expression: Expression) -> bool:
    """Whether an expression's weights provably can't matter, so that local search would leave them as they are.

    Rule: each f lies below a `sign`, and no bound of `_bounds` exceeds LARGEST.

    Proof. 1. A loss reaches the base network through dM/df only. By the chain rule dM/df is a sum over the
    leaves f, each term the product of the slopes and weights on the path from the root to that leaf. The slope
    of `sign` is 0 everywhere (at 0 by PyTorch's convention), for all f, y and phi; under the rule it is a factor
    of each term, so dM/df is 0 for all f, y and phi. A softplus at the root is one factor more.
    2. Each unrolled step is then theta ← theta − α·(weight decay and momentum of 0) and does not depend on phi:
    the meta-gradient is 0 for any data, network, task loss and number of unrolled steps.
    3. Both optimisers of phi leave a weight with gradient 0 where it is: Adam's step is 0 / (√0 + ε) = 0.
    4. In floating-point numbers a factor 0 gives 0 unless another is infinite. `_bounds` bounds each node's value
    and first derivatives for |f|, |y| ≤ INPUTS and |phi| ≤ 2; a change of slope is at most 1e7 times the first
    derivatives (`log`), and tangents are those times the change of f in the unrolled step, which may reach 1e10.
    All products that the engines form thus stay below 1e38, where float32 ends. Untrained networks on
    standardised data stay far within these limits; beyond them local search could call a candidate diverged.

    The rule is sufficient, not necessary: `max(1, min(f, -1))` has no slope either, by its values.
    """
    reaches_root = expression.fold(
        lambda _, name: name == "f", lambda _, name, children: name != "sign" and any(children)
    )
    return not reaches_root and max(_bounds(expression)) <= LARGEST


INPUTS = 1e3
LARGEST = 1e18


def _bounds(expression: Expression) -> tuple[float, float]:
    """The largest, over all nodes, of bounds of |value| and of Σ |first derivative by a leaf|.

    A `sign` counts as if it had slope 1, so that the derivatives below it, which it multiplies, count too.
    """
    largest = [0.0, 0.0]

    def seen(value: float, slope: float) -> tuple[float, float]:
        bound = 2 * value, 2 * slope  # after the edge's weight
        largest[:] = map(max, largest, bound)
        return bound

    def node(_: int, name: str, children: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return seen(*PRIMITIVES[name].bounds(*children))

    expression.fold(lambda _, name: seen(INPUTS, 1.0), node)
    return largest[0], largest[1]
