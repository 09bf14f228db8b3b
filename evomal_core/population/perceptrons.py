"""Recognition of plain multi-layer perceptrons in a user's module."""

from __future__ import annotations

from torch import Tensor, nn

from evomal_core.kinds import Kind
from evomal_core.pure import hooks


def perceptron(network: nn.Module, x: Tensor, kind: Kind) -> list[Layer] | None:
    """The layers of a plain multi-layer perceptron if x, perhaps with positions, has the rows of its labels."""
    layers = mlp_layers(network)
    if layers is None or x.ndim == 2 or flattens(network):
        return layers
    return layers if x.ndim == 3 and kind != "multiclass" else None


def flattens(network: nn.Module) -> bool:
    """Whether a perceptron flattens its rows first."""
    assert isinstance(network, nn.Sequential)
    first = network[0]
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)


Layer = tuple[int, int, bool, str]
"""Inputs, outputs, whether it has a bias, and the activation after it: "relu", "tanh" or ""."""


def mlp_layers(network: nn.Module) -> list[Layer] | None:
    """The layers of a plain multi-layer perceptron; None if the network is anything else."""
    if type(network) is not nn.Sequential:
        return None
    modules = list(network)
    if len(dict(network.named_parameters())) < len(list(network.named_parameters(remove_duplicate=False))):
        return None  # tied weights
    if modules and flattens(network):
        modules = modules[1:]
    layers: list[Layer] = []
    for module in modules:
        if type(module) is nn.Linear and all(p.requires_grad for p in module.parameters()):
            layers.append((module.in_features, module.out_features, module.bias is not None, ""))
        elif type(module) in (nn.ReLU, nn.Tanh) and layers and not layers[-1][3]:
            layers[-1] = (*layers[-1][:3], "relu" if type(module) is nn.ReLU else "tanh")
        else:
            return None
    if any(hooks(module) for module in network.modules()):
        return None
    return layers or None
