"""Recognition of networks of an embedding, an LSTM and dense layers on its last state.

Recognised by tracing are `nn.Embedding`, `nn.LSTM` of one layer and direction (or `models.lstm_state`), with or
without biases and in either order of the axes, then `nn.Linear` layers with ReLU or tanh on the state after the
last letter. Everything else, GRUs among it, is left to the general engines.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from evomal_core.models import lstm_state
from evomal_core.population.tracing import trace
from evomal_core.pure import hooks


class _Unknown(Exception):  # noqa: N818 - a finding, not an error
    """The network has another form."""


@dataclass(frozen=True)
class RecurrentForm:
    """Sizes of a network, and the places of its weights among all of them, as `kernels_recurrent` takes them."""

    shape: np.ndarray
    layers: np.ndarray
    """Each dense layer, for `kernels`: (inputs, outputs, place of W, place of b or −1, activation)."""


LARGEST = 2**28
"""Bytes that a thread may take for what forward passes keep."""
_known: WeakKeyDictionary[nn.Module, RecurrentForm | None] = WeakKeyDictionary()


def recurrent_form(network: nn.Module, x: Tensor, batch_size: int) -> RecurrentForm | None:
    """The form of a network that takes rows like x; None if it has none, or if a batch takes too much memory."""
    if network not in _known:
        _known[network] = form_of(network, x)
    form = _known[network]
    if form is None:
        return None
    kept = 20 * x[:batch_size].numel() * int(form.shape[1]) * next(network.parameters()).element_size()
    return form if kept <= LARGEST else None


def form_of(network: nn.Module, x: Tensor) -> RecurrentForm | None:
    """The form of a network that takes rows like x; None if it has another one."""
    named = list(network.named_parameters(remove_duplicate=False))
    if (
        x.ndim != 2
        or x.dtype != torch.int64
        or any(hooks(module) for module in network.modules())
        or len({id(w) for _, w in named}) < len(named)
        or not all(w.requires_grad for _, w in named)
    ):
        return None
    try:
        return _Reader(network).read(trace(network, wrapped=(lstm_state,)))
    except Exception:  # a graph may hold anything that the reader does not know
        return None


@dataclass(frozen=True)
class _Value:
    """Value of a node of the graph, and whether its first axis is the letters' and not the rows'."""

    what: str
    swapped: bool = False
    module: Any = None


SHAPES = _Value("shape")
"""Sizes, devices, and whatever is made of them alone."""
ALL = slice(None)


class _Reader:
    """Follows a graph from its input to its output and collects the parts of the form."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.embedding: nn.Embedding | None = None
        self.weights: dict[str, Tensor | None] = {}
        self.layers: list[tuple[nn.Linear, str]] = []

    def read(self, graph: fx.Graph) -> RecurrentForm:
        """The form.

        Raises:
            _Unknown: the graph has another one.
        """
        values: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            arguments: Any = fx.map_arg(node.args, values.__getitem__)
            if node.op == "output":
                _require(arguments[0].what in ("state", "predictions"))
                return self._form()
            if node.op == "placeholder":
                _require(not values)
                values[node] = _Value("letters")
            elif node.op == "get_attr":
                values[node] = _Value("weight", module=operator.attrgetter(str(node.target))(self.network))
            elif node.op == "call_module":
                values[node] = self._module(self.network.get_submodule(str(node.target)), *arguments)
            else:
                name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
                keywords: Any = fx.map_arg(node.kwargs, values.__getitem__)
                values[node] = self._operation(str(name), *arguments, **keywords)
        raise _Unknown

    def _module(self, module: Any, x: _Value, states: Any = None) -> _Value:
        kind = type(module)
        if kind is nn.Embedding and x.what == "letters":
            self._embed(module)
            return _Value("embedded", x.swapped)
        if kind is nn.LSTM and x.what == "embedded":
            _require(states is None or all(state.what == "zeros" for state in states))
            _require((module.num_layers, module.bidirectional, module.proj_size) == (1, False, 0))
            _require(module.batch_first != x.swapped and not self.weights)
            names = {"input": "ih", "recurrent": "hh"}
            for name, end in names.items():
                self.weights[name] = getattr(module, f"weight_{end}_l0")
                self.weights[f"{name} bias"] = getattr(module, f"bias_{end}_l0") if module.bias else None
            return _Value("lstm", x.swapped)
        if kind is nn.Linear and x.what == "weight" and not self.weights:
            self.weights |= {"table": x.module, "input": module.weight, "input bias": module.bias}
            return _Value("table")
        if kind is nn.Linear and x.what == "state":
            self.layers.append((module, ""))
            return x
        if kind in (nn.ReLU, nn.Tanh):
            return self._activated(x, "relu" if kind is nn.ReLU else "tanh")
        _require(kind is nn.Identity or (kind is nn.Dropout and module.p == 0))
        return x

    def _embed(self, module: nn.Embedding) -> None:
        _require(self.embedding is None and module.max_norm is None)
        _require(not module.scale_grad_by_freq and not module.sparse)
        self.embedding = module

    def _activated(self, x: _Value, activation: str) -> _Value:
        _require(x.what == "state" and bool(self.layers) and not self.layers[-1][1])
        self.layers[-1] = (self.layers[-1][0], activation)
        return x

    def _operation(self, name: str, x: Any, *rest: Any, **keywords: Any) -> _Value:
        what = x.what if isinstance(x, _Value) else ""
        if name in ("zeros", "new_zeros") or (name == "to" and what == "zeros"):
            return _Value("zeros")
        if what == "shape" or name == "size" or (name == "getattr" and rest[0] in ("shape", "device", "dtype")):
            return SHAPES
        if name == "embedding" and what == "letters" and rest[0].what == "table" and len(rest) == 1:
            _require(not any(keywords.get(k) for k in ("padding_idx", "max_norm", "sparse", "scale_grad_by_freq")))
            return _Value("gates", x.swapped)
        if name == lstm_state.__name__ and (what, x.swapped) == ("gates", False):
            self.weights["recurrent"] = rest[0].module
            return _Value("state")
        if what in ("letters", "embedded") and _swaps(name, rest):
            return _Value(what, not x.swapped)
        if name in ("relu", "tanh"):
            return self._activated(x, name)
        if name == "getitem":
            return _item(x, rest[0])
        if name == "squeeze" and what == "hidden" and rest == (0,):
            return _Value("state")
        if what == "state" and self.layers and self.layers[-1][0].out_features == 1 and _flattens(name, rest):
            return _Value("predictions")
        _require(name in ("long", "contiguous") and not rest and what in ("letters", "embedded", "state"))
        return x

    def _form(self) -> RecurrentForm:
        """The places of all parts in the vector of the network's weights."""
        places, place = {}, 0
        for weight in self.network.parameters():
            places[id(weight)] = place
            place += weight.numel()
        embedding, padding = self.weights.get("table"), None
        if self.embedding is not None:
            embedding, padding = self.embedding.weight, self.embedding.padding_idx
        recurrent = self.weights["recurrent"]

        def place_of(weight: Tensor | None) -> int:
            return -1 if weight is None else places.pop(id(weight))

        if embedding is None or recurrent is None or not self.layers:
            raise _Unknown
        shape = [embedding.shape[1], recurrent.shape[1], place_of(embedding), place_of(self.weights["input"])]
        shape += [place_of(recurrent), place_of(self.weights["input bias"])]
        shape += [place_of(self.weights.get("recurrent bias")), -1 if padding is None else padding]
        layers = [
            (d.in_features, d.out_features, place_of(d.weight), place_of(d.bias), ["", "relu", "tanh"].index(act))
            for d, act in self.layers
        ]
        _require(not places)  # each weight has its part
        return RecurrentForm(np.array(shape), np.array(layers))


