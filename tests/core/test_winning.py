"""What makes learned losses win: known losses, the better of tuned and untuned, starts, metrics, finalists."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import class_task, regression_task
from torch import nn

import evomal_core as em
from evomal_core.known import known_losses
from evomal_core.labels import read_pair
from evomal_core.learners import make_learners
from evomal_core.population.local_search import batched_local_search, batched_meta_gradients
from evomal_core.search import _METHODS
from evomal_core.training import train
from evomal_core.unroll import meta_gradient
from evomal_core.weighted import balanced_cross_entropy

SMALL = em.EVERYDAY.replace(
    population=6,
    generations=2,
    meta_steps=4,
    meta_lr=0.3,
    fitness_steps=5,
    finalists=2,
    finalist_steps=6,
    finalist_initialisations=2,
    base=em.SGD(lr=0.1, batch_size=16),
)
TASKS = {"regression": regression_task, "binary": lambda: class_task(2), "multiclass": lambda: class_task(3)}


def search(kind="regression", metric=None, task_loss=None, **changes):
    task = TASKS[kind]()
    model = lambda: em.models.mlp(3, [4], task.outputs)  # noqa: E731
    config = SMALL.replace(**changes)
    return (
        em.learn_loss(
            [task], model, config=config, progress=False, metric=metric, task_loss=task_loss, compare=False
        ),
        task,
        model,
    )


def error_of(loss, task, model, config, metric=None, initialisation=0):
    """The validation error of one training, by the plain loop."""
    purpose = f"initialisation {initialisation}" if initialisation else "meta-train"
    (learner,) = make_learners([task], model, config, 0, purpose)
    network = train(loss, learner, config.base, config.fitness_steps).network.eval()
    x, y = task.validation
    with torch.no_grad():
        return float(em.make_metric(metric, task.kind)(*read_pair(network(x), y, task.kind)))


@pytest.mark.parametrize("kind", TASKS)
def test_the_first_generation_holds_the_known_losses(kind):
    result, task, _ = search(kind, generations=1, finalists=0)
    known = known_losses(kind, task)
    found = [entry.loss.expression for entry in result.population]
    assert found[: len(known)] == [loss.expression for loss in known.values()]
    assert len(found) == len(known) + SMALL.population // 2


def test_the_better_of_tuned_and_untuned_is_kept():
    result, task, model = search(generations=1, finalists=0, initialisations=1)
    alone, *_ = search(generations=1, finalists=0, initialisations=1, keep_better=False)
    tuned = {entry.loss.expression: entry.fitness for entry in alone.evaluations}
    known = {loss.expression: loss for loss in known_losses("regression", task).values()}
    kept_untuned = 0
    for entry in result.evaluations:
        untuned = known.get(entry.loss.expression, em.LearnedLoss(entry.loss.expression))
        wanted = min(tuned[entry.loss.expression], error_of(untuned, task, model, SMALL))
        assert entry.fitness == pytest.approx(wanted, rel=1e-4)
        kept_untuned += torch.equal(entry.loss.phi, untuned.phi)
    assert 0 < kept_untuned < len(result.evaluations)


def test_fitness_is_the_mean_over_initial_weights():
    result, task, model = search(generations=1, finalists=0, initialisations=3, keep_better=False)
    for entry in result.evaluations[:3]:
        errors = [error_of(entry.loss, task, model, SMALL, initialisation=k) for k in range(3)]
        assert entry.fitness == pytest.approx(np.mean(errors), rel=1e-4)


def own_cost(y_pred, y_true):
    return float(np.abs(y_pred - y_true).max())


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("regression", "median absolute error"),
        ("regression", own_cost),
        ("binary", "1 - AUC"),
        ("multiclass", "balanced error"),
        ("multiclass", "log loss"),
    ],
)
def test_fitness_is_the_metric_that_was_asked_for(kind, metric):
    result, task, model = search(kind, metric, generations=1, finalists=0, initialisations=1)
    for entry in result.evaluations[:4]:
        assert entry.fitness == pytest.approx(error_of(entry.loss, task, model, SMALL, metric), rel=1e-3, abs=1e-6)
    assert result.metric == (metric if isinstance(metric, str) else "own_cost")


def huber(y_pred, y_true):
    return nn.functional.huber_loss(y_pred, y_true)


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_loss_of_ones_own_has_the_same_gradient_by_all_engines(kind):
    task = TASKS[kind]().to(dtype=torch.float64)
    own = huber if kind == "regression" else balanced_cross_entropy(task)
    task = replace(task, task_loss=own)
    config = SMALL.replace(base=em.SGD(lr=0.5, batch_size=16), finalists=0)
    learners = make_learners([task], lambda: em.models.mlp(3, [4], task.outputs).double(), config, 0, "meta-train")
    losses = [em.LearnedLoss(text, kind).double() for text in ("square(sub(y, f))", "abs(sub(f, mul(y, y)))")]
    found = batched_local_search(losses, learners, config.replace(meta_steps=1))
    values, _ = batched_meta_gradients(losses, learners, config, 0)
    for loss, tuned, together in zip(losses, found, values, strict=True):
        value, (gradient,) = meta_gradient(loss, learners[0], 0, config, "autograd")
        assert float(together) == pytest.approx(float(value), rel=1e-9)
        step = tuned.loss.phi.detach() - loss.phi.detach()  # Adam's first step is the gradient's sign
        moved = gradient.abs() > 1e-9
        torch.testing.assert_close(step[moved], -config.meta_lr * gradient[moved].sign(), rtol=1e-4, atol=0)


def test_a_balanced_metric_lowers_a_balanced_task_loss():
    result, task, _ = search("binary", "balanced error")
    wanted = balanced_cross_entropy(task).weights
    torch.testing.assert_close(result.problem.tasks[0].task_loss.weights, wanted)


def test_finalists_hold_the_known_losses_and_the_best_that_were_found():
    result, task, _ = search()
    names = [finalist.name for finalist in result.finalists]
    assert {*known_losses("regression", task)} <= {*names}
    assert result.chosen in result.finalists
    assert str(result.best) == str(result.chosen.evaluation.loss)
    assert "recommended is" in repr(result)
    assert result.chosen.mean <= min(finalist.mean for finalist in result.finalists if finalist.name)


def test_what_is_recommended_stands_beside_the_task_loss_tuned_alike():
    result, *_ = search()
    named = {finalist.name: finalist for finalist in result.finalists}
    beside = f"squared error, tuned alike, has {named['squared error'].mean:.4g}"
    assert beside in repr(replace(result, chosen=named["Cauchy"]))
    assert beside not in repr(replace(result, chosen=named["squared error"]))


def test_a_result_compares_its_loss():
    result, *_ = search("multiclass", "log loss")
    found = result.compare(initialisations=2, steps=6, lrs=[0.1, 0.3])
    assert found.metric == "log loss"
    assert str(found.learned.loss) == str(result.best)


def test_a_local_search_that_moves_nothing_is_said_to_be_inert(caplog):
    search(meta_lr=1e-4, finalists=0)
    assert "local search hardly moves the weights" in caplog.text
    assert "meta_lr=3e-2, meta_steps=50 (now 'adam', 0.0001, 4)" in caplog.text
    caplog.clear()
    search(finalists=0)
    assert "hardly moves" not in caplog.text


def test_wrong_metrics_and_task_losses_are_refused():
    with pytest.raises(ValueError, match="none of regression tasks"):
        search(metric="error rate")
    with pytest.raises(ValueError, match="called as task_loss"):
        search(task_loss="MSE")


@pytest.mark.parametrize(
    ("kind", "metric", "said"),
    [
        ("regression", torch.nn.L1Loss(), "L1Loss takes tensors, but a metric gets NumPy arrays"),
        ("regression", torch.nn.functional.l1_loss, "l1_loss takes tensors"),
        ("regression", lambda f, y: 1 / 0, "failed, ZeroDivisionError: division by zero"),
        ("regression", lambda f: 1.0, r"failed, TypeError.*called with NumPy arrays of shapes \(8,\) and \(8,\)"),
        ("regression", lambda f, y: f - y, "must return one number"),
        ("regression", "accuracy", "metric 'accuracy' failed"),
        ("regression", "mae", "did you mean 'MAE'"),
        ("binary", "balanced_error", "did you mean 'balanced error'"),
    ],
)
def test_a_metric_that_fails_is_named_before_the_search(kind, metric, said, monkeypatch):
    monkeypatch.setitem(_METHODS, "evomal", None)  # nothing is searched
    with pytest.raises(ValueError, match=said):
        search(kind, metric)


@pytest.mark.parametrize(
    ("kind", "task_loss", "said"),
    [
        ("regression", torch.nn.HuberLoss(reduction="none"), r"a tensor of shape \(\); got shape \(16, 1\)"),
        ("regression", lambda f, y: ((f - y) ** 2).mean().detach(), "without gradient"),
        ("regression", lambda f, y: 1.0, "got a float"),
        ("regression", lambda f: f, "failed, TypeError"),
        ("regression", lambda f, y: (f - torch.nan).mean(), "is NaN"),
        ("binary", torch.nn.CrossEntropyLoss(), "gradient 0 .* nn.BCEWithLogitsLoss for 'binary'"),
    ],
)
def test_a_task_loss_that_nothing_can_be_learned_from_is_refused(kind, task_loss, said):
    with pytest.raises(ValueError, match=said):
        search(kind, task_loss=task_loss)


@pytest.mark.parametrize(("kind", "last"), [("binary", torch.nn.Sigmoid()), ("multiclass", torch.nn.Softmax(1))])
@pytest.mark.parametrize("ends", [True, False])
def test_a_network_that_ends_in_probabilities_is_told_of_logits(kind, last, ends, caplog):
    task = TASKS[kind]()
    model = lambda: torch.nn.Sequential(em.models.mlp(3, [4], task.outputs), *[last] * ends)  # noqa: E731
    em.learn_loss([task], model, "baseline", config=SMALL, progress=False)
    assert ("losses take logits" in caplog.text) == ends


def test_a_metric_that_is_never_finite_recommends_nothing(caplog):
    result, *_ = search(metric=lambda f, y: math.nan, generations=1)
    assert result.chosen is None
    with pytest.raises(RuntimeError, match="not finite"):
        _ = result.best


def test_glo_searches_the_weights_of_the_best_trees_and_counts_its_trainings():
    task = regression_task()
    config = SMALL.replace(finalists=0, known=False, glo_trees=2, glo_generations=3, population=5)
    found, bred = (
        em.learn_loss([task], lambda: em.models.mlp(3, [4], 1), name, config=config, progress=False, compare=False)
        for name in ("glo", "gp-lfl")
    )
    assert found.fitness <= bred.fitness
    assert len(found.generations) == len(bred.generations) + 2 * 3
    trained = sum(row["trained"] for row in found.generations)
    assert trained == sum(row["trained"] for row in bred.generations) + 2 * 3 * 5
    searched = found.evaluations[len(bred.evaluations) :]
    best_trees = sorted((e for e in bred.evaluations if e.status == "ok"), key=em.Evaluation.rank)[:2]
    assert {e.loss.expression for e in searched} == {e.loss.expression for e in best_trees}
    assert not any(torch.equal(e.loss.phi, torch.ones_like(e.loss.phi)) for e in searched)
