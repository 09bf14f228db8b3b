"""EvoMAL: learn loss functions by genetic programming and unrolled differentiation.

import evomal_core as em

task = em.Task.from_arrays(x, y, kind="regression")
result = em.learn_loss([task], model=lambda: em.models.mlp(10, [40, 40], 1), seed=0)
result.best.save("loss.json")
"""

from typing import TYPE_CHECKING, Any

from evomal_core import models, primitives
from evomal_core.config import EVERYDAY, SGD, THOROUGH, Optimizer, SearchConfig
from evomal_core.evaluation import Evaluation
from evomal_core.expression import Expression
from evomal_core.known import known_losses
from evomal_core.lazy import LazyModule
from evomal_core.library import load_loss
from evomal_core.losses import LearnedLoss, Loss, TaskLoss
from evomal_core.metrics import make_metric
from evomal_core.parametric import NeuralLoss, TaylorLoss
from evomal_core.result import SearchResult
from evomal_core.search import METHODS, learn_loss
from evomal_core.tasks import Task

if TYPE_CHECKING:
    from evomal_core.estimators import LossSearch

__all__ = [
    "EVERYDAY",
    "METHODS",
    "SGD",
    "THOROUGH",
    "Evaluation",
    "Expression",
    "LearnedLoss",
    "Loss",
    "LossSearch",
    "NeuralLoss",
    "Optimizer",
    "SearchConfig",
    "SearchResult",
    "Task",
    "TaskLoss",
    "TaylorLoss",
    "known_losses",
    "learn_loss",
    "load_loss",
    "make_metric",
    "models",
    "primitives",
]
__version__ = "0.1.0"
_estimators = LazyModule("evomal_core.estimators", "evomal[paper]", ("sklearn",))


def __getattr__(name: str) -> Any:
    if name == "LossSearch":  # needs scikit-learn, which nothing else of the core does
        return _estimators.LossSearch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
