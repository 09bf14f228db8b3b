"""Initial weights drawn for each meta-step: laws, engines, factories that do not draw."""

from __future__ import annotations

import copy
import logging
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import evomal_core as em
from evomal_core.engines import choose_engine, local_search
from evomal_core.initialisation import (
    RULES,
    call_factory,
    default_initialiser,
    draw_directly,
    drawn_by,
    flat_weights,
    reset_modules,
)
from evomal_core.learners import make_learners
from evomal_core.population.compiled_perceptrons import PerceptronMetaStep
from evomal_core.population.local_search import batched_local_search, batched_meta_gradients
from evomal_core.population.networks import make_stacks
from evomal_core.seeds import isolated_torch
from evomal_core.unroll import ENGINES, meta_gradient
from tests.helpers import global_generators_untouched, regression_task, small_model, tiny_config


class Rows(nn.Module):
    """A layer of a user's own, with a `reset_parameters`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)

    def forward(self, x):
        return x @ self.weight.T


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Embedding(50, 8, padding_idx=2),
        nn.LSTM(8, 16, bias=False), nn.Linear(16, 5), nn.Conv1d(3, 2, 5, bias=False),
    )  # fmt: skip


def scaled() -> nn.Module:
    model = em.models.mlp(3, [4], 1)
    with torch.no_grad():
        model[1].weight *= 0.1
    return model


def build(factory):
    def at(seed: int) -> nn.Module:
        with isolated_torch(seed):
            return factory()

    return at


def learners(factory=None, **changes) -> list:
    config = tiny_config(**changes)
    tasks = [regression_task(seed=seed).to(dtype=torch.float64) for seed in range(2)]
    return make_learners(tasks, factory or small_model(), config, 3, "test")


@pytest.mark.parametrize(
    ("factory", "kind"),
    [(network, draw_directly), (small_model(), draw_directly), (Rows, reset_modules), (scaled, call_factory)],
)
def test_draws_have_the_distribution_of_the_factorys(factory, kind):
    initialiser = default_initialiser(build(factory), 0)
    assert initialiser.func is kind
    with global_generators_untouched():
        ours = torch.stack([initialiser(seed) for seed in range(200)])
    theirs = torch.stack([flat_weights(build(factory)(seed)) for seed in range(200, 400)])
    assert torch.equal(ours[3], initialiser(3))
    begin = 0
    for weights in (w for w in factory().parameters()):
        end = begin + weights.numel()
        a, b = ours[:, begin:end].double(), theirs[:, begin:end].double()
        spread = b.std().item()
        assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.25, abs=1e-9)
        assert a.std().item() == pytest.approx(spread, rel=0.08, abs=1e-12)
        assert abs(a.mean() - b.mean()).item() <= 6 * spread / math.sqrt(a.numel()) + 1e-12
        begin = end
    assert begin == ours.shape[1]


@pytest.mark.parametrize(
    ("rule", "convolution", "dense", "bias"),
    [
        ("glorot", math.sqrt(2 / (9 * (20 + 30))), math.sqrt(2 / (400 + 300)), 0.0),
        ("he_fan_in", math.sqrt(2 / (9 * 20)), math.sqrt(2 / 400), 1 / math.sqrt(3 * 9 * 20)),
        ("he_fan_out", math.sqrt(2 / (9 * 30)), math.sqrt(2 / 400), 0.0),
    ],
)
def test_rules_have_their_stated_spread(rule, convolution, dense, bias):
    modules = nn.Sequential(nn.Conv2d(20, 30, 3), nn.BatchNorm2d(30), nn.Linear(400, 300))
    draws = [drawn_by(modules, RULES[rule])(seed) for seed in range(20)]
    parts = torch.stack(draws).split([p.numel() for p in modules.parameters()], dim=1)
    for part, spread in zip(parts, (convolution, bias, 0.0, 0.0, dense, 0.0), strict=True):
        assert part.std().item() == pytest.approx(spread, rel=0.1, abs=1e-12)
    assert parts[2].eq(1).all()
    assert parts[3].eq(0).all()


def test_each_task_and_meta_step_has_weights_of_its_own():
    first, second = learners()
    vectors = [e.initial_vector(step) for e in (first, second) for step in range(3)]
    assert len({tuple(vector.tolist()) for vector in vectors}) == 6
    assert torch.equal(vectors[1], learners()[0].initial_vector(1))
    (stack,) = make_stacks([first, second])
    for stacked, *alone in zip(stack.initial(2), *(e.initial(2).values() for e in (first, second)), strict=True):
        assert torch.equal(stacked, torch.stack(alone).unsqueeze(1))


@pytest.mark.parametrize("steps", [1, 2])
def test_all_engines_start_from_the_drawn_weights(steps, monkeypatch):
    config = tiny_config(unroll_steps=steps, base=em.SGD(lr=0.05, batch_size=8))
    made = learners(unroll_steps=steps, base=config.base)
    loss = em.LearnedLoss("square(sub(f, mul(y, f)))", phi=torch.linspace(0.5, 1.5, 5)).double()
    wanted = sum(by_hand(loss, each, 7, config) for each in made)
    found = {name: sum(meta_gradient(loss, e, 7, config, name)[1][0] for e in made) for name in ENGINES}
    found["pytorch"] = batched_meta_gradients([loss, loss], made, config, 7)[1][0]
    if steps == 1:
        (stack,) = make_stacks(made)
        step = PerceptronMetaStep(stack, [loss.expression], False, config, np.ones((2, 2)))
        step(loss.phi.detach()[None], 6)
        found["kernels"] = step(loss.phi.detach()[None], 7)[1][0]
    for name, gradient in found.items():
        assert (gradient - wanted).norm() <= 1e-10 * wanted.norm(), name


def by_hand(loss, learner, meta_step, config):
    """The meta-gradient from the weights that `initial_vector` gives, by double backward."""
    theta, begin = {}, 0
    vector = learner.initial_vector(meta_step).double()
    for name, weights in learner.network.named_parameters():
        theta[name] = vector[begin : begin + weights.numel()].view_as(weights).requires_grad_()
        begin += weights.numel()
    for k in range(config.unroll_steps):
        x, y = learner.batch(meta_step * config.unroll_steps + k)
        value = loss(functional_call(learner.network, theta, (x,)), y)
        slopes = torch.autograd.grad(value, list(theta.values()), create_graph=True)
        theta = {n: w - config.base.lr * g for (n, w), g in zip(theta.items(), slopes, strict=True)}
    x, y = learner.batch(meta_step, "validation")
    return torch.autograd.grad(em.TaskLoss()(functional_call(learner.network, theta, (x,)), y), loss.phi)[0]


@pytest.mark.parametrize("factory", [small_model(), Rows, scaled, lambda: nn.Sequential(nn.LazyLinear(1))])
def test_a_population_is_tuned_as_one_candidate_after_another(factory):
    made = learners(factory, meta_steps=5)
    config = tiny_config(meta_steps=5, meta_lr=0.1)
    losses = [em.LearnedLoss(text).double() for text in ("square(sub(f, y))", "abs(sub(f, y))", "mul(f, y)")]
    together = batched_local_search(losses, made, config)
    for loss, tuned in zip(losses, together, strict=True):
        (alone,) = local_search([loss], made, config, "autograd")
        torch.testing.assert_close(tuned.loss.phi, alone.loss.phi, rtol=1e-8, atol=1e-10)


def test_fixed_weights_are_the_networks_own():
    for learner in learners(theta0="fixed"):
        assert not learner.redraws
        assert all(
            torch.equal(a, b) for a, b in zip(learner.initial(4).values(), learner.theta.values(), strict=True)
        )


PRETRAINED = em.models.mlp(3, [4], 1)


@pytest.mark.parametrize("factory", [lambda: PRETRAINED, lambda: copy.deepcopy(PRETRAINED)])
def test_a_pretrained_network_keeps_its_weights_and_one_line_says_so(factory, caplog):
    made = learners(factory)
    with caplog.at_level(logging.WARNING, "evomal"):
        choose_engine(made, tiny_config())
        assert all(
            torch.equal(a, b) for a, b in zip(made[1].initial(4).values(), PRETRAINED.parameters(), strict=True)
        )
    assert [record.getMessage() for record in caplog.records] == [
        "each meta-step starts from the same initial weights: model() gives the same weights each time, "
        "as a pretrained network does"
    ]


@pytest.mark.parametrize("theta0", ["auto", "fixed"])
@pytest.mark.parametrize(("factory", "said"), [(lambda: copy.deepcopy(PRETRAINED), 1), (None, 0)])
def test_one_line_says_that_an_initialisation_replaces_pretrained_weights(factory, said, theta0, caplog):
    made = learners(factory, initialisation="glorot", theta0=theta0)
    with caplog.at_level(logging.WARNING, "evomal"):
        assert all(learner.redraws == (theta0 == "auto") for learner in made)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == said
    assert all(text.startswith("initialisation='glorot' replaces the weights of model()") for text in messages)


def test_redrawn_asked_for_a_pretrained_network_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"theta0='redrawn' needs a model that draws.*write theta0='fixed'"):
        em.learn_loss(
            [regression_task()], lambda: PRETRAINED, config=tiny_config(theta0="redrawn"), progress=False
        )


def test_a_pretrained_body_stays_and_its_new_head_is_redrawn():
    body = nn.Linear(3, 5)
    first, _ = learners(lambda: nn.Sequential(copy.deepcopy(body), nn.Tanh(), nn.Linear(5, 1)))
    a, b = first.initial(0), first.initial(1)
    assert torch.equal(a["0.weight"], body.weight.double())
    assert torch.equal(b["0.weight"], body.weight.double())
    assert not torch.equal(a["2.weight"], b["2.weight"])


def test_a_factory_that_draws_from_numpy_keeps_one_start(caplog):
    rng = np.random.default_rng(0)

    def factory() -> nn.Module:
        layer = nn.Linear(3, 1)
        layer.weight.data = torch.tensor(rng.normal(size=(1, 3)), dtype=torch.float32)
        return layer

    with caplog.at_level(logging.WARNING, "evomal"):
        assert not learners(factory)[0].redraws
    assert "another generator than PyTorch's" in caplog.text


def test_frozen_weights_are_not_drawn():
    def factory() -> nn.Module:
        model = em.models.mlp(3, [4], 1)
        model[1].weight.requires_grad_(False)
        return model

    (first, _) = learners(factory)
    assert list(first.initial(0)) == ["1.bias", "3.weight", "3.bias"]
    assert first.initial_vector(0).numel() == 4 + 4 + 1
