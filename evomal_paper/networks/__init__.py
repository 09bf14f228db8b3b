"""Base networks of the papers, by name; all return logits or predictions, never probabilities."""

from collections.abc import Callable

from torch import nn

from evomal_paper.networks.cifar import alexnet, allcnn_c, squeezenet, vgg16
from evomal_paper.networks.residual import preresnet, pyramidnet, resnet18, wide_resnet
from evomal_paper.networks.small import gecco_cnn, lenet5, surname_lstm

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "allcnnc": allcnn_c,
    "resnet18": resnet18,
    "preresnet": preresnet,
    "wideresnet": wide_resnet,
    "squeezenet": squeezenet,
    "pyramidnet": pyramidnet,
}
"""TPAMI's networks for 32×32 images as functions of the number of classes, in the order of its Table II."""

__all__ = [
    "MODELS",
    "alexnet",
    "allcnn_c",
    "gecco_cnn",
    "lenet5",
    "preresnet",
    "pyramidnet",
    "resnet18",
    "squeezenet",
    "surname_lstm",
    "vgg16",
    "wide_resnet",
]
