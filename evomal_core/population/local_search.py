"""The engine `batched`: local search, fitness and the rejection protocol for a whole population at once.

A loss acts on predictions only. With g = dM/df at theta, theta' = theta − α·Jᵀg, v the gradient of the task
loss at theta' and u = J·v, the meta-gradient of one unrolled step is −α ∂⟨g, u⟩/∂phi: a mixed derivative of
the elementwise losses, which `program` evaluates for all candidates, between a few products with stacked
base networks. Initial weights and batches are the same for all candidates (same initial conditions), so
the pass at the initial weights is done once a meta-step. Small perceptrons on a CPU take the kernels of
`compiled`.

Candidates share no sum, norm or mask: a diverging one never disturbs another. Where one matrix product
serves all candidates, its blocking, and so the last bit of a result, may depend on their number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn import functional

from evomal_core.config import SearchConfig
from evomal_core.kinds import link, through_link
from evomal_core.learners import Batch, Learner
from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_core.population import compiled
from evomal_core.population.batches import flat, groups_of, in_chunks, stackable
from evomal_core.population.candidates import knows
from evomal_core.population.compiled_convolutions import ConvolutionMetaStep
from evomal_core.population.compiled_perceptrons import PerceptronMetaStep
from evomal_core.population.compiled_recurrent import RecurrentMetaStep
from evomal_core.population.cuda_graphs import GraphedStep
from evomal_core.population.networks import (
    ConvolutionStack,
    MLPStack,
    NotBatchable,
    RecurrentStack,
    Stack,
    make_stacks,
)
from evomal_core.population.rows import Rows, same_batches
from evomal_core.population.steps import Stacked, descended
from evomal_core.population.trees import Program
from evomal_core.unroll import Tuned, meta_optimiser, sgd_step, step_adjoint, task_loss
from evomal_core.weighted import class_weights


def _task_loss(predictions: Tensor, rows: Rows, stack: Stack) -> tuple[Tensor, Tensor]:
    """The task loss (T, P) and its gradient with respect to predictions (T, P, B, C)."""
    losses = [task_loss(learner) for learner in stack.learners]
    if not all(type(loss) is TaskLoss and not loss.options for loss in losses):
        return _other_task_loss(predictions, rows, losses)
    predictions = rows.hide(predictions)
    if stack.kind == "regression":
        change = predictions - rows.y
        return rows.mean(change * change), rows.averaged(2 * change)
    if stack.kind == "binary":
        value = functional.binary_cross_entropy_with_logits(
            predictions, rows.y.expand_as(predictions), reduction="none"
        )
        return rows.mean(value), rows.averaged(torch.sigmoid(predictions) - rows.y)
    logs = torch.log_softmax(predictions, dim=-1)
    value = -rows.y * logs.masked_fill(rows.y == 0, 0.0)
    return rows.mean(value), rows.averaged(logs.exp() * rows.y.sum(dim=3, keepdim=True) - rows.y)


def _other_task_loss(predictions: Tensor, rows: Rows, losses: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The same by differentiating user-defined losses, one network after the other."""
    leaf = predictions.detach().requires_grad_()
    with torch.enable_grad():
        values = torch.stack(
            [torch.stack([rows.loss(loss, t, network) for network in leaf[t]]) for t, loss in enumerate(losses)]
        )
        return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


CACHED = 2**21
"""Activations of a layer, of all candidates together, beyond which a CPU's cache no longer holds them."""


