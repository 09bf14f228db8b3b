"""Base learners: a task with a base network's initial conditions, shared by all methods at a seed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal_core.config import SearchConfig
from evomal_core.devices import keep_freed_memory, without_cudnn
from evomal_core.initialisation import RULES, Redraw, drawn_by, fill
from evomal_core.pure import attributes_of, pure_call, same, with_pure_batch_norm
from evomal_core.seeds import derive, isolated_torch, torch_rng
from evomal_core.tasks import Task

log = logging.getLogger("evomal")

CHECKPOINTING = (
    "activation checkpointing would be computed again with other weights than those that are trained; switch "
    "torch.utils.checkpoint off in the model, at least for the search"
)

Weights = dict[str, Tensor]
Batch = tuple[Tensor, ...]
"""Features x, labels y, and the weights of rows or labels if there are any; a loss takes all but the first."""
ModelFactory = Callable[[], nn.Module]


@dataclass(frozen=True)
class Episode:
    """The data of one meta-step on one task: a batch for each unrolled step, and the task loss's batch.

    Initial weights come from `Learner.initial(meta_step)`. `draw` numbers the random draws of a network with
    dropout: unrolled step k uses draw + k.
    """

    steps: list[Batch]
    task: Batch
    draw: int
    meta_step: int


@dataclass(frozen=True, eq=False)
class Learner:
    """A base network f_theta at its initial weights on one task, with its sequence of batches.

    Everything is a function of the seed and the purpose: each method and each candidate loss meets the
    same initial weights and the same batches.
    """

    task: Task
    network: nn.Module
    """The architecture; its own weights stay at their initial values and are never trained."""
    batch_size: int
    seed: int
    config: SearchConfig = field(default_factory=SearchConfig, repr=False)
    """Configuration: draw of batches (`batches`) and objective of tuning phi (`meta_objective`)."""
    redraw: Redraw | None = field(default=None, repr=False)
    """Rule by which meta-steps draw their initial weights; None if all start from the network's own."""
    _orders: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Device of the task, the network and the losses that it trains with."""
        return self.task.train[0].device

    @property
    def theta(self) -> Weights:
        """The initial weights that are trained (detached; do not change them in place); frozen ones stay out."""
        trained = ((name, w) for name, w in self.network.named_parameters() if w.requires_grad)
        return {name: weights.detach() for name, weights in trained}

    @property
    def redraws(self) -> bool:
        """Whether each meta-step starts from new initial weights."""
        return self.redraw is not None and self.redraw.initialiser is not None

    def initial_vector(self, meta_step: int) -> Tensor | None:
        """The initial weights of a meta-step as a vector (W,), float32 on the CPU; None for the network's own."""
        if self.redraw is None or self.redraw.initialiser is None:
            return None
        return self.redraw.initialiser(derive(self.seed, "theta0", meta_step))

    def initial(self, meta_step: int) -> Weights:
        """The initial weights of a meta-step, the same for each loss and engine."""
        theta, vector = self.theta, self.initial_vector(meta_step)
        if vector is None:
            return theta
        parts = vector.split([weights.numel() for weights in theta.values()])
        return {
            name: part.view_as(weights).to(weights)
            for (name, weights), part in zip(theta.items(), parts, strict=True)
        }

    def batch(self, step: int, split: str = "train", offset: int = 0) -> Batch:
        """The rows of one step, (x, y) and weights if there are any, as `SearchConfig.batches` says.

        Args:
            step: number of the step, from 0.
            split: the part of the task to draw from.
            offset: 0 for the training batches; others give independent sequences.
        """
        x, *labels = self.task.labelled(split)
        if self.batch_size < len(x):
            rows = self.batch_rows(step, split, offset)
            x, *labels = (array[rows] for array in (x, *labels))
        if self.task.augment is not None and split == "train":
            x = self.task.augment(x, torch_rng(self.seed, "augmentation", offset, step))
        return x, *labels

    def batch_rows(self, step: int, split: str = "train", offset: int = 0) -> Tensor:
        """Row numbers of `batch`; only defined where the part has more rows than a batch."""
        x, _ = self.task.parts()[split]
        per_epoch = len(x) // self.batch_size if self.config.batches == "epochs" else 1
        epoch, place = divmod(step, per_epoch)
        key = (f"{split}-{offset}", epoch)
        if key not in self._orders:
            for old in [old for old in self._orders if old[0] == key[0]]:
                del self._orders[old]
            rng = torch_rng(self.seed, "batches", *key)
            self._orders[key] = torch.randperm(len(x), generator=rng).to(x.device)
        return self._orders[key][place * self.batch_size : (place + 1) * self.batch_size]

    def episode(self, meta_step: int, config: SearchConfig) -> Episode:
        """The episode of one meta-step, the same for every loss and every engine."""
        steps = config.unroll_steps
        batches = [self.batch(meta_step * steps + k) for k in range(steps)]
        match config.task_loss_on:
            case "same":
                task_batch = batches[-1]
            case "other":
                task_batch = self.batch(meta_step, offset=1)
            case "validation":
                task_batch = self.batch(meta_step, "validation")
        return Episode(batches, task_batch, meta_step * (steps + 1), meta_step)

    @cached_property
    def stateless(self) -> nn.Module:
        """The network as a pure function of its weights, which `torch.func` can differentiate to any order.

        Batch norm keeps no running statistics, which training mode never reads.
        """
        return with_pure_batch_norm(copy.deepcopy(self.network))

    def forward(self, theta: Weights, x: Tensor, draw: int = 0) -> Tensor:
        """The network's output f_theta(x) in training mode, a pure function of theta, x and `draw`."""
        with self.dropout(draw):
            return self.call(theta, x)

    def call(self, theta: Weights, x: Tensor) -> Tensor:
        """Call `forward` within `dropout`.

        Buffers that the network moves (a running mean of its own, spectral norm's vectors) start each time
        from their initial values, so that no candidate sees what another one left in them (the engine `higher`
        moves them from step to step, as its library does).
        """
        buffers = {name: buffer.clone() for name, buffer in self.stateless.named_buffers()}
        return pure_call(self.stateless, buffers | theta, x)

    def small(self, rows: int = 4, dtype: torch.dtype = torch.float64) -> Learner:
        """The learner on a few rows, on the CPU; in float64 a disagreement is none of rounding."""

        parts: dict[str, Any] = {}
        weights: dict[str, Tensor] = {}
        for name in self.task.parts():
            x, y, *weight = self.task.labelled(name)
            index = torch.arange(min(rows, len(x)), device=x.device)
            if self.task.kind == "multiclass" and not y.is_floating_point():
                largest = y.reshape(len(y), -1).amax(dim=1)
                index[-1] = largest.argmax()  # the last class tells the number of outputs
            parts[name] = x[index], y[index]
            weights |= {name: weight[0][index]} if weight else {}
        task = replace(self.task, **parts, sample_weight=weights)
        network = copy.deepcopy(self.network).to("cpu", dtype)
        return Learner(
            task.to("cpu", dtype), network, min(self.batch_size, rows), self.seed, self.config, self.redraw
        )

    def kernels(self) -> AbstractContextManager[None]:
        """Context manager: compute the network's layers by kernels that can be differentiated twice."""
        return without_cudnn() if self._recurrent else nullcontext()

    @cached_property
    def _recurrent(self) -> bool:
        return any(isinstance(module, nn.RNNBase) for module in self.network.modules())

    @contextmanager
    def dropout(self, draw: int) -> Iterator[None]:
        """Context manager: a network that draws random numbers (dropout) draws the same for the same `draw`.

        Attention is computed by PyTorch's plain operations: the fused ones have no second derivative.
        """
        with sdpa_kernel(SDPBackend.MATH), self.kernels():
            if self.draws:
                with isolated_torch(self.seed, "dropout", draw):
                    yield
            else:
                yield

    @cached_property
    def vectorises(self) -> bool:
        """Whether `torch.vmap` takes the network, and its derivative along weights: found out by trying."""
        x = self.task.train[0][:2].clone()
        pair = {name: torch.stack([weights, weights]) for name, weights in self.theta.items()}
        both = torch.vmap(lambda theta: self.call(theta, x), randomness="same")
        try:
            with torch.no_grad(), self.dropout(0):
                both(pair)
                jvp(both, (pair,), (pair,))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
        return True

    @cached_property
    def draws(self) -> bool:
        """Whether the network draws random numbers in training mode: found out by watching the generator."""
        x = self.task.train[0][:2].clone()
        with isolated_torch(self.seed, "dropout"), torch.no_grad():
            before = _generator_state(x.device)
            self.call(self.theta, x)
            return not torch.equal(before, _generator_state(x.device))

    @cached_property
    def replaces_buffers(self) -> bool:
        """Whether training steps change the network's state otherwise than by writing on its buffers in place."""
        network = copy.deepcopy(self.network)
        before, memo = dict(network.named_buffers()), dict[int, Any]()
        attributes = [attributes_of(module, memo) for module in network.modules()]
        with isolated_torch(self.seed, "dropout"), torch.no_grad():
            network(self.task.train[0][: self.batch_size].clone())
        after = [vars(module) for module in network.modules()]
        return any(buffer is not before.get(name) for name, buffer in network.named_buffers()) or any(
            not same(value, now.get(name))
            for then, now in zip(attributes, after, strict=True)
            for name, value in then.items()
        )


