"""The captured meta-step, on a simulated device that records operations and repeats them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import regression_task
from simulated_cuda import Graph, simulated_cuda

import evomal_core as em
from evomal_core.learners import make_learners
from evomal_core.population.cuda_graphs import WARM_UP, GraphedStep
from evomal_core.population.local_search import MetaStep
from evomal_core.population.networks import make_stacks
from evomal_core.population.trees import Program

BASE = em.SGD(lr=0.05, momentum=0.9, nesterov=True, batch_size=8)
CONFIG = em.SearchConfig(base=BASE, task_loss_on="validation")
LOSSES = [em.LearnedLoss(text) for text in ("square(sub(f, y))", "abs(sub(f, y))", "tanh(mul(f, y))")]


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    with simulated_cuda():
        yield


def meta_step(config: em.SearchConfig = CONFIG, model: Any = None) -> tuple[MetaStep, torch.Tensor]:
    tasks = [regression_task(seed=seed).to("cuda", torch.float64) for seed in range(2)]
    learners = make_learners(tasks, model or (lambda: em.models.mlp(3, [5], 1)), config, 0, "test")
    program = Program([loss.expression for loss in LOSSES], device="cuda")
    step = MetaStep(make_stacks(learners)[0], program, config)
    return step, program.pad([loss.phi.double() for loss in LOSSES]).to("cuda")


@pytest.mark.parametrize("batch_size", [8, 100])
@torch.no_grad()
def test_replays_equal_steps_without_a_graph(batch_size: int) -> None:
    config = CONFIG.replace(base=BASE.replace(batch_size=batch_size))
    step, phi = meta_step(config)
    graphed = GraphedStep(step)
    for number in range(6):
        moved = phi + 0.1 * number
        wanted = meta_step(config)[0](moved, number)
        for ours, theirs in zip(graphed(moved, number), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert Graph.replays == 6
    assert not graphed.eager


@torch.no_grad()
def test_results_outlive_the_next_replay() -> None:
    step, phi = meta_step()
    graphed = GraphedStep(step)
    first = graphed(phi, 0)[1]
    kept = first.clone()
    graphed(2 * phi, 1)
    assert torch.equal(first, kept)


@torch.no_grad()
def test_a_capture_that_fails_leaves_plain_steps_and_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(graph: Graph, **options: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step, phi = meta_step()
    graphed = GraphedStep(step)
    monkeypatch.setattr(torch.cuda, "graph", failing)
    with caplog.at_level(logging.WARNING, "evomal"):
        results = [graphed(phi, number) for number in range(3)]
    assert caplog.messages == [
        "meta-steps go on without a CUDA graph (operation not permitted when stream is capturing)"
    ]
    for number, (value, gradient) in enumerate(results):
        wanted = meta_step()[0](phi, number)
        assert torch.equal(value, wanted[0])
        assert torch.equal(gradient, wanted[1])


@torch.no_grad()
def test_memory_running_out_in_a_capture_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Graph, **options: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step, phi = meta_step()
    monkeypatch.setattr(torch.cuda, "graph", full)
    with pytest.raises(torch.OutOfMemoryError):
        GraphedStep(step)(phi, 0)


@torch.no_grad()
def test_a_network_with_dropout_is_not_captured() -> None:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 1))

    step, phi = meta_step(model=model)
    graphed = GraphedStep(step)
    graphed(phi, 0)
    assert graphed.eager
    assert graphed.graph is None


def test_warm_up_comes_first() -> None:
    step, phi = meta_step()
    calls = []
    compute = step.compute
    step.compute = lambda *arguments: calls.append(0) or compute(*arguments)  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        GraphedStep(step)(phi, 0)
    assert len(calls) == WARM_UP + 1