def _require(holds: object) -> None:
    if not holds:
        raise _Unknown


def _swaps(name: str, axes: tuple[Any, ...]) -> bool:
    """Whether an operation exchanges the first two axes."""
    if name == "getattr":
        return axes == ("T",)
    order = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], list | tuple) else axes
    known: dict[str, list[Any]] = {"t": [()], "transpose": [(0, 1), (1, 0)], "permute": [(1, 0), (1, 0, 2)]}
    return order in known.get(name, ())


def _flattens(name: str, sizes: tuple[Any, ...]) -> bool:
    """Whether an operation drops the second axis, of length 1."""
    known: dict[str, list[Any]] = {
        "squeeze": [(1,), (-1,)],
        "flatten": [(), (0,)],
        "view": [(-1,)],
        "reshape": [(-1,)],
    }
    return sizes in known.get(name, ())


def _item(x: _Value, index: Any) -> _Value:
    """The value of x[index], for the LSTM's results."""
    if x.what == "lstm" and index in (0, 1):
        return _Value(("outputs", "states")[index], x.swapped)
    if x.what == "states":
        return _Value(("hidden", "cell")[index])
    index = index if isinstance(index, tuple) else (index,)
    known, rest = False, index[1:]
    if x.what == "hidden":
        known = index[0] in (0, -1)
    elif x.what == "outputs" and x.swapped:
        known = index[0] == -1
    elif x.what == "outputs":
        known, rest = index[:2] == (ALL, -1), index[2:]
    _require(known and all(i == ALL or i is Ellipsis for i in rest))
    return _Value("state")
