"""A scikit-learn estimator: `fit` learns a loss for the data and trains a network with it.

The only module of the core that needs scikit-learn; `evomal_core.LossSearch` imports it when it is asked for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import nn

from evomal_core.checks import is_number
from evomal_core.config import EVERYDAY, SGD, Config, Optimizer, SearchConfig
from evomal_core.kinds import Kind, link
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import Loss, TaskLoss
from evomal_core.models import mlp
from evomal_core.search import learn_loss
from evomal_core.tasks import Task
from evomal_core.training import train

KINDS = ("classification", "regression")


def _is_count(value: Any) -> bool:
    return is_number(value, Integral) and int(value) >= 1


def _is_classifier(estimator: LossSearch) -> bool:
    return estimator.kind == "classification"


def _check_numbers(y: Any) -> None:
    """Refuse text among labels of a regression, which scikit-learn does not name."""
    labels = np.asarray(y)
    if labels.dtype.kind not in "SUO":
        return
    for label in labels.flat:
        try:
            float(label if isinstance(label, str | bytes) else 0)
        except ValueError:
            raise ValueError(
                f"y of a regression holds real numbers, got {str(label)!r:.40}; encode it, or write "
                "kind='classification'"
            ) from None


def _fields(name: str, value: Any) -> dict[str, Any]:
    """The fields of a configuration, and of those within it, by their names for `set_params`."""
    if not isinstance(value, Config):
        return {}
    found: dict[str, Any] = {}
    for field in type(value).model_fields:
        inner = getattr(value, field)
        found |= {f"{name}__{field}": inner, **_fields(f"{name}__{field}", inner)}
    return found


def _changed(name: str, value: Any, changes: Mapping[str, Any]) -> Any:
    """A configuration with other values of fields, whose names may be those of fields within it (`base__lr`)."""
    if not isinstance(value, Config):
        raise ValueError(f"{name} = {value!r} has no parameters of its own, so no {name}__{next(iter(changes))}")
    own = {field: new for field, new in changes.items() if "__" not in field}
    for field in dict.fromkeys(field.partition("__")[0] for field in changes if "__" in field):
        start = f"{field}__"
        inner = {each.removeprefix(start): new for each, new in changes.items() if each.startswith(start)}
        own[field] = _changed(f"{name}__{field}", own.get(field, getattr(value, field, None)), inner)
    return value.replace(**own)


def _called(model: Callable[[int, int], nn.Module], features: int, outputs: int) -> nn.Module:
    """A network of the user's model.

    Raises:
        ValueError: it is no function of two numbers.
    """
    said = f"model is called as model(features, outputs) and makes a network, here model({features}, {outputs})"
    if isinstance(model, nn.Module) or not callable(model):
        raise ValueError(f"{said}; got {type(model).__name__}; write model=lambda features, outputs: ...")
    try:
        inspect.signature(model).bind(features, outputs)
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise ValueError(f"{said}; {name} refuses: {error}; write model=lambda features, outputs: ...") from None
    except ValueError:  # a signature that Python can't read
        pass
    return model(features, outputs)


class LossSearch(BaseEstimator):
    """A network trained with a loss that is learned for its data, as a scikit-learn estimator.

    `fit` searches for a loss on training and validation rows, compares the best found with the task loss (squared
    error or cross-entropy) by the validation error of networks trained with each, and trains a new network on all
    rows with the better one.

    Args:
        kind: "classification" or "regression".
        hidden_layer_sizes: units of a multilayer perceptron's hidden layers, or of its only one.
        model: makes another network, called with the numbers of features and outputs; classes of more than two
            need an output each, two classes need one. It gives logits, or predictions of standardised labels.
        method: one of `METHODS`.
        metric: what the search minimises, a name such as "balanced error" or a function, see `learn_loss`; by
            default the error rate or the mean squared error.
        config: the search's hyper-parameters; `EVERYDAY` by default. Grids name its fields as in
            `config__population` and `config__base__lr`.
        steps: steps of the final training; by default as many as were best for the loss among the finalists, or
            2,000 where the configuration has none.
        validation_fraction: share of rows on which the search measures errors.
        time_limit: seconds after which the search stops; None for no limit.
        random_state: the seed of everything random, as in scikit-learn.

    Attributes:
        result_: the search's `SearchResult`.
        loss_: the loss that the network was trained with.
        network_: the trained network.
        classes_: labels of the classes, for a classification.
        n_features_in_: number of features.
        feature_names_in_: names of the features, if all are strings.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> pipeline = make_pipeline(StandardScaler(), LossSearch("regression", time_limit=600))
    """

    def __init__(
        self,
        kind: str = "classification",
        *,
        hidden_layer_sizes: Sequence[int] | int = (40, 40),
        model: Callable[[int, int], nn.Module] | None = None,
        method: str = "evomal",
        metric: str | Callable[..., Any] | None = None,
        config: SearchConfig | None = None,
        steps: int | None = None,
        validation_fraction: float = 0.2,
        time_limit: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.kind = kind
        self.hidden_layer_sizes = hidden_layer_sizes
        self.model = model
        self.method = method
        self.metric = metric
        self.config = config
        self.steps = steps
        self.validation_fraction = validation_fraction
        self.time_limit = time_limit
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; if `deep`, those of the configuration too, as in `config__population`."""
        fields = _fields("config", self._config()) if deep else {}
        return fields | super().get_params(deep=False)

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `config__population=100` and `config__base__lr=0.01` change the configuration.

        Raises:
            ValueError: there is no parameter of that name, or the configuration refuses its value.
        """
        start = "config__"
        changes = {name.removeprefix(start): value for name, value in params.items() if name.startswith(start)}
        super().set_params(**{name: value for name, value in params.items() if not name.startswith(start)})
        if changes:
            self.config = _changed("config", self._config(), changes)
        return self

    def _config(self) -> SearchConfig:
        return EVERYDAY if self.config is None else self.config

    def __sklearn_tags__(self) -> Tags:
        mixin: Any = ClassifierMixin if _is_classifier(self) else RegressorMixin
        tags = super().__sklearn_tags__()
        own = type("", (mixin, BaseEstimator), {})().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags, tags.regressor_tags = (
            own.estimator_type,
            own.classifier_tags,
            own.regressor_tags,
        )
        tags.target_tags.required = True
        tags.target_tags.multi_output = not _is_classifier(self)
        return tags

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn a loss for rows X (rows, features) with labels y, and train a network with it.

        Ctrl-C ends the search only: the network is trained with what was found until then.

        Raises:
            ValueError: an argument of the estimator is out of range, or the data can't be learned from.
        """
        sizes = self._check()
        if not _is_classifier(self):
            _check_numbers(y)
        x, y = validate_data(self, X, y, dtype="numeric", multi_output=True, y_numeric=not _is_classifier(self))
        if len(x) < 2:
            raise ValueError(f"a search needs training and validation rows, got n_samples = {len(x)}")
        kind, labels = self._labels(y)
        seed = int(check_random_state(self.random_state).randint(2**31))
        config = self._config()
        held_out = min(max(round(self.validation_fraction * len(x)), 1), len(x) - 1) / len(x)
        task = Task.from_arrays(x, labels, kind=kind, split=(1 - held_out, held_out, 0.0), seed=seed)
        whole = Task.from_arrays(x, labels, kind=kind, split=(1.0, 0.0, 0.0), seed=seed)
        outputs = len(self.classes_) if kind == "multiclass" else whole.outputs

        def model() -> nn.Module:
            if self.model is not None:
                return _called(self.model, x.shape[1], outputs)
            return mlp(x.shape[1], sizes, outputs)

        self.result_ = learn_loss(
            [task], model, self.method, config=config, seed=seed, progress=False, time_limit=self.time_limit,
            metric=self.metric,
        )  # fmt: skip
        assert self.result_.problem is not None
        chosen = self.result_.chosen
        base = config.base.replace(lr=chosen.lr) if chosen else config.base
        steps = int(self.steps or 0) or (chosen.steps if chosen else 2000)
        (rival,) = make_learners(list(self.result_.problem.tasks), model, config, seed, "choice")
        (learner,) = make_learners([whole], model, config, seed, "fit")
        for loss in (*self._winner(rival, base, steps), TaskLoss(kind)):
            trained = train(loss, learner, base, steps, splits=["train"])
            if not trained.diverged:
                break
        else:
            raise ValueError("training diverged with the learned loss and with the task loss; lower base.lr")
        self.loss_: Loss = loss
        self.network_ = trained.network.double().eval()
        self._scales = whole.x_scale, whole.y_scale
        return self

    def _check(self) -> list[int]:
        """Check the arguments; return the numbers of hidden units."""
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r} is not one of {', '.join(KINDS)}")
        if not is_number(self.validation_fraction, Real) or not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction = {self.validation_fraction!r} is not between 0 and 1")
        if self.steps is not None and not _is_count(self.steps):
            raise ValueError(f"steps = {self.steps!r} is not a whole number of at least 1")
        sizes = np.ravel(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist()
        if not all(map(_is_count, sizes)):
            raise ValueError(
                f"hidden_layer_sizes = {self.hidden_layer_sizes!r} are not numbers of units, such as (40, 40)"
            )
        return [int(size) for size in sizes]

    def _labels(self, y: np.ndarray) -> tuple[Kind, np.ndarray]:
        if not _is_classifier(self):
            self._flat = y.ndim == 1
            return "regression", y.astype(float)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has only one class, {self.classes_.tolist()[0]!r}; a classifier needs at least two classes"
            )
        return ("binary" if len(self.classes_) == 2 else "multiclass"), numbers

    def _winner(self, learner: Learner, base: SGD | Optimizer, steps: int) -> list[Loss]:
        """The best loss that was found, if it trains a better network than the task loss.

        Finalists were compared by the search; without them, both losses train the learner as the final network is.
        """
        if math.isinf(self.result_.best_evaluation.fitness):
            return []
        best, part = self.result_.best, learner.config.fitness_on
        if not self.result_.chosen:
            rivals = (best, TaskLoss(learner.task.kind))
            found, own = (train(loss, learner, base, steps, splits=[part]).final[part] for loss in rivals)
            return [best] if found < own else []
        return [best]

    @torch.no_grad()
    def _outputs(self, X: Any) -> torch.Tensor:  # noqa: N803
        check_is_fitted(self)
        rows = validate_data(self, X, dtype="numeric", reset=False)
        x_scale, _ = self._scales
        x = torch.from_numpy(np.array(rows, dtype=np.float64))  # a copy, as pandas forbids writing to its arrays
        return self.network_(x_scale(x).double() if x_scale else x)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The labels of rows X: classes, or real numbers in the units of the labels given."""
        outputs = self._outputs(X)
        if _is_classifier(self):
            binary = len(self.classes_) == 2
            return self.classes_[(outputs[:, 0] > 0).long() if binary else outputs.argmax(dim=1)]
        _, y_scale = self._scales
        predictions = (outputs * y_scale.spread + y_scale.mean).numpy() if y_scale else outputs.numpy()
        return predictions[:, 0] if self._flat else predictions

    @available_if(_is_classifier)
    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The network's probabilities of the classes (rows, classes), in the order of `classes_`."""
        outputs = self._outputs(X)
        kind: Kind = "multiclass" if len(self.classes_) > 2 else "binary"
        f = link(outputs, kind)
        return (f if kind == "multiclass" else torch.cat([1 - f, f], dim=1)).numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """The accuracy of a classification, R² of a regression."""
        mixin: Any = ClassifierMixin if _is_classifier(self) else RegressorMixin
        return mixin.score(self, X, y, sample_weight)
