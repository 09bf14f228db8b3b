"""Local search: every engine's meta-gradient against the others and against finite differences."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers import class_task, global_generators_untouched, pairwise, regression_task, small_model
from torch import nn

import evomal_core as em
from evomal_core.engines import choose_engine, local_search
from evomal_core.learners import Learner, make_learners
from evomal_core.unroll import ENGINES, meta_gradient, sgd_step

OPTIMISERS = {
    "plain": em.SGD(lr=0.1, batch_size=6),
    "momentum": em.SGD(lr=0.1, momentum=0.7, batch_size=6),
    "nesterov and weight decay": em.SGD(lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.05, batch_size=6),
}
EXPRESSION = "add(square(sub(f, y)), mul(tanh(f), div(y, sub(f, -1))))"


class LastOutput(nn.Module):
    """An LSTM read at its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True)
        self.dense = nn.Linear(4, 3)

    def forward(self, x):
        return self.dense(self.lstm(x)[0][:, -1])


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))


def shaped(task: em.Task, *shape: int) -> em.Task:
    """The task with other random features of this shape; its labels stay."""
    rng = torch.Generator().manual_seed(1)

    def part(name):
        rows, y = task.parts()[name]
        return torch.randn(len(rows), *shape, generator=rng), y

    return em.Task(task.name, task.kind, *(part(name) for name in ("train", "validation", "test")))


NETWORKS = {
    "mlp": (regression_task(outputs=2), lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))),
    "conv with batch norm": (shaped(class_task(3), 1, 6, 6), conv),
    "dropout": (class_task(2), with_dropout),
    "lstm": (shaped(class_task(3), 5, 2), LastOutput),
}
ON_ALL_OPTIMISERS = pytest.mark.parametrize("optimiser", OPTIMISERS)


def problem(network: str, optimiser: str, steps: int, on: str = "same") -> tuple[Learner, em.SearchConfig]:
    task, model = NETWORKS[network]
    config = em.SearchConfig(base=OPTIMISERS[optimiser], unroll_steps=steps, task_loss_on=on)
    (learner,) = make_learners([task.to(dtype=torch.float64)], model, config, seed=3, purpose="test")
    return learner, config


def learned(kind: str, family: str = "symbolic") -> em.Loss:
    rng = torch.Generator().manual_seed(7)
    match family:
        case "symbolic":
            edges = em.Expression.parse(EXPRESSION).edges
            return em.LearnedLoss(EXPRESSION, kind, phi=1 + 0.3 * torch.randn(edges, generator=rng)).double()
        case "softplus":
            return em.LearnedLoss("mul(square(sub(f, y)), y)", kind, softplus=True).double()
        case "taylor":
            return em.TaylorLoss(kind, theta=torch.randn(8, generator=rng)).double()
        case "neural":
            return em.NeuralLoss(kind, hidden=6, seed=2).double()
    raise AssertionError(family)


def flat(parts) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def assert_engines_agree(loss: em.Loss, learner: Learner, config: em.SearchConfig) -> None:
    oracle_value, oracle = meta_gradient(loss, learner, 2, config, "higher")
    norm = flat(oracle).norm()
    assert norm > 1e-8, "a zero gradient would agree with anything"
    for engine in ENGINES:
        value, gradient = meta_gradient(loss, learner, 2, config, engine)
        assert not value.requires_grad
        assert value.item() == pytest.approx(oracle_value.item(), rel=1e-12)
        assert [g.shape for g in gradient] == [p.shape for p in loss.parameters()]
        assert (flat(gradient) - flat(oracle)).norm() <= 1e-10 * norm, engine


def trained_task_loss(loss: em.Loss, learner: Learner, meta_step: int, config: em.SearchConfig) -> float:
    """The meta-objective with nothing of `unroll`: PyTorch's own SGD on a copy of the network."""
    network = copy.deepcopy(learner.network)
    network.load_state_dict(learner.initial(meta_step), strict=False)
    base = config.base
    sgd = torch.optim.SGD(
        network.parameters(), base.lr, base.momentum, weight_decay=base.weight_decay, nesterov=base.nesterov
    )
    data = learner.episode(meta_step, config)
    for k, (x, y) in enumerate(data.steps):
        sgd.zero_grad()
        with learner.dropout(data.draw + k):
            y_pred = network(x)
        loss(y_pred, y).backward()
        sgd.step()
    with torch.no_grad(), learner.dropout(data.draw + len(data.steps)):
        return em.TaskLoss(learner.task.kind)(network(data.task[0]), data.task[1]).item()


