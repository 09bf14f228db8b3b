"""Training a base network: closed-form steps, errors as stated, and divergence as data."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from helpers import class_task, global_generators_untouched, regression_task, small_model
from torch import nn
from torch.nn import functional

import evomal_core as em
from evomal_core.engines import fitness
from evomal_core.labels import read_pair
from evomal_core.learners import make_learners
from evomal_core.metrics import make_metric
from evomal_core.seeds import isolated_torch
from evomal_core.training import error, train

SMALL = em.SGD(lr=0.05, batch_size=8)


def learner(task=None, model=None, base=SMALL, **changes):
    config = em.SearchConfig(base=base, **changes)
    return make_learners([task or regression_task()], model or small_model(), config, 0, "test")[0]


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_on_a_linear_model_have_a_closed_form(steps):
    """θ ← θ − α·2/B·Xᵀ(Xθ − y) with the learner's own batches."""
    task = regression_task().to(dtype=torch.float64)
    taught = learner(task, lambda: nn.Linear(3, 1, bias=False))
    theta = taught.theta["weight"].T.clone()
    for step in range(steps):
        x, y = taught.batch(step)
        theta = theta - 0.05 * 2 / len(x) * x.T @ (x @ theta - y)
    for loss in (em.TaskLoss(), em.LearnedLoss("square(sub(y, f))")):
        trained = train(loss, taught, SMALL, steps)
        torch.testing.assert_close(trained.network.weight.T.detach(), theta)
        x, y = task.test
        assert trained.final["test"] == pytest.approx((x @ theta - y).square().mean().item())
        assert not trained.diverged


@pytest.mark.parametrize(
    "base",
    [
        em.SGD(lr=0.05, batch_size=8),
        em.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=8),
    ],
)
def test_training_equals_a_plain_pytorch_loop(base):
    taught = learner(class_task(3), small_model(outputs=3), base)
    network = copy.deepcopy(taught.network)
    sgd = torch.optim.SGD(
        network.parameters(), base.lr, base.momentum, weight_decay=base.weight_decay, nesterov=base.nesterov
    )
    for step in range(12):
        x, y = taught.batch(step)
        sgd.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        sgd.step()
    trained = train(em.TaskLoss("multiclass"), taught, base, 12)
    for ours, theirs in zip(trained.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    x, y = taught.task.test
    wrong = (network(x).argmax(dim=1) != y).float().mean().item()
    assert trained.final["test"] == pytest.approx(wrong)


def test_training_leaves_learner_loss_and_generators_as_they_were():
    model = lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))  # noqa: E731
    taught, loss = learner(model=model), em.LearnedLoss("square(sub(y, f))")
    before = copy.deepcopy((taught.network.state_dict(), loss.state_dict()))
    with global_generators_untouched():
        first = train(loss, taught, SMALL, 5)
    for state, module in zip(before, (taught.network, loss), strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in loss.parameters())
    torch.manual_seed(7)
    assert train(loss, taught, SMALL, 5).curve == first.curve


def test_a_loss_takes_gradients_again_after_training_failed():
    loss = em.LearnedLoss("square(sub(y, f))", "multiclass", class_weight=[1, 2])
    with pytest.raises(ValueError, match="labels of a multiclass loss are"):
        train(loss, learner(), SMALL, 1)
    assert loss.phi.requires_grad


def test_curve_has_the_recorded_steps_and_the_errors_of_shorter_trainings():
    taught = learner()
    curve = train(em.TaskLoss(), taught, SMALL, 6, record=[0, 2, 4, 99]).curve
    assert [point["step"] for point in curve] == [0, 2, 4, 6]
    assert [set(point) for point in curve] == [{"step", "train", "validation", "test"}] * 4
    assert curve[1] == train(em.TaskLoss(), taught, SMALL, 2).final | {"step": 2}
    x, y = taught.task.test
    assert curve[0]["test"] == pytest.approx(functional.mse_loss(taught.network(x), y).item())
    only = train(em.TaskLoss(), taught, SMALL, 2, splits=["validation"]).final
    assert set(only) == {"step", "validation"}


def test_errors_are_measured_in_evaluation_mode():
    taught = learner(model=lambda: nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.9), nn.Linear(50, 1)))
    network, part = taught.network, taught.task.test
    network.eval()
    wanted = functional.mse_loss(network(part[0]), part[1]).item()
    network.train()
    assert error(network, taught.task, part) == pytest.approx(wanted)
    assert network.training


@pytest.mark.parametrize(
    ("kind", "y_pred", "y_true", "wanted"),
    [
        ("regression", [[1.0], [2.0]], [[0.0], [4.0]], 2.5),
        ("regression", [[1.0, 3.0]], [[0.0, 0.0]], 5.0),
        ("binary", [[0.3], [-0.2], [4.0], [-9.0]], [[1.0], [1.0], [1.0], [0.0]], 0.25),
        ("multiclass", [[0.1, 0.9, 0.0], [2.0, 1.0, 0.0]], [1, 2], 0.5),
        ("regression", [[math.nan], [2.0]], [[0.0], [4.0]], math.inf),
        ("regression", [[math.inf], [2.0]], [[0.0], [4.0]], math.inf),
        ("binary", [[math.nan], [2.0]], [[0.0], [1.0]], math.inf),
        ("multiclass", [[math.nan, 0.0]], [1], math.inf),
        ("multiclass", [[math.inf, 0.0]], [0], math.inf),
    ],
)
def test_metrics_are_error_rate_and_mean_squared_error_and_never_nan(kind, y_pred, y_true, wanted):
    pair = read_pair(torch.tensor(y_pred), torch.tensor(y_true), kind)
    assert make_metric(None, kind)(*pair).item() == pytest.approx(wanted)


