"""The graph of a user's module, by `torch.fx`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import fx, nn


class NotPlain(ValueError):  # noqa: N818 - a finding more than an error
    """The network is none that can be computed without its module; the text says why."""


def trace(network: nn.Module, wrapped: tuple[Callable[..., object], ...] = ()) -> fx.Graph:
    """The graph of a network, the same in training and in evaluation mode; `wrapped` functions are one node each.

    Raises:
        NotPlain: it can't be traced, or computes something else in evaluation mode.
    """
    training, evaluated = (_graph(network, mode, wrapped) for mode in (network.training, False))
    if str(training) != str(evaluated):
        raise NotPlain("it computes something else in evaluation mode")
    return training


def _graph(network: nn.Module, training: bool, wrapped: tuple[Callable[..., object], ...]) -> fx.Graph:
    try:
        with torch.random.fork_rng(devices=[]):
            return fx.Tracer(autowrap_functions=wrapped).trace(copy.deepcopy(network).train(training))
    except Exception as error:  # whatever the user's code raises when it meets no real numbers
        raise NotPlain(f"it can't be traced: {(str(error) or type(error).__name__).splitlines()[0]}") from error
