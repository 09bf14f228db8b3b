"""The demonstrations of where a learned loss pays."""

import numpy as np
import pandas as pd
import pytest
import sympy
import torch

import evomal_core as em
from evomal_paper import demonstrations
from evomal_paper.demonstrations import Demonstration, censored_losses

LIMIT = 0.4


def cut_off(seed: int) -> em.Task:
    """Labels x₁, cut off at LIMIT in the training part."""
    parts = []
    for number, limit in enumerate((LIMIT, 9.0, 9.0)):
        x = torch.randn(40, 2, generator=torch.Generator().manual_seed(10 * seed + number))
        parts.append((x, x[:, :1].clamp(max=limit)))
    return em.Task("cut off", "regression", *parts)


def test_a_censored_loss_forgives_predictions_above_the_limit_and_no_others():
    losses = censored_losses(cut_off(0))
    f = torch.tensor([-1.0, 0.3, 0.5, 2.0], requires_grad=True)
    for name, power in (("censored squared error", 2), ("censored absolute error", 1)):
        y = torch.full_like(f, LIMIT)
        values = losses[name].elementwise(f, y)
        expected = torch.tensor([1.4, 0.1, 0.0, 0.0]) ** power
        assert torch.allclose(values, expected, atol=1e-6), name
        (slopes,) = torch.autograd.grad(losses[name].elementwise(f, torch.zeros_like(f)).sum(), f)
        assert slopes.tolist()[2:] == [0, 0], name
        assert (slopes[:2] != 0).all(), name


def test_rivals_that_are_told_stand_beside_the_known_ones():
    tiny = em.EVERYDAY.replace(population=4, generations=1, meta_steps=1, fitness_steps=5, finalists=0)
    problem = Demonstration("", "MSE", cut_off, units=4, config=tiny, told=censored_losses, steps=5)
    found = problem.compare(problem.search(0), initialisations=2)
    names = {rival.name for rival in found.rivals}
    assert names >= {"censored absolute error", "squared error", "task loss on the validation rows alone"}
    assert found.learned.errors("test").shape == (2,)


def test_formulas_are_shown_whole():
    long = "add(square(2*sub(y, f)), " * 6 + "0.12345678*tanh(sub(y, f))" + ")" * 6
    rows = [(3, "learned", 0.1, 40, long), (3, "Cauchy", 0.3, 20, ""), (4, "learned", 0.2, 30, "abs(sub(y, f))")]
    trainings = pd.DataFrame(rows, columns=["data seed", "loss", "lr", "steps", "formula"])
    found = demonstrations.formulas(trainings, "regression")
    assert found.loc[4].tolist() == [0.2, 30, "Abs(f - y)"]
    f, y = sympy.symbols("f y", real=True)
    value = float(sympy.sympify(found.loc[3, "loss"], {"f": f, "y": y}).subs({f: 0.3, y: 0.7}))
    wanted = demonstrations.learned_losses(trainings, "regression")[3]
    exact = wanted.elementwise(torch.tensor(0.3), torch.tensor(0.7)).detach()
    assert value == pytest.approx(float(exact), rel=1e-3)
    assert "0.1235" in found.style.to_html()


def test_a_loss_that_diverged_has_an_infinite_mean_and_no_spread():
    rows = [
        ("learned", 0, 1.0),
        ("learned", 1, 2.0),
        ("squared error", 0, float("inf")),
        ("squared error", 1, 3.0),
    ]
    trainings = pd.DataFrame(rows, columns=["loss", "data seed", "test"])
    learned, diverged = demonstrations.summary(trainings).to_dict("records")
    assert (learned["loss"], learned["test"]) == ("learned", 1.5)
    assert diverged["test"] == np.inf
    assert pd.isna(diverged["sd over data seeds"])
    assert diverged["verdict"] == "undecided"
