"""The zoo holds the losses of lowest fitness, with their provenance, and gives them by name."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch

import evomal_core as em
from evomal_core import library
from evomal_core.library import load_loss
from evomal_paper import zoo
from evomal_paper.cli import main

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
METHODS = ("baseline", "ml3", "gp-lfl", "evomal")


@pytest.fixture
def folder(tmp_path):
    """Copies of two seeds of Sine at `quick`."""
    for method in METHODS:
        for seed in (0, 1):
            run = Path("sine/quick") / method / f"seed-{seed}"
            shutil.copytree(RESULTS / run, tmp_path / run)
    return tmp_path


def change(folder, run, **values):
    """Write other values into a run's record, and its name elsewhere."""
    path = folder / run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_seed_of_lowest_fitness_is_taken_whatever_its_test_error_is(folder):
    change(folder, "sine/quick/evomal/seed-0", fitness=0.2)
    change(folder, "sine/quick/evomal/seed-1", fitness=0.1, files={})
    tests = folder / "sine/quick/evomal/seed-1/test.csv"
    rows = tests.read_text().splitlines()
    tests.write_text("\n".join([rows[0], *(row.rpartition(",")[0] + ",99.0" for row in rows[1:])]) + "\n")
    record = dict(zoo.records(folder))["sine/evomal"]
    assert record["provenance"]["seed"] == 1
    assert record["score"]["fitness"] == 0.1
    assert {row["error"] for row in record["score"]["errors after meta-testing"]} == {99.0}


def test_of_equals_the_lower_seed_and_no_run_without_a_usable_loss(folder):
    for seed in (0, 1):
        change(folder, f"sine/quick/evomal/seed-{seed}", fitness=0.1)
        change(folder, f"sine/quick/gp-lfl/seed-{seed}", fitness="inf")
    found = dict(zoo.records(folder))
    assert list(found) == ["sine/evomal"]  # baseline and ML³ have no formula
    assert found["sine/evomal"]["provenance"]["seed"] == 0


def test_a_damaged_run_is_left_out_with_a_warning_and_the_next_best_taken(folder, caplog):
    for method, seed, fitness in (("evomal", 0, 0.2), ("evomal", 1, 0.1), ("gp-lfl", 0, 0.1), ("gp-lfl", 1, 0.2)):
        change(folder, f"sine/quick/{method}/seed-{seed}", fitness=fitness)
    for path in ("evomal/seed-1/loss.json", "baseline/seed-0/test.csv"):
        damaged = folder / "sine/quick" / path
        damaged.write_bytes(damaged.read_bytes()[:40])
    found = dict(zoo.records(folder))
    assert found["sine/evomal"]["provenance"]["seed"] == found["sine/gp-lfl"]["provenance"]["seed"] == 0
    assert "baseline" not in found["sine/gp-lfl"]["score"]["errors after meta-testing"][0]
    assert "evomal/seed-1/loss.json is damaged" in caplog.text
    assert "baseline/seed-0/test.csv is damaged" in caplog.text


def test_a_larger_profile_goes_before_a_lower_fitness_and_a_variant_never(folder):
    for profile, fitness in (("paper", 5.0), ("quick@meta_optimizer=adam", 0.0)):
        run = folder / "sine" / profile / "evomal" / "seed-3"
        source = (
            RESULTS / "sine/paper/evomal/seed-0" if profile == "paper" else RESULTS / "sine/quick/evomal/seed-0"
        )
        shutil.copytree(source, run)
        record = json.loads((run / "run.json").read_text())
        record["configuration"] |= {"profile": profile, "seed": 3}
        record["configuration"]["search"]["meta_optimizer"] = "sgd" if profile == "paper" else "adam"
        (run / "run.json").write_text(json.dumps(record | {"fitness": fitness}))
    found = dict(zoo.records(folder))["sine/evomal"]
    assert (found["provenance"]["profile"], found["score"]["fitness"]) == ("paper", 5.0)
    assert "baseline" not in found["score"]["errors after meta-testing"][0]  # not run at that profile and seed


def test_the_command_writes_what_load_loss_reads_and_removes_what_is_gone(folder, capsys):
    stale = folder / "zoo" / "sine" / "random.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    assert zoo.main([str(folder)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written == [folder / "zoo" / "sine" / f"{method}.json" for method in ("gp-lfl", "evomal")]
    assert not stale.exists()
    record = json.loads(written[1].read_text())
    seed = record["provenance"]["seed"]
    original = load_loss(folder / f"sine/quick/evomal/seed-{seed}/loss.json")
    again = load_loss(written[1])
    assert torch.equal(original.phi, again.phi)
    assert original.expression == again.expression
    assert record["formula"] == str(original.sympy())
    assert f"--profile quick --method evomal --seeds {seed}" in record["provenance"]["command"]
    baseline = record["score"]["errors after meta-testing"][0]["baseline"]
    assert baseline > 0
    assert zoo.main(["--help"]) == 2


def test_the_committed_zoo_is_what_the_command_makes(tmp_path):
    made = dict(zoo.records(RESULTS))
    assert sorted(made) == library.names(), "run python -m evomal_paper.zoo"
    for name, record in made.items():
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
    assert "made by  evomal run sine" in out


def test_the_package_takes_every_loss_of_the_zoo_along():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["evomal_core"]
    packaged = {path.resolve() for pattern in patterns for path in (ROOT / "evomal_core").glob(pattern)}
    assert {path.resolve() for path in (RESULTS / "zoo").glob("*/*.json")} <= packaged
