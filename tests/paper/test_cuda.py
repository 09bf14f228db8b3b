"""Everything that takes a device runs on a simulated CUDA device, and gives what the CPU gives."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Centred, class_task, regression_task, tiny_config
from simulated_cuda import Graph, simulated_cuda
from torch import nn

import evomal_core as em
from evomal_core import bench, sending
from evomal_core.checkpoints import Checkpoint
from evomal_core.engines import fitness, local_search
from evomal_core.learners import make_learners
from evomal_core.search import METHODS
from evomal_paper.analysis.landscapes import Grid
from evomal_paper.analysis.landscapes import load_or_compute as landscapes
from evomal_paper.analysis.predictions import predictions
from evomal_paper.analysis.transfer import load_or_transfer
from evomal_paper.runs.tables import load_or_run


class Letters(nn.Module):
    """An embedding and an LSTM, the usual way."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(5, 3), nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[1][0][-1])


LETTERS = np.random.default_rng(0).integers(0, 5, (60, 4))
TASKS = {
    "regression": regression_task(),
    "binary": class_task(2),
    "multiclass": class_task(3),
    "letters": em.Task.from_arrays(LETTERS, LETTERS[:, 0] % 3, kind="multiclass", indices=True),
}
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda outputs: em.models.mlp(3, [4], outputs),
    "linear": lambda outputs: nn.Linear(3, outputs),
    "convolutions": lambda outputs: nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.Conv1d(1, 4, 2),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, outputs),
    ),
    "lstm": lambda outputs: Letters(outputs),
    "running mean": lambda outputs: Centred(),
    "dropout": lambda outputs: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, outputs)),
}


SMALL = "smoke@generations=1,meta_steps=1,fitness_steps=2,rejection_steps=2,test_steps=3"
"""A profile as small as can be: each operation of the simulated device takes long."""


@pytest.fixture
def cuda() -> Iterator[None]:
    with simulated_cuda():
        yield


class InThisThread:
    """An executor without threads: the simulation is of one thread."""

    def __init__(self, workers: int) -> None:
        self.map = map

    def __enter__(self) -> InThisThread:
        return self

    def __exit__(self, *_: object) -> None: ...


def on_both(compute: Callable[[str], Any]) -> tuple[Any, Any]:
    with simulated_cuda():
        ours = compute("cuda")
    return ours, compute("cpu")


@pytest.mark.usefixtures("cuda")
def test_the_simulation_keeps_the_rules_of_a_second_device() -> None:
    here, there = torch.arange(6.0), torch.arange(6.0).to("cuda")
    assert there.is_cuda
    assert (there.device.type, here.device.type) == ("cuda", "cpu")
    assert torch.equal((2 * there + torch.tensor(1.0)).cpu(), 2 * here + 1)
    assert torch.equal(there[torch.tensor([1, 2])].cpu(), here[1:3])
    assert torch.tensor([1.0, 2.0], device="cuda").tolist() == [1, 2]
    for mixed in (lambda: there + here, lambda: here[there.long()], lambda: torch.cat([here, there])):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            mixed()
    with pytest.raises(RuntimeError):
        there.numpy()
    moved = there.cpu()
    there.add_(1)
    assert torch.equal(moved, here)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    "forbidden",
    [
        bool,
        float,
        lambda x: x.item(),
        lambda x: x.tolist(),
        torch.Tensor.cpu,
        torch.Tensor.nonzero,
        lambda x: x[x > 0],
    ],
)
def test_the_simulation_refuses_to_wait_within_a_capture(forbidden: Callable[[torch.Tensor], Any]) -> None:
    x = torch.ones(1, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="stream is capturing"):
        forbidden(x)


@pytest.mark.usefixtures("cuda")
def test_a_population_is_evaluated_on_as_many_fewer_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomal_core.training.ROWS_AT_ONCE", 8)
    rows = set()

    class Watching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                rows.add(len(x))
            return super().forward(x * x)

    (made,) = make_learners([regression_task().to("cuda")], lambda: Watching(3, 1), tiny_config(), 0, "test")
    texts = ("square(sub(f, y))", "abs(sub(f, y))", "tanh(mul(f, y))", "mul(f, f)")
    fitness([em.LearnedLoss(text).to("cuda") for text in texts], [made], tiny_config(), "batched")
    assert max(rows) == 8 / len(texts)


