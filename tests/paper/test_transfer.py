"""Transfer: which loss is taken, that the target trains with it as it would itself, and what is published."""

import shutil

import numpy as np
import pandas as pd
import pytest

from evomal_paper.analysis import cached_table, transfer
from evomal_paper.runs import compute, meta_test
from evomal_paper.runs.tables import load_or_run


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    options = {"methods": ["baseline", "evomal"], "seeds": [0, 1], "results_dir": folder, "progress": False}
    return transfer.load_or_transfer("sine-to-diabetes", "smoke", **options), folder, options


def test_the_loss_of_the_best_seed_is_chosen_without_test_data():
    class Sources:
        def final(self):
            rows = [
                {"method": method, "seed": seed, "group": group, "split": split, "error": error}
                for method, by_seed in {"ml3": [3, 1, 2], "evomal": [np.inf, 5, 5], "random": [np.inf] * 3}.items()
                for seed, value in enumerate(by_seed)
                for group, split, error in (
                    ("in-sample", "train", -value),
                    ("in-sample", "validation", value),
                    ("in-sample", "test", -value),
                    ("out-of-sample", "validation", -value),
                )
            ]
            return pd.DataFrame(rows)

    chosen = transfer.best_of_seeds(Sources()).set_index("method")
    assert chosen["source seed"].to_dict() == {"evomal": 1, "ml3": 1, "random": 0}
    assert chosen["by"].unique().tolist() == ["validation"]


def test_the_target_is_trained_with_the_source_s_loss_and_its_own_baseline(moved):
    (chosen, final), _, options = moved
    assert set(final["method"]) == {"baseline", "evomal"}
    source = load_or_run("sine", "smoke", **options)
    own = load_or_run("diabetes", "smoke", **options | {"methods": ["baseline"]})
    pick = final[final["method"] == "baseline"]["error"].tolist()
    assert pick == own.final()["error"].tolist()
    (row,) = chosen.to_dict("records")
    loss = source.losses["sine", "evomal", row["source seed"]]
    diabetes = compute.experiment("diabetes")
    sizes = diabetes.profile("smoke")
    by_hand = pd.DataFrame(meta_test.meta_test(loss, diabetes.problem(sizes, 1), sizes, 1, "cpu", starts=["new"]))
    last = by_hand[by_hand["step"] == by_hand["step"].max()].set_index("split")["error"]
    found = final[(final["method"] == "evomal") & (final["seed"] == 1)].set_index("split")["error"]
    assert found.to_dict() == pytest.approx(last.to_dict())


def test_the_baseline_alone_is_shown_as_such(moved):
    options = moved[2]
    chosen, final = transfer.load_or_transfer("sine-to-diabetes", "smoke", **options | {"methods": ["baseline"]})
    assert chosen.empty
    assert {"method", "source seed", "source error", "source"} <= set(chosen)
    assert set(final["method"]) == {"baseline"}
    compared = transfer.gains(final)
    assert compared.empty


def test_finished_pieces_are_loaded_and_others_refused(moved, monkeypatch):
    (_, final), folder, options = moved
    piece = folder / "transfer" / "sine-to-diabetes" / "smoke" / "evomal" / "seed-1"
    assert {path.name for path in piece.iterdir()} == {"test.csv", "test.json"}
    monkeypatch.setattr(cached_table, "meta_test", None)
    again = transfer.load_or_transfer("sine-to-diabetes", "smoke", **options)[1]
    pd.testing.assert_frame_equal(again, final)
    record = piece / "test.json"
    whole = record.read_text()
    record.write_text(whole.replace('"loss": "', '"loss": "other'))
    with pytest.raises(ValueError, match=r"test.json is of another configuration: loss"):
        transfer.load_or_transfer("sine-to-diabetes", "smoke", **options)
    record.unlink()
    with pytest.raises(TypeError):  # it is computed again
        transfer.load_or_transfer("sine-to-diabetes", "smoke", **options)
    record.write_text(whole)


def test_a_source_with_another_best_seed_is_transferred_anew(moved, tmp_path):
    (chosen, final), folder, options = moved
    (best,) = chosen["source seed"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    one = options | {"seeds": [1 - best], "results_dir": tmp_path}
    two = options | {"results_dir": tmp_path}
    for asked, taken in ((one, 1 - best), (two, best), (one, 1 - best)):
        found = transfer.load_or_transfer("sine-to-diabetes", "smoke", **asked)
        assert found[0]["source seed"].tolist() == [taken]
    pd.testing.assert_frame_equal(transfer.load_or_transfer("sine-to-diabetes", "smoke", **two)[1], final)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sine", "a transfer is written source-to-target, for example sine-to-diabetes; got 'sine'"),
        ("sine-to-sine", "a transfer has two experiments, got 'sine' twice"),
        ("sin-to-diabetes", "unknown experiment 'sin'; did you mean 'sine'"),
        ("sine-to-", "unknown experiment ''"),
    ],
)
def test_a_wrong_transfer_has_its_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        transfer.sides(text)


def test_losses_of_different_kinds_do_not_transfer(tmp_path):
    with pytest.raises(
        ValueError, match=r"of one kind, got sine \(regression\) and digits-logistic \(multiclass\)"
    ):
        transfer.load_or_transfer("sine-to-digits-logistic", "smoke", results_dir=tmp_path)


def test_table_four_is_shown_beside_its_own_transfers_and_else_not_run(moved):
    (_, final), _, _ = moved
    table = transfer.table(final)
    assert set(table["published"]) == {"–"}
    assert table.loc[("sine-to-diabetes", "in-sample", "evomal"), "measured, held-out"].endswith("(2)")
    cells = transfer.published_table(final)
    assert len(cells) == 35
    assert set(cells["measured"]) == {"not run"}
    theirs = final.assign(source="cifar10-wideresnet", target="cifar100-wideresnet")
    assert transfer.is_published("cifar10-wideresnet", "cifar100-wideresnet")
    assert not transfer.is_published("cifar10-alexnet", "cifar100-wideresnet")
    row = transfer.table(theirs).loc[("cifar10-wideresnet-to-cifar100-wideresnet", "in-sample", "evomal")]
    assert row["published"] == "0.2238 ± 0.0017 (5)"
    cell = transfer.published_table(theirs).set_index(["target", "method"])["measured"]
    assert cell["cifar100-wideresnet", "evomal"] == row["measured, held-out"]
    assert cell["cifar100-alexnet", "evomal"] == "not run"
