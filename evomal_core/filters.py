"""Time-saving filters: what need not be trained to be known (TPAMI section III-E).

The symbolic archive is the search's own dictionary, keyed by expression; here are the two pre-evaluation
filters. Both look at an untrained network's predictions for a sample of training rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evomal_core.config import SearchConfig
from evomal_core.learners import Learner
from evomal_core.losses import Kind, Loss
from evomal_core.seeds import torch_rng
from evomal_core.tasks import metric

Samples = list[tuple[Tensor, Tensor]]
"""For each task, predictions of the untrained network and their labels."""


def sample_predictions(learners: Sequence[Learner], config: SearchConfig) -> Samples:
    """Predictions ŷ_b of each untrained network f_theta_0 for B random training rows, with labels y_b."""
    samples = []
    for learner in learners:
        x, y = learner.task.train
        order = torch.randperm(len(x), generator=torch_rng(learner.seed, "filter sample"))
        rows = order[: config.rejection_samples].to(x.device)
        with torch.no_grad():
            samples.append((learner.forward(learner.theta, x[rows]), y[rows]))
    return samples


def promise(loss: Loss, samples: Samples, config: SearchConfig, kind: Kind) -> float:
    """The rejection protocol's correlation g (Eq. 10 and 11), summed over tasks.

    g = Σ_b [L_P(ŷ_b, y_b) − L_P(ŷ*_b, y_b)], where ŷ* are the predictions after minimising the loss over
    them directly, by `rejection_steps` steps of Adam. A loss with g ≤ 0, or NaN, is not worth training with.
    """
    (g,) = promises([loss], samples, config, kind)
    return g


def promises(
    losses: Sequence[Loss], samples: Samples, config: SearchConfig, kind: Kind, engine: str = "autograd"
) -> list[float]:
    """The correlation g of each loss, see `promise`; all are minimised at once with the engine "batched"."""
    measure = metric(kind)
    totals = [0.0] * len(losses)
    for y_pred, y_true in samples:
        if engine == "batched" and losses:
            from evomal_core.stack_training import batched_minimise_predictions

            minima: Iterator[Tensor] = iter(batched_minimise_predictions(losses, y_pred, y_true, config))
        else:
            minima = (minimise_predictions(loss, y_pred, y_true, config) for loss in losses)
        for index, best in enumerate(minima):
            totals[index] += len(y_true) * float(measure(y_pred, y_true) - measure(best, y_true))
    return totals


def is_rejected(g: float) -> bool:
    """Whether a correlation g marks an unpromising loss; NaN does."""
    return not g > 0


def minimise_predictions(loss: Loss, y_pred: Tensor, y_true: Tensor, config: SearchConfig) -> Tensor:
    """ŷ* = argmin over ŷ of M(ŷ, y), by Adam from the given predictions (Eq. 11)."""
    best = y_pred.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([best], lr=config.rejection_lr)
    for _ in range(config.rejection_steps):
        best.grad = _slope(loss(best, y_true), best)
        optimiser.step()
    return best.detach()


def _slope(value: Tensor, y_pred: Tensor) -> Tensor:
    """∇_ŷ of a loss, zero for a loss without predictions such as M = y."""
    if not value.requires_grad:
        return torch.zeros_like(y_pred)
    return torch.autograd.grad(value, [y_pred], materialize_grads=True)[0]


def gradient_signature(loss: Loss, samples: Samples) -> tuple[str, ...] | None:
    """The norms ‖∇_ŷ_b M‖₂ to two significant digits (Eq. 12); None if any is not finite.

    Two losses with the same signature are functionally equivalent, so one of them need not be trained.
    """
    norms = []
    for y_pred, y_true in samples:
        leaf = y_pred.detach().clone().requires_grad_()
        slope = _slope(loss(leaf, y_true) * len(y_true), leaf)
        norms.append(torch.linalg.vector_norm(slope.reshape(len(slope), -1), dim=1))
    joined = torch.cat(norms)
    if not torch.isfinite(joined).all():
        return None
    return tuple(f"{norm:.1e}" for norm in joined.tolist())
