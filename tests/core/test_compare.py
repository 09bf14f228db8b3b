"""Tuned trainings, the comparison of a learned loss with its rivals, and the choice among finalists."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import class_task, regression_task
from scipy import stats
from torch import nn
from torch.nn import functional

import evomal_core as em
from evomal_core.compare import Comparison, compare, interval, rival_losses
from evomal_core.engines import curves_of
from evomal_core.evaluation import Evaluation
from evomal_core.finalists import Finalist, choose, fold
from evomal_core.known import known_losses
from evomal_core.learners import Problem, make_learners
from evomal_core.population.training import train_stack
from evomal_core.training import train
from evomal_core.tuning import Tuning, tune
from evomal_core.weighted import LogitAdjusted, WeightedCrossEntropy, balanced_cross_entropy, class_shares

CONFIG = em.SearchConfig(base=em.SGD(lr=0.1, momentum=0.5, batch_size=16), fitness_steps=6)


def problem(kind: str = "regression") -> Problem:
    task = {"regression": regression_task, "binary": lambda: class_task(2), "multiclass": lambda: class_task(3)}[
        kind
    ]()
    outputs = task.outputs
    return Problem((task,), lambda: em.models.mlp(3, [4], outputs), CONFIG, 0, curves_of)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_tuned_loss_has_the_errors_of_its_best_training(kind):
    learners = problem(kind).learners("compare", 2)
    loss = next(iter(known_losses(kind).values()))
    (found,) = tune({"own": loss}, learners, CONFIG.base, [0.01, 0.1], [2, 4, 6], curves_of, widen=0)
    curves = {
        lr: [train(loss, e, CONFIG.base.replace(lr=lr), 6, [2, 4]).curve for e in learners] for lr in (0.01, 0.1)
    }
    mean = {
        (lr, step): np.mean([curve[place]["validation"] for curve in curves[lr]])
        for lr in curves
        for place, step in enumerate((2, 4, 6))
    }
    assert mean[found.lr, found.steps] == pytest.approx(min(mean.values()), rel=1e-5)
    wanted = [curve[(found.steps - 2) // 2]["test"] for curve in curves[found.lr]]
    np.testing.assert_allclose(found.errors("test"), wanted, rtol=1e-5)


def test_a_rate_at_the_end_of_the_range_is_widened():
    learners = problem().learners("compare", 1)
    (found,) = tune({"own": em.TaskLoss()}, learners, CONFIG.base, [1e-5, 1e-4], [6], curves_of, widen=2)
    assert sorted(found.curves) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])


class Mine(nn.Module):
    def forward(self, y_pred, y_true):
        return functional.smooth_l1_loss(y_pred, y_true) if y_true.is_floating_point() else y_pred.square().mean()


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_modules_train_in_a_stack_as_alone(kind):
    made = problem(kind)
    task = made.tasks[0].to(dtype=torch.float64)
    learners = make_learners([task, task], lambda: made.model().double(), CONFIG, 0, "stack")
    losses = [Mine(), em.TaskLoss(kind)]
    found = train_stack(losses, learners, CONFIG.base, 6, [3], modules=True)
    for loss, row in zip(losses, found, strict=True):
        for learner, trained in zip(learners, row, strict=True):
            wanted = train(loss, learner, CONFIG.base, 6, [3]).curve
            for got, point in zip(trained.curve, wanted, strict=True):
                assert got == pytest.approx(point, rel=1e-10)


def test_a_weighted_cross_entropy_is_pytorchs():
    y_pred, y = torch.randn(20, 3), torch.arange(20) % 3
    weights = torch.tensor([1.0, 5.0, 0.2])
    wanted = functional.cross_entropy(y_pred, y, weights, reduction="sum") / 20
    torch.testing.assert_close(WeightedCrossEntropy("multiclass", weights)(y_pred, y), wanted)
    label = (y == 1).float().unsqueeze(1)
    wanted = functional.binary_cross_entropy_with_logits(y_pred[:, :1], label, pos_weight=torch.tensor(5.0))
    torch.testing.assert_close(WeightedCrossEntropy("binary", weights[:2])(y_pred[:, :1], label), wanted)


def test_a_logit_adjusted_cross_entropy_of_two_logits_is_that_of_their_difference():
    y_pred, y = torch.randn(20, 2), torch.arange(20) % 2
    priors = torch.tensor([0.9, 0.1])
    wanted = functional.cross_entropy(y_pred + priors.log(), y)
    torch.testing.assert_close(LogitAdjusted("multiclass", priors)(y_pred, y), wanted)
    difference = y_pred[:, 1:] - y_pred[:, :1]
    torch.testing.assert_close(LogitAdjusted("binary", priors)(difference, y.float().unsqueeze(1)), wanted)


def test_balanced_weights_give_each_class_the_same_share():
    task = class_task(3)
    shares, weights = class_shares(task), balanced_cross_entropy(task).weights
    counts = torch.bincount(task.train[1])
    torch.testing.assert_close(shares, counts / counts.sum())
    torch.testing.assert_close(weights * counts, torch.full((3,), counts.sum() / 3))


def test_an_interval_is_students():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((values.mean(), low, high))


def tuned(name: str, *test: float, validation: float = 1.0) -> Tuning:
    errors = {"validation": np.full((len(test), 1), validation), "test": np.array(test)[:, None]}
    return Tuning(name, nn.Identity(), (10,), "validation", {0.1: errors})


def test_a_verdict_needs_more_than_chance():
    learned = tuned("learned", 1.0, 1.1, 1.2, 0.9)
    clear = tuned("clear", 2.0, 2.1, 2.25, 1.9, validation=2.0)
    unclear = tuned("unclear", 1.1, 1.0, 1.25, 0.95)
    better = tuned("better", 0.1, 0.2, 0.35, 0.05, validation=3.0)
    found = Comparison(learned, [clear, unclear, better], "MSE")
    assert [found.verdict(rival) for rival in found.rivals] == ["won", "undecided", "lost"]
    assert found.rival is unclear
    assert found.best_rival is better
    assert "undecided between the learned loss and unclear (chosen on validation)" in found.sentence
    assert "lost against better (the best in hindsight)" in found.sentence
    assert "n = 4 trainings each." in found.sentence
    assert "n = 4 trainings each, on 90 test rows." in replace(found, test_rows=90).sentence
    assert list(found.table()["loss"])[-1] == "better"


def test_a_learned_loss_that_is_its_rival_in_effect_is_called_so():
    learned, same = tuned("learned", 1.0, np.nan), tuned("known", 1.0, np.nan)
    found = Comparison(learned, [same, tuned("other", 1.0, 1.5, validation=2.0)], "MSE")
    assert "The learned loss is known (chosen on validation) in effect" in found.sentence
    assert not learned.trains_as(tuned("known", 1.0, 2.0))
    assert not learned.trains_as(Tuning("known", nn.Identity(), (10,), "validation", {0.2: same.curves[0.1]}))


def test_a_diverged_rival_is_beaten_but_not_tested():
    found = Comparison(tuned("learned", 1.0, 1.1), [tuned("broken", np.inf, np.inf, validation=np.inf)], "MSE")
    assert found.verdict(found.rivals[0]) == "undecided"
    assert np.isinf(found.table()["test"]).any()


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_a_comparison_of_a_loss_with_itself_finds_no_difference(kind):
    made = problem(kind)
    own = next(iter(known_losses(kind, made.tasks[0]).values()))
    found = compare(
        own, made, own={"mine": nn.MSELoss() if kind == "regression" else nn.CrossEntropyLoss()},
        initialisations=2, steps=6, lrs=[0.03, 0.1], train_on_validation=True,
    )  # fmt: skip
    names = [rival.name for rival in found.rivals]
    assert names[: len(rival_losses(made.tasks[0]))] == list(rival_losses(made.tasks[0]))
    assert names[-3:] == ["mine", *(f"task loss on the validation rows {how}" for how in ("alone", "too"))]
    same = found.rivals[0]
    assert found.difference(same) == (0, 0, 0)
    assert found.learned.trains_as(same)
    mine = next(rival for rival in found.rivals if rival.name == "mine")
    np.testing.assert_allclose(mine.errors("test"), same.errors("test"), rtol=1e-4)
    assert len(found.curves()) == sum(
        errors.size for t in (found.learned, *found.rivals) for c in t.curves.values() for errors in c.values()
    )
    assert len(found.plot().axes[0].get_yticks()) == min(12, 1 + len(found.rivals))
    assert found.plot()._repr_png_().startswith(b"\x89PNG")  # by which Jupyter shows it
    assert found.sentence in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rivals": [torch.nn.MSELoss()]}, "losses by name, such as {'mine': nn.MSELoss()}, got [MSELoss()]"),
        ({"rivals": "all"}, "got 'all'; 'known' is all known ones"),
        ({"own": torch.nn.MSELoss()}, "own are losses by name"),
        ({"rivals": {}}, "needs a rival"),
        ({"rivals": {"mine": torch.nn.MSELoss}}, "loss 'mine' is called as loss(y_pred, y_true), got <class"),
        ({"rivals": {"mine": "square(sub(y, f))"}}, "write em.LearnedLoss('square(sub(y, f))', kind)"),
        ({"rivals": {"learned": torch.nn.MSELoss()}}, "the name 'learned' is that of another loss"),
        ({"own": {"Cauchy": torch.nn.MSELoss()}}, "the name 'Cauchy' is that of another loss"),
        (
            {"own": {"mine": torch.nn.MSELoss(reduction="none")}},
            "loss 'mine' must return one differentiable number",
        ),
        ({"own": {"mine": torch.nn.CrossEntropyLoss()}}, "loss 'mine' has gradient 0"),
        ({"lrs": []}, "lrs is a list of learning rates, such as [0.01, 0.1], got []"),
        ({"lrs": 0.1}, "got 0.1; leave it out"),
        ({"steps": 2.5}, "steps is a whole number of at least 1, got 2.5"),
        ({"initialisations": "3"}, "to tell differences from chance, got '3'"),
    ],
)
def test_arguments_of_a_comparison_are_refused_with_a_remedy(options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compare(em.TaskLoss(), problem(), **options)


def test_a_comparison_needs_a_test_part():
    made = problem()
    without = replace(made, tasks=(replace(made.tasks[0], test=None),))
    with pytest.raises(ValueError, match="has no test part"):
        compare(em.TaskLoss(), without)
    with pytest.raises(ValueError, match="initialisations is a whole number of at least 2"):
        compare(em.TaskLoss(), made, initialisations=1)


def finalist(name: str, *errors: float) -> Finalist:
    loss = em.LearnedLoss("square(sub(y, f))")
    return Finalist(name, Evaluation(loss, 1.0), np.array(errors), np.array(errors), 0.1, 10)


def test_a_loss_that_was_found_replaces_the_best_known_one_only_if_it_is_clearly_better():
    known, worse = finalist("known", 1.0, 1.2, 1.1), finalist("worse", 2.0, 2.2, 2.1)
    noisy, clear = finalist("", 0.2, 1.9, 0.9), finalist("", 0.9, 1.11, 1.0)
    assert choose([noisy, worse, known]) is known
    assert choose([noisy, clear, worse, known]) is clear
    assert choose([finalist("", 0.1, 0.1, np.inf), known]) is known
    assert choose([noisy, finalist("broken", np.inf, 1.0, 1.0)]) is noisy
    assert choose([noisy, clear]) is noisy


def test_each_start_of_the_finalists_has_its_own_rows_of_each_class():
    task = class_task(3, rows=200)
    folds = [fold(task, number, 4).test for number in range(4)]
    counts = [torch.bincount(y, minlength=3) for _, y in folds]
    assert all(len(x) == len(task.validation[0]) // 4 for x, _ in folds)
    assert max((a - b).abs().max() for a in counts for b in counts) <= 1
    rows = torch.cat([x for x, _ in folds])
    assert len(torch.unique(rows, dim=0)) == len(rows)
    weighted = replace(task, sample_weight={"validation": task.validation[0][:, 0].exp()})
    x, _, weight = fold(weighted, 1, 4).labelled("test")
    assert torch.equal(weight, x[:, 0].exp())
    few = replace(task, validation=(task.validation[0][:3], task.validation[1][:3]))
    assert [len(fold(few, number, 5).test[0]) for number in range(5)] == [1] * 5
