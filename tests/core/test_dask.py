"""A search on a Dask cluster of real processes: the same bits, also where workers die, hang or are gone."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import regression_task, small_model, tiny_config
from test_search import learn, outcome

import evomal_core as em
from evomal_core import bench, workers
from evomal_core.bench import WorkerError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own packages


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """Without the compiled kernels, which each new worker would load, and a first one compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOMAL_KERNELS", "0")
        yield


@pytest.fixture(autouse=True)
def bounded():
    """No test here may wait for ever on a process that it has killed."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def client(uncompiled):
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("method", ["evomal", "taylorglo"])
def test_a_dask_cluster_gives_the_same_bits(client, method):
    config = tiny_config(generations=2, meta_steps=1)
    assert outcome(learn(method, config=config, executor=client.get_executor())) == outcome(
        learn(method, config=config)
    )


def search(metric, executor=None, **keywords):
    """A search without local search, whose losses are measured by a metric of this module's making."""
    return em.learn_loss(
        [regression_task()], small_model(), "gp-lfl", config=tiny_config(generations=2), metric=metric,
        executor=executor, progress=False, compare=False, **keywords,
    )  # fmt: skip


def faulty(fault, times, folder):
    """A metric that has a fault in other processes than this one, so many times in all."""
    caller = os.getpid()

    def absolute(y_pred, y_true):
        if os.getpid() != caller and claims_one():
            fault()
        return float(np.abs(y_pred - y_true).mean())

    def claims_one():
        for number in range(times):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(folder / f"fault-{number}", os.O_CREAT | os.O_EXCL))
                return True
        return False

    return absolute


def test_a_worker_that_hangs_is_passed_over_to_the_same_bits(client, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SILENCE", 5.0)
    monkeypatch.setattr(workers, "FIRST_SILENCE", 5.0)
    before = client.run(os.getpid)
    metric = faulty(lambda: os.kill(os.getpid(), signal.SIGSTOP), 1, tmp_path)
    try:
        found = search(metric, client.get_executor())
    finally:
        for process in before.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    assert outcome(found) == outcome(search(metric))


def test_a_killed_worker_is_replaced_to_the_same_bits(client, tmp_path):
    metric = faulty(lambda: os.kill(os.getpid(), signal.SIGKILL), 1, tmp_path)
    found = search(metric, client.get_executor())
    assert len(list(tmp_path.iterdir())) == 1
    assert outcome(found) == outcome(search(metric))


def test_a_candidate_that_kills_each_worker_ends_the_search_in_one_line(client, tmp_path, monkeypatch):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    metric = faulty(lambda: os.kill(os.getpid(), signal.SIGKILL), 100, tmp_path)
    with pytest.raises(WorkerError, match=r"workers are gone \(KilledWorker: .*; call again") as caught:
        search(metric, client.get_executor())
    assert len(str(caught.value).splitlines()) == 1


def test_a_worker_of_another_version_is_named(client, monkeypatch):
    monkeypatch.setattr(workers, "versions", lambda: bench.versions() | {"evomal": "9.9"})
    with pytest.raises(WorkerError, match=r"has evomal .*, the caller 9\.9; install the same"):
        learn(executor=client.get_executor())


SERVE = """
from distributed import LocalCluster
cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None)
print(cluster.scheduler_address, flush=True)
input()
"""


def test_a_scheduler_that_is_gone_ends_in_one_line_and_a_checkpoint_that_goes_on(tmp_path):
    (tmp_path / "faults").mkdir()
    metric = faulty(lambda: os.kill(os.getpid(), signal.SIGKILL), 1, tmp_path / "faults")
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        client = distributed.Client(process.stdout.readline().strip(), timeout=2)
        try:
            with pytest.raises(WorkerError, match=r"workers are gone .*checkpoint\.json; call again") as caught:
                search(metric, client.get_executor(), checkpoint=tmp_path)
        finally:
            process.kill()
            client.close()
    assert len(str(caught.value).splitlines()) == 1
    assert outcome(search(metric, checkpoint=tmp_path)) == outcome(search(metric))
