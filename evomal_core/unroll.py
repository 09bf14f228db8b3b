"""Local search: tuning a loss's weights phi by unrolled differentiation (GECCO Algorithm 1).

One meta-step trains the base network for K steps from its initial weights with the loss M_phi,

    theta_{k+1} = theta_k − α ∇_theta M_phi(y, f_theta_k(x)),    k = 0 … K − 1,

then moves phi against the gradient of the task loss L_T(y, f_theta_K(x)), summed over tasks. The engines
compute that same meta-gradient in different ways:

- `higher`: per candidate, with the library that the papers used; the oracle for fidelity;
- `autograd`: per candidate, double backward through `torch.func.functional_call`;
- `jvp`: per candidate, without double backward: one forward-mode product a step, half the memory;
- `batched`: as `jvp`, for all candidates at once, see `evomal_core.population.local_search`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import higher
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp

from evomal_core.config import SGD, SearchConfig
from evomal_core.learners import Episode, Learner, Weights
from evomal_core.losses import Loss, NegativeProbability, TaskLoss

Gradients = tuple[Tensor, ...]


def sgd_step(
    theta: Weights, gradient: Gradients, base: SGD, velocity: Gradients | None
) -> tuple[Weights, Gradients]:
    """One pure step of SGD with momentum and weight decay, see `SGD`; returns new weights and velocity."""
    total = [g + base.weight_decay * w for g, w in zip(gradient, theta.values(), strict=True)]
    if velocity is None:
        velocity = tuple(total)
    else:
        velocity = tuple(base.momentum * v + g for v, g in zip(velocity, total, strict=True))
    step = velocity
    if base.nesterov:
        step = tuple(g + base.momentum * v for g, v in zip(total, velocity, strict=True))
    return {name: w - base.lr * s for (name, w), s in zip(theta.items(), step, strict=True)}, velocity


def _higher(loss: Loss, learner: Learner, data: Episode, base: SGD) -> tuple[Tensor, Gradients]:
    network = copy.deepcopy(learner.network)
    with torch.no_grad():
        for name, weights in learner.initial(data.meta_step).items():
            network.get_parameter(name).copy_(weights)
    optimiser = base.make(network.parameters())
    with higher.innerloop_ctx(network, optimiser) as (functional_network, optimiser_step):
        for k, (x, *labels) in enumerate(data.steps):
            with learner.dropout(data.draw + k):
                y_pred = functional_network(x)
            optimiser_step.step(loss(y_pred, *labels))
        with learner.dropout(data.draw + len(data.steps)):
            x, *labels = data.task
            value = task_loss(learner)(functional_network(x), *labels)
        return value.detach(), _gradient(value, tuple(loss.parameters()))


def _autograd(loss: Loss, learner: Learner, data: Episode, base: SGD) -> tuple[Tensor, Gradients]:
    theta = {name: weights.requires_grad_() for name, weights in learner.initial(data.meta_step).items()}
    velocity: Gradients | None = None
    for k, (x, *labels) in enumerate(data.steps):
        value = loss(learner.forward(theta, x, data.draw + k), *labels)
        gradient = _gradient(value, tuple(theta.values()), create_graph=True)
        theta, velocity = sgd_step(theta, gradient, base, velocity)
    x, *labels = data.task
    value = task_loss(learner)(learner.forward(theta, x, data.draw + len(data.steps)), *labels)
    return value.detach(), _gradient(value, tuple(loss.parameters()))


def _jvp(loss: Loss, learner: Learner, data: Episode, base: SGD) -> tuple[Tensor, Gradients]:
    """The adjoint recursion: lambda_k = ∂L_T/∂theta_k, from k = K down to 0, by forward-mode products.

    With G_k = ∇_theta M(theta_k), a = ∂L_T/∂G_k and the directional derivative s = ⟨∇_theta M, a⟩, the
    meta-gradient gains ∂s/∂phi and lambda_k = lambda_{k+1} + λ·a + ∂s/∂theta (λ: weight decay). At k = 0
    only ∂s/∂phi is needed: s = ⟨dM/df, J a⟩, a derivative of the elementwise loss alone.
    """
    trajectory: list[Weights] = [learner.initial(data.meta_step)]
    velocity: Gradients | None = None
    for k, (x, *labels) in enumerate(data.steps):
        leaves = {name: weights.requires_grad_() for name, weights in trajectory[-1].items()}
        value = loss(learner.forward(leaves, x, data.draw + k), *labels)
        gradient = _gradient(value, tuple(leaves.values()))
        with torch.no_grad():
            theta, velocity = sgd_step(leaves, gradient, base, velocity)
        trajectory[-1] = {name: weights.detach() for name, weights in leaves.items()}
        trajectory.append(theta)
    x, *labels = data.task
    leaves = {name: weights.requires_grad_() for name, weights in trajectory[-1].items()}
    value = task_loss(learner)(learner.forward(leaves, x, data.draw + len(data.steps)), *labels)
    adjoint = _gradient(value, tuple(leaves.values()))

    meta = tuple(torch.zeros_like(weights) for weights in loss.parameters())
    adjoint_velocity: Gradients = tuple(torch.zeros_like(a) for a in adjoint)
    for k in range(len(data.steps) - 1, -1, -1):
        direction, adjoint_velocity = step_adjoint(adjoint, adjoint_velocity, base)
        towards = dict(zip(trajectory[k], direction, strict=True))
        if k == 0:
            change = _first_step_term(loss, learner, data, trajectory[0], towards)
        else:
            curvature, change = _inner_step_terms(loss, learner, data, k, trajectory[k], towards)
            adjoint = tuple(
                a + base.weight_decay * d + h for a, d, h in zip(adjoint, direction, curvature, strict=True)
            )
        meta = tuple(m + c for m, c in zip(meta, change, strict=True))
    return value.detach(), meta


def step_adjoint(adjoint: Gradients, adjoint_velocity: Gradients, base: SGD) -> tuple[Gradients, Gradients]:
    """Adjoints of a step's gradient G and of the velocity before it, from those of theta and velocity after it."""
    carried = base.momentum if base.nesterov else 1.0
    velocity = [v - base.lr * carried * a for v, a in zip(adjoint_velocity, adjoint, strict=True)]
    direction = tuple(velocity)
    if base.nesterov:
        direction = tuple(v - base.lr * a for v, a in zip(velocity, adjoint, strict=True))
    return direction, tuple(base.momentum * v for v in velocity)