Step = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""A meta-step: phi (P, E) and its number → the task loss summed over tasks, (P,), and its gradient (P, E)."""


@dataclass
class MetaStep:
    """The task loss after the unrolled steps, and its gradient, for P candidates on the learners of a stack."""

    stack: Stack
    program: Program
    config: SearchConfig
    _start: tuple[Rows, Stacked, Any] | None = None

    def __call__(self, phi: Tensor, meta_step: int) -> tuple[Tensor, Tensor]:
        """phi (P, E) → the task loss summed over tasks, (P,), and its gradient (P, E)."""
        return self.compute(phi, self.stack.initial(meta_step), *self.batches(meta_step))

    @property
    def random(self) -> bool:
        """Whether the network draws random numbers."""
        return self.stack.random

    def batches(self, meta_step: int) -> tuple[list[Rows], int]:
        """The stacked batches of each unrolled step and of the task loss, and the number of the first draw."""
        episodes = [learner.episode(meta_step, self.config) for learner in self.stack.learners]
        steps = [
            self.stack.held_rows(f"step {k}", [e.steps[k] for e in episodes])
            for k in range(self.config.unroll_steps)
        ]
        return [*steps, self.stack.held_rows("task", [e.task for e in episodes])], episodes[0].draw

    def compute(self, phi: Tensor, theta0: Stacked, batches: list[Rows], draw: int) -> tuple[Tensor, Tensor]:
        """The task loss and its gradient from initial weights (T, 1, …) on stacked batches, see `batches`."""
        *steps, task = batches
        if len(steps) == 1:
            return self._one_step(phi, theta0, steps[0], task, draw)
        return self._many_steps(phi, theta0, steps, task, draw)

    def forget(self) -> None:
        """Drop what is kept from the step before."""
        self._start = None

    def _slope(self, phi: Tensor, predictions: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Any]:
        """Return the losses' input f, dM/df (both (T, P, B, C), the mean over the batch left out), the tape."""
        tasks, size, outputs = rows.shape
        f = link(rows.hide(predictions), self.stack.kind)
        slope, tape = self.program.slope(phi, flat(f, len(phi)), rows.y.reshape(-1))
        return f, slope.view(len(phi), tasks, size, outputs).transpose(0, 1), tape

    def _one_step(self, phi: Tensor, theta0: Stacked, rows: Rows, task: Rows, draw: int) -> tuple[Tensor, Tensor]:
        base, stack = self.config.base.unrolled, self.stack
        if self._start is None or self._start[0] is not rows or self._start[1] is not theta0 or stack.random:
            self._start = rows, theta0, stack.linearise(theta0, rows.features, draw, factored=True)
        predictions, pullback, pushforward = self._start[2]
        f, slope, tape = self._slope(phi, predictions, rows)
        gradient = pullback(rows.averaged(through_link(f, slope, stack.kind)))
        rate = base.first_rate
        theta = [descended(w, g, rate, base.weight_decay) for w, g in zip(theta0, gradient, strict=True)]
        after, pullback, _ = stack.linearise(theta, task.features, draw + 1, factored=True)
        value, cotangent = _task_loss(after, task, stack)
        u = through_link(f, pushforward(pullback(cotangent)), stack.kind)
        by_phi, _ = self.program.mixed(tape, flat(-rate * rows.averaged(u), len(phi)))
        return value.sum(dim=0), by_phi

    def _many_steps(
        self, phi: Tensor, theta0: Stacked, steps: list[Rows], task: Rows, draw: int
    ) -> tuple[Tensor, Tensor]:
        """The adjoint recursion of `unroll`'s engine `jvp`, for all candidates."""
        base, stack = self.config.base.unrolled, self.stack
        names = [str(i) for i in range(len(theta0))]
        trajectory, tapes = [[w.expand(-1, len(phi), *w.shape[2:]).clone() for w in theta0]], []
        velocity = None
        for k, rows in enumerate(steps):
            predictions, pullback, _ = stack.linearise(trajectory[-1], rows.features, draw + k)
            f, slope, tape = self._slope(phi, predictions, rows)
            gradient = pullback(rows.averaged(through_link(f, slope, stack.kind)))
            theta, velocity = sgd_step(
                dict(zip(names, trajectory[-1], strict=True)), tuple(gradient), base, velocity
            )
            trajectory.append(list(theta.values()))
            tapes.append((slope, tape))
        after, pullback, _ = stack.linearise(trajectory[-1], task.features, draw + len(steps))
        value, cotangent = _task_loss(after, task, stack)
        adjoint = tuple(pullback(cotangent))
        meta = torch.zeros_like(phi)
        adjoint_velocity = tuple(torch.zeros_like(a) for a in adjoint)
        for k in range(len(steps) - 1, -1, -1):
            direction, adjoint_velocity = step_adjoint(adjoint, adjoint_velocity, base)
            curvature, change = self._inner_terms(
                phi, steps[k], trajectory[k], list(direction), tapes[k], draw + k
            )
            meta = meta + change
            if k:
                adjoint = tuple(
                    a + base.weight_decay * d + h for a, d, h in zip(adjoint, direction, curvature, strict=True)
                )
        return value.sum(dim=0), meta

    def _inner_terms(
        self, phi: Tensor, rows: Rows, theta: Stacked, direction: Stacked, taped: tuple[Tensor, Any], draw: int
    ) -> tuple[Stacked, Tensor]:
        """∂s/∂theta and ∂s/∂phi of s = ⟨dM/df, df⟩, df the change of f along a direction of theta.

        With (f, df) a function of theta, ∂s/∂theta pulls back dM/df from df and d²M/df²·df from f.
        """
        stack, (slope, tape) = self.stack, taped

        def along(weights: Stacked) -> tuple[Tensor, Tensor]:
            def seen(theta: Stacked) -> Tensor:
                return link(rows.hide(stack.apply(theta, rows.features, draw)), stack.kind)

            f, change = jvp(seen, (weights,), (direction,))[:2]
            return f, change

        (_, change), pull = vjp(along, theta)[:2]
        by_phi, by_f = self.program.mixed(tape, flat(rows.averaged(change.detach()), len(phi)))
        by_f = by_f.view(len(phi), *rows.shape).transpose(0, 1)
        (curvature,) = pull((by_f, rows.averaged(slope)))
        return curvature, by_phi


