"""TPAMI'23's residual networks for 32×32 images (section IV-B); each returns logits (rows, classes).

Weights are He's (N(0, 2/fan-out), He et al. 2015), as in the networks' own papers, drawn from PyTorch's global
generator as those of `nn` modules are.
"""

from torch import Tensor, nn
from torch.nn import functional

from evomal_paper.datasets.torchvision import import_torchvision
from evomal_paper.networks.initialisation import he_


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 (He et al. 2016a): 11,173,962 weights for 10 classes.

    torchvision's, with a 3×3 convolution of stride 1 and no pooling in place of the 7×7 stem, as is usual for
    32×32.
    """
    network = import_torchvision().models.resnet18(num_classes=classes)
    network.conv1 = _convolution(3, 64, 3)
    network.maxpool = nn.Identity()
    return he_(network)


def preresnet(classes: int = 10, depth: int = 101, bottleneck: bool = True) -> nn.Sequential:
    """Pre-activation ResNet (He et al. 2016b) in that paper's form for CIFAR: 1,054,106 weights at depth 101.

    Three stages of 16, 32 and 64 channels, four times as many between bottleneck units. TPAMI names a
    "Preactivation ResNet-101"; 101 = 9·11 + 2 is a depth of this form with bottlenecks (11 units of three
    convolutions a stage). The authors' code has one of plain units whose depth is 110 unless said otherwise; that
    is `preresnet(depth=110, bottleneck=False)`.
    """
    units = (depth - 2) // (9 if bottleneck else 6)
    widths = [width * (4 if bottleneck else 1) for width in (16, 32, 64)]
    return _pre_activation_network(widths, units, classes, bottleneck)


def wide_resnet(classes: int = 10) -> nn.Sequential:
    """WideResNet-28-10 (Zagoruyko & Komodakis 2016), without dropout: 36,479,194 weights for 10 classes."""
    return _pre_activation_network([160, 320, 640], 4, classes, bottleneck=False)


def pyramidnet(classes: int = 10, depth: int = 110) -> nn.Sequential:
    """PyramidNet with plain units and additive widening (Han et al. 2017): 1,772,706 weights for 10 classes.

    The k-th of N units has 16 + 48·k/N channels.
    """
    units = (depth - 2) // 6
    widths = [16 + round(48 * k / (3 * units)) for k in range(3 * units + 1)]
    body = [
        PyramidUnit(widths[k], widths[k + 1], stride=2 if k in (units, 2 * units) else 1) for k in range(3 * units)
    ]
    stem = (_convolution(3, widths[0], 3), nn.BatchNorm2d(widths[0]))
    return he_(nn.Sequential(*stem, *body, *_head(widths[-1], classes)))


class PreActivationUnit(nn.Module):
    """Norm and ReLU before each convolution; where the shape changes, a 1×1 convolution is the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        steps = [(outputs, 3, stride), (outputs, 3, 1)]
        if bottleneck:
            narrow = outputs // 4
            steps = [(narrow, 1, 1), (narrow, 3, stride), (outputs, 1, 1)]
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.shortcut = _convolution(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else None
        layers: list[nn.Module] = []
        for filters, kernel, step in steps:
            layers += [nn.BatchNorm2d(inputs), nn.ReLU()] if layers else []
            layers.append(_convolution(inputs, filters, kernel, step))
            inputs = filters
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, inputs, height, width) → (rows, outputs, height / stride, width / stride)."""
        active = self.activation(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


def _pre_activation_network(widths: list[int], units: int, classes: int, bottleneck: bool) -> nn.Sequential:
    body: list[nn.Module] = []
    inputs = 16
    for stage, width in enumerate(widths):
        for unit in range(units):
            body.append(PreActivationUnit(inputs, width, 2 if stage and not unit else 1, bottleneck))
            inputs = width
    return he_(nn.Sequential(_convolution(3, 16, 3), *body, *_head(inputs, classes)))


class PyramidUnit(nn.Module):
    """Norm, convolution, norm, ReLU, convolution, norm; the shortcut is pooled, and padded with empty channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(nn.BatchNorm2d(inputs), _convolution(inputs, outputs, 3, stride)),
            *(nn.BatchNorm2d(outputs), nn.ReLU(), _convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)),
        )
        self.shortcut = nn.AvgPool2d(2) if stride > 1 else nn.Identity()
        self.new = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, inputs, height, width) → (rows, outputs, height / stride, width / stride)."""
        return self.residual(x) + functional.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.new))


def _convolution(inputs: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, kernel, stride, padding=kernel // 2, bias=False)


def _head(channels: int, classes: int) -> tuple[nn.Module, ...]:
    """Layers from the last unit to logits."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return (nn.BatchNorm2d(channels), nn.ReLU(), *pooled, nn.Linear(channels, classes))