def assert_gradient_is_a_finite_difference(loss, learner, config, engine) -> None:
    value, gradient = meta_gradient(loss, learner, 2, config, engine)
    assert value.item() == pytest.approx(trained_task_loss(loss, learner, 2, config), rel=1e-12)
    weights = nn.utils.parameters_to_vector(loss.parameters()).detach()
    rng = torch.Generator().manual_seed(0)
    norm = flat(gradient).norm().item()
    for direction in (flat(gradient) / norm, *torch.randn(2, len(weights), generator=rng, dtype=torch.float64)):
        h, ends = 1e-5, []
        for sign in (1, -1):
            moved = copy.deepcopy(loss)
            nn.utils.vector_to_parameters(weights + sign * h * direction, moved.parameters())
            ends.append(trained_task_loss(moved, learner, 2, config))
        slope = (ends[0] - ends[1]) / (2 * h)
        assert slope == pytest.approx(float(flat(gradient) @ direction), abs=1e-5 * norm + 1e-9)


@pairwise(network=[*NETWORKS], optimiser=[*OPTIMISERS], steps=[1, 3], on=["same", "other", "validation"])
def test_engines_agree_to_ten_digits(network, optimiser, steps, on):
    learner, config = problem(network, optimiser, steps, on)
    assert_engines_agree(learned(learner.task.kind), learner, config)


@pairwise(network=[*NETWORKS][:3], family=["softplus", "taylor", "neural"], steps=[1, 3])
def test_engines_agree_on_every_family_of_losses(network, family, steps):
    learner, config = problem(network, "nesterov and weight decay", steps, "validation")
    assert_engines_agree(learned(learner.task.kind, family), learner, config)


@pairwise(network=[*NETWORKS], optimiser=[*OPTIMISERS], steps=[1, 3], engine=sorted(ENGINES))
def test_meta_gradient_is_a_finite_difference_of_training_with_pytorchs_sgd(network, optimiser, steps, engine):
    learner, config = problem(network, optimiser, steps, "other")
    assert_gradient_is_a_finite_difference(learned(learner.task.kind), learner, config, engine)


@pytest.mark.parametrize("family", ["softplus", "taylor", "neural"])
def test_meta_gradient_of_every_family_is_a_finite_difference(family):
    learner, config = problem("mlp", "momentum", 3, "validation")
    assert_gradient_is_a_finite_difference(learned("regression", family), learner, config, "autograd")


@pytest.mark.parametrize(("optimiser", "steps"), [("plain", 1), ("momentum", 1), ("nesterov and weight decay", 3)])
def test_meta_objective_passes_gradcheck(optimiser, steps):
    """The autograd engine's unrolled training as one function of phi, checked by PyTorch's own gradcheck."""
    learner, config = problem("mlp", optimiser, steps)
    loss = learned("regression")

    class Objective(torch.autograd.Function):
        @staticmethod
        def forward(ctx, phi):
            moved = copy.deepcopy(loss)
            moved.phi.data = phi.detach().clone()
            value, (ctx.gradient,) = meta_gradient(moved, learner, 0, config, "jvp")
            return value.clone()

        @staticmethod
        def backward(ctx, upstream):
            return upstream * ctx.gradient

    phi = loss.phi.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(Objective.apply, (phi,), eps=1e-5, atol=1e-7)


def test_a_single_step_on_a_linear_model_has_a_closed_form():
    """f = θx, M = φ(f − y)²: θ' = θ − 2αφ·mean(x(θx − y)), so dL/dφ = −2α·mean(x(θx−y))·2·mean(x(θ'x−y))."""
    task = regression_task(features=1).to(dtype=torch.float64)
    config = em.SearchConfig(base=em.SGD(lr=0.05, batch_size=1000), task_loss_on="same")
    (learner,) = make_learners([task], lambda: nn.Linear(1, 1, bias=False), config, 0, "test")
    loss = em.LearnedLoss("mul(square(sub(f, y)), 1)", phi=[0.75, 1.0, 1.0, 1.0, 1.0]).double()
    x, y = task.train
    theta = learner.initial(0)["weight"].item()
    slope = (x * (theta * x - y)).mean()
    moved = theta - 0.05 * 2 * 0.75 * slope
    wanted = -2 * 0.05 * slope * 2 * (x * (moved * x - y)).mean()
    for engine in ENGINES:
        value, (gradient,) = meta_gradient(loss, learner, 0, config, engine)
        assert value.item() == pytest.approx((moved * x - y).square().mean().item(), rel=1e-12)
        assert gradient[0].item() == pytest.approx(wanted.item(), rel=1e-12)


