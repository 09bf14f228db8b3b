"""Two processes on the same results folder: no run is computed twice, and none is lost, whoever is killed when."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import made

from evomal_core import locks
from evomal_core.locks import locked
from evomal_paper.cli import main
from evomal_paper.runs import compute as computing
from evomal_paper.runs.compute import computed
from evomal_paper.runs.packed import write_work
from evomal_paper.runs.packing import fold_all, lock_of
from evomal_paper.runs.run import Run

SEEDS = range(8)


def finished_in(folder: Path, seeds=SEEDS, method: str = "evomal") -> list[Run]:
    """Finished runs in their working folders, not packed yet."""
    elsewhere = [made(Run("sine", "smoke", method, seed, folder / "made")) for seed in seeds]
    runs = [replace(run, results_dir=folder / "results") for run in elsewhere]
    for theirs, run in zip(elsewhere, runs, strict=True):
        write_work(run.work, theirs.finished())
    return runs


def fold_everything(folder: str) -> None:
    """In a process of its own."""
    for _ in fold_all(Path(folder)):
        pass


def test_two_packing_at_once_and_killed_lose_nothing(tmp_path):
    runs, folder = finished_in(tmp_path), tmp_path / "results"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "made_runs", "evomal_paper.cli", "evomal_paper.runs.compute"])
    rng = random.Random(f"kill {os.getpid()}")
    for killed in (True, True, False):
        pair = [context.Process(target=fold_everything, args=(str(folder),)) for _ in range(2)]
        for process in pair:
            process.start()
        before = len(runs[0].pack.records())
        while killed and len(runs[0].pack.records()) == before and any(process.is_alive() for process in pair):
            time.sleep(0.001)
        for process in pair:
            if killed:
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
            process.join()
        there = set(runs[0].pack.records())
        # Each run is in its pack, whole, or still in its folder.
        assert all(run.key in there or (run.work / "run.json").exists() for run in runs)
        assert all(runs[0].pack.finished(key).damaged() is None for key in there)
    assert [process.exitcode for process in pair] == [0, 0]
    assert all(run.is_complete and not run.work.exists() for run in runs)
    packed = (tmp_path / "made/sine/smoke", folder / "sine/smoke")
    first, second = ({path.name: path.read_bytes() for path in place.iterdir()} for place in packed)
    assert first == second


def test_a_run_that_another_process_computes_is_left_for_last_and_never_computed_twice(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    busy, free = runs = [Run("sine", "smoke", "baseline", seed, tmp_path) for seed in (0, 1)]
    started, done = threading.Event(), threading.Event()

    def another():
        with locked(lock_of(busy), "run"):
            started.set()
            assert done.wait(600)
            made(busy)

    thread = threading.Thread(target=another)
    thread.start()
    assert started.wait(600)
    monkeypatch.setattr(computing, "_search_and_test", lambda run, *_: made_elsewhere(run, tmp_path))
    found = computed(runs, progress=False)
    assert next(found) == free
    done.set()
    assert next(found) == busy
    thread.join()
    assert caplog.messages[0].startswith("run sine/smoke/baseline/seed-0 is in use by process ")
    assert caplog.messages[0].endswith("; it is left for last")
    assert busy.record()["finished"].startswith("2026-01-01")


def made_elsewhere(run: Run, folder: Path):
    assert run.seed == 1
    return made(replace(run, results_dir=folder / "made")).finished()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "--results-dir", "absent"], "no results folder at absent"),
        (["report", "--results-dir", "empty"], "empty holds no runs"),
        (["pack", "--results-dir", "absent"], "no results folder at absent"),
        (["pack", "--results-dir", "empty"], "empty holds no runs"),
        (["pack", "empty"], "empty holds no runs"),
    ],
)
def test_a_folder_without_runs_is_named(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_pack_says_how_each_run_stands(tmp_path, capsys):
    (done,) = finished_in(tmp_path, [0])
    stopped, running = (replace(done, seed=seed) for seed in (1, 2))
    for run in (stopped, running):
        run.work.mkdir(parents=True)
        (run.work / "run.json").write_text(json.dumps({"status": "running", "configuration": run.configuration()}))
    with locked(lock_of(running), "run"):
        assert main(["pack", "--results-dir", str(done.results_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sine/smoke/evomal/seed-0: folded in",
        f"sine/smoke/evomal/seed-1: stopped; `{stopped.command}` goes on with it",
        f"sine/smoke/evomal/seed-2: under way, process {os.getpid()} on {os.uname().nodename}",
    ]
    assert done.is_complete
    assert not done.work.exists()


def test_runs_of_another_results_folder_are_copied_and_differing_ones_are_not(tmp_path, capsys):
    theirs = [made(Run("sine", "smoke", "evomal", seed, tmp_path / "theirs")) for seed in (0, 1, 2)]
    ours = [replace(run, results_dir=tmp_path / "ours") for run in theirs]
    made(ours[0])
    made(ours[1], error=5.0)
    assert main(["pack", str(tmp_path / "theirs"), "--results-dir", str(tmp_path / "ours")]) == 0
    states = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    place = tmp_path / "ours/sine/smoke"
    assert states == ["there already", f"not copied: {place} holds the same run with other numbers", "copied"]
    assert ours[2].finished().tables == theirs[2].finished().tables
    assert main(["pack", "absent", "--results-dir", str(tmp_path / "ours")]) == 2
    assert "no results folder at absent" in capsys.readouterr().err


def test_a_name_of_another_form_is_refused(tmp_path):
    for name in (
        "sine/smoke/evomal",
        "sine/smoke/evomal/0",
        "sine/smoke/evomal/seed-x",
        "sine/smoke/evomal/seed-01x",
    ):
        with pytest.raises(ValueError, match="a run is named as in sine/quick/evomal/seed-0"):
            Run.named(name, tmp_path)