def _generator_state(device: torch.device) -> Tensor:
    """Generator state of the CPU and, if used, of the CUDA device."""
    own = torch.get_rng_state()
    return torch.cat([own, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else own


def make_learners(
    tasks: list[Task], model: ModelFactory, config: SearchConfig, seed: int, purpose: str
) -> list[Learner]:
    """A learner for each task: initial weights and batches from (seed, purpose, task number).

    Raises:
        TypeError: `model()` is not an `nn.Module` with trainable weights.
        ValueError: the network's output does not fit the task's labels.
    """
    keep_freed_memory()
    learners: list[Learner] = []
    redraw = None
    for index, task in enumerate(tasks):
        seed_of_task = derive(seed, purpose, index)
        build = partial(_network, model, task)
        network = build(derive(seed_of_task, "initial weights"))
        if redraw is None:
            redraw = Redraw(build, config.initialisation, config.theta0, derive(seed, purpose, "redraw"))
        if config.initialisation != "default":
            rule = RULES[config.initialisation]
            fill(network, drawn_by(network, rule), derive(seed_of_task, "initial weights"))
        network.to(device=task.train[0].device, dtype=_dtype(task)).train()
        learners.append(Learner(task, network, config.base.batch_size, seed_of_task, config, redraw))
        _check_output(learners[-1])
    return learners


def _dtype(task: Task) -> torch.dtype | None:
    return next((part.dtype for part in task.train if part.is_floating_point()), None)


@dataclass(frozen=True)
class Problem:
    """The tasks, base network, configuration and seed of a search, and its training: `engines.curves_of`."""

    tasks: tuple[Task, ...]
    model: ModelFactory
    config: SearchConfig
    seed: int
    train: Callable[..., list[Any]] = field(repr=False)

    def learners(
        self, purpose: str, initialisations: int, change: Callable[[Task, int], Task] = lambda task, number: task
    ) -> list[Learner]:
        """Each task with several initial weights that no search has seen, perhaps changed for each of them."""
        made = []
        for number in range(initialisations):
            tasks = [change(task, number) for task in self.tasks]
            made += make_learners(tasks, self.model, self.config, self.seed, f"{purpose} {number}")
        return made


def _network(model: ModelFactory, task: Task, seed: int) -> nn.Module:
    """A new network on the CPU, its lazy layers told their sizes, drawn with a seed."""
    with isolated_torch(seed):
        network = _copied(model())
        if not isinstance(network, nn.Module) or not any(p.requires_grad for p in network.parameters()):
            name = type(network).__name__
            raise TypeError(f"model() must return an nn.Module with trainable weights, got {name}")
        if any(map(nn.parameter.is_lazy, network.parameters())):
            with torch.no_grad():
                network.to(dtype=_dtype(task)).eval()(task.train[0][:2].cpu().clone())
    return network.cpu()


def _copied(network: nn.Module) -> nn.Module:
    """A copy, since a factory may return one network again and again."""
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the model can't be copied: {str(error).splitlines()[0]}") from error


def _misshapen(output: Any, task: Task, wanted: tuple[int, ...]) -> str:
    """Say how the output of a network differs from what its task needs, with a remedy where it can be told."""
    if not isinstance(output, Tensor):
        return (
            f"the model returns a {type(output).__name__}, not a tensor {wanted}, for {wanted[0]} rows of "
            f"{task.name!r}; wrap it in a module whose forward returns its predictions or logits alone"
        )
    shape = tuple(output.shape)
    remedy = ""
    if shape == (wanted[0], *wanted[2:]) and wanted[1] == 1:
        remedy = "; write output.unsqueeze(1)"
    elif len(wanted) > 2 and shape == (wanted[0], *wanted[2:], wanted[1]):
        remedy = "; write output.movedim(-1, 1)"
    said = f"the model's output for {wanted[0]} rows of {task.name!r} has shape {shape}"
    return f"{said}, but its labels need {wanted}{remedy}"


def _check_output(learner: Learner) -> None:
    task = learner.task
    x = task.train[0][:2]
    given = x.clone()
    theta = {name: weights.requires_grad_() for name, weights in learner.theta.items()}
    try:
        with torch.enable_grad(), torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTING):
            output = learner.forward(theta, given)
        _ = learner.replaces_buffers  # asks the network itself for a batch, where batch norm refuses one row
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        said = str(error).splitlines()[0]
        if "'indices'" in said and x.is_floating_point():  # of an embedding
            said += "; whole numbers for an nn.Embedding are kept by Task.from_arrays(..., indices=True)"
        raise ValueError(f"the model fails on rows of shape {task.features} from {task.name!r}: {said}") from error
    wanted = task.output_shape(len(x))
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        raise ValueError(_misshapen(output, task, wanted))
    if not output.requires_grad:
        raise ValueError(
            "the model's output has no gradient by its weights; let its forward do without torch.no_grad, "
            "torch.inference_mode, detach and NumPy"
        )
    if not torch.equal(given, x):
        raise ValueError(
            "the model changes its input in place, which would change the data; let its forward start with "
            "x = x.clone(), or use operations that are not in place"
        )
    with torch.no_grad():  # twice: an LSTM has other kernels, which round otherwise, where gradients are kept
        once, again = (learner.forward(learner.theta, x).nan_to_num() for _ in range(2))
    if not torch.equal(once, again):
        log.warning(
            "the model gives different outputs for the same weights and rows: it draws from a generator of its "
            "own (or of NumPy), so results can't be repeated; draw by torch's functions without a generator"
        )
