"""The package torchvision, imported also where torch is built without CUDA."""

import sys
from functools import cache
from importlib import import_module
from types import ModuleType

from torch.library import Library

_DECLARED: list[Library] = []  # a declaration ends with its library object


@cache
def import_torchvision() -> ModuleType:
    """The package torchvision with its `datasets`.

    torchvision's wheels hold compiled operators for a CUDA build of torch. With a CPU build these can't be
    loaded, and the import fails with "operator torchvision::nms does not exist" because torchvision attaches
    shape rules to operators that are not there. Data sets and networks need none of them, so they are declared
    (without any implementation) and the import is tried again. Only then: declaring them where they exist fails.
    """
    try:
        import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for operator in ("nms", "qnms"):
            _DECLARED.append(Library("torchvision", "FRAGMENT"))
            _DECLARED[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision.datasets")
    return sys.modules["torchvision"]
