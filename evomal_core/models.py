"""Multi-layer perceptrons, and the LSTM's loop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


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
