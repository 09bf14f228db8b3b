"""A checkpoint is resumed by the search that wrote it, and refused to one whose data or functions differ."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import regression_task, tiny_config
from torch import Tensor, nn
from torch.nn import functional

import evomal_core as em
from evomal_core.fingerprints import fingerprint
from evomal_core.learners import make_learners
from evomal_core.primitives import register, unregister


def learn(folder, task=None, model=None, config=None, **keywords):
    model = model or network(torch.relu)
    task = task or regression_task()
    config = config or tiny_config()
    return em.learn_loss(
        [task], model, config=config, checkpoint=folder, progress=False, compare=False, **keywords
    )


def network(function):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(function(self.first(x)))

    return Network


def cost(factor):
    def cost(y_pred, y_true):
        return factor * float(np.abs(y_pred - y_true).mean())

    return cost


def objective(sign):
    def objective(y_pred, y_true):
        return sign * torch.square(y_pred - y_true).mean()

    return objective


def scaled(y_pred, y_true, factor):
    return factor * float(np.abs(y_pred - y_true).mean())


def flipped(x: Tensor, rng: torch.Generator) -> Tensor:
    return x.flip(1)


def halved(x: Tensor, rng: torch.Generator) -> Tensor:
    return x / 2


halved.__name__ = halved.__qualname__ = "flipped"


def weighted(factor):
    task = regression_task()
    return em.Task(
        task.name, task.kind, task.train, task.validation, task.test,
        sample_weight={"train": 1 + factor * torch.arange(len(task.train[0])) / 10},
    )  # fmt: skip


def augmented(function):
    task = regression_task()
    return em.Task(task.name, task.kind, task.train, task.validation, task.test, augment=function)


CASES = {
    "weights": ({"task": weighted(1.0)}, {"task": weighted(2.0)}, "sample_weight is"),
    "metric": ({"metric": cost(1)}, {"metric": cost(100)}, "metric gives"),
    "lambda": (
        {"metric": lambda p, y: float(np.abs(p - y).mean())},
        {"metric": lambda p, y: float(np.square(p - y).mean())},
        "metric gives",
    ),
    "partial": (
        {"metric": partial(scaled, factor=1.0)},
        {"metric": partial(scaled, factor=2.0)},
        "metric gives",
    ),
    "Huber": ({"task_loss": nn.HuberLoss(delta=0.001)}, {"task_loss": nn.HuberLoss(delta=100)}, "task_loss gives"),
    "sign": ({"task_loss": objective(1)}, {"task_loss": objective(-1)}, "task_loss gives"),
    "forward": ({"model": network(torch.relu)}, {"model": network(torch.sin)}, "network gives"),
    "dropout": (
        {"model": network(partial(functional.dropout, p=0.2))},
        {"model": network(partial(functional.dropout, p=0.6))},
        "network gives",
    ),
    "augment": ({"task": augmented(flipped)}, {"task": augmented(halved)}, "network gives"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_search_of_other_data_or_functions_is_refused_and_the_same_one_goes_on(case, tmp_path):
    mine, other, difference = CASES[case]
    first = learn(tmp_path, **mine)
    assert learn(tmp_path, **mine).fitness == first.fitness
    with pytest.raises(ValueError, match=f"belongs to another search: {difference}"):
        learn(tmp_path, **other)


def test_an_operation_registered_anew_with_other_values_is_another_search(tmp_path):
    register("bend", 1, lambda a: a * a * a)
    try:
        config = tiny_config(function_set=("add", "mul", "sub", "bend"))
        learn(tmp_path, config=config)
        learn(tmp_path, config=config)
        unregister("bend")
        register("bend", 1, torch.sin)
        with pytest.raises(ValueError, match="belongs to another search: operation bend gives"):
            learn(tmp_path, config=config)
    finally:
        unregister("bend")


def drawing(y_pred, y_true):
    return float(np.abs(y_pred - y_true).mean()) * np.random.default_rng().uniform(1, 2)


def failing(y_pred, y_true):
    if len(y_pred) == 16:
        raise ValueError("not these rows")
    return float(np.abs(y_pred - y_true).mean())


def undefined(y_pred, y_true):
    return float("nan")


@pytest.mark.parametrize("metric", [drawing, failing, undefined])
def test_a_metric_that_draws_fails_on_few_rows_or_is_nan_does_not_keep_its_search_from_going_on(metric, tmp_path):
    for _ in range(2):
        learn(tmp_path, metric=metric, method="random")


def test_a_checkpoint_of_before_functions_were_told_apart_by_their_values_goes_on(tmp_path):
    learn(tmp_path, metric=cost(1))
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text())
    del record["fingerprint"]["values"], record["fingerprint"]["sample_weight"]
    path.write_text(json.dumps(record))
    learn(tmp_path, metric=cost(1))


def values(threads: int = 1) -> dict[str, list[float]]:
    torch.set_num_threads(threads)
    task = regression_task()
    model = network(partial(functional.dropout, p=0.3))
    learners = make_learners([task], model, tiny_config(), 0, "meta-train")
    return fingerprint("evomal", learners, tiny_config(), 0, [])["values"]


def test_the_values_are_those_of_another_process_with_other_threads():
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import json\n"
    program += f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_fingerprints as tests\n"
    program += "print(json.dumps(tests.values(threads=2)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here, there = values(), json.loads(done.stdout)
    assert here.keys() == there.keys()
    assert here["network"]
    for name, found in here.items():
        assert there[name] == pytest.approx(found, rel=1e-5)
