"""Objects as bytes for another process, whichever graphics card that computes on.

A tensor on a GPU becomes one on the receiver's first visible card, so that workers that see one card each can be
sent what the caller keeps on any of its own. A view is sent without the rest of the tensor that it is a view of.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from evomal_core.lazy import LazyModule

cloudpickle = LazyModule("cloudpickle", "evomal[cluster]")


def packed(thing: Any) -> bytes:
    """An object as bytes, functions and classes defined on the spot included.

    Raises:
        Exception: whatever a part of it raises that can't be pickled.
    """
    file = io.BytesIO()
    pickler = cloudpickle.CloudPickler(file)
    inherited = pickler.reducer_override
    pickler.reducer_override = lambda part: _reduced(part) or inherited(part)
    pickler.dump(thing)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """The object of `packed`.

    Loading bytes can execute code. These come from the caller of an executor, who has functions executed by its
    workers anyway; nothing that was saved, downloaded or published is loaded so.
    """
    return cloudpickle.loads(content)


def _reduced(part: Any) -> Any:
    """Recipe by which the receiver makes a tensor or a device anew; None where it is pickled as usual."""
    if isinstance(part, torch.device):
        return (_card, ()) if part.type == "cuda" else None
    if not isinstance(part, Tensor):
        return None
    if part.device.type == "cuda":
        return _on_card, (part.detach().cpu(), part.requires_grad, isinstance(part, nn.Parameter))
    if type(part) is Tensor and part.is_leaf and part.layout == torch.strided:
        whole = part.untyped_storage().nbytes()
        if part.numel() * part.element_size() < whole:
            return torch.Tensor.requires_grad_, (part.detach().clone(), part.requires_grad)
    return None


def _card() -> torch.device:
    """The first graphics card that this process sees."""
    return torch.device("cuda", 0)


def _on_card(array: Tensor, requires_grad: bool, is_parameter: bool) -> Tensor:
    moved = array.to("cuda:0")
    return nn.Parameter(moved, requires_grad) if is_parameter else moved.requires_grad_(requires_grad)
