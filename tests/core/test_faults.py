"""The reference implementation's known faults, one test each: they stay out."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
import random

import pytest
import torch
from deap import gp
from helpers import class_task, regression_task, small_model, tiny_config

import evomal_core as em
from evomal_core.engines import fitness
from evomal_core.evolution import breed
from evomal_core.expression import primitive_set, random_expression
from evomal_core.filters import is_rejected
from evomal_core.learners import make_learners
from evomal_core.losses import initial_phi
from evomal_core.symbolic import variables


def learn(method="evomal", task=None, **changes):
    return em.learn_loss(
        [task or regression_task()], small_model(), method, config=tiny_config(**changes), progress=False
    )


def test_a_nan_fitness_wins_no_tournament():
    with pytest.raises(ValueError, match="never NaN"):
        em.Evaluation(em.LearnedLoss("mul(f, y)"), math.nan)
    # A loss whose training is NaN is infinite, and never an elite beside a finite one.
    wild = em.LearnedLoss("square(square(sub(f, y)))")
    config = tiny_config(base=em.SGD(lr=1e12, batch_size=8), fitness_steps=30)
    learners = make_learners([regression_task()], small_model(), config, 0, "test")
    (value,) = fitness([wild], learners, config)
    assert value == math.inf
    population = [em.Evaluation(wild, value, "diverged"), em.Evaluation(em.LearnedLoss("mul(f, y)"), 1e9)]
    assert str(breed(population, config, random.Random(0))[0]) == "mul(f, y)"


def test_nan_does_not_pass_the_rejection_filter():
    assert is_rejected(math.nan)


def test_elitism_is_used():
    population = [
        em.Evaluation(em.LearnedLoss(f"{name}(f, y)"), i) for i, name in enumerate(["sub", "add", "mul"])
    ]
    for seed in range(30):
        assert str(breed(population, tiny_config(), random.Random(seed))[0]) == "sub(f, y)"


def test_the_gradient_equivalence_filter_exists():
    initial = ["square(sub(f, y))", "square(sub(y, f))"]
    result = em.learn_loss(
        [regression_task()],
        small_model(),
        "gp-lfl",
        config=tiny_config(population=2, generations=1, rejection_steps=0),
        initial=initial,
        progress=False,
    )
    assert [entry.status for entry in result.evaluations] == ["ok", "equivalent"]
    assert result.evaluations[0].fitness == result.evaluations[1].fitness


def test_the_root_has_no_weight_and_every_weight_is_used_and_printed():
    loss = em.LearnedLoss("square(sub(f, y))", phi=[3.0, 5.0, 7.0])
    assert loss.size == 3
    value = loss.elementwise(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    assert value.item() == (3.0 * (5.0 * 2.0 - 7.0 * 1.0)) ** 2
    (slope,) = torch.autograd.grad(value.sum(), [loss.phi])
    assert (slope != 0).all()
    assert float(loss.sympy().subs(dict(zip(variables(), (2, 1), strict=True)))) == value.item()


def test_binary_tasks_work():
    result = learn(task=class_task(2), rejection_steps=0)
    assert 0 <= result.fitness < 1


def test_softplus_can_be_switched_on_for_gp_losses():
    result = learn(softplus=True)
    assert all(entry.loss.softplus for entry in result.evaluations)
    values = result.best.elementwise(torch.randn(50, 1), torch.randn(50, 1))
    assert (values >= 0).all()
    assert "functional.softplus" in result.best.python_source()


def test_zero_filter_steps_switch_the_filter_off_and_reject_nothing():
    result = learn(rejection_steps=0)
    assert all(entry.status != "rejected" for entry in result.evaluations)


def test_constants_are_found_whatever_deap_calls_them():
    """The reference looked constants up by a name that DEAP 1.4 changed."""
    trees = [random_expression(random.Random(seed), "tpami23") for seed in range(300)]
    with_constants = [tree for tree in trees if {"1", "-1"} & set(tree.nodes)]
    assert len(with_constants) > 150
    point = torch.ones(1, 1)
    assert all(torch.isfinite(em.LearnedLoss(tree)(point, point)) for tree in with_constants)
    pset = primitive_set("tpami23")
    assert all(isinstance(pset.mapping[name], gp.Terminal) for name in ("f", "y", "1", "-1"))


def test_losses_and_results_can_be_pickled_and_saved(tmp_path):
    result = learn(generations=1)
    again = pickle.loads(pickle.dumps(result))
    assert again.fitness == result.fitness
    result.best.save(tmp_path / "loss.json")
    assert torch.equal(em.load_loss(tmp_path / "loss.json").phi, result.best.phi)


def test_weights_of_a_loss_load_with_torch_load_in_its_safe_mode():
    buffer = io.BytesIO()
    loss = em.LearnedLoss("square(sub(f, y))", phi=[0.5, 1.0, 2.0])
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    again = em.LearnedLoss("square(sub(f, y))")
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(again.phi, loss.phi)


def test_weights_do_not_depend_on_the_previous_candidate():
    """The same loss has the same weights and fitness wherever in a population it stands."""
    texts = ["square(sub(f, y))", "abs(sub(f, y))", "div(f, y)", "mul(f, square(y))"]
    seen = {}
    for order in itertools.islice(itertools.permutations(texts), 0, 24, 5):
        result = em.learn_loss(
            [regression_task()],
            small_model(),
            config=tiny_config(population=4, generations=1, rejection_steps=0),
            initial=list(order),
            progress=False,
        )
        for entry in result.evaluations:
            key = str(entry.loss.expression)
            phi = entry.loss.phi.tolist()
            assert seen.setdefault(key, (phi, entry.fitness)) == (phi, entry.fitness)
    expression = em.Expression.parse(texts[0])
    assert torch.equal(initial_phi(expression, 0), initial_phi(expression, 0))


def test_tasks_start_from_different_initial_weights():
    a, b = make_learners([regression_task()] * 2, small_model(), tiny_config(), 0, "meta-train")
    assert not torch.equal(a.theta["1.weight"], b.theta["1.weight"])


def test_result_files_are_valid_json_with_nan_and_infinity(tmp_path):
    em.learn_loss(
        [regression_task()],
        small_model(),
        config=tiny_config(base=em.SGD(lr=1e20, batch_size=8), generations=1),
        checkpoint=tmp_path,
        progress=False,
    )
    text = (tmp_path / "checkpoint.json").read_text()
    assert '"inf"' in text
    json.loads(text, parse_constant=pytest.fail)


def test_false_as_text_is_not_true():
    for name in ("softplus", "symbolic_archive", "gradient_equivalence"):
        with pytest.raises(ValueError, match=rf"SearchConfig\.{name} = 'False'"):
            em.SearchConfig(**{name: "False"})


def test_misspelt_configuration_keys_are_not_swallowed():
    with pytest.raises(ValueError, match=r"no field 'generation'; did you mean 'generations'\?"):
        em.SearchConfig(generation=3)
    with pytest.raises(ValueError, match=r"no field 'learning_rate'"):
        em.SGD(learning_rate=0.1)