@pytest.mark.usefixtures("cuda")
def test_a_network_that_draws_on_the_cpu_is_seen_to_draw() -> None:
    class Drawing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(torch.rand(()))

    (made,) = make_learners([regression_task().to("cuda")], lambda: Drawing(3, 1), tiny_config(), 0, "test")
    assert made.draws


def test_a_network_that_makes_the_host_wait_goes_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    class Waiting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.tensor([1.0, 2.0]).to(x.device).sum()

    with simulated_cuda(), caplog.at_level(logging.WARNING, "evomal"):
        result = em.learn_loss(
            [regression_task()],
            lambda: Waiting(3, 1),
            config=tiny_config(generations=1, population=3),
            device="cuda",
            progress=False,
        )
        assert Graph.captured == 0
    assert result.engine == "batched"
    assert "meta-steps go on without a CUDA graph (called a synchronizing operation" in caplog.messages[0]


def test_within_a_search_convolutions_are_repeatable_and_of_whole_precision() -> None:
    seen = []

    def settings() -> tuple[bool, str]:
        return torch.backends.cudnn.deterministic, torch.backends.cudnn.conv.fp32_precision

    class Watching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(settings())
            return super().forward(x)

    before = settings()
    em.learn_loss([regression_task()], lambda: Watching(3, 1), config=tiny_config(), progress=False)
    assert set(seen) == {(True, "ieee")}
    assert settings() == before


def learned(kind: str, network: str, method: str, device: str, **keywords: Any) -> em.SearchResult:
    outputs = 1 if kind in ("regression", "binary") else 3
    keywords |= {"seed": 0, "compare": False, "progress": False}
    return em.learn_loss([TASKS[kind]], lambda: NETWORKS[network](outputs), method, device=device, **keywords)


