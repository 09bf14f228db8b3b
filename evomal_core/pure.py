"""Networks as pure functions: evaluations that leave a network as it was, and batch norm without a memory."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call


def pure_call(network: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The network's output for weights and buffers given by their first names; the network stays as it is.

    `functional_call` ties a second name to a first by itself, but leaves a module that stands in two places with
    the tensors that it was given. Here each module is named once, and each tensor under all its names.
    """
    tensors = chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    )
    owners = {f"{name}." if name else "" for name, _ in network.named_modules()}
    first: dict[int, str] = {}
    given = {}
    for name, tensor in tensors:
        known = first.setdefault(id(tensor), name)
        if known in state and name[: name.rfind(".") + 1] in owners:
            given[name] = state[known]
    with _attributes_kept(network):
        return functional_call(network, given, (x,), tie_weights=False)


_MODULES_OWN = frozenset(vars(nn.Module()))


def attributes_of(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of a module's plain attributes, which its forward may change."""
    if type(module).__module__.startswith("torch.nn."):
        return {}  # PyTorch's own layers keep their state in buffers
    own = ((name, value) for name, value in vars(module).items() if name not in _MODULES_OWN)
    return {name: _copy(value, memo) for name, value in own}


_KEPT = (
    str, bytes, int, float, complex, type(None), type, FunctionType, MethodType, BuiltinFunctionType, ModuleType,
    nn.Module, nn.Parameter, torch.device, torch.dtype, random.Random, np.random.Generator, np.random.RandomState,
)  # fmt: skip
"""Types of attributes that no forward changes in place, or that are no state; generators, which are warned of."""


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """A copy down to tensors, arrays and the attributes of objects; of what comes twice, the same one twice."""
    if isinstance(value, _KEPT):
        return value
    if id(value) not in memo:
        memo[id(value)] = value  # what it refers to may refer to it
        memo[id(value)] = _new(value, memo)
    return memo[id(value)]


def _new(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        parts = [_copy(part, memo) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if type(value).__module__.startswith("torch."):
        return value
    try:
        new = copy.copy(value)
    except Exception:  # whatever an object's own __reduce__ raises
        return value
    if isinstance(value, list | deque):
        new.clear()
        new.extend(_copy(part, memo) for part in value)
    elif isinstance(value, dict):
        new.update({key: _copy(part, memo) for key, part in value.items()})
    if hasattr(new, "__dict__"):
        vars(new).update({name: _copy(part, memo) for name, part in vars(value).items()})
    return new


def same(a: Any, b: Any) -> bool:
    """Whether what an attribute holds is equal to what `_copy` kept of it."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if hasattr(a, "__dict__") and not isinstance(a, _KEPT):
        return same(vars(a), vars(b))
    return bool(a == b)


@contextmanager
def _attributes_kept(network: nn.Module) -> Iterator[None]:
    """Context manager: restore the modules' plain attributes, whether they were set or changed in place."""
    kept = [(module, vars(module).copy()) for module in network.modules()]
    memo: dict[int, Any] = {}
    for module, _ in kept:
        vars(module).update(attributes_of(module, memo))
    try:
        yield
    finally:
        for module, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)


class PureBatchNorm(nn.Module):
    """Batch norm in training mode, without running statistics, from elementary operations.

    PyTorch's own has a forward-mode derivative that is itself differentiated wrongly (by 1e-3 in the
    meta-gradient of several unrolled steps, PyTorch 2.13); this one is exact to any order. A layer that the
    network keeps in evaluation mode, as for a pretrained part, uses its running statistics.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        fixed = not norm.training and norm.running_mean is not None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.register_buffer("running_mean", norm.running_mean if fixed else None)
        self.register_buffer("running_var", norm.running_var if fixed else None)

    def forward(self, x: Tensor) -> Tensor:
        """(x − mean) / √(variance + eps) · weight + bias, over all axes but the second."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        if self.running_mean is None or self.running_var is None:
            variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
        else:
            variance, mean = self.running_var.view(shape), self.running_mean.view(shape)
        scaled = (x - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return scaled
        return scaled * self.weight.view(shape) + self.bias.view(shape)


def with_pure_batch_norm(network: nn.Module) -> nn.Module:
    """Put `PureBatchNorm` in place of PyTorch's own layers, and return the network."""
    for name, child in network._modules.items():  # named_children() leaves out a module's second name
        if child is None:
            continue
        norm = nn.modules.batchnorm._BatchNorm
        if isinstance(child, norm) and type(child).forward is norm.forward and not hooks(child):
            setattr(network, name, PureBatchNorm(child))
        else:
            with_pure_batch_norm(child)
    return network


def hooks(module: nn.Module) -> bool:
    """Whether calling a module does more than its `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
