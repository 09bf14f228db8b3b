"""Initial weights theta_0 of base networks, drawn for each meta-step without building the network again.

Algorithm 1 draws theta_0 anew at each meta-step. A draw is a function of a seed alone, so that every candidate,
method and engine meets the same weights. It is float32 on the CPU, whatever the dtype and device of the search.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from evomal_core.seeds import isolated_torch

log = logging.getLogger("evomal")

Initialisation = Literal["default", "glorot", "he_fan_in", "he_fan_out"]
Start = Literal["auto", "redrawn", "fixed"]

Law = Callable[[Tensor, torch.Generator], object]
"""Fill a tensor with initial values, in place."""
Rule = Callable[[nn.Module, str, Tensor], Law]
"""The law of one tensor of weights, from its module and its name there."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.LayerNorm, nn.GroupNorm,
)  # fmt: skip
KNOWN = (nn.Linear, *CONVOLUTIONS, *NORMS, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN)
"""Layers of which `pytorch_rule` is the law."""

Initialiser = Callable[[int], Tensor]
"""The initial weights of a seed: those that are trained, in order, as one vector (W,) of float32."""


def draw_directly(laws: Sequence[Law], sizes: Sequence[tuple[int, ...]], seed: int) -> Tensor:
    """Draw each tensor of weights from its law, into one vector."""
    rng = torch.Generator().manual_seed(seed)
    numbers = [math.prod(size) for size in sizes]
    flat = torch.empty(sum(numbers))
    for law, part, size in zip(laws, flat.split(numbers), sizes, strict=True):
        law(part.view(size), rng)
    return flat


def reset_modules(network: nn.Module, seed: int) -> Tensor:
    """Call each module's `reset_parameters`, on a copy of the network."""
    with isolated_torch(seed):
        for module in network.modules():
            if callable(method := getattr(module, "reset_parameters", None)):
                method()
    return flat_weights(network)


def call_factory(build: Callable[[int], nn.Module], seed: int) -> Tensor:
    """Build the network anew and take its weights: slow, but it works for any factory that draws."""
    return flat_weights(build(seed))


