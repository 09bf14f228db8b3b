"""Run folders: whole or resumable whatever happens, and the tables that are read from them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import global_generators_untouched
from made_runs import made

import evomal_core as em
from evomal_core.checkpoints import Checkpoint
from evomal_core.files import decode, encode, read_json, write_atomic, write_json
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.runs.compute import computed
from evomal_paper.runs.packed import Finished
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import Results, load, load_or_run


def contents(run: Run) -> dict[str, Any]:
    """What a run's configuration and seed decide; its record also holds times and the machine."""
    finished = run.pack.finished(run.key)
    return {**finished.tables, "loss": finished.loss}


def table_of(run: Run, name: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(run.finished().tables[name]))


def compute(*runs: Run, **keywords) -> None:
    list(computed(runs, **{"progress": False} | keywords))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every method's smoke run of sine, computed without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    runs = {method: Run("sine", "smoke", method, 0, folder) for method in em.METHODS}
    with global_generators_untouched():
        compute(*runs.values())
    return runs


def test_complete_runs_are_in_their_pack_and_leave_no_working_files(whole):
    place = whole["evomal"].results_dir
    packed = ["front.csv.gz", "history.csv.gz", "losses.jsonl", "losses.npz", "runs.jsonl", "test.csv.gz"]
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()) == [
        f"sine/smoke/{name}" for name in packed
    ]
    for run in whole.values():
        record = run.record()
        assert {
            "configuration",
            "fitness",
            "loss",
            "parameters",
            "seconds",
            "hardware",
            "versions",
        } <= record.keys()
        assert {"python", "torch", "numpy", "deap", "evomal"} <= record["versions"].keys()
        assert run.is_complete


def test_places_are_named_as_documented(tmp_path):
    run = Run("sine", "smoke", "gp-lfl", 7, tmp_path)
    assert run.pack.folder == tmp_path / "sine" / "smoke"
    assert run.work == tmp_path / ".work" / "sine" / "smoke" / "gp-lfl" / "seed-7"
    assert Run.named(str(run), tmp_path) == run
    assert run.record() is None
    assert not run.is_complete


def test_the_same_run_again_is_the_same_bit_by_bit_whatever_ran_before(whole, tmp_path):
    for method in reversed(list(em.METHODS)):
        torch.manual_seed(hash(method) % 1000)
        run = Run("sine", "smoke", method, 0, tmp_path)
        compute(run)
        assert contents(run) == contents(whole[method]), method


def test_results_do_not_depend_on_the_number_of_jobs(whole, tmp_path):
    runs = [Run("sine", "smoke", method, 0, tmp_path) for method in em.METHODS]
    compute(*runs, jobs=2)
    for run in runs:
        assert contents(run) == contents(whole[run.method]), run.method


def test_a_complete_run_is_left_alone(whole):
    run = whole["evomal"]
    stamp = run.pack.index.stat().st_mtime_ns
    compute(run)
    assert run.pack.index.stat().st_mtime_ns == stamp


def test_all_methods_meet_the_same_initial_networks_at_a_seed(whole):
    """Errors before the first step are equal, but for how they are summed: same weights, same data."""
    starts = {}
    for method, run in whole.items():
        table = table_of(run, "test")
        starts[method] = table[table["step"] == 0]["error"].to_numpy()
    for method, start in starts.items():
        np.testing.assert_allclose(start, starts["baseline"], rtol=1e-6, err_msg=method)


def test_test_table_covers_groups_tasks_steps_and_splits(whole):
    table = table_of(whole["evomal"], "test")
    assert list(table.columns) == ["start", "group", "task", "step", "split", "error"]
    assert not table.duplicated(["start", "group", "task", "step", "split"]).any()
    counts = table.groupby(["start", "group", "split"]).size()
    steps = EXPERIMENTS["sine"].profile("smoke").test_steps + 1
    assert counts.to_dict() == {
        (start, group, split): 5 * steps
        for start in ("new", "search")
        for group in ("in-sample", "out-of-sample")
        for split in ("train", "test")
    }


def test_saved_loss_is_the_fittest_of_the_front(whole):
    run = whole["evomal"]
    record, front = run.record(), table_of(run, "front")
    assert front["fitness"].min() == pytest.approx(record["fitness"])
    loss = run.loss()
    assert str(loss.expression) == record["loss"]
    assert loss.size == record["parameters"]


LARGER = {"population": 4, "generations": 6, "meta_steps": 4, "fitness_steps": 5}


