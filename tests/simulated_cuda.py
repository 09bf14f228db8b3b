"""A CUDA device that a CPU plays: its numbers lie in the host's memory, but it keeps a second device's rules.

Within `simulated_cuda()` there is a device "cuda", in this thread. Arrays of host and device don't mix, those of
the device are no NumPy arrays, and a CUDA graph's capture refuses whatever would make the host wait. Each
operation is computed as on the CPU. What this can't show: speed, memory, and the GPU's own kernels.

An array of the device is a wrapper around one of the host, of PyTorch's device "meta": the one for which a build
without CUDA differentiates too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from evomal_core.population.cuda_graphs import _stream

CUDA, META, HOST = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
WAITING = tuple(
    f"aten::{name}" for name in ("_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount")
)
"""Operations whose values or shapes the host needs."""

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
_captures: list[Graph] = []
_sync = SimpleNamespace(mode="default")


class DeviceTensor(Tensor):
    """An array on the simulated device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=META,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held!r})"

    def read(self) -> Tensor:
        if _captures or _sync.mode == "error":
            _refuse("reading a value")
        return self.held

    def item(self) -> Any:
        return self.read().item()

    def tolist(self) -> Any:
        return self.read().tolist()

    def __bool__(self) -> bool:
        return bool(self.read())

    def __int__(self) -> int:
        return int(self.read())

    def __float__(self) -> float:
        return float(self.read())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, DeviceTensor) else leaf


def _dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation of ATen, by the rules of two devices."""
    if func is aten._efficientzerotensor.default:
        func = aten.zeros.default  # the same without memory, which has no address
    tensors = _tensors((args, kwargs))
    places = [isinstance(t, DeviceTensor) for t in tensors]
    assert not any(t.device == META and not ours for t, ours in zip(tensors, places, strict=True)), func
    device = kwargs.get("device")
    here = device == META if device is not None else places[0] if func is aten.copy_.default else any(places)
    if any(places) and not all(places):
        _check_places(func, args, tensors)
    if (_captures or _sync.mode == "error") and (here or any(places)):
        _check_waiting(func, args, crosses=not all([*places, here]))
    unwrapped = tree_map(_held, (args, {**kwargs, "device": HOST} if device is not None else kwargs))
    given = _aliases(unwrapped) if _captures else None  # as shaped before the operation
    with _disable_current_modes():
        result = func(*unwrapped[0], **unwrapped[1])
    if here:
        result = tree_map(lambda leaf: DeviceTensor(leaf) if isinstance(leaf, Tensor) else leaf, result)
        if device is None:
            result = return_and_correct_aliasing(func, args, kwargs, result)
    elif func is aten.copy_.default:
        result = args[0]
    elif device is not None and any(places):
        result = result.clone()  # a move to the host is a copy
    if _captures and (here or any(places)):
        _captures[-1].operations.append((func, given, _aliases(tree_map(_held, result))))
    return result


def _check_places(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """What may have arrays of both devices: copies, single numbers of the host, and its row numbers."""
    if func in COPIES:
        return
    mixed = [args[0], *args[2:3]] if func._schema.name in INDEXING else tensors
    if not all(isinstance(t, DeviceTensor) or t.dim() == 0 for t in mixed):
        found = ", ".join(
            f"{tuple(t.shape)} on {'cuda' if isinstance(t, DeviceTensor) else 'cpu'}" for t in tensors
        )
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {found}")


def _check_waiting(func: Any, args: Any, crosses: bool) -> None:
    """What a graph can't hold, and the synchronisation debug mode refuses: the host waits for the device."""
    masks = func._schema.name in INDEXING and any(t.dtype == torch.bool for t in _tensors(args[1]))
    if masks or (func in COPIES and crosses) or func._schema.name in WAITING:
        _refuse(func)


def _refuse(what: object) -> None:
    why = "operation not permitted when stream is capturing" if _captures else "called a synchronizing operation"
    raise RuntimeError(f"{why}: {what}")


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """Names the simulated device "cuda" towards Python, and makes arrays of numbers on the host first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func == Tensor.is_cuda.__get__:
            return args[0].device == META
        args, kwargs = tree_map(_inward, args), tree_map(_inward, kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == META:
            if isinstance(args[0], Tensor):
                return args[0].to(META)
            return torch.tensor(*args, **kwargs | {"device": HOST}).to(META)
        if func == Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(args[1], dtype=args[0].dtype).to(META)
        result = func(*args, **kwargs)
        return CUDA if isinstance(result, torch.device) and result == META else result


def _inward(leaf: Any) -> Any:
    named = isinstance(leaf, str) and leaf.partition(":")[0] == "cuda"
    return META if named or (isinstance(leaf, torch.device) and leaf.type == "cuda") else leaf


def _aliases(tree: Any) -> Any:
    """The same numbers in tensors of their own, whose shapes nothing else changes in place."""
    with _disable_current_modes():
        return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


class Graph:
    """A CUDA graph: every operation with its arguments and results, which `replay` writes anew where they lie."""

    captured = replays = 0

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any]] = []

    def replay(self) -> None:
        Graph.replays += 1
        with _disable_current_modes():
            for func, given, result in self.operations:
                args, kwargs = _aliases(given)
                storages = {t.untyped_storage().data_ptr() for t in _tensors(given)}
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(result), _tensors(again), strict=True):
                    if old.untyped_storage().data_ptr() not in storages:  # neither a view nor in place
                        old.copy_(new)


@contextmanager
def _capture(graph: Graph, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    Graph.captured += 1
    _captures.append(graph)
    try:
        yield
    finally:
        _captures.pop()


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Within it, this machine has one CUDA device; `Graph.captured` and `Graph.replays` count from 0."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    own_states = torch.zeros(16, dtype=torch.uint8)  # a device has a generator of its own
    runtime = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda device=None: "simulated",
        "get_rng_state": lambda device=None: own_states,
        "set_rng_state": lambda state, device=None: None,
        "empty_cache": lambda: None,
        "get_sync_debug_mode": lambda: _sync.mode,
        "set_sync_debug_mode": lambda mode: setattr(_sync, "mode", mode),
        "Stream": lambda device=None: stream,
        "current_stream": lambda device=None: stream,
        "stream": lambda chosen: nullcontext(),
        "set_stream": lambda chosen: None,
        "CUDAGraph": Graph,
        "graph": _capture,
    }
    Graph.captured = Graph.replays = 0
    with ExitStack() as stack:
        stack.callback(_stream.cache_clear)  # a GPU that is really there has another
        for name, value in runtime.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(_Operations())
        stack.enter_context(_Names())
        yield
