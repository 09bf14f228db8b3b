"""Runs computed anew are compared with those on disk, bit by bit."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from evomal_paper.cli import main
from evomal_paper.runs.packed import Finished
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import load_or_run
from evomal_paper.runs.verify import chosen_runs, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder with two complete runs."""
    folder = tmp_path_factory.mktemp("made")
    load_or_run("sine", "smoke", methods=["gp-lfl", "random"], seeds=[3], results_dir=folder, progress=False)
    return folder


@pytest.fixture
def results(made, tmp_path):
    return shutil.copytree(made, tmp_path / "results")


def check(results, *more):
    return main(["verify", "sine", "--profile", "smoke", "--quiet", "--results-dir", str(results), *more])


def test_runs_of_this_code_are_the_same(results, tmp_path, capsys):
    assert check(results, "--into", str(tmp_path / "again")) == 0
    out = capsys.readouterr().out
    assert out.count(": the same\n") == 2
    assert out.endswith("2 of 2 runs are the same, bit by bit\n")
    assert Run("sine", "smoke", "gp-lfl", 3, tmp_path / "again").is_complete


def change(run, tables=(), loss=(), **record):
    """Other content in the pack, as another version of the code might have written it."""
    old = run.finished()
    values = {**old.record, **record}, {**old.tables, **dict(tables)}, {**old.loss, **dict(loss)}
    run.pack.put({run.key: Finished.of(*values)})


def test_the_first_number_that_differs_is_said_with_what_the_run_was_made_with(results, capsys):
    run = Run("sine", "smoke", "gp-lfl", 3, results)
    rows = run.finished().tables["test"].splitlines()
    rows[2] = rows[2].rpartition(",")[0] + ",0.125"
    versions = {**run.record()["versions"], "torch": "1.0"}
    change(run, {"test": "\n".join(rows) + "\n"}, versions=versions)
    assert check(results, "--method", "gp-lfl") == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{run}: test.line 3.error is '0.125' there and ")
    assert " here; versions.torch is '1.0' there and " in first
    assert last == "0 of 1 runs are the same, bit by bit"


def test_another_loss_and_other_columns_differ(results, tmp_path):
    runs = chosen_runs("sine", "smoke", results_dir=results)
    assert [run.method for run in runs] == ["random", "gp-lfl"]
    change(runs[0], loss={"kind": "binary"})
    change(runs[1], {"history": runs[1].finished().tables["history"].replace("trained", "untrained")})
    (_, first), (_, second) = verify(runs, tmp_path / "again", progress=False)
    assert first.startswith("loss.kind is 'binary' there and 'regression' here; its recorded versions")
    assert re.match(r"history\.line 2\.trained is None there and '\d+' here; ", second)


def test_each_run_is_reported_as_soon_as_it_is_computed(results, tmp_path):
    runs = chosen_runs("sine", "smoke", results_dir=results)
    found = verify(runs, tmp_path / "again", progress=False)
    assert next(found) == (runs[0], "")
    assert [replace(run, results_dir=tmp_path / "again").is_complete for run in runs] == [True, False]


def test_what_is_not_there_or_lies_in_the_same_folder_is_refused(results, capsys):
    refused = {
        ("--seeds", "3,4", "--method", "random"): "has no complete run of random, seed 4, to verify",
        ("--seeds", "4"): "has no such complete run to verify",
        ("--into", str(results)): "name another folder",
        ("--method", "evomol"): "did you mean 'evomal'?",
    }
    for arguments, message in refused.items():
        assert check(results, *arguments) == 2
        assert message in capsys.readouterr().err


def test_ctrl_c_promises_only_what_is_kept(results, tmp_path, monkeypatch, capsys):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evomal_paper.runs.verify.computed", stop)
    assert check(results) == 130
    assert capsys.readouterr().err == "\nstopped; --into would have kept it\n"
    assert check(results, "--into", str(tmp_path / "again")) == 130
    assert "goes on from the last finished generation" in capsys.readouterr().err