def compiles(stack: Stack, config: SearchConfig) -> bool:
    """Whether the kernels can compute the meta-steps of a stack: one unrolled step, a task loss they know."""
    return compiled.fits(stack) and config.unroll_steps == 1 and _class_weights(stack) is not None


def _class_weights(stack: Stack) -> np.ndarray | None:
    """The weights of the classes in the task losses, (T, classes); None if one has no such form."""
    found = [class_weights(task_loss(learner), max(2, stack.outputs)) for learner in stack.learners]
    weights = [each for each in found if each is not None]
    if len(weights) < len(found):
        return None
    return torch.stack(weights).to("cpu", stack.theta0[0].dtype).numpy()


KERNELS: dict[type[Stack], Callable[..., Step]] = {
    MLPStack: PerceptronMetaStep,
    RecurrentStack: RecurrentMetaStep,
    ConvolutionStack: ConvolutionMetaStep,
}


def meta_step_of(stack: Stack, program: Program, config: SearchConfig) -> Step:
    """The meta-step of a stack: by the compiled kernels where they fit, on a GPU as a graph."""
    if compiles(stack, config) and knows(*program.expressions):
        return KERNELS[type(stack)](stack, program.expressions, program.softplus, config, _class_weights(stack))
    step = MetaStep(stack, program, config)
    return GraphedStep(step) if stack.theta0[0].is_cuda else step


