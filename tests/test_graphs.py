"""The captured meta-step, with a stand-in for `torch.cuda` that records operations on a CPU and repeats them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import regression_task
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import evomal_core as em
from evomal_core.batched.engine import MetaStep
from evomal_core.batched.graphs import WARM_UP, GraphedStep
from evomal_core.batched.stacks import make_stacks
from evomal_core.learners import make_learners
from evomal_core.program import Program
from evomal_core.unroll import local_search

BASE = em.SGD(lr=0.05, momentum=0.9, nesterov=True, batch_size=8)
CONFIG = em.SearchConfig(base=BASE, task_loss_on="validation")
LOSSES = [em.LearnedLoss(text) for text in ("square(sub(f, y))", "abs(sub(f, y))", "tanh(mul(f, y))")]


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class Recorded(TorchDispatchMode):
    """A graph: every operation with its arguments and results, which `replay` writes anew where they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read during the capture"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self.operations:
            storages = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
            again = func(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old.untyped_storage().data_ptr() not in storages:  # neither a view nor in place
                    old.copy_(new)


@contextmanager
def capture(graph: Recorded) -> Iterator[None]:
    with graph:
        yield


def stand_in(capturing: Any = capture) -> Any:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    return SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda chosen: nullcontext(),
        CUDAGraph=Recorded,
        graph=capturing,
    )


def meta_step(config: em.SearchConfig = CONFIG, model: Any = None) -> tuple[MetaStep, torch.Tensor]:
    tasks = [regression_task(seed=seed).to(dtype=torch.float64) for seed in range(2)]
    learners = make_learners(tasks, model or (lambda: em.models.mlp(3, [5], 1)), config, 0, "test")
    program = Program([loss.expression for loss in LOSSES])
    step = MetaStep(make_stacks(learners)[0], program, config)
    return step, program.pad([loss.phi.double() for loss in LOSSES])


@pytest.mark.parametrize("batch_size", [8, 100])
@torch.no_grad()
def test_replays_equal_steps_without_a_graph(batch_size: int) -> None:
    config = CONFIG.replace(base=BASE.replace(batch_size=batch_size))
    step, phi = meta_step(config)
    graphed = GraphedStep(step, stand_in())
    for number in range(6):
        moved = phi + 0.1 * number
        wanted = meta_step(config)[0](moved, number)
        for ours, theirs in zip(graphed(moved, number), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert graphed.graph.replays == 6
    assert not graphed.eager


@torch.no_grad()
def test_results_outlive_the_next_replay() -> None:
    step, phi = meta_step()
    graphed = GraphedStep(step, stand_in())
    first = graphed(phi, 0)[1]
    kept = first.clone()
    graphed(2 * phi, 1)
    assert torch.equal(first, kept)


@torch.no_grad()
def test_a_capture_that_fails_leaves_plain_steps_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def failing(graph: Recorded) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step, phi = meta_step()
    graphed = GraphedStep(step, stand_in(failing))
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
def test_memory_running_out_in_a_capture_is_passed_on() -> None:
    def full(graph: Recorded) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step, phi = meta_step()
    with pytest.raises(torch.OutOfMemoryError):
        GraphedStep(step, stand_in(full))(phi, 0)


@torch.no_grad()
def test_a_network_with_dropout_is_not_captured() -> None:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 1))

    step, phi = meta_step(model=model)
    graphed = GraphedStep(step, stand_in())
    graphed(phi, 0)
    assert graphed.eager
    assert graphed.graph is None


def test_warm_up_comes_first() -> None:
    step, phi = meta_step()
    calls = []
    compute = step.compute
    step.compute = lambda *arguments: calls.append(0) or compute(*arguments)  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        GraphedStep(step, stand_in())(phi, 0)
    assert len(calls) == WARM_UP + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_local_search_agrees_with_the_cpu() -> None:
    config = CONFIG.replace(meta_steps=5)

    def tuned(device: str) -> list[torch.Tensor]:
        task = regression_task().to(device, torch.float64)
        learners = make_learners([task], lambda: em.models.mlp(3, [5], 1), config, 0, "test")
        losses = [em.LearnedLoss(loss.expression, phi=loss.phi.double()).to(device) for loss in LOSSES]
        return [t.loss.phi.cpu() for t in local_search(losses, learners, config, "batched")]

    for ours, theirs in zip(tuned("cuda"), tuned("cpu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
