"""The scikit-learn estimator: scikit-learn's own checks, and that it trains with what the search found."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import global_generators_untouched, tiny_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import make_classification, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn

import evomal_core as em
from evomal_core import estimators

TINY = tiny_config(
    population=2,
    generations=1,
    meta_steps=1,
    fitness_steps=3,
    rejection_steps=0,
    base=em.SGD(lr=0.02, momentum=0.9, nesterov=True, batch_size=32),
)
X, Y = make_regression(80, 4, n_informative=4, noise=1.0, random_state=0)
XC, YC = make_classification(90, 5, n_informative=4, n_classes=3, class_sep=2.0, n_redundant=0, random_state=0)


def small(kind: str, **changes):
    return em.LossSearch(kind, **{"hidden_layer_sizes": (16,), "config": TINY, "steps": 150} | changes)


def checks():
    for kind in ("classification", "regression"):
        for estimator, check in estimator_checks_generator(small(kind)):
            name = getattr(check, "func", check).__name__
            steps = 150 if "_train" in name else 20  # enough where the check looks at the score
            yield pytest.param(clone(estimator).set_params(steps=steps), check, id=f"{kind}-{name}")


@pytest.mark.parametrize(("estimator", "check"), [*checks()])
def test_scikit_learns_own_checks_all_pass(estimator, check):
    check(estimator)


def test_tags_follow_the_kind():
    assert is_classifier(em.LossSearch())
    assert is_regressor(em.LossSearch("regression"))
    assert hasattr(em.LossSearch(), "predict_proba")
    assert not hasattr(em.LossSearch("regression"), "predict_proba")


def test_probabilities_belong_to_the_classes_as_they_were_given():
    names = np.array(["ash", "beech", "cedar"])[YC]
    with global_generators_untouched():
        fitted = small("classification", random_state=3).fit(XC, names)
    probabilities = fitted.predict_proba(XC)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert list(fitted.classes_) == ["ash", "beech", "cedar"]
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], fitted.predict(XC))
    assert fitted.score(XC, names) == np.mean(fitted.predict(XC) == names) > 0.7
    two = small("classification").fit(XC[YC < 2], names[YC < 2])
    assert two.predict_proba(XC).shape == (90, 2)
    np.testing.assert_array_equal(two.classes_[two.predict_proba(XC).argmax(axis=1)], two.predict(XC))


def test_predictions_are_in_the_units_of_the_labels():
    one = small("regression").fit(X, 1000 + Y)
    assert one.predict(X).shape == (80,)
    assert one.score(X, 1000 + Y) > 0.9
    two = small("regression").fit(X, np.c_[Y, -5 * Y])
    assert two.predict(X).shape == (80, 2)
    assert two.score(X, np.c_[Y, -5 * Y]) > 0.9


def test_it_stands_in_pipelines_and_grid_searches():
    pipeline = make_pipeline(StandardScaler(), small("regression"))
    grid = GridSearchCV(pipeline, {"losssearch__hidden_layer_sizes": [(4,), (16,)]}, cv=2).fit(X, Y)
    assert grid.best_score_ > 0.5
    assert grid.best_estimator_.predict(X[:3]).shape == (3,)


def test_a_grid_goes_over_fields_of_the_configuration():
    values = {"config__population": [2, 3], "config__base__lr": [0.01, 0.02]}
    grid = GridSearchCV(small("regression", steps=20), values, cv=2).fit(X, Y)
    assert len(grid.cv_results_["params"]) == 4
    best, chosen = grid.best_estimator_.config, grid.best_params_
    assert (best.population, best.base.lr) == (chosen["config__population"], chosen["config__base__lr"])
    assert best.replace(population=2, base=TINY.base) == TINY
    estimator = em.LossSearch().set_params(config=TINY, config__base__lr=0.5, config__base__momentum=0.5)
    assert estimator.config.base == TINY.base.replace(lr=0.5, momentum=0.5)
    assert estimator.get_params()["config__base__lr"] == 0.5
    assert "config__base__lr" not in estimator.get_params(deep=False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("config__popluation", 3, "did you mean 'population'"),
        ("config__population", 0, "population"),
        ("config__population__size", 3, "config__population = 2 has no parameters of its own"),
        ("config__base__learning_rate", 3, "SGD has no field 'learning_rate'"),
        ("confg__population", 3, "Invalid parameter 'confg'"),
    ],
)
def test_a_wrong_field_of_the_configuration_is_refused_and_changes_nothing(name, value, said):
    estimator = small("regression")
    with pytest.raises(ValueError, match=said):
        estimator.set_params(**{name: value})
    assert estimator.config == TINY


def test_a_seed_decides_everything_and_a_pickle_keeps_it():
    first, again = (clone(small("regression", random_state=5)).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.predict(X), again.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).predict(X), first.predict(X))
    assert not np.array_equal(small("regression", random_state=6).fit(X, Y).predict(X), first.predict(X))


@pytest.mark.parametrize(
    ("expression", "fitness", "better"),
    [("add(square(sub(y, f)), square(sub(y, f)))", 1e9, True), ("sub(f, y)", 0.0, False)],
)
def test_the_network_is_trained_with_the_better_of_the_loss_found_and_the_task_loss(
    expression, fitness, better, monkeypatch
):
    """Twice the squared error descends faster; f − y has no minimum. Neither's fitness in the search says so."""
    real = estimators.learn_loss

    def searched(*arguments, **keywords):
        found = em.Evaluation(em.LearnedLoss(expression), fitness)
        return replace(real(*arguments, **keywords), evaluations=[found])

    monkeypatch.setattr(estimators, "learn_loss", searched)
    fitted = small("regression", steps=4).fit(X, Y)
    assert isinstance(fitted.loss_, em.LearnedLoss if better else em.TaskLoss)


