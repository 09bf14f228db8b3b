"""Candidates evaluated by an executor's workers: the same bits, data sent once, and workers that fail."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import class_task, faulty, regression_task, small_model, tiny_config
from test_search import learn, outcome
from torch import nn

import evomal_core as em
from evomal_core import bench, sending, workers
from evomal_core.bench import WorkerError
from evomal_core.files import read_json
from evomal_core.workers import _split

pytest.importorskip("cloudpickle")
METHODS = ["evomal", "gp-lfl", "taylorglo", "glo"]


class Backwards(Executor):
    """Stands for workers that finish in another order than they began, each with a memory of its own.

    Attributes:
        sent: the bytes of each call, in order.
        calls: the phase of each call.
    """

    lock = threading.Lock()
    """Of all of them: a call of an executor given up may still come while the next one is used."""

    def __init__(self, count: int, fault=None) -> None:
        self.memories = [{} for _ in range(count)]
        self.sent, self.calls, self.fault = [], [], fault
        self.waiting: list[tuple[Future, tuple]] = []

    def memory(self, number, content):
        return self.memories[number % len(self.memories)]

    def submit(self, function, /, *arguments):
        future: Future = Future()
        with self.lock:
            self.waiting.append((future, (function, arguments)))
        threading.Timer(0.02, self._finish).start()
        return future

    def _finish(self):
        with self.lock:
            if not self.waiting:
                return
            future, (function, arguments) = self.waiting.pop()  # the last one first
            number = len(self.calls)
            self.calls.append(arguments[3])
            self.sent.append(sum(len(a) for a in arguments if isinstance(a, bytes)))
            memory = self.memory(number, arguments[2])
            if not future.set_running_or_notify_cancel():
                return
            before, bench._BENCHES = bench._BENCHES, bench._BENCHES.__class__(memory)
            try:
                if self.fault:
                    self.fault(number)
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
            finally:
                memory.update(bench._BENCHES)
                bench._BENCHES = before


class Fitting(Backwards):
    """Gives data to a worker that lacks them."""

    def memory(self, number, content):
        lacking = [memory for memory in self.memories if content and not memory]
        return lacking[0] if lacking else super().memory(number, content)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_order_and_number_of_workers_change_no_bit(method, count):
    config = tiny_config(generations=2, glo_trees=2, glo_generations=2)
    whole = learn(method, config=config)
    executor = Backwards(count)
    assert outcome(learn(method, config=config, executor=executor)) == outcome(whole)
    assert {"fitness"} <= set(executor.calls)


def convolutional():
    layers = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("model", "steps", "engine"),
    [(convolutional, 1, "auto"), (None, 2, "auto"), (None, 1, "jvp"), (None, 1, "auto")],
)
def test_engines_that_compute_candidates_together_are_spread_to_the_same_bits(model, steps, engine):
    task = class_task(3, features=16)
    config = tiny_config(population=13, generations=2, unroll_steps=steps, engine=engine)

    def search(executor=None):
        network = model or small_model(16, 3)
        return em.learn_loss([task], network, config=config, executor=executor, progress=False, compare=False)

    assert outcome(search(Backwards(3))) == outcome(search())


@pytest.mark.parametrize("candidates", range(14))
@pytest.mark.parametrize("size", [None, 1, 5])
def test_units_hold_each_candidate_once_and_no_odd_one_is_left_alone(candidates, size):
    units = _split(candidates, size)
    assert [place for unit in units for place in unit] == list(range(candidates))
    if size == 5 and candidates > 1:
        assert all(2 <= len(unit) <= 5 for unit in units)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_data_are_sent_once_to_each_worker_and_not_with_each_candidate(count):
    executor = Fitting(count)
    rows = em.Task.from_arrays(torch.randn(4000, 3), torch.randn(4000), kind="regression")
    config = tiny_config(population=10, generations=3, engine="jvp")
    em.learn_loss([rows], small_model(), config=config, executor=executor, progress=False, compare=False)
    large = [size for size in executor.sent if size > 20_000]
    assert len(large) == count
    small = [size for size in executor.sent if size <= 20_000]
    assert max(small) < 10_000
    assert len(executor.sent) > 30


def test_threads_give_the_same_bits():
    config = tiny_config(generations=2)
    with ThreadPoolExecutor(2) as executor:
        assert outcome(learn(config=config, executor=executor)) == outcome(learn(config=config))


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("method", METHODS)
def test_processes_give_the_same_bits(method, processes):
    config = tiny_config(generations=2, glo_trees=1, glo_generations=2)
    assert outcome(learn(method, config=config, executor=processes)) == outcome(learn(method, config=config))


def test_networks_and_metrics_defined_on_the_spot_are_sent_too(processes):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 1)

        def forward(self, x):
            return torch.tanh(self.out(x))

    def search(executor=None):
        return em.learn_loss(
            [regression_task()], Own, config=tiny_config(generations=1), executor=executor, progress=False,
            compare=False, metric=lambda y_pred, y_true: float(np.median(abs(y_pred - y_true))),
        )  # fmt: skip

    assert outcome(search(processes)) == outcome(search())


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("call", [1, 9])
def test_a_process_killed_at_any_moment_ends_in_one_line_and_a_checkpoint_that_goes_on(call, tmp_path):
    (tmp_path / "calls").mkdir()
    options = {"metric": faulty(kill, tmp_path / "calls", first=call), "compare": False}
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor,
        pytest.raises(WorkerError, match=r"workers are gone .*checkpoint\.json; call again") as caught,
    ):
        learn("gp-lfl", executor=executor, checkpoint=tmp_path, **options)
    assert len(str(caught.value).splitlines()) == 1
    done = read_json(tmp_path / "checkpoint.json")["state"]["unfinished"]
    assert call > 1 or not any(done.values())  # what a broken pool still hands over is a matter of timing
    assert outcome(learn("gp-lfl", checkpoint=tmp_path, **options)) == outcome(learn("gp-lfl", **options))


@pytest.mark.parametrize("at", [1, 8, 15])
def test_whenever_workers_are_lost_no_candidate_is_lost_or_counted_twice(at, tmp_path):
    config = tiny_config(generations=2, engine="jvp")
    whole = learn(config=config)

    def fault(number):
        if number == at:
            raise WorkerError("lost")

    with pytest.raises(WorkerError, match="lost; what was done is in"):
        learn(config=config, executor=Backwards(2, fault), checkpoint=tmp_path)
    assert outcome(learn(config=config, executor=Backwards(2), checkpoint=tmp_path)) == outcome(whole)


class Silent(Executor):
    """Stands for workers of which some never answer."""

    def __init__(self, silent) -> None:
        self.silent, self.count = silent, 0

    def submit(self, function, /, *arguments):
        future: Future = Future()
        self.count += 1
        if not self.silent(self.count):
            future.set_result(function(*arguments))
        return future


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workers, "SILENCE", 1.0)
    monkeypatch.setattr(workers, "NEXT_SILENCE", 1.0)
    monkeypatch.setattr(workers, "FIRST_SILENCE", 1.0)


def test_workers_that_never_answer_are_given_up(impatient):
    with pytest.raises(WorkerError, match=r"no worker has answered for \d+ s"):
        learn(executor=Silent(lambda call: True))


@pytest.mark.parametrize("last", [1, 4, 11])
def test_what_one_silent_worker_was_asked_for_is_given_to_others(last, impatient, caplog):
    config = tiny_config(generations=1, engine="jvp")
    executor = Silent(lambda call: call == last)
    assert outcome(learn(config=config, executor=executor)) == outcome(learn(config=config))
    assert "is given to others" in caplog.text


def test_workers_without_the_package_are_told_what_to_install():
    def fault(number):
        raise ModuleNotFoundError("No module named 'evomal_core'")

    with pytest.raises(WorkerError, match=r"can't load this package .*'evomal_core'\); install there"):
        learn(executor=Backwards(1, fault))


class RemoteError(Exception):
    """Stands for ipyparallel's account of an engine's error."""

    def __init__(self, ename, evalue):
        super().__init__(f"[Engine Exception] {ename}: {evalue}")
        self.ename, self.evalue = ename, evalue


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RemoteError("EngineError", "Engine b'42' died while running task"),
            r"workers are gone .*Engine b'42' died",
        ),
        (RemoteError("ModuleNotFoundError", "No module named 'evomal_core'"), r"can't load this package .*_core"),
        (
            RemoteError("WorkerError", "the worker on x has torch 1.0"),
            r"^the worker on x has torch 1\.0; call again",
        ),
    ],
)
def test_an_engine_of_ipyparallel_that_fails_is_one_line(error, message):
    def fault(number):
        raise error

    with pytest.raises(WorkerError, match=message):
        learn(executor=Backwards(1, fault))


def test_a_worker_of_another_version_is_named(monkeypatch):
    monkeypatch.setattr(workers, "versions", lambda: bench.versions() | {"torch": "1.0"})
    with pytest.raises(WorkerError, match=r"has torch .*, the caller 1\.0; install the same"):
        learn(executor=Backwards(1))


def test_what_can_not_be_sent_is_named():
    class Locked(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.lock = threading.Lock()

        def __deepcopy__(self, memo):
            return Locked()

    with pytest.raises(ValueError, match=r"the model can't be sent to workers .*let it hold no locks"):
        em.learn_loss([regression_task()], Locked, config=tiny_config(), executor=Backwards(1), progress=False)
    numbers = (number for number in (1, 2))  # no generator can be pickled

    def metric(y_pred, y_true, numbers=numbers):
        return float(np.mean((y_pred - y_true) ** 2))

    def task_loss(y_pred, y_true, numbers=numbers):
        return ((y_pred - y_true) ** 2).mean()

    for own in (metric, task_loss):
        name = own.__name__.replace("_", " ")
        with pytest.raises(
            ValueError, match=rf"the {name} can't be sent to workers \(TypeError: cannot pickle 'gen"
        ):
            learn(executor=Backwards(1), **{own.__name__: own})
    task = dataclasses.replace(regression_task(), augment=lambda x, numbers=numbers: x)
    with pytest.raises(ValueError, match=r"the task can't be sent to workers"):
        em.learn_loss([task], small_model(), config=tiny_config(), executor=Backwards(1), progress=False)


def test_something_else_than_an_executor_is_refused():
    with pytest.raises(ValueError, match=r"executor is a concurrent\.futures\.Executor, got a int; of a Dask"):
        learn(executor=4)


class Late(Executor):
    """Stands for threads that begin a call when nobody waits for it any more."""

    def __init__(self) -> None:
        self.late = []

    def submit(self, function, /, *arguments):
        future: Future = Future()
        future.set_running_or_notify_cancel()  # it can't be cancelled any more
        self.late.append(lambda: function(*arguments))
        return future


def test_a_thread_computes_nothing_that_nobody_waits_for(impatient, monkeypatch):
    executor = Late()
    with pytest.raises(WorkerError, match="no worker has answered"):
        learn(executor=executor)
    monkeypatch.setattr(bench, "unpacked", pytest.fail)
    assert len(executor.late) > 4
    assert {call().found for call in executor.late} == {None}


@pytest.mark.parametrize("silent", [1, 2])
def test_a_worker_that_is_silent_with_one_call_is_passed_over(silent, impatient, caplog):
    assert workers.called(Silent(lambda call: call <= silent), max, 3, 4) == 4
    assert caplog.text.count("another one is asked, too") == silent


def test_two_checkouts_of_one_version_are_told_apart(monkeypatch):
    ours = bench.versions()["evomal"]
    assert ours.startswith(em.__version__)
    monkeypatch.setattr(bench, "_source", lambda: "another")
    assert bench.versions()["evomal"] != ours
    with pytest.raises(WorkerError, match=r"has evomal .*\(source another\), the caller .*; install the same"):
        bench.work({**bench.versions(), "evomal": ours}, "arguments of", "another version")


def test_a_view_is_sent_without_what_it_is_a_view_of():
    whole = torch.randn(100_000, 3)
    content = sending.packed({"view": whole[:7], "bias": nn.Parameter(torch.ones(2))})
    assert len(content) < 4000
    again = sending.unpacked(content)
    assert torch.equal(again["view"], whole[:7])
    assert isinstance(again["bias"], nn.Parameter)
