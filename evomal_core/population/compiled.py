"""Where the compiled kernels take over from `batched`, on a CPU: small perceptrons, plain convolutional and
recurrent networks with one unrolled step, and the rejection protocol of any network.

Each candidate is computed on its own, so its result is the same bit by bit whatever it is batched with and
however many threads there are. EVOMAL_KERNELS=0 in the environment switches the kernels off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from evomal_core.config import SearchConfig
from evomal_core.learners import Learner
from evomal_core.losses import LearnedLoss
from evomal_core.population.candidates import Population, knows, libraries, padded_weights
from evomal_core.population.networks import ConvolutionStack, MLPStack, RecurrentStack, Stack

WIDEST = 256
"""Layers above it gain more from PyTorch's larger products."""
DTYPES = (torch.float32, torch.float64)
_WARNED: WeakSet[Learner] = WeakSet()
"""Learners already told why the kernels do not take their labels."""
log = logging.getLogger("evomal")


def fits(stack: Stack, losses: Sequence[nn.Module] = ()) -> bool:
    """Whether the kernels can take a stack and its losses."""
    if not all(learner.task.plain for learner in stack.learners):
        return _told(stack)
    if isinstance(stack, MLPStack):
        known = (
            stack.learners[0].task.augment is None  # they read rows of the data themselves
            and all(max(inputs, outputs) <= WIDEST for inputs, outputs, *_ in stack.layers[1:])
        )
    else:
        known = isinstance(stack, ConvolutionStack | RecurrentStack)
    return known and take(stack.theta0[0], losses)


def _told(stack: Stack) -> bool:
    """Log, once for each learner, why the kernels do not take its labels; return False."""
    if stack.learners[0] not in _WARNED:
        _WARNED.add(stack.learners[0])
        log.info("labels with positions, weights, missing or soft classes are computed by PyTorch, not by kernels")
    return False


def take(numbers: Tensor, losses: Sequence[nn.Module] = ()) -> bool:
    """Whether the kernels can compute with tensors like this one, and with these losses."""
    return (
        os.environ.get("EVOMAL_KERNELS", "1") != "0"
        and not numbers.is_cuda
        and numbers.dtype in DTYPES
        and libraries() is not None
        and all(isinstance(loss, LearnedLoss) and knows(loss.expression) for loss in losses)
    )


def must_compile(stacks: Sequence[Stack], config: SearchConfig) -> bool:
    """Whether a search needs kernels that were never compiled on this machine, which takes up to a minute."""
    fitting = {type(stack) for stack in stacks if fits(stack)}
    needed = {kernel for kind, kernel in KERNELS.items() if kind in fitting}
    if config.rejection_steps and all(take(stack.theta0[0]) for stack in stacks):
        needed.add("kernels.minimise")
    return not all(map(_is_compiled, needed))


KERNELS: dict[type[Stack], str] = {
    MLPStack: "kernels.train",
    ConvolutionStack: "kernels_convolutions.rows_last",
    RecurrentStack: "kernels_recurrent.pullback",
}
"""A kernel that every search with a stack of this kind needs."""


def _is_compiled(name: str) -> bool:
    module, _, function = name.partition(".")
    kernel = getattr(import_module(f"evomal_core.population.{module}"), function)
    folder = kernel.stats.cache_path
    return bool(kernel.signatures) or (folder is not None and any(Path(folder).glob(f"{name}-*.nbi")))


def minimise_predictions(
    losses: Sequence[LearnedLoss], y_pred: Tensor, labels: Tensor, config: SearchConfig
) -> Tensor:
    """Run `filters.minimise_predictions` for each loss, all with the same softplus: (P, *y_pred.shape).

    `labels` are numbers in the shape of the predictions.
    """
    population = Population([loss.expression for loss in losses], losses[0].softplus, losses[0].kind)
    phi, y = padded_weights([loss.phi for loss in losses], y_pred.dtype), labels.contiguous().numpy()
    best = np.repeat(y_pred.detach().numpy()[None], len(losses), axis=0)

    def work(candidates: np.ndarray) -> None:
        population.kernels.minimise(
            *population.losses(phi), y, config.rejection_lr, config.rejection_steps, candidates, best
        )

    population.spread(work)
    return torch.from_numpy(best)