def test_the_network_is_trained_as_the_chosen_finalist_was(monkeypatch):
    real, trained = estimators.train, []

    def train(loss, learner, base, steps, **options):
        trained.append((loss, base.lr, steps))
        return real(loss, learner, base, steps, **options)

    monkeypatch.setattr(estimators, "train", train)
    config = TINY.replace(finalists=2, finalist_initialisations=1, finalist_steps=5, finalist_rates=(0.5, 1.0))
    chosen = small("regression", config=config, steps=None, time_limit=60).fit(X, Y).result_.chosen
    (loss, lr, steps), *_ = trained
    assert (lr, steps) == (chosen.lr, chosen.steps)
    assert str(loss) == str(chosen.evaluation.loss)


@pytest.mark.filterwarnings("error")
def test_the_metric_asked_for_is_what_the_search_minimises():
    def distance(y_pred, y_true):
        return float(np.abs(y_pred - y_true).max())

    found = small("regression", metric=distance).fit(X, Y)
    assert found.result_.metric == "distance"
    assert clone(found).metric is distance
    assert small("classification", metric="balanced error").fit(XC, YC).result_.metric == "balanced error"
    with pytest.raises(ValueError, match="balanced error"):
        small("classification", metric="balanced eror").fit(XC, YC)


def test_tables_of_pandas_and_numbers_of_numpy_are_taken_without_a_warning():
    table = pd.DataFrame(XC, columns=list("abcde"), index=np.random.default_rng(0).permutation(len(XC)))
    names = pd.Series(np.array(["ash", "beech", "cedar"])[YC], index=table.index)
    fitted = small("classification", hidden_layer_sizes=np.int64(16), steps=np.int64(150)).fit(table, names)
    assert fitted.score(table, names) > 0.7
    assert list(fitted.feature_names_in_) == list("abcde")
    yes = small("classification").fit(table, names == "ash")
    assert yes.predict(table).dtype == bool


def test_any_network_and_its_config_may_be_given():
    def model(features, outputs):
        return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, outputs))

    fitted = small("classification", model=model, config=TINY.replace(generations=2)).fit(XC, YC)
    assert isinstance(fitted.network_[1], nn.Tanh)
    assert len(fitted.result_.generations) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "clustering"}, "kind = 'clustering' is not one of classification, regression"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0 is not between 0 and 1"),
        ({"validation_fraction": "0.2"}, "validation_fraction = '0.2' is not between 0 and 1"),
        ({"steps": 0}, "steps = 0 is not a whole number of at least 1"),
        ({"steps": True}, "steps = True is not a whole number of at least 1"),
        ({"hidden_layer_sizes": ("4",)}, r"hidden_layer_sizes = \('4',\) are not numbers of units"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes = None are not numbers of units"),
        ({"method": "evomall"}, "unknown method 'evomall'; did you mean 'evomal'"),
    ],
)
def test_bad_arguments_are_refused_by_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**{"kind": "regression"} | changes).fit(X, Y)


@pytest.mark.parametrize("y", [np.array(["a", "b"] * 10), ["1", *"b" * 19], pd.Series([1, "b"] * 10)])
def test_labels_of_a_regression_are_no_text(y):
    with pytest.raises(
        ValueError, match=r"y of a regression holds real numbers, got .*[ab]'.*kind='classification'"
    ):
        small("regression").fit(np.ones((20, 2)), y)


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LossSerach'"):
        em.LossSerach  # noqa: B018


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (em.models.mlp(4, [4], 3), "got Sequential"),
        (lambda: em.models.mlp(4, [4], 3), "<lambda> refuses: too many positional arguments"),
        (3, "got int"),
    ],
)
def test_a_model_that_is_no_function_of_two_numbers_is_told_how_it_is_called(model, said):
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    with pytest.raises(ValueError, match=rf"model is called as model\(features, outputs\).*model\(4, 3\); {said}"):
        em.LossSearch(model=model).fit(x, y)