def test_divergence_is_data():
    taught = learner(base=em.SGD(lr=1e6, batch_size=8))
    trained = train(em.TaskLoss(), taught, em.SGD(lr=1e6, batch_size=8), 40)
    assert trained.diverged
    assert trained.final["test"] == math.inf
    config = em.SearchConfig(base=em.SGD(lr=1e6, batch_size=8), fitness_steps=40)
    assert fitness([em.TaskLoss()], [taught], config) == [math.inf]


@pytest.mark.parametrize("on", ["train", "validation"])
def test_fitness_is_the_mean_error_over_tasks_after_a_partial_training(on):
    tasks = [regression_task(seed=seed) for seed in range(3)]
    config = em.SearchConfig(base=SMALL, fitness_steps=7, fitness_on=on)
    learners = make_learners(tasks, small_model(), config, 0, "test")
    losses = [em.TaskLoss(), em.LearnedLoss("abs(sub(y, f))")]
    wanted = [sum(train(loss, e, SMALL, 7).final[on] for e in learners) / 3 for loss in losses]
    assert fitness(losses, learners, config) == pytest.approx(wanted, rel=1e-6)


def test_fitness_is_infinite_if_one_of_the_tasks_diverges():
    calm, wild = regression_task(), regression_task(seed=1)
    wild = em.Task("wild", "regression", (wild.train[0] * 1e6, wild.train[1]), wild.validation)
    config = em.SearchConfig(base=em.SGD(lr=0.05, batch_size=8), fitness_steps=30)
    learners = make_learners([calm, wild], small_model(), config, 0, "test")
    assert fitness([em.TaskLoss()], learners[:1], config)[0] < math.inf
    assert fitness([em.TaskLoss()], learners, config) == [math.inf]


def test_a_loss_without_slope_trains_nothing_and_fails_nowhere():
    taught = learner()
    start = taught.network.state_dict()
    for text in ("y", "add(y, 1)", "sign(sub(f, y))"):
        trained = train(em.LearnedLoss(text), taught, SMALL, 3)
        assert all(torch.equal(value, start[name]) for name, value in trained.network.state_dict().items())


def test_epochs_go_through_all_rows_once_in_an_order_of_their_own():
    taught = learner()  # 24 training rows, batches of 8
    epochs = [torch.cat([taught.batch(3 * epoch + i)[0] for i in range(3)]) for epoch in range(2)]
    rows = sorted(taught.task.train[0].tolist())
    assert [sorted(epoch.tolist()) for epoch in epochs] == [rows, rows]
    assert not torch.equal(*epochs)
    assert torch.equal(taught.batch(1)[0], epochs[0][8:16]), "batches can be asked for in any order"
    whole = learner(base=em.SGD(batch_size=1000))
    assert torch.equal(whole.batch(5)[0], taught.task.train[0])


def test_initial_weights_and_batches_are_a_function_of_the_seed_alone():
    with isolated_torch(123):
        first = learner()
        torch.rand(10)
    second = learner()
    assert all(torch.equal(first.theta[name], weights) for name, weights in second.theta.items())
    assert torch.equal(first.batch(4)[0], second.batch(4)[0])


def test_each_task_starts_from_weights_of_its_own():
    tasks = [regression_task()] * 2
    a, b = make_learners(tasks, small_model(), em.SearchConfig(), 0, "test")
    assert not torch.equal(a.theta["1.weight"], b.theta["1.weight"])
    (c,) = make_learners(tasks[:1], small_model(), em.SearchConfig(), 0, "another purpose")
    assert not torch.equal(a.theta["1.weight"], c.theta["1.weight"])


def test_glorot_initialisation_has_its_bounds_and_zero_biases():
    model = lambda: nn.Sequential(nn.Linear(3, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Linear(400, 1))  # noqa: E731
    theta = learner(model=model, initialisation="glorot").theta
    bound = math.sqrt(6 / 403)
    assert theta["0.weight"].abs().max() <= bound
    assert theta["0.weight"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert torch.equal(theta["0.bias"], torch.zeros(400))
    assert torch.equal(theta["1.weight"], torch.ones(400)), "norm layers keep theirs"


@pytest.mark.parametrize(
    ("model", "offender"),
    [
        (lambda: 3, "int"),
        (lambda: nn.ReLU(), "ReLU"),
        (lambda: nn.Linear(3, 1).requires_grad_(False), "Linear"),
        (lambda: None, "NoneType"),
    ],
)
def test_a_model_that_is_no_trainable_module_is_refused(model, offender):
    with pytest.raises(
        TypeError, match=rf"model\(\) must return an nn.Module with trainable weights, got {offender}"
    ):
        learner(model=model)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (regression_task(), lambda: nn.Linear(5, 1), r"fails on rows of shape \(3,\) from 'linear'"),
        (regression_task(), lambda: nn.Linear(3, 2), r"shape \(2, 2\), but its labels need \(2, 1\)"),
        (class_task(4), lambda: nn.Linear(3, 3), r"shape \(2, 3\), but its labels need \(2, 4\)"),
        (class_task(2), lambda: nn.Linear(3, 2), r"shape \(2, 2\), but its labels need \(2, 1\)"),
        (
            regression_task(),
            lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)),
            r"shape \(2,\), but its labels",
        ),
        (regression_task(), lambda: nn.LSTM(3, 1), "returns a tuple, not a tensor"),
    ],
)
def test_a_model_whose_output_does_not_fit_is_refused(task, model, message):
    with pytest.raises(ValueError, match=message) as caught:
        learner(task, model)
    assert len(str(caught.value).splitlines()) == 1
