"""A search on a Dask cluster of real processes: the same bits, also where workers die, hang or are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from helpers import faulty, regression_task, small_model, tiny_config
from test_search import learn, outcome

import evomal_core as em
from evomal_core import bench, workers
from evomal_core.bench import WorkerError

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own packages


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """Without the compiled kernels, which each new worker would load, and a first one compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOMAL_KERNELS", "0")
        yield


@pytest.fixture(scope="module")
def client(uncompiled):
    # the profiler would look at each worker's stack a hundred times a second while the package is imported
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
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


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_hangs_is_passed_over_to_the_same_bits(client, tmp_path, monkeypatch, caplog):
    def hang():
        (tmp_path / "hangs").touch()
        os.kill(os.getpid(), signal.SIGSTOP)

    def patience(pool, least=None):
        """Short while a worker hangs, before all are asked, and long otherwise: the other one may be slow."""
        return 3.0 if (tmp_path / "hangs").exists() and (least or not pool.hangs) else 60.0

    monkeypatch.setattr(workers.Pool, "patience", patience)
    before = client.run(os.getpid)
    (tmp_path / "calls").mkdir()
    metric = faulty(hang, tmp_path / "calls", first=4)
    try:
        found = search(metric, client.get_executor())
    finally:
        for process in before.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
    assert "what they were asked for is given to others" in caplog.text
    assert outcome(found) == outcome(search(metric))


def test_a_worker_killed_in_mid_generation_is_replaced_to_the_same_bits(client, tmp_path):
    metric = faulty(kill, tmp_path, first=4)
    found = search(metric, client.get_executor())
    assert (tmp_path / "call-5").exists()
    assert outcome(found) == outcome(search(metric))


def test_a_candidate_that_kills_each_worker_ends_in_one_line_and_a_checkpoint_that_goes_on(
    client, tmp_path, monkeypatch
):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    (tmp_path / "calls").mkdir()
    metric = faulty(kill, tmp_path / "calls", first=4, last=10_000)
    with pytest.raises(WorkerError, match=r"workers are gone \(KilledWorker: .*; call again") as caught:
        search(metric, client.get_executor(), checkpoint=tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert outcome(search(metric, checkpoint=tmp_path)) == outcome(search(metric))


def test_a_worker_of_another_version_is_named(client, monkeypatch):
    monkeypatch.setattr(workers, "versions", lambda: bench.versions() | {"evomal": "9.9"})
    with pytest.raises(WorkerError, match=r"has evomal .*, the caller 9\.9; install the same"):
        learn(executor=client.get_executor())


SERVE = """
from distributed import LocalCluster
cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=':0')
print(cluster.scheduler_address, flush=True)
input()
"""


def test_a_scheduler_that_is_gone_ends_in_one_line_and_a_checkpoint_that_goes_on(tmp_path):
    (tmp_path / "calls").mkdir()
    # a lambda, as that process does not find this module
    metric = faulty(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "calls", first=4)
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        client = distributed.Client(process.stdout.readline().strip(), timeout=60)
        client._timeout = 2  # in which the scheduler may come back
        try:
            with pytest.raises(WorkerError, match=r"workers are gone .*checkpoint\.json; call again") as caught:
                search(metric, client.get_executor(), checkpoint=tmp_path)
        finally:
            process.kill()
            client.close()
    assert len(str(caught.value).splitlines()) == 1
    assert outcome(search(metric, checkpoint=tmp_path)) == outcome(search(metric))
