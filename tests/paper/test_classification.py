"""Table II's rows are the published ones, on the published protocol; and what is said of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from evomal_core.seeds import isolated_torch, numpy_rng
from evomal_paper import notebook
from evomal_paper.comparison import tables
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments import classification
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.published.tables import published
from evomal_paper.runs.compute import compute
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import load

LARGE = [name for name in tables.ROWS if name.startswith(("cifar", "svhn"))]
SMALL = [name for name in tables.ROWS if name not in LARGE]


@pytest.fixture
def fake_images(monkeypatch):
    """A data set of few random images, none with a black pixel, in place of CIFAR-10 and CIFAR-100."""

    def put(name, rows=300):
        def arrays():
            rng = numpy_rng(0, name)
            classes = len(DATASETS[name].classes)
            images = rng.integers(10, 256, (rows + 50, 32, 32, 3)).astype(np.uint8)
            y = np.arange(rows + 50) % classes
            return images[:rows], y[:rows], images[rows:], y[rows:]

        fake = replace(DATASETS[name], content=None, conform=lambda *arrays: arrays, builtin=arrays)
        monkeypatch.setitem(DATASETS, name, fake)

    return put


def test_the_rows_are_those_of_the_table():
    second, fourth = (list(dict.fromkeys(published(table)["experiment"])) for table in ("II", "IV"))
    rest = [name for name in fourth if name not in second]
    assert [name for name in tables.ROWS if not name.startswith("digits")] == [*second, *rest]
    assert set(tables.ROWS) <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", tables.ROWS)
def test_the_profile_paper_is_as_published(name):
    paper = experiment(name).profile("paper")
    search, base = paper.search, paper.search.base
    assert (search.population, search.generations, search.meta_steps, search.fitness_steps) == (25, 50, 250, 500)
    assert (search.task_loss_on, search.fitness_on, search.function_set) == ("validation", "validation", "tpami23")
    assert (paper.seeds, paper.images, paper.test_images, base.lr, base.batch_size) == (5, 0, 0, 0.01, 128)
    if name in LARGE:
        assert (base.momentum, base.nesterov, base.weight_decay) == (0.9, True, 5e-4)
        assert (paper.test_steps, paper.test_milestones) == (150_000, (100_000, 135_000))
        assert search.rejection_steps == 1000
    else:
        assert (base.momentum, base.nesterov, base.weight_decay) == (0, False, 0)
        assert (paper.test_steps, paper.test_milestones) == (10_000, ())
        assert search.rejection_steps == 100


@pytest.mark.parametrize("name", ["digits-logistic", "digits-mlp", "digits-lenet5"])
def test_digits_rows_need_no_download(name):
    entry = experiment(name)
    assert entry.missing() is None
    fixed = entry.profile("quick@validation_draw=fixed")  # else other validation images at each seed
    problem, other = (entry.problem(fixed, seed) for seed in (0, 1))
    (task,) = problem.train
    assert {part: len(y) for part, (_, y) in task.parts().items()} == {
        "train": 1295,
        "validation": 142,
        "test": 360,
    }
    assert task.augment is None
    assert all(
        torch.equal(a[0], b[0])
        for a, b in zip(task.parts().values(), other.train[0].parts().values(), strict=True)
    )
    with isolated_torch(0):
        assert problem.model()(task.train[0][:2]).shape == (2, 10)


def test_large_rows_are_augmented_with_black_frames(fake_images):
    fake_images("cifar10")
    entry = experiment("cifar10-squeezenet")
    (task,) = entry.problem(entry.profile("quick"), 0).train
    black = [-channel.mean() / channel.std() for channel in np.moveaxis(DATASETS["cifar10"].load()[0], -1, 0)]
    assert task.augment.black == pytest.approx(black, abs=1e-5)
    assert (task.augment.padding, task.augment.flip) == (4, True)
    assert {part: len(y) for part, (_, y) in task.parts().items()} == {"train": 270, "validation": 30, "test": 50}


def test_few_images_of_cifar_100_hold_every_class(fake_images):
    fake_images("cifar100", rows=600)
    entry = experiment("cifar100-pyramidnet")
    (task,) = entry.problem(entry.profile("smoke"), 0).train
    assert {part: len(y) for part, (_, y) in task.parts().items()} == {"train": 108, "validation": 12, "test": 6}
    assert len(task.train[1].unique()) == 100
    assert task.outputs == 100


def test_a_large_row_runs(fake_images, tmp_path):
    fake_images("cifar10")
    run = Run("cifar10-squeezenet", "smoke", "evomal", 0, tmp_path)
    compute(run, progress=False)
    record = run.record()
    assert record["engine"] == "batched"
    tests = load([run]).tests
    assert tests["step"].max() == run.sizes.test_steps
    assert set(tests["split"]) == {"train", "validation", "test"}


def test_every_network_of_the_table_has_a_title():
    assert {name.partition("-")[2] for name in tables.ROWS} == set(classification.NETWORKS)


# --- the table ---------------------------------------------------------------------------------------------------


def finished(*cells):
    """Final held-out errors of runs: (experiment, method, errors by seed)."""
    return pd.DataFrame(
        [
            {"experiment": name, "profile": "quick", "method": method, "seed": seed, "group": "in-sample"}
            | {"split": "test", "error": error}
            for name, method, errors in cells
            for seed, error in enumerate(errors)
        ]
    )


FINAL = finished(
    ("mnist-mlp", "baseline", [0.03, 0.04]),
    ("mnist-mlp", "evomal", [0.02, 0.02]),
    ("digits-mlp", "baseline", [0.06, 0.05, 0.07]),
    ("digits-mlp", "random", [0.9, 0.9, np.inf]),
    ("digits-mlp", "evomal", [0.03, 0.021, 0.039]),
)


def test_the_table_has_all_rows_and_the_stand_ins_that_were_run():
    table = tables.table_ii(FINAL)
    assert table.loc[("mnist-mlp", "published"), "EvoMAL"] == "0.0152 ± 0.0012 (5)"
    assert table.loc[("mnist-mlp", "measured"), "Baseline"] == "0.0350 ± 0.0071 (2)"
    assert table.loc[("digits-mlp", "measured"), "Random"] == "0.9000 ± 0.0000 (3, 1 diverged)"
    assert table.loc[("mnist-mlp", "published"), "Random"] == "–"
    assert list(table.loc["svhn-wideresnet"].index) == ["published"]
    assert len(table.loc[[name for name, _ in table.index if not name.startswith("digits")]].index.unique(0)) == 13
    assert "digits-logistic" not in table.index.unique(0)


def test_rows_that_are_not_run_say_why_and_how(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    left = tables.not_run(["digits-mlp"], "paper@images=50").set_index("row")
    second = list(dict.fromkeys(published("II")["experiment"]))
    assert list(left.index) == ["digits-logistic", "digits-lenet5", *second]
    assert left.loc["digits-logistic", "why"] == "not named in rows"
    assert left.loc["cifar10-wideresnet", "minutes on two cores"] == "5,200,000"
    assert left.loc["svhn-wideresnet", "why"] == "its data is not at hand"
    assert left.loc["svhn-wideresnet", "how"] == (
        "evomal data svhn --download; evomal run svhn-wideresnet --profile paper@images=50"
    )


def checked_rows(rows):
    return notebook.check_parameters({"__annotations__": {"rows": list[str]}, "rows": rows})["rows"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["mnist-lenet"], "unknown row 'mnist-lenet'; did you mean 'mnist-lenet5'"),
        (["digits-mlp"] * 2, "a row is named more than once"),
        (["svhn-wideresnet"], "svhn is not at hand: `evomal data svhn --download` gets it"),
    ],
)
def test_wrong_rows_are_refused(rows, message, monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        checked_rows(rows)


def test_by_default_the_rows_of_minutes_whose_data_is_at_hand_are_run(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    assert checked_rows([]) == ["digits-logistic", "digits-mlp", "digits-lenet5"]
    assert checked_rows(["digits-mlp"]) == ["digits-mlp"]
    assert all(experiment(name).minutes["quick"] <= notebook.MINUTES for name in SMALL)
    assert all(experiment(name).minutes["quick"] > notebook.MINUTES for name in LARGE)