def assert_same(ours: em.SearchResult, theirs: em.SearchResult) -> None:
    assert ours.engine == theirs.engine
    for ours_, theirs_ in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert ours_.status == theirs_.status
        numbers = [
            [e.fitness, *(x for w in e.loss.parameters() for x in w.flatten().tolist())] for e in (ours_, theirs_)
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("kind", "network", "method"),
    [
        *(("regression", "mlp", method) for method in METHODS),
        ("multiclass", "linear", "evomal"),
        ("multiclass", "convolutions", "evomal"),
        ("multiclass", "convolutions", "ml3"),
        ("letters", "lstm", "evomal"),
        ("regression", "running mean", "evomal"),
        ("binary", "dropout", "evomal"),
        ("binary", "mlp", "taylorglo"),
    ],
)
@pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN")  # the device is simulated
def test_a_search_is_the_same_on_both_devices(
    kind: str, network: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Adam makes whole steps of gradients that are rounding alone
    config = tiny_config(generations=1, meta_optimizer="sgd")
    with caplog.at_level(logging.WARNING, "evomal"):
        ours, theirs = on_both(lambda device: learned(kind, network, method, device, config=config))
    assert_same(ours, theirs)
    slower = [message for message in caplog.messages if "local search hardly moves" not in message]
    assert not slower, "nothing is slower on CUDA than it must be"


def test_on_cuda_a_population_is_meta_trained_at_once_by_graphs() -> None:
    config = tiny_config(generations=1)
    with simulated_cuda():
        result = learned("regression", "mlp", "evomal", "cuda", config=config)
        assert Graph.captured > 0
        assert Graph.replays >= config.meta_steps
    assert result.engine == "batched"


def test_a_stopped_search_goes_on_on_cuda(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(generations=2, population=4)
    whole = learned("regression", "mlp", "evomal", "cpu", config=config)
    save = Checkpoint.save

    def stopping(self: Checkpoint, state: dict[str, Any]) -> None:
        save(self, state)
        raise SystemExit

    with simulated_cuda():
        monkeypatch.setattr(Checkpoint, "save", stopping)
        with pytest.raises(SystemExit):
            learned("regression", "mlp", "evomal", "cuda", config=config, checkpoint=tmp_path)
        monkeypatch.setattr(Checkpoint, "save", save)
        assert_same(learned("regression", "mlp", "evomal", "cuda", config=config, checkpoint=tmp_path), whole)


def test_an_experiment_is_the_same_on_both_devices(tmp_path: Any) -> None:
    def errors(device: str) -> pd.DataFrame:
        results = load_or_run(
            "diabetes",
            SMALL,
            methods=["baseline", "evomal"],
            device=device,
            results_dir=tmp_path / device,
            progress=False,
        )
        assert set(results.runs["device"]) == {device}
        return results.tests

    ours, theirs = on_both(errors)
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_analyses_are_the_same_on_both_devices(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomal_paper.analysis.landscapes.ThreadPoolExecutor", InThisThread)

    def tables(device: str) -> list[pd.DataFrame]:
        options: dict[str, Any] = {"device": device, "results_dir": tmp_path / device, "progress": False}
        results = load_or_run("digits-logistic", SMALL, methods=["baseline"], **options)
        losses = {"task loss": em.TaskLoss("binary")}
        moved = load_or_transfer("sine-to-diabetes", SMALL, methods=["evomal"], **options)
        return [
            landscapes(results, Grid(points=3), **options),
            predictions("digits", SMALL, 0, losses, device)[1],
            *moved,
        ]

    for ours, theirs in zip(*on_both(tables), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_gpu_local_search_agrees_with_the_cpu() -> None:
    texts = ("square(sub(f, y))", "abs(sub(f, y))", "tanh(mul(f, y))")
    config = em.SearchConfig(base=em.SGD(lr=0.05, momentum=0.9, batch_size=8), meta_steps=5)

    def tuned(device: str) -> list[torch.Tensor]:
        task = regression_task().to(device, torch.float64)
        learners = make_learners([task], lambda: em.models.mlp(3, [5], 1), config, 0, "test")
        losses = [em.LearnedLoss(text).to(device, torch.float64) for text in texts]
        return [t.loss.phi.cpu() for t in local_search(losses, learners, config, "batched")]

    for ours, theirs in zip(tuned("cuda"), tuned("cpu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)


class OneWorkerACard(Executor):
    """Two workers that take turns, each with a memory of its own and one card, which the simulation plays."""

    def __init__(self) -> None:
        self.memories: list[OrderedDict[str, Any]] = [OrderedDict(), OrderedDict()]
        self.calls = 0

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future:
        future: Future = Future()
        self.calls += 1
        ours, bench._BENCHES = bench._BENCHES, self.memories[self.calls // 3 % 2]
        try:
            future.set_result(function(*arguments))
        finally:
            bench._BENCHES = ours
        return future


@pytest.mark.parametrize(("method", "network"), [("evomal", "mlp"), ("taylorglo", "convolutions")])
def test_workers_with_a_card_each_give_the_same_bits(method: str, network: str) -> None:
    pytest.importorskip("cloudpickle")

    def search(device: str, executor: Executor | None = None) -> Any:
        config = tiny_config(generations=2, population=4)
        found = em.learn_loss(
            [TASKS["multiclass"]], lambda: NETWORKS[network](3), method, config=config, device=device,
            executor=executor, progress=False, compare=False,
        )  # fmt: skip
        return [(str(entry), entry.fitness, entry.status) for entry in found.evaluations], list(found.generations)

    with simulated_cuda():
        workers = OneWorkerACard()
        spread = search("cuda", workers)
        assert all(len(memory) == 1 for memory in workers.memories)
        for memory in workers.memories:
            for sent, _ in memory.values():
                assert {array.device.type for array in sent.learners[0].theta.values()} == {"cuda"}
                assert sent.learners[0].device.type == "cuda"
        assert spread == search("cuda")


@pytest.mark.usefixtures("cuda")
def test_what_lies_on_one_of_the_callers_cards_is_put_on_the_workers_first_one() -> None:
    pytest.importorskip("cloudpickle")
    weights = nn.Linear(2, 1).to("cuda")
    content = sending.packed({"layer": weights, "device": torch.device("cuda", 3), "host": torch.ones(2)})
    again = sending.unpacked(content)
    assert again["device"] == torch.device("cuda", 0)
    assert not again["host"].is_cuda
    assert again["layer"].weight.is_cuda
    assert again["layer"].weight.requires_grad
    assert torch.equal(again["layer"].weight.cpu(), weights.weight.cpu())
