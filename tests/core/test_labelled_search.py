"""Every engine on labels as people have them: one meta-gradient, fitness and filter; and searches end to end."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers import tiny_config
from torch import nn
from torch.nn.utils import parameters_to_vector

import evomal_core as em
from evomal_core.engines import fitness, promises
from evomal_core.filters import gradient_signature, sample_predictions
from evomal_core.learners import Learner, make_learners
from evomal_core.metrics import make_metric
from evomal_core.population.local_search import batched_meta_gradients
from evomal_core.training import error, train
from evomal_core.unroll import ENGINES, meta_gradient

BASE = em.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, batch_size=8)
NAN = float("nan")
TEXTS = ("mul(add(y, tanh(f)), sub(f, y))", "square(sub(f, y))", "mul(-1, mul(y, log(f)))")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def holes(y: torch.Tensor, mark: float) -> torch.Tensor:
    """Labels of which a few are missing, none of a first position or output."""
    gone = draw(*y.shape, seed=5) > 0.7
    gone.reshape(len(y), -1)[:, 0] = False
    return torch.where(gone, torch.tensor(mark, dtype=y.dtype), y)


def problem(name: str) -> tuple[em.Task, object]:
    """A task of 20 training and 12 validation rows, and a factory of networks."""
    x, weight = draw(32, 4), None
    model, kind = (lambda: em.models.mlp(4, [5], 1)), "regression"
    flat, pixels = x.sum(1, keepdim=True).tanh(), draw(32, 2, 4, 3)
    if name == "weights":
        y, weight = flat, draw(32, seed=2).exp()
    elif name == "tags, some missing":
        kind, y, model = "binary", holes((x[:, :3] > 0).double(), NAN), lambda: em.models.mlp(4, [5], 3)
    elif name == "tags, weighted by label":
        kind, y, model = "binary", (x[:, :3] > 0).double(), lambda: em.models.mlp(4, [5], 3)
        weight = draw(32, 3, seed=2).exp()
    elif name == "soft classes":
        kind, y, model = "multiclass", torch.softmax(x[:, :3], dim=1), lambda: em.models.mlp(4, [5], 3)
    elif name == "soft binary":
        kind, y = "binary", flat.sigmoid()
    elif name == "weighted classes":
        kind, y, model = "multiclass", x[:, :3].argmax(dim=1), lambda: em.models.mlp(4, [5], 3)
        weight = draw(32, seed=2).exp()
    elif name == "sequence, perceptron":
        x = draw(32, 5, 4)
        y, model = (
            holes(x.sum(2, keepdim=True).tanh(), NAN),
            lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)),
        )
    elif name == "sequence, weighted steps":
        x = draw(32, 5, 4)
        y, model = (
            x.sum(2, keepdim=True).tanh(),
            lambda: nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 1)),
        )
        weight = draw(32, 5, seed=2).exp()
    elif name == "mask":
        x, kind, y = pixels, "binary", holes((pixels[:, :1] > 0).double(), -100)
        model = lambda: nn.Conv2d(2, 1, 3, padding=1)  # noqa: E731
    elif name == "segmentation":
        x, kind = pixels, "multiclass"
        y = holes(torch.bucketize(pixels[:, 0].contiguous(), torch.tensor([-0.5, 0.5]).double()), -100)
        model = lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))  # noqa: E731
    else:
        x = draw(32, 2, 3, 4)
        y, model = x[:, :2], lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())
    parts = [(x[:20], y[:20]), (x[20:], y[20:])]
    weights = None if weight is None else {"train": weight[:20], "validation": weight[20:]}
    return em.Task(name, kind, *parts, sample_weight=weights), model


PROBLEMS = [
    "weights", "tags, some missing", "tags, weighted by label", "soft classes", "soft binary", "weighted classes",
    "sequence, perceptron", "sequence, weighted steps", "mask", "segmentation", "images",
]  # fmt: skip
ON_ALL = pytest.mark.parametrize("name", PROBLEMS)


def made(name: str, config: em.SearchConfig) -> Learner:
    task, model = problem(name)
    (learner,) = make_learners([task], model, config, 0, "test")
    return learner


def candidates(kind: str) -> list[em.LearnedLoss]:
    return [em.LearnedLoss(text, kind).double() for text in TEXTS]


@pytest.mark.parametrize("steps", [1, 3])
@ON_ALL
def test_all_engines_have_one_meta_gradient(name, steps):
    config = em.SearchConfig(base=BASE, unroll_steps=steps)
    learner = made(name, config)
    losses = candidates(learner.task.kind)
    values, rows = batched_meta_gradients(losses, [learner], config, 1)
    for value, row, loss in zip(values, rows, losses, strict=True):
        wanted_value, wanted = meta_gradient(loss, learner, 1, config, "autograd")
        wanted = parameters_to_vector(wanted)
        assert value.item() == pytest.approx(wanted_value.item(), rel=1e-10)
        engines = {e: parameters_to_vector(meta_gradient(loss, learner, 1, config, e)[1]) for e in ENGINES}
        for found in (row[: loss.size], *engines.values()):
            assert (found - wanted).norm() <= 1e-10 * wanted.norm()


@ON_ALL
def test_the_meta_gradient_is_that_of_pytorchs_losses_written_out(name):
    """One plain step, with the loss as a sum over every label that is there, by double backward."""
    config = em.SearchConfig(base=em.SGD(lr=0.1, batch_size=8), theta0="fixed")
    learner = made(name, config)
    loss = candidates(learner.task.kind)[1]
    network = copy.deepcopy(learner.network)
    theta = dict(network.named_parameters())
    phi = loss.phi

    def by_hand(y_pred, y, weight, of) -> torch.Tensor:
        kind = learner.task.kind
        axis = 1 if kind == "multiclass" or y_pred.ndim != 3 else 2
        rows = y_pred.movedim(axis, -1).flatten(0, -2)
        if kind == "multiclass" and not y.is_floating_point():
            there = (y.flatten() != -100).unsqueeze(1)
            numbers = nn.functional.one_hot(y.flatten().clamp(min=0), rows.shape[1]).double()
        else:
            numbers = y.movedim(axis, -1).flatten(0, -2)
            there = ~(numbers.isnan() | ((numbers == -100) & (kind != "regression")))
            numbers = numbers.nan_to_num()
        counts = there.double()
        if weight is not None:
            by_label = weight.shape == y.shape and weight.ndim > 1
            counts = counts * (weight.flatten(0, -2) if by_label else weight.reshape(-1, 1))
        each = of(rows, numbers) * counts
        total = (counts.sum(1) / (counts != 0).sum(1).clamp(min=1)).sum()
        return each.sum() / total

    def learned(rows, numbers):
        f = {"regression": rows, "binary": rows.sigmoid(), "multiclass": rows.softmax(1)}[learner.task.kind]
        return (phi[0] * (phi[1] * f - phi[2] * numbers)) ** 2

    def task(rows, numbers):
        if learner.task.kind == "regression":
            return (rows - numbers) ** 2
        if learner.task.kind == "binary":
            p = rows.sigmoid()
            return -(numbers * p.log() + (1 - numbers) * (1 - p).log())
        return -numbers * rows.log_softmax(1)

    x, y, *weight = learner.batch(0)
    value = by_hand(network(x), y, weight[0] if weight else None, learned)
    slopes = torch.autograd.grad(value, list(theta.values()), create_graph=True)
    moved = {n: w - 0.1 * g for (n, w), g in zip(theta.items(), slopes, strict=True)}
    x, y, *weight = learner.batch(0, "validation")
    value = by_hand(torch.func.functional_call(network, moved, (x,)), y, weight[0] if weight else None, task)
    (wanted,) = torch.autograd.grad(value, phi)
    found_value, (found,) = meta_gradient(loss, learner, 0, config, "autograd")
    assert found_value.item() == pytest.approx(value.item(), rel=1e-9)
    assert (found - wanted).norm() <= 1e-9 * wanted.norm()


@ON_ALL
def test_networks_train_all_at_once_as_one_by_one_and_are_measured_alike(name):
    config = tiny_config(base=BASE, fitness_steps=5)
    learner = made(name, config)
    losses = candidates(learner.task.kind)
    at_once = fitness(losses, [learner], config, "batched")
    wanted = fitness(losses, [learner], config)
    rel = 1e-6 if learner.task.kind == "regression" else 1e-7  # a growing loss amplifies; error rates are float32
    assert at_once == pytest.approx(wanted, rel=rel)


@ON_ALL
def test_the_filters_agree(name):
    config = tiny_config(rejection_steps=6, rejection_lr=0.05)
    learner = made(name, config)
    samples = sample_predictions([learner], config)
    losses = candidates(learner.task.kind)
    kind = learner.task.kind
    at_once = promises(losses, samples, config, kind, "batched")
    assert at_once == pytest.approx(promises(losses, samples, config, kind), rel=1e-7, abs=1e-9)
    assert all(gradient_signature(loss, samples) is not None for loss in losses)


def test_the_error_leaves_missing_labels_out_and_weighs_the_others():
    class Fixed(nn.Module):
        def forward(self, x):
            return x[:, :2]

    x, y = draw(6, 2), draw(6, 2, seed=1)
    y[1, 0] = y[4, 1] = NAN
    weight = draw(6, seed=2).exp()
    task = em.Task("t", "regression", (x, y), sample_weight=weight)
    there = ~y.isnan()
    each, counts = ((x - y) ** 2)[there], weight[:, None].expand(6, 2)[there]
    found = error(Fixed(), task, task.labelled("train"))
    assert found == pytest.approx(float((each * counts).sum() / counts.sum()), rel=1e-12)
    found = error(Fixed(), task, task.parts()["train"])
    assert found == pytest.approx(float(each.mean()), rel=1e-12)


def test_a_metric_that_takes_no_weights_says_which_do():
    task, model = problem("weights")
    with pytest.raises(
        ValueError, match="'median absolute error' takes none; let it have a third argument weight"
    ):
        em.learn_loss([task], model, config=tiny_config(), metric="median absolute error", progress=False)
    with pytest.raises(ValueError, match="takes no weights of rows; let it have a third argument weight"):
        make_metric("median absolute error", "regression")(
            draw(4, 1), draw(4, 1), torch.arange(1.0, 5).unsqueeze(1)
        )


@pytest.mark.parametrize(
    "name", ["segmentation", "mask", "sequence, perceptron", "tags, some missing", "soft classes"]
)
def test_a_search_on_such_labels_finds_a_loss_that_trains(name):
    task, model = problem(name)
    config = tiny_config(
        population=4,
        generations=1,
        fitness_steps=40,
        known=True,
        rejection_steps=40,
        rejection_lr=0.1,
        base=em.SGD(lr=0.3, batch_size=8),
    )
    result = em.learn_loss([task.to(dtype=torch.float32)], model, config=config, progress=False, compare=False)
    (learner,) = make_learners([task], model, config, 1, "meta-test")
    start = error(learner.network, task, task.labelled("validation"))
    trained = train(result.best.double(), learner, config.base, 60, splits=["validation"])
    assert trained.final["validation"] < 0.75 * start


def weighted_mse(y_pred, y_true, weight):
    return (weight * (y_pred - y_true).square().mean(dim=1)).sum() / weight.sum()


def test_a_weighted_task_goes_through_the_whole_of_an_everyday_search():
    task, model = problem("weights")
    weights = task.sample_weight | {"test": task.sample_weight["validation"]}
    task = dataclasses.replace(task, sample_weight=weights, test=task.validation).to(dtype=torch.float32)
    config = em.EVERYDAY.replace(
        population=2, generations=1, meta_steps=1, fitness_steps=2, finalists=1, finalist_steps=2,
        finalist_initialisations=2, finalist_rates=(1.0,),
    )  # fmt: skip
    result = em.learn_loss([task], model, config=config, progress=False, task_loss=weighted_mse)
    named = {finalist.name: finalist for finalist in result.finalists}
    assert np.isfinite(named["squared error"].own).all()
    found = result.compare(rivals={"own": weighted_mse}, initialisations=2, steps=3)
    same = result.compare(rivals={"own": em.TaskLoss()}, initialisations=2, steps=3)
    np.testing.assert_allclose(found.rival.errors("test"), same.rival.errors("test"), rtol=1e-5)
    with pytest.raises(ValueError, match="has sample_weight, but loss 'mse' takes none; let it have a third arg"):
        result.compare(rivals={"mse": nn.MSELoss()}, initialisations=2, steps=3)


@pytest.mark.parametrize("own", [nn.MSELoss(), nn.functional.mse_loss, lambda p, y: (p - y).square().mean()])
def test_a_task_loss_without_weights_is_refused_for_a_weighted_task(own):
    task, model = problem("weights")
    with pytest.raises(ValueError, match=r"has sample_weight, but task_loss .* takes none; let it have a third"):
        em.learn_loss([task], model, config=tiny_config(), task_loss=own, progress=False)
