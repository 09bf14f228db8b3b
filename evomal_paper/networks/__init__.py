"""Base networks of the papers, by name; all return logits or predictions, never probabilities."""

from collections.abc import Callable
from functools import partial

from torch import nn

from evomal_paper.networks.cifar import alexnet, allcnn_c, squeezenet, vgg16
from evomal_paper.networks.residual import preresnet, pyramidnet, resnet18, wide_resnet
from evomal_paper.networks.small import LetterLSTM, gecco_cnn, lenet5

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

_AS_CODE: dict[str, Callable[[int], nn.Module]] = {
    "allcnnc": partial(allcnn_c, as_code=True),
    "preresnet": partial(preresnet, depth=110, bottleneck=False),
}


def in_form(name: str, form: str) -> Callable[[int], nn.Module]:
    """A network of MODELS as in the authors' code ("code") or as in the text, where they differ."""
    return _AS_CODE.get(name, MODELS[name]) if form == "code" else MODELS[name]


__all__ = ["MODELS", "LetterLSTM", "gecco_cnn", "in_form", "lenet5"]
