"""TPAMI'23's plain convolutional networks for 32×32 images (section IV-B); each returns logits (rows, classes).

Where the networks' own papers leave the 32×32 form open (all but AllCNN-C's are for 224×224), it is that of the
authors' code. Weights are drawn from PyTorch's global generator, as those of `nn` modules are.
"""

import torch
from torch import Tensor, nn

from evomal_paper.datasets.torchvision import import_torchvision
from evomal_paper.networks.initialisation import he_


def alexnet(classes: int = 10) -> nn.Sequential:
    """AlexNet (Krizhevsky et al. 2012) with 3×3 kernels: 23,272,266 weights for 10 classes.

    Widths as in torchvision's (64, 192, 384, 256, 256 filters, two dense layers of 4,096), stride 2 in the first
    convolution, three 2×2 poolings, no dropout, He's initialisation: as in the authors' code. The original's
    N(0, 0.01²) is meant for longer training.
    """

    def convolution(inputs: int, filters: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, filters, 3, stride, padding=1), nn.ReLU()]

    network = nn.Sequential(
        *(*convolution(3, 64, stride=2), nn.MaxPool2d(2)),
        *(*convolution(64, 192), nn.MaxPool2d(2)),
        *convolution(192, 384),
        *convolution(384, 256),
        *(*convolution(256, 256), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256 * 2 * 2, 4096), nn.ReLU()),
        *(nn.Linear(4096, 4096), nn.ReLU()),
        nn.Linear(4096, classes),
    )
    return he_(network)


def vgg16(classes: int = 10) -> nn.Sequential:
    """VGG-16 with batch norm (Simonyan & Zisserman 2015): 14,728,266 weights for 10 classes.

    torchvision's thirteen convolutions, whose five poolings leave 1×1, and one dense layer in place of the three
    that 224×224 images need, as is usual for 32×32.
    """
    vgg = import_torchvision().models.vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    return he_(nn.Sequential(features, nn.Flatten(), nn.Linear(512, classes)))


def allcnn_c(classes: int = 10, *, as_code: bool = False) -> nn.Sequential:
    """AllCNN-C (Springenberg et al. 2015) with batch norm: 1,372,254 weights for 10 classes.

    Nine convolutions, two of them with stride 2 in place of pooling, and the mean over positions. As in the
    authors' code, there is batch norm after each convolution, dropout of one half after those with stride, and
    none on the images; without batch norm it has the published 1.4 million, 1,369,738.

    With `as_code` there is no ReLU before dropout, and the mean is over the first 6×6 of 8×8 positions.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for filters, kernel, stride in (
        *((96, 3, 1), (96, 3, 1), (96, 3, 2)),
        *((192, 3, 1), (192, 3, 1), (192, 3, 2)),
        *((192, 3, 1), (192, 1, 1), (classes, 1, 1)),
    ):
        convolution = nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2)
        layers += [convolution, nn.BatchNorm2d(filters)]
        layers += [] if as_code and stride > 1 else [nn.ReLU()]
        layers += [nn.Dropout(0.5)] if stride > 1 else []
        inputs = filters
    layers.pop()  # logits are not rectified
    pool = nn.AvgPool2d(6) if as_code else nn.AdaptiveAvgPool2d(1)
    return he_(nn.Sequential(*layers, pool, nn.Flatten()))


class Fire(nn.Module):
    """SqueezeNet's module: a 1×1 convolution to few channels, then 1×1 and 3×3 ones side by side.

    Where as many channels leave as enter, they are added to those that enter ("simple bypass").
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        narrow = outputs // 8
        self.squeeze = _normed(inputs, narrow, 1)
        self.expand1 = _normed(narrow, outputs // 2, 1)
        self.expand3 = _normed(narrow, outputs // 2, 3)
        self.bypass = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, inputs, height, width) → (rows, outputs, height, width)."""
        squeezed = self.squeeze(x)
        expanded = torch.cat([self.expand1(squeezed), self.expand3(squeezed)], dim=1)
        return x + expanded if self.bypass else expanded


def squeezenet(classes: int = 10) -> nn.Sequential:
    """SqueezeNet with simple bypass (Iandola et al. 2016): 734,986 weights for 10 classes.

    For 32×32: 3×3 kernels with stride 1 in the first convolution, 2×2 poolings after it and after the third and
    the seventh Fire module; with batch norm and without dropout, as in the authors' code. Glorot-uniform weights,
    as in the original's published model.
    """
    network = nn.Sequential(
        *(_normed(3, 96, 3), nn.MaxPool2d(2)),
        *(Fire(96, 128), Fire(128, 128), Fire(128, 256), nn.MaxPool2d(2)),
        *(Fire(256, 256), Fire(256, 384), Fire(384, 384), Fire(384, 512), nn.MaxPool2d(2)),
        *(Fire(512, 512), nn.Conv2d(512, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type] # each has one
    return network


def _normed(inputs: int, filters: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, filters, kernel, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU())
