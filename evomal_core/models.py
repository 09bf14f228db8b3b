"""Multi-layer perceptrons, the LSTM's loop, and He's initialisation for any network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """A multi-layer perceptron with ReLU activations, (rows, …) → (rows, outputs).

    Rows are flattened to `inputs` numbers; the last layer is linear.

    GECCO's Sine uses `mlp(1, [40, 40], 1)`; TPAMI's tabular tasks `mlp(d, [1000, 1000], 1)`
    (Baydin et al. 2018).
    """
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def logistic(inputs: int, outputs: int) -> nn.Sequential:
    """Multinomial logistic regression, one linear layer of logits, (rows, …) → (rows, outputs).

    7,850 weights on MNIST (McCullagh & Nelder 1989).
    """
    return mlp(inputs, [], outputs)


def lstm_state(gates: Tensor, recurrent: Tensor) -> Tensor:
    """The state h of an LSTM after the last letter, from elementary operations (Hochreiter & Schmidhuber 1997).

    `nn.LSTM` has no second derivative by cuDNN's kernels and no forward-mode one by the CPU's; this has both.

    Args:
        gates: what each letter adds to the gates i, f, g, o, (rows, letters, 4·units).
        recurrent: the weights of the state before, (4·units, units).

    Returns:
        The state, (rows, units).
    """
    h = c = gates.new_zeros(len(gates), recurrent.shape[1])
    for letter in gates.unbind(dim=1):
        let_in, keep, new, let_out = (letter + functional.linear(h, recurrent)).chunk(4, dim=1)
        c = torch.sigmoid(keep) * c + torch.sigmoid(let_in) * torch.tanh(new)
        h = torch.sigmoid(let_out) * torch.tanh(c)
    return h


def he_(network: Network) -> Network:
    """He-normal weights, N(0, 2/fan-out) for convolutions and N(0, 2/fan-in) for dense layers, and zero biases.

    In place; for networks with ReLU (He et al. 2015). Norm layers keep theirs. PyTorch's global generator is drawn
    from, as in the constructors of `nn` modules.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