def _chunk(learners: Sequence[Learner], config: SearchConfig) -> int | None:
    """Number of candidates at a time: on a CPU as many as have their activations in its cache."""
    stack = make_stacks(learners)[0]
    if stack.theta0[0].is_cuda or not isinstance(stack, MLPStack) or compiles(stack, config):
        return None
    widest = max(outputs for _, outputs, *_ in stack.layers)
    rows = min(stack.learners[0].batch_size, len(stack.learners[0].task.train[0]))
    return max(1, CACHED // (len(stack.learners) * rows * widest))


def check_batchable(learners: Sequence[Learner], config: SearchConfig) -> None:
    """Try one meta-step of two candidates.

    Raises:
        NotBatchable: the network can't be stacked; the text is one line that says why.
    """
    kind, device = learners[0].task.kind, learners[0].device
    probes = [LearnedLoss(text, kind).to(device) for text in ("square(sub(f, y))", "abs(sub(f, y))")]
    with stackable():
        _search(probes, learners[:1], config.replace(meta_steps=1), lambda: None)


def batched_meta_gradients(
    losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig, meta_step: int
) -> tuple[Tensor, Tensor]:
    """Meta-gradients of P losses at once: task losses (P,) and gradients (P, E), summed over learners.

    A loss with fewer weights than E has zeros after its own.

    Raises:
        NotBatchable: the network can't be stacked.
    """
    stacks = make_stacks(learners)
    program = Program([loss.expression for loss in losses], losses[0].softplus, stacks[0].theta0[0].device)
    phi = program.pad([loss.phi for loss in losses]).to(stacks[0].theta0[0].dtype)
    with torch.no_grad(), stackable():
        parts = [MetaStep(stack, program, config)(phi, meta_step) for stack in stacks]
    values, gradients = zip(*parts, strict=True)
    return torch.stack(values).sum(dim=0), torch.stack(gradients).sum(dim=0)


def batched_local_search(
    losses: Sequence[Loss],
    learners: Sequence[Learner],
    config: SearchConfig,
    tick: Callable[[], None] = lambda: None,
) -> list[Tuned]:
    """Run `unroll.local_search` for all `LearnedLoss`es at once; the losses given stay as they are.

    Raises:
        NotBatchable: a loss is not a `LearnedLoss`, or the network can't be stacked.
    """
    if not all(isinstance(loss, LearnedLoss) for loss in losses):
        raise NotBatchable("only LearnedLosses have their weights tuned all at once")
    tuned: dict[int, Tuned] = {}
    for indices, group in groups_of(losses):
        results = in_chunks(group, lambda part: _search(part, learners, config, tick), _chunk(learners, config))
        tuned.update(zip(indices, results, strict=True))
    return [tuned[index] for index in range(len(losses))]


def _search(
    losses: Sequence[LearnedLoss], learners: Sequence[Learner], config: SearchConfig, tick: Callable[[], None]
) -> list[Tuned]:
    losses = [copy.deepcopy(loss) for loss in losses]
    if config.meta_steps == 0 or not any(loss.size for loss in losses):
        return [Tuned(loss, diverged=False) for loss in losses]
    stacks = make_stacks(learners)
    compute = stacks[0].theta0[0]
    program = Program([loss.expression for loss in losses], losses[0].softplus, compute.device)
    steps = [meta_step_of(stack, program, config) for stack in stacks]
    phi = torch.nn.Parameter(program.pad([loss.phi for loss in losses]))
    optimiser = meta_optimiser([phi], config)
    alive = torch.ones(len(losses), dtype=torch.bool, device=phi.device)
    repeats = _repeats(learners, config)
    for number in range(config.meta_steps):
        with torch.no_grad(), stackable():
            parts = [step(phi.detach().to(compute.dtype), number) for step in steps]
        value, gradient = (sum(part[i] for part in parts) for i in range(2))
        assert isinstance(value, Tensor)
        assert isinstance(gradient, Tensor)
        if number == 0 and repeats and not bool((moves := gradient.ne(0).any(dim=1)).all()):
            steps.clear()  # with the memory of their graphs
            others = [loss for loss, moved in zip(losses, moves.tolist(), strict=True) if moved]
            found = iter(_search(others, learners, config, tick))
            return [
                next(found) if moved else _unmoved(loss, math.isfinite(result), config, tick)
                for loss, moved, result in zip(losses, moves.tolist(), value.tolist(), strict=True)
            ]
        alive = alive & torch.isfinite(value) & torch.isfinite(gradient).all(dim=1)
        before = phi.detach().clone()
        phi.grad = torch.where(alive[:, None], gradient, 0.0).to(phi.dtype)
        optimiser.step()
        with torch.no_grad():
            phi.copy_(torch.where(alive[:, None], phi, before))
        for _ in losses:
            tick()
    with torch.no_grad():
        for loss, weights in zip(losses, phi, strict=True):
            loss.phi.copy_(weights[: loss.size])
    return [Tuned(loss, bool(loss.size) and not lives) for loss, lives in zip(losses, alive.tolist(), strict=True)]


def _repeats(learners: Sequence[Learner], config: SearchConfig) -> bool:
    """Whether all meta-steps have the same initial weights, batches and draws: a meta-gradient of 0 stays 0."""

    def batches(meta_step: int) -> list[Batch]:
        episodes = (learner.episode(meta_step, config) for learner in learners)
        return [batch for e in episodes for batch in (*e.steps, e.task)]

    varied = any(learner.redraws or learner.draws for learner in learners)
    return not varied and same_batches(batches(0), batches(1))


def _unmoved(loss: LearnedLoss, finite: bool, config: SearchConfig, tick: Callable[[], None]) -> Tuned:
    """Result of local search for a loss whose meta-gradient is 0 at each step, with a finite task loss or not."""
    for _ in range(config.meta_steps):
        tick()
    return Tuned(loss, diverged=bool(loss.size) and not finite)
