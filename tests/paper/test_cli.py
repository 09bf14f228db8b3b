"""The `evomal` command: what it prints, and one line with exit status 2 for each mistake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from made_runs import made

import evomal_core as em
from evomal_core.files import read_json
from evomal_paper import cli
from evomal_paper.cli import main, parse_seeds
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.runs.run import Run

COMMANDS = ["list", "run", "reproduce", "show", "data"]
SMOKE = ["run", "sine", "--profile", "smoke", "--quiet"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with one saved loss beside it."""
    monkeypatch.chdir(tmp_path)
    em.LearnedLoss("square(sub(f, y))", phi=[2.0, 1.0, 1.0]).save("loss.json")
    return tmp_path


def mistake(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with status 2 and print nothing else."""
    try:
        status = main(list(arguments))
    except SystemExit as exit_:  # argparse's own
        status = exit_.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("evomal")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "offender"),
    [
        ([], "COMMAND"),
        (["rnu"], "'rnu'"),
        (["run"], "experiment"),
        (["run", "sinus"], "unknown experiment 'sinus'; did you mean 'sine'?"),
        (["run", "sine", "--profile", "smok"], "unknown profile 'smok'; did you mean 'smoke'?"),
        ([*SMOKE, "--method", "evomol"], "unknown method 'evomol'; did you mean 'evomal'?"),
        ([*SMOKE, "--method", "evomal,"], "unknown method ''"),
        ([*SMOKE, "--device", "gpu"], "can't use device 'gpu'"),
        ([*SMOKE, "--device", "cuda:99"], "this machine has"),
        ([*SMOKE, "--seeds", "-1"], "seeds are written like 0-9 or 0,3,5, got '-1'"),
        ([*SMOKE, "--seeds=-1"], "seeds are written like 0-9 or 0,3,5, got '-1'"),
        ([*SMOKE, "--seeds", "0,0"], "seeds overlap: 0"),
        ([*SMOKE, "--seeds", "0-3,2"], "seeds overlap: 2"),
        ([*SMOKE, "--seeds", "5-2"], "got '5-2'"),
        ([*SMOKE, "--seeds", "1.5"], "got '1.5'"),
        ([*SMOKE, "--seeds", ""], "got ''"),
        ([*SMOKE, "--seeds", "²"], "got '²'"),
        ([*SMOKE, "--jobs", "-2"], "jobs is a whole number of at least 0, got -2"),
        ([*SMOKE, "--jobs", "two"], "--jobs: invalid int value: 'two'"),
        ([*SMOKE, "--lerning-rate", "1"], "--lerning-rate"),
        ([*SMOKE, "--prof", "smoke"], "--prof"),
        ([*SMOKE, "--results-dir", "loss.json"], "loss.json"),
        (["show"], "LOSS"),
        (["show", "absent.json"], "no such file: absent.json"),
        (["show", "."], "."),
        (["show", "loss.json", "--format", "tex"], "'tex'"),
        (["data", "minst"], "unknown data set 'minst'"),
        (["reproduce", "sinus"], "unknown experiment or notebook 'sinus'"),
        (["reproduce", "--profile", "slow"], "unknown profile 'slow'"),
        (["reproduce", "--device", "gpu"], "can't use device 'gpu'"),
        (["reproduce", "--jobs", "x"], "--jobs"),
    ],
)
def test_a_mistake_is_one_line_with_status_two_and_writes_nothing(arguments, offender, here, capsys):
    before = (here / "loss.json").read_bytes()
    assert offender in mistake(capsys, *arguments)
    assert [path.name for path in here.iterdir()] == ["loss.json"]
    assert (here / "loss.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "offender"),
    [
        ('{"format": "evomal-loss", "ver', "truncated"),
        ('{"format": "evomal-loss", "version": 9, "kind": "binary", "family": "task", "weights": []}', "upgrade"),
        (
            '{"format": "evomal-loss", "version": 1, "kind": "regression", "family": "symbolic",'
            ' "softplus": false, "expression": "__import__(\'os\').system(\'touch hacked\')", "weights": []}',
            "unknown name '__import__'",
        ),
        ("", "not a whole JSON file"),
    ],
)
def test_a_bad_loss_file_is_one_line_and_nothing_is_executed(content, offender, here, capsys):
    (here / "bad.json").write_text(content)
    assert offender in mistake(capsys, "show", "bad.json")
    assert not (here / "hacked").exists()


def test_a_huge_range_of_seeds_is_refused_at_once(capsys):
    begin = time.process_time()  # whatever else the machine does
    assert "seeds" in mistake(capsys, *SMOKE, "--seeds", "0-99999999999")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0,3,5-7", [0, 3, 5, 6, 7]), (" 2 , 4 ", [2, 4]), ("7-7", [7])],
)
def test_seeds_are_numbers_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    if not command:
        assert all(name in out for name in COMMANDS)
    for line in re.split(r"\n  (?=-)", out)[1:]:
        flag, _, text = " ".join(line.split()).partition(" ")
        assert len(text.split()) >= 2, f"{flag} is not explained"


@pytest.mark.parametrize("command", ["run", "reproduce"])
def test_commands_that_write_runs_take_a_results_dir(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert "--results-dir" in out
    assert "default: results" in out


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"evomal {version('evomal')}\n"


def test_list_shows_every_experiment_profile_and_method(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (*EXPERIMENTS, *em.METHODS, "smoke", "quick", "paper"):
        assert name in out
    assert "at hand" in out


def test_list_shows_measured_minutes_where_each_method_was_run(tmp_path, capsys):
    def minutes():
        assert main(["list", "--results-dir", str(tmp_path)]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  sine "))
        return line.split("regression")[1].split()[:4]

    for method, seconds in dict.fromkeys([*em.METHODS][1:], 60.0).items():
        made(Run("sine", "quick", method, 0, tmp_path), seconds={"fitness": seconds, "meta-test": 30.0})
    assert minutes() == ["~3", "min", "~50", "min"]  # the baseline is lacking
    for seed, seconds in enumerate((30.0, 30.0, 3000.0)):  # as if the last one had waited
        made(
            Run("sine", "quick", "baseline", seed, tmp_path),
            seconds={"meta-test": seconds, "filter: rejection": 9},
        )
    assert minutes() == ["20", "min", "~50", "min"]  # five seeds, two cores: 5 · (5 · 90 s + 30 s) / 2


@pytest.mark.parametrize(("minutes", "text"), [(0.1, "0.1 min"), (90, "90 min"), (600, "10 h"), (4320, "3 d")])
def test_durations_are_short(minutes, text):
    assert cli._duration(minutes) == text


def test_data_says_what_is_at_hand(capsys):
    assert main(["data", "diabetes"]) == 0
    assert "at hand: x (442, 10), y (442,)" in capsys.readouterr().out


def test_run_then_run_again_then_show(here, capsys):
    command = [*SMOKE, "--method", "baseline,evomal", "--seeds", "1", "--results-dir", "out"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "baseline" in table
    assert "evomal" in table
    run = Run("sine", "smoke", "evomal", 1, Path("out"))
    stamp = run.pack.index.stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out == table
    assert run.pack.index.stat().st_mtime_ns == stamp, "a finished run is left alone"
    assert main(["show", "sine/smoke/evomal/seed-1", "--results-dir", "out"]) == 0
    assert run.finished().record["loss"] in capsys.readouterr().out
    assert "no complete run of evomal, seed 2; compute it with `evomal run" in mistake(
        capsys, "show", "sine/smoke/evomal/seed-2", "--results-dir", "out"
    )


def test_a_results_folder_of_another_configuration_is_refused(here, capsys):
    assert main([*SMOKE, "--method", "baseline", "--results-dir", "out"]) == 0
    path = Path("out/sine/smoke/runs.jsonl")
    path.write_text(path.read_text().replace('"test_steps": 5', '"test_steps": 6'))
    capsys.readouterr()
    err = mistake(capsys, *SMOKE, "--method", "baseline", "--results-dir", "out")
    assert "another configuration: test_steps is 6 there and 5 here" in err
    assert "--results-dir" in err


@pytest.mark.parametrize("format_", ["text", "latex", "python", "sympy"])
def test_show_prints_every_format(format_, here, capsys):
    assert main(["show", "loss.json", "--format", format_]) == 0
    out = capsys.readouterr().out
    if format_ == "python":
        namespace: dict = {}
        exec(out, namespace)
        assert namespace["learned_loss"](torch.tensor([3.0]), torch.tensor([1.0])).item() == pytest.approx(16.0)
    else:
        wanted = {"text": "square(sub(f, y))", "latex": r"f_\theta(x)", "sympy": "**2"}[format_]
        assert wanted in out


@pytest.mark.parametrize(
    ("loss", "format_", "offender"),
    [(em.NeuralLoss(), "sympy", "no closed formula"), (em.NeuralLoss(), "python", "JSON")],
)
def test_show_of_what_a_loss_does_not_have_is_one_line(loss, format_, offender, here, capsys):
    loss.save("neural.json")
    assert offender in mistake(capsys, "show", "neural.json", "--format", format_)


LONG = 600
"""Seconds that a busy machine may take for what otherwise takes one."""


def larger(generations: int) -> str:
    """The name of a smoke profile with as many generations; workers know it too."""
    return f"smoke@generations={generations},fitness_steps=10"


def started(generations: int, folder: Path, *arguments: str) -> subprocess.Popen:
    """The command in a process of its own, with a smoke run of as many generations."""
    # Ctrl-C reaches a whole process group, so it has one of its own here.
    given = ["run", "sine", "--profile", larger(generations), "--results-dir", str(folder), *arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "evomal_paper.cli", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that runs in the background has inherited that Ctrl-C is ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(paths: list[Path], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + LONG
    while not any(path.exists() for path in paths) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def test_ctrl_c_says_so_exits_with_130_and_leaves_a_run_that_resumes(tmp_path):
    process = started(30, tmp_path / "stopped", "--method", "gp-lfl")
    run = Run("sine", larger(30), "gp-lfl", 0, tmp_path / "stopped")
    wait_for([run.work / "checkpoint.json"], process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130, err
    assert "stopped; the same command goes on from the last finished generation" in err
    assert "Traceback" not in err
    assert read_json(run.work / "run.json")["status"] == "running"
    done = len(read_json(run.work / "checkpoint.json")["state"]["generations"])
    assert 1 <= done < 30
    for name in ("stopped", "whole"):
        given = ["run", "sine", "--profile", larger(30), "--method", "gp-lfl", "--quiet"]
        assert main([*given, "--results-dir", str(tmp_path / name)]) == 0
    ours, other = (
        Run("sine", larger(30), "gp-lfl", 0, tmp_path / name).finished() for name in ("stopped", "whole")
    )
    assert (ours.tables, ours.loss) == (other.tables, other.loss)


def test_ctrl_c_with_several_jobs_ends_the_workers_too(tmp_path):
    process = started(100_000, tmp_path, "--method", "gp-lfl,random", "--jobs", "2")
    names = ("gp-lfl", "random")
    runs = [Run("sine", larger(100_000), method, 0, tmp_path).work / "run.json" for method in names]
    wait_for(runs, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker went on after Ctrl-C")


def test_the_installed_command_reports_a_mistake_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "evomal_paper.cli", "run", "sinus"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "evomal: error: unknown experiment 'sinus'; did you mean 'sine'?\n"
