"""Recognition of plain multi-layer perceptrons in a user's module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from evomal_core.kinds import Kind
from evomal_core.population.convolutions import Layer as PlainLayer
from evomal_core.pure import hooks

Layer = tuple[int, int, bool, str]
"""Inputs, outputs, whether it has a bias, and the activation after it: "relu", "tanh" or ""."""


@dataclass(frozen=True)
class Perceptron:
    """The layers of a plain multi-layer perceptron, and whether it flattens its rows first."""

    layers: tuple[Layer, ...]
    flattens: bool


def sequential(network: nn.Module, x: Tensor, kind: Kind) -> Perceptron | None:
    """The perceptron that an `nn.Sequential` is for rows like x, perhaps with positions; None if it is none."""
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
    positions = x.ndim == 3 and kind != "multiclass"
    return Perceptron(tuple(layers), flattens) if x.ndim == 2 or flattens or positions else None


def dense_layers(plain: Sequence[PlainLayer]) -> Perceptron | None:
    """The perceptron of a plain network with dense layers alone, in the order of their weights."""
    layers: list[Layer] = []
    used: list[int] = []
    for row in plain:
        if row.name == "dense":
            layers.append((row.inputs[0], row.outputs[0], row.bias >= 0, ""))
            used += [row.weights] if row.bias < 0 else [row.weights, row.bias]
        elif not _activated(layers, row.name):
            return None
    return Perceptron(tuple(layers), flattens=True) if used == sorted(used) else None


def _activated(layers: list[Layer], name: str) -> bool:
    """Put an activation after the last layer, if there is one that has none yet."""
    if name not in ("relu", "tanh") or not layers or layers[-1][3]:
        return False
    layers[-1] = (*layers[-1][:3], name)
    return True