def _first_step_term(loss: Loss, learner: Learner, data: Episode, theta: Weights, direction: Weights) -> Gradients:
    """∂/∂phi ⟨dM/df, J·direction⟩ with f and J at the initial weights."""
    x, *labels = data.steps[0]
    y_pred, u = jvp(lambda weights: learner.forward(weights, x, data.draw), (theta,), (direction,))[:2]
    y_pred = y_pred.detach().requires_grad_()
    slope = _gradient(loss(y_pred, *labels), (y_pred,), create_graph=True)[0]
    return _gradient((slope * u.detach()).sum(), tuple(loss.parameters()))


def _inner_step_terms(
    loss: Loss, learner: Learner, data: Episode, k: int, theta: Weights, direction: Weights
) -> tuple[Gradients, Gradients]:
    """∂s/∂theta and ∂s/∂phi of s = d/dε M_phi(f_{theta + ε·direction}): reverse mode over forward mode."""
    x, *labels = data.steps[k]
    phi = {name: weights.detach() for name, weights in loss.named_parameters()}

    def slope(theta: Weights, phi: Weights) -> Tensor:
        def value(weights: Weights) -> Tensor:
            return functional_call(loss, phi, (learner.forward(weights, x, data.draw + k), *labels))

        return jvp(value, (theta,), (direction,))[1]

    by_theta, by_phi = grad(slope, argnums=(0, 1))(theta, phi)
    return tuple(by_theta.values()), tuple(by_phi.values())


def _gradient(value: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> Gradients:
    """Gradients, zero for inputs that do not matter."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(value, inputs, create_graph=create_graph, materialize_grads=True)


ENGINES: dict[str, Callable[[Loss, Learner, Episode, SGD], tuple[Tensor, Gradients]]] = {
    "jvp": _jvp,
    "autograd": _autograd,
    "higher": _higher,
}
"""The engines that take one candidate at a time, in the order in which they are tried."""


def task_loss(learner: Learner) -> Callable[[Tensor, Tensor], Tensor]:
    """The meta-objective of a learner's task: its own, squared error or cross-entropy, or minus a probability."""
    if learner.task.task_loss is not None:
        return learner.task.task_loss
    by_probability = learner.config.meta_objective == "probability"
    return (NegativeProbability if by_probability else TaskLoss)(learner.task.kind)


def meta_gradient(
    loss: Loss, learner: Learner, meta_step: int, config: SearchConfig, engine: str = "autograd"
) -> tuple[Tensor, Gradients]:
    """The task loss after the unrolled steps, and its gradient with respect to the loss's weights.

    ∇_phi L_T(y, f_theta_K(x)), GECCO Eq. 7 and 8.

    Args:
        loss: the loss M_phi, with at least one weight.
        learner: a task with its base network's initial weights and batches.
        meta_step: number of the meta-step, which chooses the batches.
        config: `unroll_steps`, `task_loss_on` and `base` are used.
        engine: one of ENGINES.

    Returns:
        The task loss, a detached scalar, and a gradient for each of `loss.parameters()`.
    """
    return ENGINES[engine](loss, learner, learner.episode(meta_step, config), config.base.unrolled)


@dataclass(frozen=True)
class Tuned:
    """A loss after local search."""

    loss: Loss
    diverged: bool


def meta_optimiser(weights: list[torch.nn.Parameter], config: SearchConfig) -> torch.optim.Optimizer:
    """The optimiser of phi: a plain gradient step (Eq. 7) or Adam."""
    kind = torch.optim.SGD if config.meta_optimizer == "sgd" else torch.optim.Adam
    return kind(weights, lr=config.meta_lr)


def local_search(
    loss: Loss,
    learners: Sequence[Learner],
    config: SearchConfig,
    engine: str,
    tick: Callable[[], None] = lambda: None,
) -> Tuned:
    """Tune the weights of one loss, which stays as it is, by an engine of ENGINES."""
    loss = copy.deepcopy(loss)
    weights = list(loss.parameters())
    if not weights or config.meta_steps == 0:
        return Tuned(loss, diverged=False)
    optimiser = meta_optimiser(weights, config)
    for step in range(config.meta_steps):
        values, gradients = zip(*(meta_gradient(loss, e, step, config, engine) for e in learners), strict=True)
        total = [torch.stack(parts).sum(dim=0) for parts in zip(*gradients, strict=True)]
        if not all(torch.isfinite(part).all() for part in (*values, *total)):
            return Tuned(loss, diverged=True)
        for weight, part in zip(weights, total, strict=True):
            weight.grad = part
        optimiser.step()
        tick()
    for weight in weights:
        weight.grad = None
    return Tuned(loss, diverged=False)
