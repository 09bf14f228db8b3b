"""The zoo holds the losses that train best, with their provenance, and gives them by name."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from made_runs import made

import evomal_core as em
from evomal_core import library
from evomal_core.library import load_loss
from evomal_core.symbolic import rounded
from evomal_paper import zoo
from evomal_paper.cli import main
from evomal_paper.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


def evomal(fitness, seed=0, profile="quick", **more):
    return {"profile": profile, "method": "evomal", "seed": seed, "fitness": fitness, **more}


def results_of(folder, *rows):
    """A results folder with made runs of Sine."""
    for row in rows:
        values = {name: value for name, value in row.items() if name not in ("profile", "method", "seed")}
        made(Run("sine", row["profile"], row["method"], row["seed"], folder), **values)
    return folder


def baseline(seed=0, profile="quick", **more):
    return {"error": 100.0} | evomal(0.1, seed, profile, **more) | {"method": "baseline"}


def test_the_loss_that_trains_best_is_taken_whatever_its_test_error_is(tmp_path):
    rows = [evomal(0.1, seed=0, error=2.0, held_out=0.0), evomal(0.2, seed=1, error=1.0, held_out=9.0)]
    record = dict(zoo.records(results_of(tmp_path, *rows, baseline(0), baseline(1))))["sine/evomal"]
    assert record["provenance"]["seed"] == 1
    assert {(row["split"], row["error"]) for row in record["score"]["errors after meta-testing"]} == {
        ("train", 1.0),
        ("test", 9.0),
    }


def test_of_equals_the_fitter_then_the_lower_seed_and_no_run_without_a_usable_loss(tmp_path):
    useless = [{"profile": "quick", "method": method, "seed": 0} for method in ("taylorglo", "ml3")]
    useless[0]["fitness"] = float("inf")
    rows = [evomal(0.2), evomal(0.1, seed=2), evomal(0.1, seed=1), *useless, *map(baseline, range(3))]
    found = dict(zoo.records(results_of(tmp_path, *rows)))
    assert list(found) == ["sine/evomal"]  # baseline and ML³ have no formula
    assert found["sine/evomal"]["provenance"]["seed"] == 1


@pytest.mark.parametrize("error", [{"error": 100.1}, {"held_out": 100.1}, {"error": float("inf")}])
def test_a_loss_that_trains_worse_than_the_task_loss_is_left_out(error, tmp_path):
    worse, better = evomal(0.1, **error), evomal(0.2, seed=1)
    assert not dict(zoo.records(results_of(tmp_path, worse, baseline())))
    found = dict(zoo.records(results_of(tmp_path, better, baseline(1))))
    assert found["sine/evomal"]["provenance"]["seed"] == 1


def test_a_loss_without_a_baseline_to_compare_with_is_left_out(tmp_path):
    assert not dict(zoo.records(results_of(tmp_path, evomal(0.1), baseline(1))))


def test_the_task_loss_at_its_best_rate_stands_beside(tmp_path):
    other = baseline(profile="quick@base.lr=0.01", error=0.5, held_out=0.7)
    found = dict(zoo.records(results_of(tmp_path, evomal(0.1), baseline(), other)))["sine/evomal"]
    rows = {(row["group"], row["split"]): row for row in found["score"]["errors after meta-testing"]}
    assert rows["in-sample", "test"]["tuned baseline"] == 0.7
    assert rows["in-sample", "test"]["tuned rate"] == 0.01


def test_a_damaged_run_is_left_out_with_a_warning_and_the_next_best_taken(tmp_path, caplog):
    folder = results_of(tmp_path, evomal(0.2, seed=0), evomal(0.1, seed=1), baseline(0), baseline(1))
    path = folder / "sine/quick/losses.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            line.replace("[1.0, 1.0", "[1.0, 1.5")
            if '"seed":1' in line.replace(" ", "") and "evomal" in line
            else line
            for line in lines
        )
        + "\n"
    )
    assert dict(zoo.records(folder))["sine/evomal"]["provenance"]["seed"] == 0
    assert "losses.jsonl is damaged: evomal, seed 1, is not what the run wrote" in caplog.text


def test_a_larger_profile_goes_before_a_lower_fitness_and_a_variant_never(tmp_path):
    rows = [evomal(5.0, profile="paper"), evomal(1.0), evomal(0.0, profile="quick@meta_optimizer=adam")]
    found = dict(zoo.records(results_of(tmp_path, *rows, baseline(), baseline(profile="paper"))))["sine/evomal"]
    assert (found["provenance"]["profile"], found["score"]["fitness"]) == ("paper", 5.0)


def test_the_command_writes_what_load_loss_reads_and_removes_what_is_gone(tmp_path, capsys):
    loss = em.LearnedLoss("square(sub(y, f))", "regression", phi=torch.tensor([0.1, 0.2, 0.3]))
    folder = results_of(tmp_path, evomal(0.1, seed=3, loss=loss), baseline(3, error=2.0))
    stale = folder / "zoo" / "sine" / "random.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    assert zoo.main([str(folder)]) == 0
    (written,) = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written == folder / "zoo" / "sine" / "evomal.json"
    assert not stale.exists()
    record, again = json.loads(written.read_text()), load_loss(written)
    assert torch.equal(again.phi, loss.phi)
    assert again.expression == loss.expression
    assert record["formula"] == str(rounded(loss.sympy()))
    assert "--profile quick --method evomal --seeds 3" in record["provenance"]["command"]
    assert record["score"]["errors after meta-testing"][0]["baseline"] == 2.0
    assert zoo.main(["--help"]) == 2


def test_the_committed_zoo_is_what_the_command_makes_of_the_committed_runs():
    for name, record in zoo.records(RESULTS):
        held = json.loads(library.path_of(name).read_text())
        assert held["provenance"] == record["provenance"], f"{name}: run python -m evomal_paper.zoo"
        assert held["weights"] == record["weights"]


def test_a_loss_is_loaded_by_its_name_and_a_file_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = em.load_loss("sine/evomal")
    assert known.kind == "regression"
    assert not any(weight.requires_grad for weight in known.parameters())
    em.LearnedLoss("abs(sub(y, f))").save("sine/evomal")
    assert str(em.load_loss("sine/evomal").expression) == "abs(sub(y, f))"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sine/evomol",
            "no such file: sine/evomol, and no loss of the zoo has that name; did you mean 'sine/evomal'",
        ),
        ("§", "no loss of the zoo has that name; known are .*sine/evomal"),
        ("absent.json", "no such file: absent.json$"),
        ("../../README", "no loss of the zoo has that name"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        em.load_loss(name)


def test_show_says_where_a_loss_of_the_zoo_is_from(capsys):
    assert main(["show", "sine/evomal"]) == 0
    out = capsys.readouterr().out
    assert str(em.load_loss("sine/evomal").expression) in out
    assert "from     sine, profile " in out
    assert "(baseline " in out
    assert "shape    " in out
    assert "made by  evomal run sine" in out


def test_the_package_takes_every_loss_of_the_zoo_along():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["evomal_core"]
    packaged = {path.resolve() for pattern in patterns for path in (ROOT / "evomal_core").glob(pattern)}
    assert {path.resolve() for path in (RESULTS / "zoo").glob("*/*.json")} <= packaged
