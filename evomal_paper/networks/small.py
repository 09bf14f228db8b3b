"""GECCO'23's small networks for images and names; where the paper is silent, the choice is said."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal_core.models import lstm_state


def lenet5(outputs: int, size: int = 28, channels: int = 1) -> nn.Sequential:
    """LeNet-5 with tanh and average pooling (LeCun et al. 1998), as in the authors' code.

    Convolutions 5×5 without padding with 6 and 16 filters, each followed by tanh and 2×2 average pooling, then
    dense layers of 120, 84 and `outputs` nodes. For 10 outputs it has 44,426 weights on MNIST's 28×28 images,
    and the original's 61,706 on 32×32. Images are (rows, channels, size, size), at least 16×16.
    """
    left = _after_two_convolutions(size)
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * left**2, 120), nn.Tanh()),
        *(nn.Linear(120, 84), nn.Tanh()),
        nn.Linear(84, outputs),
    )


def gecco_cnn(outputs: int, size: int = 32, channels: int = 3) -> nn.Sequential:
    """The convolutional network of GECCO's CIFAR-10 tasks (section 4.1): 497,285 weights for 5 outputs.

    5×5 convolution with 32 filters, max pooling, batch norm, 5×5 convolution with 64 filters, max pooling, batch
    norm, dense layers of 256 and 128 nodes, and the layer of outputs. The paper leaves open: 2×2 pooling, no
    padding, ReLU after each convolution and dense layer. Images are (rows, channels, size, size), at least 16×16.
    """
    left = _after_two_convolutions(size)
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(32)),
        *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(64)),
        nn.Flatten(),
        *(nn.Linear(64 * left**2, 256), nn.ReLU()),
        *(nn.Linear(256, 128), nn.ReLU()),
        nn.Linear(128, outputs),
    )


def _after_two_convolutions(size: int) -> int:
    """Height and width of what two 5×5 convolutions, each with 2×2 pooling, leave of an image."""
    return ((size - 4) // 2 - 4) // 2


class LetterLSTM(nn.Module):
    """The recurrent network of GECCO's Surname tasks (section 4.1): an embedding, an LSTM, and two dense layers.

    The paper leaves open: the dense layer sees the state after the last letter, and has a ReLU.
    The cell is written from elementary operations, which all engines can differentiate. A symbol's embedding
    passes through the input weights once, not at each of its occurrences.
    """

    def __init__(
        self, outputs: int, symbols: int, embedding: int = 256, units: int = 64, dense: int = 256
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.inputs = nn.Linear(embedding, 4 * units)
        self.recurrent = nn.Linear(units, 4 * units, bias=False)
        self.hidden = nn.Linear(units, dense)
        self.output = nn.Linear(dense, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Indices of symbols (rows, letters), int64 → logits (rows, outputs)."""
        gates = functional.embedding(x, self.inputs(self.embedding.weight))
        return self.output(torch.relu(self.hidden(lstm_state(gates, self.recurrent.weight))))
