"""README's block of results says what the runs say."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from evomal_paper.readme import results_block, updated

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def folder(tmp_path):
    for method in ("baseline", "evomal"):
        for seed in (0, 1):
            run = Path("sine/quick") / method / f"seed-{seed}"
            shutil.copytree(RESULTS / run, tmp_path / run)
    return tmp_path


def test_a_row_holds_means_over_seeds_and_the_published_cells(folder):
    block = results_block(folder)
    (row,) = [line for line in block.splitlines() if "in-sample" in line and "out-of" not in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    errors = []
    for seed in (0, 1):
        tests = pd.read_csv(folder / f"sine/quick/evomal/seed-{seed}/test.csv")
        last = tests[(tests["step"] == 100) & (tests["group"] == "in-sample") & (tests["split"] == "train")]
        errors.append(last["error"].mean())
    by_hand = pd.Series(errors)
    assert cells[0] == "Sine regression, in-sample, training"
    assert cells[1] == "`quick`"
    assert cells[4:6] == [f"{by_hand.mean():.3g} ± {by_hand.std():.2g} (2)", "1.27 ± 0.81"]
    assert "Of 227 numbers" in block
    said = "; 0 were run on all the experiments that they are about, 0 of them under the papers' settings alone."
    assert said in block
    counted = re.search(r"(\d+) reproduced, .*Reproduced under other settings than the papers': (\d+)\.", block)
    reproduced, otherwise = counted.groups()
    assert reproduced == otherwise  # all of `quick`


def test_single_runs_are_said_to_decide_nothing(folder):
    for method in ("baseline", "evomal"):
        shutil.rmtree(folder / f"sine/quick/{method}/seed-1")
    block = results_block(folder)
    counted = re.search(r"(\d+) not reproduced, .*of one run or too uncertain to decide: (\d+)\.", block)
    assert counted.group(1) == counted.group(2) != "0"


def test_without_runs_there_is_no_table(tmp_path):
    block = results_block(tmp_path)
    assert "227 not run" in block
    assert "|" not in block


def test_only_the_block_is_written_anew(folder):
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    new = updated(text, folder)
    assert new.startswith("before\n<!-- results -->\nOf 227")
    assert new.endswith("|\n<!-- /results -->\nafter\n")
    assert updated(new, folder) == new


def test_the_fairest_profile_with_evomal_is_shown_and_the_others_are_folded(folder):
    for seed in (0, 1):
        run = f"sine/paper/baseline/seed-{seed}"
        shutil.copytree(RESULTS / run, folder / run)
    shown, folded = results_block(folder).split("<details>")
    assert "| `quick` |" in shown
    assert "| `paper` |" not in shown  # only the baseline was run there
    assert "| `paper` |" in folded
    assert folded.rstrip().endswith("</details>")
    for seed in (0, 1):
        run = f"sine/paper/evomal/seed-{seed}"
        shutil.copytree(RESULTS / run, folder / run)
    shown, folded = results_block(folder).split("<details>")
    assert "| `paper` |" in shown
    assert "| `quick` |" not in shown
    assert "| `quick` |" in folded