def _compute_larger(folder: str, method: str, killed_after: int | None, seconds: float) -> None:
    """In a process of its own: a smoke run of several generations.

    It is killed so many seconds of its own work after it has saved so many generations: by the kernel, in the
    middle of anything, and at a moment that does not depend on what else the machine does.
    """
    torch.set_num_threads(1)
    if killed_after is not None:
        save = Checkpoint.save

        def saving(checkpoint: Checkpoint, state: dict) -> None:
            save(checkpoint, state)
            if len(state.get("generations", state.get("fitness"))) == killed_after:
                signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process as SIGKILL does

        Checkpoint.save = saving
    smoke = EXPERIMENTS["sine"].profiles["smoke"]
    EXPERIMENTS["sine"].profiles["smoke"] = smoke.replace(search=smoke.search.replace(**LARGER))
    compute(Run("sine", "smoke", method, 0, Path(folder)))


def _saved_generations(folder: Path) -> int:
    try:
        state = read_json(folder / "checkpoint.json")["state"]
    except FileNotFoundError:
        return 0
    return len(state.get("generations", state.get("fitness")))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    slow_imports = [
        "hypothesis",
        "pytest",
        "pandas",
        "deap.gp",
        "cmaes",
        "torch._dynamo",
        "evomal_paper.runs.tables",
    ]
    context.set_forkserver_preload([*slow_imports, "evomal_core.evolution", "evomal_core.rivals"])

    def run(folder: Path, method: str, killed_after: int | None = None, seconds: float = 0.0) -> int:
        process = context.Process(target=_compute_larger, args=(str(folder), method, killed_after, seconds))
        process.start()
        process.join(600)
        return process.exitcode

    return run


@pytest.mark.parametrize("method", ["evomal", "taylorglo"])
def test_a_kill_at_random_moments_and_going_on_is_bit_by_bit_the_same(method, processes, tmp_path):
    assert processes(tmp_path / "undisturbed", method) == 0
    run = Run("sine", "smoke", method, 0, tmp_path / "killed")
    rng = random.Random(f"kill {method} {os.getpid()}")
    for generations in (1, 3):
        moment = rng.uniform(1e-6, 0.02)
        code = processes(tmp_path / "killed", method, generations, moment)
        assert code in (-signal.SIGPROF, 0), "0 where little was left to do"
        if code == 0:
            break
        assert _saved_generations(run.work) >= generations or run.is_complete, "no finished generation is lost"
    else:
        assert processes(tmp_path / "killed", method) == 0
    assert contents(run) == contents(replace(run, results_dir=tmp_path / "undisturbed"))
    assert not run.work.exists()


@pytest.mark.parametrize("failing", range(1, 15))
def test_a_full_disk_leaves_whole_files_and_a_run_that_goes_on(failing, whole, tmp_path, monkeypatch):
    run, writes, flush = Run("sine", "smoke", "evomal", 0, tmp_path), [], os.fsync

    def full(handle):
        writes.append(handle)
        if len(writes) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    if failing == 14:  # the last write is the 13th
        compute(run)
        assert len(writes) == 13
        return
    with pytest.raises(OSError, match="No space left"):
        compute(run)
    monkeypatch.setattr(os, "fsync", flush)
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path.name for path in found if path.name.startswith(".")], "no partial file stays"
    assert not [path.name for path in found if path.suffix == ".lock"]
    for path in found:
        if path.suffix == ".json":
            json.loads(path.read_text())
    assert not run.is_complete
    compute(run)
    assert contents(run) == contents(whole["evomal"])
    assert not run.work.exists()


def test_a_folder_that_cannot_be_written_is_one_error_and_keeps_what_it_held(whole, tmp_path, monkeypatch):
    import tempfile

    path = tmp_path / "results.json"
    write_json(path, {"precious": 1})

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    # The error names the file that was asked for, not a temporary one or its folder.
    with pytest.raises(PermissionError, match=f"^{path} can't be written: Permission denied; name another place"):
        write_json(path, {"precious": 2})
    with pytest.raises(PermissionError):
        compute(Run("sine", "smoke", "baseline", 0, tmp_path))
    assert read_json(path) == {"precious": 1}


