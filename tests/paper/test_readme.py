"""README's and the docs' blocks of results say what the runs say."""

import re

import pandas as pd
import pytest
from made_runs import made

from evomal_paper.readme import blocks, updated
from evomal_paper.runs.run import Run

ERRORS = {("baseline", 0): 3.5, ("baseline", 1): 4.5, ("evomal", 0): 1.25, ("evomal", 1): 1.75}


def made_runs(folder, profile="quick", methods=("baseline", "evomal"), seeds=(0, 1)):
    for method, seed in ERRORS:
        if method in methods and seed in seeds:
            made(Run("sine", profile, method, seed, folder), error=ERRORS[method, seed])
    return folder


@pytest.fixture
def folder(tmp_path):
    return made_runs(tmp_path)


def test_a_row_holds_means_over_seeds_and_the_published_cells(folder):
    block = blocks(folder)["results"]
    (row,) = [line for line in block.splitlines() if "in-sample" in line and "out-of" not in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "Sine regression, in-sample, training"
    assert cells[1] == "`quick`"
    assert cells[4:6] == ["1.5 ± 0.35 (2)", "1.27 ± 0.81"]
    assert cells[7:] == ["4 ± 0.71", "1.5 ± 0.35", "–"]
    assert "Of 227 numbers" in block
    said = "; 0 were run on all the experiments that they are about, 0 of them under the papers' settings alone."
    assert said in block
    counted = re.search(r"(\d+) reproduced, .*Reproduced under other settings than the papers': (\d+)\.", block)
    reproduced, otherwise = counted.groups()
    assert reproduced == otherwise  # all of `quick`


def test_the_tuned_baseline_stands_beside_where_other_rates_were_run(folder):
    for seed, error in ((0, 1.0), (1, 2.0)):
        made(Run("sine", "quick@base.lr=0.01", "baseline", seed, folder), error=error)
    (row,) = [
        line for line in blocks(folder)["results"].splitlines() if "in-sample" in line and "out-of" not in line
    ]
    assert row.strip("|").split("|")[-1].strip() == "1.5 ± 0.71 (2)"


@pytest.mark.parametrize(("errors", "said"), [([3.0, 3.0], True), ([3.0], False)], ids=str)
def test_a_share_of_the_gain_is_of_the_same_seeds(errors, said, tmp_path):
    folder = made_runs(tmp_path)
    for seed, error in enumerate(errors):
        made(Run("sine", "quick@base.lr=0.01", "baseline", seed, folder), error=error)
    assert ("Of EvoMAL's gain over the task loss" in blocks(folder)["results"]) == said


def test_single_runs_are_said_to_decide_nothing(tmp_path):
    block = blocks(made_runs(tmp_path, seeds=[0]))["results"]
    counted = re.search(r"(\d+) not reproduced, .*of one run or too uncertain to decide: (\d+)\.", block)
    assert counted.group(1) == counted.group(2) != "0"


def test_without_runs_there_is_no_table(tmp_path):
    block = blocks(tmp_path)["results"]
    assert "227 not run" in block
    assert "|" not in block


def test_only_the_block_is_written_anew(folder):
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    written = blocks(folder)
    new = updated(text, written)
    assert new.startswith("before\n<!-- results -->\nOf 227")
    assert new.endswith("|\n<!-- /results -->\nafter\n")
    assert updated(new, written) == new


def test_the_fairest_profile_with_evomal_is_shown_and_the_others_apart(folder):
    made_runs(folder, "paper", ["baseline"])
    written = blocks(folder)
    assert "| `quick` |" in written["results"]
    assert "| `paper` |" not in written["results"]  # only the baseline was run there
    assert "| `paper` |" in written["other profiles"]
    made_runs(folder, "paper", ["evomal"])
    written = blocks(folder)
    assert "| `paper` |" in written["results"]
    assert "| `quick` |" not in written["results"]
    assert "| `quick` |" in written["other profiles"]


def test_a_demonstration_s_row_says_whether_a_known_loss_was_recommended(tmp_path):
    folder = tmp_path / "where_it_pays" / "trainings"
    folder.mkdir(parents=True)
    errors = {
        0: {"learned": 0.1, "cross-entropy": 0.3, "focal 1": 0.1},
        1: {"learned": 0.2, "cross-entropy": 0.5, "focal 1": 0.3},
    }
    for seed, losses in errors.items():
        rows = [{"loss": loss, "data seed": seed, "training": 0, "test": test} for loss, test in losses.items()]
        pd.DataFrame(rows).to_csv(folder / f"wrong-labels-{seed}.csv", index=False)
    (row,) = blocks(tmp_path)["where it pays"].splitlines()[2:]
    _, learned, usual, _, best, clean = [cell.strip() for cell in row.strip("|").split("|")]
    assert learned == "0.150 (known: 1 of 2)"
    assert usual == "0.400, cross-entropy"
    assert best.startswith("0.200, focal 1 (")
    assert clean == "–"
