"""The baseline at its tuned rate: chosen without test data, for each seed by itself."""

import pytest
from made_runs import made

from evomal_paper.analysis.learning_rate import tuned_baseline, tuned_table
from evomal_paper.comparison.evidence import gather
from evomal_paper.runs.run import Run


@pytest.fixture
def rates(tmp_path):
    errors = {"quick": (4.0, 4.0), "quick@base.lr=0.01": (1.0, 3.0), "quick@base.lr=0.1": (2.0, 1.0)}
    for profile, of_seeds in errors.items():
        for seed, error in enumerate(of_seeds):
            made(Run("sine", profile, "baseline", seed, tmp_path), error=error)
    made(Run("sine", "quick@base.lr=0.1", "evomal", 0, tmp_path), error=0.1)
    made(Run("diabetes", "quick", "baseline", 0, tmp_path))
    return gather(tmp_path).rates


def test_each_seed_has_the_rate_at_which_it_does_best(rates):
    found = tuned_baseline(rates)
    assert set(found["experiment"]) == {"sine"}  # of diabetes no other rate was run
    chosen = found.drop_duplicates("seed").set_index("seed")
    assert chosen["rate"].to_dict() == {0: 0.01, 1: 0.1}
    assert (found["error"] == 1.0).all()


def test_the_table_says_means_and_rates(rates):
    table = tuned_table(rates, ["sine"], "quick")
    assert table["error"].tolist() == ["1.0000 ± 0.0000 (2)"] * 4
    assert set(table["rates"]) == {"0.01, 0.1"}
    assert tuned_table(rates, ["sine"], "paper").empty