def test_a_failed_write_leaves_the_earlier_file_and_no_litter(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, [1, 2])
    with pytest.raises(TypeError):
        write_json(path, {"object": object()})
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert read_json(path) == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_folder_or_a_place_in_a_file_is_refused_by_name(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        write_json(tmp_path, 1)
    (tmp_path / "results").write_text("mine")
    with pytest.raises(NotADirectoryError, match="results is a file, not a folder"):
        compute(Run("sine", "smoke", "baseline", 0, tmp_path / "results"))
    assert (tmp_path / "results").read_text() == "mine"


def test_json_stays_valid_with_infinities_and_reads_back(tmp_path):
    value = {"a": [math.inf, -math.inf, 1.5, None, True, "x"], "b": {"c": (math.inf, 2)}}
    write_json(tmp_path / "v.json", value)
    strict = json.loads((tmp_path / "v.json").read_text(), parse_constant=pytest.fail)
    assert decode(strict) == {"a": [math.inf, -math.inf, 1.5, None, True, "x"], "b": {"c": [math.inf, 2]}}
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_of_another_configuration_is_refused_before_anything_is_computed(complete, whole, tmp_path):
    good, bad = (Run("sine", "smoke", method, 0, tmp_path) for method in ("baseline", "gp-lfl"))
    finished = whole["gp-lfl"].finished()
    other = json.loads(json.dumps(finished.record["configuration"]))
    other["search"]["meta_lr"] = 0.5
    if complete:
        bad.pack.put({bad.key: replace(finished, record={**finished.record, "configuration": other})})
    else:
        write_json(bad.work / "run.json", {"status": "running", "configuration": other})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"another configuration: search.meta_lr is 0.5 there and 0.001 here"):
        compute(good, bad)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_complete_run_is_accepted_under_another_engine(whole):
    record = whole["evomal"].record()
    assert "engine" not in record["configuration"]["search"]
    assert record["engine"] != "none"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:50],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: "{}",
        lambda text: text.replace('"status"', '"state"'),
    ],
)
def test_a_damaged_record_of_a_run_under_way_is_one_clear_error_and_is_not_overwritten(damage, tmp_path):
    run = Run("sine", "smoke", "baseline", 0, tmp_path)
    path = run.work / "run.json"
    write_atomic(path, damage(json.dumps({"status": "running", "configuration": run.configuration()}, indent=1)))
    before = path.read_bytes()
    for action in (lambda: compute(run), lambda: load([run]), lambda: run.is_complete):
        with pytest.raises(ValueError, match=r"run\.json is not") as caught:
            action()
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).endswith("move it away")
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ['{"format": "evomal-check', "{}", ""])
def test_a_damaged_checkpoint_of_a_run_is_one_clear_error(text, tmp_path):
    run = Run("sine", "smoke", "evomal", 0, tmp_path)
    write_json(run.work / "run.json", {"status": "running", "configuration": run.configuration()})
    write_atomic(run.work / "checkpoint.json", text)
    with pytest.raises(ValueError, match=r"checkpoint\.json is not"):
        compute(run)
    assert (run.work / "checkpoint.json").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sinus", "smoke", "evomal", 0), r"unknown experiment 'sinus'; did you mean 'sine'\?"),
        (("sine", "smok", "evomal", 0), r"unknown profile 'smok'; did you mean 'smoke'\?"),
        (("sine", "smoke", "gplfl", 0), r"unknown method 'gplfl'; did you mean 'gp-lfl'\?"),
        (("sine", "smoke", "../../etc", 0), "unknown method"),
        (("sine", "smoke", "evomal", -1), "at least 0, got -1"),
        (("sine", "smoke", "evomal", 0.0), "at least 0, got 0.0"),
    ],
)
def test_a_run_of_unknown_parts_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Run(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiments": "sinus"}, "unknown experiment"),
        ({"experiments": []}, "one or more experiments"),
        ({"profile": "quikc"}, "unknown profile"),
        ({"methods": ["evomol"]}, "unknown method"),
        ({"methods": "evomal"}, "methods is a list"),
        ({"seeds": [1, 1]}, "seeds overlap"),
        ({"seeds": -1}, "at least 1, got -1"),
        ({"device": "tpu"}, "can't use device 'tpu'"),
        ({"jobs": -1}, "jobs"),
    ],
)
def test_load_or_run_refuses_bad_arguments_and_writes_nothing(changes, message, tmp_path):
    arguments = {"experiments": "sine", "profile": "smoke", "results_dir": tmp_path, "progress": False}
    with pytest.raises(ValueError, match=message):
        load_or_run(**arguments | {"methods": ["baseline"]} | changes)
    assert not list(tmp_path.iterdir())


