"""Packed runs read back exactly, byte-identical in whatever order they came, whole whatever happens."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evomal_paper.runs import packed
from evomal_paper.runs.packed import TABLES, Finished, Pack, read_work, write_work

THIRD = 1 / 3
NEURAL = {"family": "neural", "weights": np.random.default_rng(0).normal(size=150).astype(np.float32).tolist()}
SYMBOLIC = {"family": "symbolic", "expression": "add(f, y)", "weights": [0.1, -2.5e-9]}
PLACE = {"start": "new", "group": "in-sample", "task": 0}
TEST = pd.DataFrame(PLACE | {"step": [0, 1], "split": "test", "error": [THIRD, np.nan]})
FRONT = pd.DataFrame({"complexity": [3], "fitness": [0.1], "score": [np.nan], "loss": ['"add"(f,\n y)']})


def run(method: str, seed: int) -> Finished:
    history = pd.DataFrame(
        {"generation": [0, 1], "best_fitness": [np.inf, 1e-17 * (seed + 1)], "mean_fitness": [1, 2], "finite": 4}
    ).assign(diverged=0, evaluated=4)
    if method == "evomal":
        history.insert(2, "rejected early", [0, seed])
    front = FRONT[:0] if method == "baseline" else FRONT
    frames = {"history": history, "test": TEST, "front": front}
    record = {
        "configuration": {"method": method, "seed": seed},
        "fitness": float("inf"),
        "tasks": ["1.3·sin\u2028"],
    }
    loss = NEURAL if method == "ml3" else SYMBOLIC
    return Finished.of(record, {name: frame.to_csv(index=False) for name, frame in frames.items()}, loss)


RUNS = {key: run(*key) for key in (("evomal", 1), ("ml3", 0), ("evomal", 0), ("baseline", 10), ("baseline", 9))}


def packed_in(folder: Path, order=tuple(RUNS)) -> Pack:
    for key in order:
        Pack(folder).put({key: RUNS[key]})
    return Pack(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_runs_read_back_exactly(tmp_path):
    pack = packed_in(tmp_path)
    assert list(pack.records()) == [("baseline", 9), ("baseline", 10), ("ml3", 0), ("evomal", 0), ("evomal", 1)]
    for key, original in RUNS.items():
        found = pack.finished(key)
        assert (found.tables, found.loss) == (original.tables, original.loss)
        assert found.record == {**original.record, "fitness": "inf"}
    assert sorted(contents(tmp_path)) == sorted(
        ["runs.jsonl", "losses.jsonl", "losses.npz", *(f"{name}.csv.gz" for name in TABLES)]
    )
    assert all(len(line) < 600 for line in (tmp_path / "losses.jsonl").read_text().splitlines())


def test_tables_are_tidy_for_any_reader_of_csv(tmp_path):
    packed_in(tmp_path)
    tests = pd.read_csv(tmp_path / "test.csv.gz")
    assert list(tests) == ["method", "seed", *TABLES["test"]]
    assert tests.groupby(["method", "seed"]).size().tolist() == [2] * len(RUNS)
    assert tests["error"].dropna().unique() == pytest.approx([THIRD])
    history = pd.read_csv(tmp_path / "history.csv.gz")
    assert list(history) == ["method", "seed", *TABLES["history"], "rejected early"]
    assert history.query("method == 'baseline'")["rejected early"].isna().all()
    assert json.loads((tmp_path / "runs.jsonl").read_text().split("\n")[0])["method"] == "baseline"


def test_the_order_and_time_of_packing_do_not_show(tmp_path, monkeypatch):
    first = contents(packed_in(tmp_path / "first").folder)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    for number, order in enumerate(itertools.islice(itertools.permutations(RUNS), 0, 120, 23)):
        assert contents(packed_in(tmp_path / str(number), order).folder) == first
    packed_in(tmp_path / "first")  # runs that are there already
    assert contents(tmp_path / "first") == first


@pytest.mark.parametrize("failing", range(6))
def test_a_failed_write_loses_no_run_and_adds_no_half_one(failing, tmp_path, monkeypatch):
    *before, new = RUNS
    packed_in(tmp_path / "pack", before)
    writes, write = [], packed.write_atomic

    def full(path, content):
        writes.append(path)
        if len(writes) > failing:
            raise OSError("No space left on device")
        write(path, content)

    monkeypatch.setattr(packed, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        packed_in(tmp_path / "pack", [new])
    monkeypatch.setattr(packed, "write_atomic", write)
    pack = Pack(tmp_path / "pack")
    assert set(pack.records()) == set(before)
    assert all(pack.finished(key).tables == RUNS[key].tables for key in before)
    packed_in(tmp_path / "pack", [new])
    assert contents(tmp_path / "pack") == contents(packed_in(tmp_path / "undisturbed").folder)


@pytest.mark.parametrize("name", ["runs.jsonl", "losses.jsonl", "losses.npz", "test.csv.gz"])
def test_a_truncated_file_is_one_clear_error_and_stays(name, tmp_path):
    pack = packed_in(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    before = contents(tmp_path)
    for action in (lambda: pack.finished(("ml3", 0)), lambda: pack.put(RUNS)):
        with pytest.raises(
            ValueError, match=rf"{name} is damaged: .*; restore it, or delete {tmp_path}, and"
        ) as error:
            action()
        assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_only_the_run_whose_rows_were_changed_is_damaged(tmp_path):
    pack = packed_in(tmp_path)
    path = tmp_path / "losses.jsonl"
    path.write_text(path.read_text().replace("-2.5e-09", "-2.4e-09", 1))
    with pytest.raises(ValueError, match=r"losses.jsonl is damaged: baseline, seed 9, is not what the run wrote"):
        pack.finished(("baseline", 9))
    assert pack.finished(("evomal", 1)).loss == SYMBOLIC
    pack.index.write_text(pack.index.read_text().partition("\n")[2])  # the remedy that the error names
    assert ("baseline", 9) not in pack.records()
    pack.put({("baseline", 9): RUNS["baseline", 9]})
    assert pack.finished(("baseline", 9)).loss == SYMBOLIC


def test_a_working_folder_reads_back_exactly_and_damage_is_named(tmp_path):
    write_work(tmp_path, RUNS["evomal", 1])
    found = read_work(tmp_path)
    assert (found.tables, found.loss) == (RUNS["evomal", 1].tables, SYMBOLIC)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "complete"
    test = tmp_path / "test.csv"
    test.write_text(test.read_text().replace("0.333", "0.334"))
    with pytest.raises(ValueError, match="its test is not what the run wrote; delete that folder"):
        read_work(tmp_path)


def test_no_pack_holds_no_runs(tmp_path):
    assert Pack(tmp_path / "absent").records() == {}
