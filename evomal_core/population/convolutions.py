"""Recognition of plain convolutional networks in a user's module.

A plain network passes its rows through one layer after another: convolutions, 2×2 pooling, tanh, ReLU, batch
norm, dense layers. The module may be an `nn.Sequential` or any class whose `forward` does no more than that; it is
traced by `torch.fx`.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from evomal_core.population.tracing import NotPlain, trace
from evomal_core.pure import hooks

log = logging.getLogger("evomal")

Name = Literal["convolution", "dense", "norm", "tanh", "relu", "average", "maximum"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of a plain network, with the shapes of a row before and after it."""

    name: Name
    inputs: Shape
    outputs: Shape
    weights: int = -1
    """Number of its weights among the network's parameters; −1 if it has none."""
    bias: int = -1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    kernel: tuple[int, int] = (1, 1)
    eps: float = 0.0
    momentum: float = 0.0
    statistics: str = ""
    """Name of a batch norm's module, which holds the running statistics."""


def layers_of(network: nn.Module, shape: Sequence[int]) -> tuple[Layer, ...]:
    """The layers that rows of this shape pass through.

    Raises:
        NotPlain: the network has another kind of layer or does more than pass its rows through them.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    if not parameters or len(parameters) > len(dict(network.named_parameters())):
        raise NotPlain("it shares weights between layers" if parameters else "it has no weights")
    if not all(weights.requires_grad for weights in parameters.values()):
        raise NotPlain("some of its weights are frozen")
    for module in network.modules():
        if hooks(module):
            raise NotPlain(f"{type(module).__name__} has hooks")
        if type(module).__module__.startswith("torch.nn.") and type(module) not in (*MODULES, *CONTAINERS):
            raise NotPlain(f"it has a {type(module).__name__}")
    walk = _Walk(network, list(parameters), tuple(shape))
    for node in trace(network).nodes:
        walk.take(node)
    if set(walk.used) != set(range(len(parameters))):
        raise NotPlain("some of its weights are not used once")
    return tuple(walk.layers)


def plain_layers(network: nn.Module, x: Tensor, keeps_state: Callable[[], bool]) -> tuple[Layer, ...] | None:
    """The layers of a network for rows like x; None if it is not a plain one, which is logged once."""
    try:
        if not x.is_floating_point():
            raise NotPlain("its inputs are integers")
        layers = layers_of(network, x.shape[1:])
        if keeps_state():
            raise NotPlain("it keeps state of its own")
    except NotPlain as reason:
        _say(f"{type(network).__name__} goes through PyTorch, not the compiled kernels: {reason}")
        return None
    return layers


@cache
def _say(text: str) -> None:
    log.info(text)


class _Walk:
    """The layers met so far on the way through a traced network."""

    def __init__(self, network: nn.Module, parameters: list[str], shape: Shape) -> None:
        self.network, self.parameters, self.shape = network, parameters, shape
        self.here: fx.Node | None = None
        """Output of the last layer."""
        self.numbers: dict[fx.Node, Any] = {}
        """Sizes that the network asked for; the number of rows is `ROWS`."""
        self.layers: list[Layer] = []
        self.used: list[int] = []

    def take(self, node: fx.Node) -> None:
        """Go on to the next node of the graph."""
        if node.op == "placeholder":
            if self.here is None:
                self.here = node
            elif node.users:
                raise NotPlain("it takes more than one argument")
            return
        others = set(node.all_input_nodes) - set(self.numbers)
        if others and others != {self.here}:
            raise NotPlain(f"its layers do not form a chain at {node.name}")
        if node.op == "output":
            if node.args[0] is not self.here:
                raise NotPlain("it returns more than the last layer's output")
            return
        arguments = [self._plain(a) for a in node.args]
        named = {name: self._plain(a) for name, a in node.kwargs.items()}
        if self._asks_for_numbers(node, arguments):
            return
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            make = MODULES.get(type(module))
            layer = make and make(module, self.shape)
        else:
            function = FUNCTIONS.get(node.target)
            layer = function and function(self.shape, *arguments[1:], **named)
        if not layer:
            raise NotPlain(f"it has {_name(node)}, which is none of the layers known")
        self._add(node, layer)
        self.here = node

    def _plain(self, argument: Any) -> Any:
        if isinstance(argument, (tuple, list)):
            return tuple(self._plain(a) for a in argument)
        return self.numbers.get(argument, argument) if isinstance(argument, fx.Node) else argument

    def _asks_for_numbers(self, node: fx.Node, arguments: list[Any]) -> bool:
        whole = (ROWS, *self.shape)
        if node.target == "size" and node.op == "call_method":
            self.numbers[node] = whole[arguments[1]] if len(arguments) > 1 else whole
        elif node.target is getattr and arguments[1] == "shape":
            self.numbers[node] = whole
        elif node.target in ARITHMETIC and not any(isinstance(a, fx.Node) for a in arguments):
            self.numbers[node] = node.target(*arguments)
        else:
            return False
        return True

    def _add(self, node: fx.Node, found: Layer | Shape) -> None:
        if not isinstance(found, Layer):
            self.shape = found
            return
        if found.weights >= 0:
            places = {name: f"{node.target}.{name}" for name in ("weight", "bias")}
            held = {n: self.parameters.index(path) for n, path in places.items() if path in self.parameters}
            self.used += held.values()
            found = replace(found, weights=held["weight"], bias=held.get("bias", -1), statistics=str(node.target))
        self.layers.append(found)
        self.shape = found.outputs


ARITHMETIC = (operator.getitem, operator.add, operator.mul, operator.floordiv)
"""Operations that a network may apply to sizes."""
ROWS = -7919
"""Stands for the number of rows in a traced network."""


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _convolution(module: nn.Conv2d, shape: Shape) -> Layer | None:
    (height, width), (down, right) = module.kernel_size, module.stride
    padding = module.padding
    if padding == "same" and height % 2 and width % 2:
        padding = (height // 2, width // 2)
    elif padding == "valid":
        padding = (0, 0)
    plain = module.dilation == (1, 1) and module.groups == 1 and module.padding_mode == "zeros"
    if not plain or isinstance(padding, str) or len(shape) != 3:
        return None
    top, left = padding
    outputs = (
        module.out_channels,
        (shape[1] + 2 * top - height) // down + 1,
        (shape[2] + 2 * left - width) // right + 1,
    )
    return Layer(
        "convolution", shape, outputs, 0, stride=(down, right), padding=(top, left), kernel=(height, width)
    )


def _dense(module: nn.Linear, shape: Shape) -> Layer | None:
    return Layer("dense", shape, (module.out_features,), 0) if len(shape) == 1 else None


def _norm(module: nn.BatchNorm2d, shape: Shape) -> Layer | None:
    if not (module.affine and module.track_running_stats and module.training and module.momentum is not None):
        return None
    return Layer("norm", shape, shape, 0, eps=module.eps, momentum=module.momentum)


def _activation(name: Name) -> Callable[..., Layer]:
    return lambda shape, inplace=False: Layer(name, shape, shape)


def _pooling(name: Name) -> Callable[..., Layer | None]:
    def layer(
        shape: Shape,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        **others: Any,
    ) -> Layer | None:
        squares = _pair(kernel_size) == (2, 2) and _pair(stride or kernel_size) == (2, 2)
        plain = _pair(padding) == (0, 0) and _pair(dilation) == (1, 1) and not ceil_mode
        if len(shape) != 3 or not squares or not plain or any(others.get(key) for key in REFUSED):
            return None
        return Layer(name, shape, (shape[0], shape[1] // 2, shape[2] // 2))

    return layer


REFUSED = ("return_indices", "divisor_override")
"""Options of a pooling layer that only their absence is understood of."""


def _pooling_module(name: Name) -> Callable[[Any, Shape], Layer | None]:
    options = ("stride", "padding", "dilation", "ceil_mode", *REFUSED)

    def layer(module: Any, shape: Shape) -> Layer | None:
        given = {option: getattr(module, option) for option in options if hasattr(module, option)}
        return _pooling(name)(shape, module.kernel_size, **given)

    return layer


def _flattened(shape: Shape, start_dim: int = 0, end_dim: int = -1) -> Shape | None:
    if start_dim != 1 or end_dim not in (-1, len(shape)):
        return None
    return (math.prod(shape),)


def _reshaped(shape: Shape, *sizes: Any) -> Shape | None:
    """The shape of a row after `view` or `reshape`; None if rows might be mixed."""
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
    first, *rest = sizes
    known, total = math.prod(size for size in rest if size != -1), math.prod(shape)
    if first == ROWS and rest.count(-1) == 1 and known > 0 and total % known == 0:
        rest[rest.index(-1)] = total // known
    if first not in (ROWS, -1) or min(rest, default=0) < 1 or math.prod(rest) != total:
        return None
    return tuple(rest)


MODULES: dict[type[nn.Module], Callable[[Any, Shape], Layer | Shape | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _dense,
    nn.BatchNorm2d: _norm,
    nn.Tanh: lambda module, shape: _activation("tanh")(shape),
    nn.ReLU: lambda module, shape: _activation("relu")(shape),
    nn.AvgPool2d: _pooling_module("average"),
    nn.MaxPool2d: _pooling_module("maximum"),
    nn.Flatten: lambda module, shape: _flattened(shape, module.start_dim, module.end_dim),
    nn.Identity: lambda module, shape: shape,
}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
FUNCTIONS: dict[Any, Callable[..., Layer | Shape | None]] = {
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), _activation("tanh")),
    **dict.fromkeys((torch.relu, functional.relu, "relu"), _activation("relu")),
    functional.avg_pool2d: _pooling("average"),
    functional.max_pool2d: _pooling("maximum"),
    **dict.fromkeys((torch.flatten, "flatten"), _flattened),
    **dict.fromkeys(("view", "reshape", torch.reshape), _reshaped),
    "contiguous": lambda shape: shape,
}
"""Change of a row's shape by each function and method of a traced network."""