def test_load_or_run_computes_what_is_missing_and_gives_tidy_tables(whole):
    folder = whole["baseline"].results_dir
    results = load_or_run("sine", "smoke", results_dir=folder, progress=False)
    keys = ["experiment", "profile", "method", "seed"]
    for table in (results.runs, results.histories, results.tests):
        assert list(table.columns[:4]) == keys
        assert list(table["method"].cat.categories) == list(em.METHODS)
    assert results.runs["method"].tolist() == list(em.METHODS)
    assert set(results.losses) == {("sine", method, 0) for method in em.METHODS}
    tests = table_of(whole["ml3"], "test")
    ours = results.tests[results.tests["method"] == "ml3"]
    np.testing.assert_array_equal(ours["error"].to_numpy(), tests["error"].to_numpy())


def test_an_unfinished_run_is_not_loaded(tmp_path):
    with pytest.raises(ValueError, match="no complete run of baseline, seed 0; compute it with `evomal run sine"):
        load([Run("sine", "smoke", "baseline", 0, tmp_path)])


def results_of(errors: dict[tuple[str, int], float]) -> Results:
    rows = [
        {"experiment": "sine", "profile": "smoke", "method": method, "seed": seed}
        | {
            "start": "new",
            "group": "in-sample",
            "task": task,
            "step": step,
            "split": "test",
            "error": error + 2 * task - 1,
        }
        for (method, seed), error in errors.items()
        for task in (0, 1)
        for step in (0, 5)
    ]
    rows = [row | {"error": 99.0} if row["step"] == 0 else row for row in rows]
    empty = pd.DataFrame()
    return Results(empty, empty, pd.DataFrame(rows), {})


def test_summary_is_over_seeds_of_means_over_tasks_after_the_last_step():
    summary = results_of({("evomal", 0): 1.0, ("evomal", 1): 2.0, ("evomal", 2): 6.0}).summary()
    (row,) = summary.to_dict("records")
    assert (row["mean"], row["median"], row["n"], row["diverged"]) == (3.0, 2.0, 3, 0)
    assert row["sd"] == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_a_diverged_run_is_counted_and_never_averaged_away():
    summary = results_of({("evomal", 0): 1.0, ("evomal", 1): 2.0, ("evomal", 2): math.inf}).summary()
    (row,) = summary.to_dict("records")
    assert (row["n"], row["diverged"], row["median"]) == (3, 1, 2.0)
    assert row["mean"] == 1.5


def test_experiments_with_different_numbers_of_steps_keep_their_own_last_step():
    a, b = results_of({("evomal", 0): 1.0}).tests, results_of({("evomal", 0): 2.0}).tests
    b = b.assign(step=b["step"] * 10)
    both = [a, b.assign(experiment="diabetes"), b.assign(profile="paper")]
    empty = pd.DataFrame()
    final = Results(empty, empty, pd.concat(both), {}).final()
    found = final.set_index(["experiment", "profile"])["error"].to_dict()
    (profile,) = a["profile"].unique()
    assert found == {("sine", profile): 1.0, ("diabetes", profile): 2.0, ("sine", "paper"): 2.0}


def test_runs_of_one_experiment_under_two_profiles_are_refused(tmp_path):
    runs = [Run("sine", profile, "baseline", 0, tmp_path) for profile in ("smoke", "smoke@points=1")]
    compute(*runs)
    with pytest.raises(
        ValueError, match="runs of sine are of the profiles 'smoke' and 'smoke@points=1'; load one"
    ):
        load(runs)
    assert [len(load([run]).final()) > 0 for run in runs] == [True, True]


def test_an_error_written_as_nan_is_a_diverged_one_and_is_not_averaged_away(tmp_path):
    run = made(Run("sine", "smoke", "baseline", 0, tmp_path))
    finished = run.finished()
    table = table_of(run, "test")
    table.loc[(table["step"] == table["step"].max()) & (table["group"] == "in-sample"), "error"] = math.nan
    tables = {**finished.tables, "test": table.to_csv(index=False)}
    run.pack.put({run.key: Finished.of(finished.record, tables, finished.loss)})
    final = load([run]).final().set_index(["group", "split"])["error"]
    assert np.isinf(final["in-sample"]).all()
    assert np.isfinite(final["out-of-sample"]).all()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "from evomal_paper.runs.tables import load_or_run\n"
        "if __name__ == '__main__':\n"
        f"    load_or_run('sine', 'paper', methods=['evomal'], seeds=2, jobs=2, results_dir={str(tmp_path)!r})\n"
    )
    script = tmp_path / "many.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / ".work" / "sine" / "paper" / "evomal"
    _wait_for(lambda: len(list(folder.glob("seed-*/run.json"))) == 2)
    workers = _children(parent.pid)
    parent.kill()
    parent.wait()
    assert workers
    _wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _wait_for(condition, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