def trained(network: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The module, name and tensor of each trained weight, in the order of `named_parameters`."""
    modules = dict(network.named_modules())
    for path, weights in network.named_parameters():
        if weights.requires_grad:
            owner, _, name = path.rpartition(".")
            yield modules[owner], name, weights.detach()


def flat_weights(network: nn.Module) -> Tensor:
    """The trained weights as one vector (W,) of float32."""
    return torch.cat([weights.flatten().float() for _, _, weights in trained(network)])


def drawn_by(network: nn.Module, rule: Rule) -> Initialiser:
    """The initialiser that draws each weight by the rule's law."""
    weights = list(trained(network))
    return partial(draw_directly, [rule(*each) for each in weights], [tuple(w.shape) for *_, w in weights])


def fill(network: nn.Module, initialiser: Initialiser, seed: int) -> None:
    """Set a network's trained weights to a draw, in place."""
    weights = [tensor for *_, tensor in trained(network)]
    parts = initialiser(seed).split([tensor.numel() for tensor in weights])
    for tensor, part in zip(weights, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def default_initialiser(build: Callable[[int], nn.Module], seed: int) -> Initialiser:
    """The initialiser that repeats a factory's draws.

    Where the weights are those that the modules' own `reset_parameters` make, these draw; layers of PyTorch are
    drawn directly, without their modules. Otherwise the factory is called.

    Args:
        build: the network of a seed.
        seed: the seed to find this out with.

    Raises:
        ValueError: the factory gives the same weights for each seed, or others for the same one.
    """
    network = build(seed)
    weights = flat_weights(network)
    if torch.equal(weights, flat_weights(build(seed + 1))):
        raise ValueError("model() gives the same weights each time, as a pretrained network does")
    if not torch.equal(weights, flat_weights(build(seed))):
        raise ValueError("model() draws from another generator than PyTorch's global one")
    twin = copy.deepcopy(network)
    try:
        same = torch.equal(weights, reset_modules(twin, seed))
    except Exception:  # whatever a user's reset_parameters raises
        same = False
    if not same:
        return partial(call_factory, build)
    if all(type(module) in KNOWN for module, *_ in trained(network)):
        return drawn_by(network, pytorch_rule)
    return partial(reset_modules, twin)


@dataclass(frozen=True, eq=False)
class Redraw:
    """Rule by which the learners of a search draw theta_0 for a meta-step.

    Args:
        build: the network of a seed, as the factory makes it.
        initialisation: a name in RULES, or "default" for the factory's own draws.
        theta0: "redrawn" at each meta-step, "fixed" for the whole search, or "auto": redrawn where it can be.
        seed: the seed to find out with how a factory draws.
    """

    build: Callable[[int], nn.Module]
    initialisation: Initialisation
    theta0: Start
    seed: int

    @cached_property
    def initialiser(self) -> Initialiser | None:
        """The initialiser, found out at first use; None where theta_0 stays as it is.

        Raises:
            ValueError: the weights are to be redrawn, and can't be.
        """
        if self.initialisation != "default" and torch.equal(
            *(flat_weights(self.build(self.seed + n)) for n in (0, 1))
        ):
            log.warning(
                "initialisation=%r replaces the weights of model(), which are the same each time, as a pretrained "
                "network's are; initialisation='default' keeps them",
                self.initialisation,
            )
        if self.theta0 == "fixed":
            return None
        if self.initialisation != "default":
            return drawn_by(self.build(self.seed), RULES[self.initialisation])
        try:
            return default_initialiser(self.build, self.seed)
        except ValueError as reason:
            if self.theta0 == "redrawn":
                raise ValueError(
                    f"theta0='redrawn' needs a model that draws new weights when called, but {reason}; write "
                    "theta0='fixed', or let it initialise its layers, e.g. by their reset_parameters()"
                ) from None
            log.warning("each meta-step starts from the same initial weights: %s", reason)
            return None


# ---- rules -------------------------------------------------------------------------------------------


def _uniform(bound: float, out: Tensor, rng: torch.Generator) -> None:
    out.uniform_(-bound, bound, generator=rng)


def _normal(deviation: float, out: Tensor, rng: torch.Generator) -> None:
    out.normal_(0, deviation, generator=rng)


def _constant(values: Tensor, out: Tensor, rng: torch.Generator) -> None:
    out.copy_(values)


def _embedding(padding: int | None, out: Tensor, rng: torch.Generator) -> None:
    out.normal_(generator=rng)
    if padding is not None:
        out[padding] = 0


def _fans(weights: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of a weight tensor (out, in, …)."""
    window = math.prod(weights.shape[2:])
    return weights.shape[1] * window, weights.shape[0] * window


def pytorch_rule(module: nn.Module, name: str, weights: Tensor) -> Law:
    """The law of PyTorch's constructors: U(±1/√fan-in), of recurrent layers U(±1/√hidden); norms keep theirs."""
    if isinstance(module, nn.RNNBase):
        return partial(_uniform, 1 / math.sqrt(module.hidden_size))
    if isinstance(module, nn.Embedding):
        return partial(_embedding, module.padding_idx)
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return partial(_uniform, 1 / math.sqrt(_fans(module.weight)[0]))
    return partial(_constant, weights.cpu().clone())


def glorot_rule(module: nn.Module, name: str, weights: Tensor) -> Law:
    """U(±√(6 / (fan-in + fan-out))), zero biases; norm layers keep theirs (Glorot & Bengio 2010)."""
    if isinstance(module, NORMS) or not (weights.ndim >= 2 or "bias" in name):
        return partial(_constant, weights.cpu().clone())
    if weights.ndim < 2:
        return partial(_constant, torch.zeros_like(weights, device="cpu"))
    return partial(_uniform, math.sqrt(6 / sum(_fans(weights))))


def he_fan_in_rule(module: nn.Module, name: str, weights: Tensor) -> Law:
    """N(0, 2/fan-in) for convolutions and dense layers (He et al. 2015), the latter with zero biases.

    Biases of convolutions and all other weights are drawn as in PyTorch's constructors.
    """
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and name == "weight":
        return partial(_normal, math.sqrt(2 / _fans(weights)[0]))
    if isinstance(module, nn.Linear):
        return partial(_constant, torch.zeros_like(weights, device="cpu"))
    return pytorch_rule(module, name, weights)


def he_fan_out_rule(module: nn.Module, name: str, weights: Tensor) -> Law:
    """N(0, 2/fan-out) for convolutions, N(0, 2/fan-in) for dense layers, zero biases; the others as built."""
    if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return pytorch_rule(module, name, weights)
    if name != "weight":
        return partial(_constant, torch.zeros_like(weights, device="cpu"))
    return partial(_normal, math.sqrt(2 / _fans(weights)[isinstance(module, CONVOLUTIONS)]))


RULES: dict[str, Rule] = {"glorot": glorot_rule, "he_fan_in": he_fan_in_rule, "he_fan_out": he_fan_out_rule}
"""Initialisations beside that of the factory itself."""
