"""`evomal run --cluster`: runs and candidates on a Dask cluster, to the same bits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evomal_core.checkpoints import Checkpoint
from evomal_paper.cli import main
from evomal_paper.runs import cluster
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import load_or_run

pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own packages
METHODS = ["baseline", "evomal"]


def test_runs_on_a_cluster_are_the_same_bit_by_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVOMAL_KERNELS", "0")  # else each worker loads the compiled kernels
    chosen = ["run", "sine", "--profile", "smoke", "--method", ",".join(METHODS), "--quiet"]
    assert main([*chosen, "--cluster", "local:1", "--jobs", "2", "--results-dir", str(tmp_path / "cluster")]) == 0
    assert "baseline" in capsys.readouterr().out
    load_or_run("sine", "smoke", methods=METHODS, results_dir=tmp_path / "alone", progress=False)
    for method in METHODS:
        ours, alone = (
            Run("sine", "smoke", method, 0, tmp_path / name).finished() for name in ("cluster", "alone")
        )
        assert (ours.tables, ours.loss) == (alone.tables, alone.loss)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local:0", "such as tcp://host:8786, or local:N for N workers here, got 'local:0'"),
        ("node7", "got 'node7'"),
        ("tcp://node7", "got 'tcp://node7'"),
        ("local:two", "got 'local:two'"),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "CONNECT", 1)
    chosen = ["run", "sine", "--profile", "smoke", "--method", "baseline", "--quiet", "--results-dir"]
    assert main([*chosen, str(tmp_path), "--cluster", name]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("evomal")]) == 1


@pytest.mark.parametrize(
    "name",
    ["", "local:12", "node7:8786", "tcp://[::1]:8786", "tls://a.b.c:1", "ws://a:80/x", "inproc://10.0.0.1/9/1"],
)
def test_addresses_of_all_protocols_are_taken(name):
    assert cluster.check_cluster(name) == name


SERVE = """
from distributed import LocalCluster
cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=":0")
print(cluster.scheduler_address, flush=True)
input()
"""


def test_a_scheduler_that_dies_is_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    chosen = ["run", "sine", "--profile", "smoke", "--method", "gp-lfl", "--quiet", "--results-dir"]
    save = Checkpoint.save
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        address = process.stdout.readline().strip()

        def killing(checkpoint, state):
            save(checkpoint, state)
            process.kill()

        monkeypatch.setattr(Checkpoint, "save", killing)
        assert main([*chosen, str(tmp_path / "cluster"), "--cluster", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evomal: error: the executor's workers are gone")
    assert "checkpoint.json; call again" in line
    monkeypatch.setattr(Checkpoint, "save", save)
    for name in ("cluster", "alone"):
        assert main([*chosen, str(tmp_path / name)]) == 0
    ours, alone = (Run("sine", "smoke", "gp-lfl", 0, tmp_path / name).finished() for name in ("cluster", "alone"))
    assert (ours.tables, ours.loss) == (alone.tables, alone.loss)