@ON_ALL_OPTIMISERS
def test_pure_sgd_step_is_pytorchs(optimiser):
    base = OPTIMISERS[optimiser]
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(4, generator=rng, dtype=torch.float64)
    parameter = nn.Parameter(weights.clone())
    sgd = torch.optim.SGD(
        [parameter], base.lr, base.momentum, weight_decay=base.weight_decay, nesterov=base.nesterov
    )
    theta, velocity = {"w": weights.clone()}, None
    for _ in range(4):
        gradient = torch.randn(4, generator=rng, dtype=torch.float64)
        parameter.grad = gradient
        sgd.step()
        before = theta["w"].clone()
        after, velocity = sgd_step(theta, (gradient,), base, velocity)
        assert torch.equal(theta["w"], before), "the step is pure"
        theta = after
        torch.testing.assert_close(theta["w"], parameter.detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("network", ["mlp", "conv with batch norm", "dropout"])
def test_meta_gradient_changes_nothing_outside(engine, network):
    learner, config = problem(network, "momentum", 3)
    loss = learned(learner.task.kind)
    before = copy.deepcopy((loss.state_dict(), learner.network.state_dict()))
    with global_generators_untouched():
        first = meta_gradient(loss, learner, 0, config, engine)
    for state, module in zip(before, (loss, learner.network), strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name]), name
    again = meta_gradient(loss, learner, 0, config, engine)
    assert torch.equal(first[0], again[0])
    assert torch.equal(flat(first[1]), flat(again[1]))
    assert all(weight.grad is None and weight.requires_grad for weight in loss.parameters())


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_loss_whose_weights_cannot_matter_has_an_exactly_zero_gradient(engine):
    learner, config = problem("mlp", "momentum", 3)
    for text in ("sign(sub(f, y))", "add(y, 1)"):
        value, (gradient,) = meta_gradient(em.LearnedLoss(text).double(), learner, 0, config, engine)
        assert torch.equal(gradient, torch.zeros_like(gradient))
        assert math.isfinite(value)


def test_frozen_layers_stay_frozen_in_every_engine():
    def model():
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        network[0].requires_grad_(False)
        return network

    config = em.SearchConfig(base=OPTIMISERS["momentum"], unroll_steps=3, task_loss_on="same")
    task = NETWORKS["mlp"][0].to(dtype=torch.float64)
    (learner,) = make_learners([task], model, config, 0, "test")
    loss = learned("regression")
    for engine in ENGINES:
        assert_gradient_is_a_finite_difference(loss, learner, config, engine)


@pytest.mark.parametrize(
    "layer", [lambda: nn.LSTM(3, 4, 2, dropout=0.5, batch_first=True), lambda: FunctionalDropout()]
)
def test_a_network_that_draws_without_a_dropout_layer_is_reproducible_too(layer):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer()
            self.dense = nn.Linear(4, 1)

        def forward(self, x):
            out = self.inner(x[:, None, :])
            return self.dense((out[0] if isinstance(out, tuple) else out)[:, -1])

    config = em.SearchConfig(base=OPTIMISERS["plain"], task_loss_on="same")
    (learner,) = make_learners([regression_task()], Model, config, 0, "test")
    loss = em.LearnedLoss(EXPRESSION)
    with global_generators_untouched():
        first = meta_gradient(loss, learner, 0, config, "autograd")[0]
    torch.manual_seed(1)
    assert torch.equal(first, meta_gradient(loss, learner, 0, config, "autograd")[0])


