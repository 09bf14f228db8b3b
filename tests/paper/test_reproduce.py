"""Which notebooks `evomal reproduce` executes, with which parameters, and what it says of those left out."""

import pytest

from evomal_paper import reproduce as module
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.reproduce import reproduce, topics


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """What would be executed: (notebook, parameters, name of the copy)."""
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path / "no data"))
    calls: list[tuple[str, dict, str]] = []
    monkeypatch.setattr(module, "execute", lambda stem, given, target: calls.append((stem, given, target.name)))
    return calls


def run(tmp_path, *names, profile="quick"):
    reproduce(names, profile=profile, device="cpu", results_dir=tmp_path / "results", jobs=2)


def test_without_names_every_notebook_runs_on_the_data_at_hand(executed, tmp_path, capsys):
    run(tmp_path)
    stems = [stem for stem, *_ in executed]
    assert stems == sorted(stems)
    assert {"01_quickstart", "02_sine", "06_tabular"} <= set(stems)
    assert not [given for _, given, _ in executed if "datasets" in given or "rows" in given]
    said = capsys.readouterr().out
    assert "skipped boston: " in said
    assert "skipped diabetes" not in said
    absent = {entry.name for entry in EXPERIMENTS.values() if entry.missing()}
    assert {line.split()[1].rstrip(":") for line in said.splitlines()} == absent


def test_a_notebook_gets_the_parameters_that_it_declares(executed, tmp_path):
    run(tmp_path, "sine", "quickstart", profile="smoke")
    folder = str(tmp_path / "results")
    assert executed == [
        ("01_quickstart", {"results_dir": folder, "device": "cpu"}, "01_quickstart.ipynb"),
        (
            "02_sine",
            {"results_dir": folder, "profile": "smoke", "device": "cpu", "jobs": 2},
            "02_sine-smoke.ipynb",
        ),
    ]


def test_an_experiment_narrows_its_notebook_and_a_topic_does_not(executed, tmp_path):
    run(tmp_path, "diabetes")
    run(tmp_path, "tabular")
    assert [given.get("datasets") for _, given, _ in executed] == [["diabetes"], None]


def test_a_stand_in_takes_the_place_of_data_that_is_not_at_hand(executed, tmp_path, capsys):
    run(tmp_path)
    given = {stem: given.get("dataset") for stem, given, _ in executed}
    assert (given["03_mnist"], given["04_cifar10"]) == ("digits", "digits5")
    assert "05_surname" not in given
    assert "skipped surname: surname is not at hand: `evomal data surname --download`" in capsys.readouterr().out
    executed.clear()
    run(tmp_path, "digits5")
    assert [(stem, given["dataset"]) for stem, given, _ in executed] == [("04_cifar10", "digits5")]


def test_missing_data_of_a_named_experiment_is_an_error_before_anything_runs(executed, tmp_path):
    with pytest.raises(FileNotFoundError, match="boston"):
        run(tmp_path, "sine", "boston")
    assert executed == []


def test_every_topic_is_a_notebook():
    assert topics()["sine"] == "02_sine"
    assert {entry.notebook for entry in EXPERIMENTS.values()} <= set(topics().values())


def test_searches_with_a_filter_switched_are_as_small_as_the_profile_only_for_smoke(executed, tmp_path):
    run(tmp_path, "runtime", profile="smoke")
    run(tmp_path, "runtime", profile="paper")
    assert [given.get("switched") for _, given, _ in executed] == ["smoke", None]


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"quickstart.*can't be written: .*file is a file"):
        reproduce(["quickstart"], profile="smoke", device="cpu", results_dir=tmp_path / "file", jobs=1)
