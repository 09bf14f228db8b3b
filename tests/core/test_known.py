"""Known losses are the usual ones, and a search says what it is worth beside them."""

import pytest
import torch
from helpers import class_task, regression_task, small_model, tiny_config
from torch.nn import functional

import evomal_core as em
from evomal_core.primitives import FUNCTION_SETS

TASKS = {
    "regression": (regression_task, 1),
    "binary": (lambda: class_task(2), 1),
    "multiclass": (lambda: class_task(3), 3),
}
USUAL = {
    "regression": functional.mse_loss,
    "binary": functional.binary_cross_entropy_with_logits,
    "multiclass": functional.cross_entropy,
}


def search(kind="regression", method="gp-lfl", **keywords):
    make, outputs = TASKS[kind]
    model = small_model(outputs=outputs)
    return em.learn_loss([make()], model, method, config=tiny_config(), progress=False, **keywords)


@pytest.mark.parametrize("kind", TASKS)
def test_the_first_known_loss_is_the_usual_one(kind):
    torch.manual_seed(0)
    y_pred = torch.randn(50, 3 if kind == "multiclass" else 1)
    y = {"regression": y_pred.sin(), "binary": (y_pred > 0.3).float(), "multiclass": torch.randint(3, (50,))}[kind]
    loss = next(iter(em.known_losses(kind).values()))
    assert loss(y_pred, y).item() == pytest.approx(USUAL[kind](y_pred, y).item(), rel=1e-5)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("functions", FUNCTION_SETS)
def test_a_search_may_start_from_all_known_losses(kind, functions):
    make, outputs = TASKS[kind]
    name, _, clamped = functions.partition(" ")
    protection = "clamp" if clamped else "add"
    config = tiny_config(function_set=name, protection=protection, generations=1, population=20)
    known = em.known_losses(kind, function_set=functions)
    result = em.learn_loss(
        [make()], small_model(outputs=outputs), "gp-lfl", config=config, initial=known, progress=False
    )
    assert [entry.loss.expression for entry in result.population][: len(known)] == [
        loss.expression for loss in known.values()
    ]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'classification'; known are regression"):
        em.known_losses("classification")


@pytest.mark.parametrize("kind", TASKS)
def test_the_task_loss_s_fitness_is_that_of_the_baseline(kind):
    result = search(kind)
    assert result.task_loss_fitness == search(kind, "baseline").fitness
    name = "squared error" if kind == "regression" else "cross-entropy"
    said = f"losses evaluated, {name} itself has fitness {result.task_loss_fitness:.4g}"
    assert said in repr(result)
    assert said in result._repr_html_()


def test_a_search_that_found_nothing_better_says_so(caplog):
    found = set()
    for seed in range(8):
        caplog.clear()
        result = search(seed=seed)
        warned = "no loss was found that is better than squared error" in caplog.text
        assert warned == (result.fitness >= result.task_loss_fitness)
        assert ("config.replace(known=True)" in caplog.text) == warned
        found.add(warned)
    assert found == {False, True}


def test_who_started_from_known_losses_is_not_told_to(caplog):
    search(initial=["square(sub(y, f))"])
    assert "known=True" not in caplog.text


def test_the_comparison_can_be_left_out(caplog):
    result = search(compare=False)
    assert result.task_loss_fitness is None
    assert "itself has fitness" not in repr(result)
    assert caplog.text == ""