class FunctionalDropout(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_meta_steps_walk_through_the_training_rows_in_shuffled_epochs():
    task = regression_task(rows=50)  # 30 training rows
    config = em.SearchConfig(base=em.SGD(batch_size=10), unroll_steps=3, task_loss_on="same")
    (learner,) = make_learners([task], small_model(), config, 0, "test")
    seen = torch.cat([x for x, _ in learner.episode(4, config).steps])
    assert sorted(seen.tolist()) == sorted(task.train[0].tolist())
    assert not torch.equal(seen, task.train[0])
    other = torch.cat([x for x, _ in learner.episode(5, config).steps])
    assert not torch.equal(seen, other)
    data = learner.episode(4, config)
    assert torch.equal(data.task[0], data.steps[-1][0])
    validation = learner.episode(0, config.replace(task_loss_on="validation")).task[0]
    assert {tuple(row) for row in validation.tolist()} <= {tuple(row) for row in task.validation[0].tolist()}
    apart = learner.episode(0, config.replace(task_loss_on="other")).task[0]
    assert not torch.equal(apart, learner.episode(0, config).task[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_local_search_is_the_meta_optimiser_on_the_summed_gradients(optimizer):
    tasks = [regression_task(seed=seed).to(dtype=torch.float64) for seed in range(2)]
    config = em.SearchConfig(
        base=OPTIMISERS["plain"], meta_steps=3, meta_lr=0.01, meta_optimizer=optimizer, task_loss_on="same"
    )
    learners = make_learners(tasks, small_model(), config, 0, "test")
    loss = em.LearnedLoss("square(sub(f, y))").double()
    (tuned,) = local_search([loss], learners, config, "autograd")
    assert torch.equal(loss.phi, torch.ones_like(loss.phi)), "the loss given stays as it is"

    phi = loss.phi.detach().numpy().copy()
    mean, square = np.zeros_like(phi), np.zeros_like(phi)
    for step in range(1, 4):
        now = em.LearnedLoss(loss.expression, phi=torch.from_numpy(phi))
        gradients = [meta_gradient(now, e, step - 1, config, "higher")[1][0].numpy() for e in learners]
        total = np.sum(gradients, axis=0)
        if optimizer == "sgd":
            phi = phi - 0.01 * total
        else:  # Kingma & Ba 2015
            mean, square = 0.9 * mean + 0.1 * total, 0.999 * square + 0.001 * total**2
            phi = phi - 0.01 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(tuned.loss.phi.detach(), phi, rtol=1e-9)
    assert not tuned.diverged


def test_local_search_lowers_the_task_loss():
    tasks = [regression_task(seed=seed) for seed in range(2)]
    config = em.SearchConfig(
        base=em.SGD(lr=0.01, batch_size=100), meta_steps=40, meta_lr=0.05, task_loss_on="validation"
    )
    learners = make_learners(tasks, small_model(), config, 0, "test")
    start = em.LearnedLoss("square(sub(f, y))")
    (tuned,) = local_search([start], learners, config, "autograd")
    first, last = (
        sum(meta_gradient(loss, each, step, config)[0] for each in learners)
        for loss, step in ((start, 0), (tuned.loss, 39))
    )
    assert last < 0.9 * first


def test_a_diverging_candidate_is_frozen_and_disturbs_no_other():
    config = em.SearchConfig(base=em.SGD(lr=10.0, batch_size=100), meta_steps=5, task_loss_on="same")
    learners = make_learners([regression_task()], small_model(), config, 0, "test")
    wild = em.LearnedLoss("square(square(square(sub(f, y))))", phi=[1e6] * 5)
    calm = em.LearnedLoss("div(sub(f, y), square(f))", phi=[1e-3] * 5)
    engine = choose_engine(learners, config)
    together = local_search([calm, wild, calm], learners, config, engine)
    (alone,) = local_search([calm], learners, config, engine)
    assert [t.diverged for t in together] == [False, True, False]
    for tuned in (together[0], together[2]):
        assert torch.equal(tuned.loss.phi, alone.loss.phi)
    assert torch.isfinite(together[1].loss.phi).all()


def test_local_search_of_no_steps_or_no_weights_returns_the_loss():
    config = em.SearchConfig(base=OPTIMISERS["plain"], meta_steps=0)
    learners = make_learners([regression_task()], small_model(), config, 0, "test")
    (tuned,) = local_search([em.LearnedLoss("square(sub(f, y))")], learners, config, "autograd")
    assert torch.equal(tuned.loss.phi, torch.ones(3))
    (plain,) = local_search([em.TaskLoss()], learners, config.replace(meta_steps=2), "autograd")
    assert not plain.diverged


class OnlyReverse(torch.autograd.Function):
    """An operation of a user's own, written before forward-mode derivatives."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * x.exp()


class WithOnlyReverse(nn.Linear):
    def forward(self, x):
        return OnlyReverse.apply(super().forward(x))


def test_automatic_choice_passes_over_an_engine_that_cannot_take_the_network_and_says_so(caplog):
    config = em.SearchConfig(base=OPTIMISERS["plain"], task_loss_on="same")
    learners = make_learners([regression_task()], lambda: WithOnlyReverse(3, 1), config, 0, "test")
    chosen = choose_engine(learners, config)
    assert chosen in ("autograd", "higher")
    assert caplog.messages[-1] == f"using engine {chosen}"
    (line,) = [message for message in caplog.messages if "engine jvp" in message]
    assert "can't take this network" in line
    assert len(line.splitlines()) == 1
    caplog.clear()
    assert choose_engine(learners, config.replace(engine="higher")) == "higher"
    assert not caplog.messages
