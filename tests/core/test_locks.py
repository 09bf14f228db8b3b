"""One process at a time holds a lock; a killed one holds none."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import regression_task, tiny_config

import evomal_core as em
from evomal_core import locks
from evomal_core.locks import locked

HOLDER = f"""
import sys, time, types
from pathlib import Path
package = sys.modules["evomal_core"] = types.ModuleType("evomal_core")  # without what else it imports: seconds
package.__path__ = [{str(Path(locks.__file__).parent)!r}]
from evomal_core.locks import locked
with locked(Path(sys.argv[1]), "the pack"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)


def holder(path: Path) -> subprocess.Popen:
    """Another process that holds the lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_names_its_owner_and_kill_nine_frees_it(tmp_path, caplog, monkeypatch):
    path = tmp_path / "folder" / "pack.lock"
    other = holder(path)
    with locked(path, "the pack", wait=False) as owner:
        assert owner == f"process {other.pid} on {platform.node()}"
    assert not caplog.records
    acquire = locks._acquire

    def killed_while_this_waits(lock, path):
        threading.Timer(0.1, other.kill).start()
        acquire(lock, path)

    monkeypatch.setattr(locks, "_acquire", killed_while_this_waits)
    with locked(path, "the pack") as owner:
        assert owner == ""
        assert other.wait() == -9
        assert path.read_text() == f"process {os.getpid()} on {platform.node()}\n"
    (line,) = caplog.messages
    assert line == f"the pack is in use by process {other.pid} on {platform.node()}; waiting until that ends"
    assert not path.exists()


def test_two_threads_never_hold_a_lock_at_once_though_its_file_and_folder_are_removed(tmp_path):
    path, inside, most = tmp_path / "folder" / "run.lock", [], []

    def work():
        for _ in range(5):
            with locked(path, "the run"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert not path.exists()


def test_a_failure_within_frees_the_lock(tmp_path):
    path = tmp_path / "run.lock"
    with pytest.raises(RuntimeError, match="within"), locked(path, "the run"):
        raise RuntimeError("within")
    with locked(path, "the run", wait=False) as owner:
        assert owner == ""


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(NotADirectoryError, match="file is a file, not a folder"),
        locked(tmp_path / "file/x", "it"),
    ):
        pass


def test_a_search_waits_for_another_one_with_the_same_checkpoint(tmp_path, caplog):
    path, begun = tmp_path / "mine" / "checkpoint.lock", threading.Event()

    def another():
        with locked(path, "checkpoint"):
            begun.set()
            end = time.monotonic() + 600
            while not caplog.messages and time.monotonic() < end:
                time.sleep(0.01)

    thread = threading.Thread(target=another)
    thread.start()
    assert begun.wait(600)
    options = {"config": tiny_config(), "checkpoint": tmp_path / "mine", "progress": False}
    em.learn_loss([regression_task()], lambda: em.models.mlp(3, [4], 1), "baseline", **options)
    thread.join()
    assert caplog.messages[0].startswith(f"checkpoint {tmp_path}/mine is in use by process {os.getpid()} on ")
    assert not path.exists()
