"""Recognition of plain multi-layer perceptrons in a user's module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from evomal_core.kinds import Kind
from evomal_core.population.convolutions import layers_of
from evomal_core.population.tracing import NotPlain
from evomal_core.pure import hooks

Layer = tuple[int, int, bool, str]
"""Inputs, outputs, whether it has a bias, and the activation after it: "relu", "tanh" or ""."""


@dataclass(frozen=True)
class Perceptron:
    """The layers of a plain multi-layer perceptron, and whether it flattens its rows first."""

    layers: tuple[Layer, ...]
    flattens: bool


def perceptron(network: nn.Module, x: Tensor, kind: Kind, keeps_state: Callable[[], bool]) -> Perceptron | None:
    """The perceptron that a network is for rows like x, perhaps with positions; None if it is anything else.

    The network may be an `nn.Sequential`, or any class whose `forward` does no more than that.
    """
    found = _sequential(network)
    if found is None:
        found = _traced(network, x)
        return found if found is None or not keeps_state() else None
    positions = x.ndim == 3 and kind != "multiclass"
    return found if x.ndim == 2 or found.flattens or positions else None


def _sequential(network: nn.Module) -> Perceptron | None:
    """A sequence of layers, which takes rows of any shape."""
    if type(network) is not nn.Sequential:
        return None
    modules = list(network)
    if len(dict(network.named_parameters())) < len(list(network.named_parameters(remove_duplicate=False))):
        return None  # tied weights
    first = modules[0] if modules else None
    flattens = type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)
    layers: list[Layer] = []
    for module in modules[flattens:]:
        if type(module) is nn.Linear and all(p.requires_grad for p in module.parameters()):
            layers.append((module.in_features, module.out_features, module.bias is not None, ""))
        elif type(module) not in (nn.ReLU, nn.Tanh) or not _activated(
            layers, "relu" if type(module) is nn.ReLU else "tanh"
        ):
            return None
    if not layers or any(hooks(module) for module in network.modules()):
        return None
    return Perceptron(tuple(layers), flattens)


def _traced(network: nn.Module, x: Tensor) -> Perceptron | None:
    """Any module that passes rows like x through dense layers, in the order of their weights."""
    if not x.is_floating_point():
        return None
    try:
        rows = layers_of(network, x.shape[1:])
    except NotPlain:
        return None
    layers: list[Layer] = []
    used: list[int] = []
    for row in rows:
        if row.name == "dense":
            layers.append((row.inputs[0], row.outputs[0], row.bias >= 0, ""))
            used += [row.weights] if row.bias < 0 else [row.weights, row.bias]
        elif not _activated(layers, row.name):
            return None
    return Perceptron(tuple(layers), flattens=x.ndim > 2) if used == sorted(used) else None


def _activated(layers: list[Layer], name: str) -> bool:
    """Put an activation after the last layer, if there is one that has none yet."""
    if name not in ("relu", "tanh") or not layers or layers[-1][3]:
        return False
    layers[-1] = (*layers[-1][:3], name)
    return True
