"""He's initialisation for any network."""

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


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
