"""Tables of learned losses: counted, correlated and proved from runs whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import evomal_core as em
from evomal_core.losses import TaskLoss
from evomal_core.parametric import TaylorLoss
from evomal_core.symbolic import variables
from evomal_paper.analysis import learned
from evomal_paper.analysis.examples import EXAMPLES
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.plots import losses as plots_losses
from evomal_paper.runs.tables import load_or_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    load_or_run("sine", "smoke", methods=["baseline", "evomal"], seeds=2, results_dir=folder, progress=False)
    return folder


def rows(*entries, experiment="sine", method="evomal"):
    """Best losses of given complexities and errors, with the family of a squared error."""
    table = pd.DataFrame(entries, columns=["complexity", "error"])
    return table.assign(
        experiment=experiment,
        method=method,
        seed=range(len(table)),
        kind="regression",
        family="squared-error-like",
        asymmetric=False,
        fitness=table["error"],
        **{"relative error": table["error"]},
    )[learned.BEST]


def test_runs_are_found_with_their_losses(finished):
    best, losses = learned.best_losses(finished, "smoke")
    assert list(best.columns) == learned.BEST
    assert list(best["method"].astype(str)) == ["baseline", "baseline", "evomal", "evomal"]
    baseline = best[best["method"] == "baseline"]
    assert (baseline["relative error"] == 1).all()
    assert (baseline["family"] == "squared-error-like").all()
    for row in best[best["method"] == "evomal"].to_dict("records"):
        loss = losses["sine", "evomal", row["seed"]]
        assert row["complexity"] == len(loss.expression)
        same = baseline.set_index("seed")["error"][row["seed"]]
        assert row["relative error"] == pytest.approx(row["error"] / same)
    shown = learned.shown(best, losses)
    fittest = best[best["method"] == "evomal"].sort_values("fitness")["seed"].iloc[0]
    assert list(shown) == [f"sine, seed {fittest}"]


def test_another_profile_or_an_empty_folder_has_none(finished, tmp_path):
    for folder, profile in ((finished, "quick"), (tmp_path, "smoke")):
        best, losses = learned.best_losses(folder, profile)
        assert best.empty
        assert losses == {}


def test_families_are_counted_by_method():
    best = pd.concat([rows((3, 1.0), (5, np.inf), (7, 3.0)), rows((3, 0.5), method="random")])
    best.loc[best["complexity"] == 5, ["family", "asymmetric"]] = ["robust", True]
    counts = learned.family_counts(best).set_index(["method", "family"])
    assert counts["losses"].to_dict() == {
        ("random", "squared-error-like"): 1,
        ("evomal", "squared-error-like"): 2,
        ("evomal", "robust"): 1,
    }
    assert counts.loc[("evomal", "robust"), ["n", "asymmetric"]].tolist() == [3, 1]
    assert counts.loc[("evomal", "robust"), "median error / baseline's"] == np.inf
    assert counts.loc[("evomal", "squared-error-like"), "median error / baseline's"] == 2


def test_in_one_group_the_correlation_is_spearmans():
    complexity, error = [3, 9, 4, 4, 12, 7], [0.5, 0.2, 0.9, 0.1, 0.8, np.inf]
    table = learned.complexity_and_error(rows(*zip(complexity, error, strict=True)))
    expected = spearmanr(complexity, [10 if np.isinf(value) else value for value in error])
    assert table["n"].tolist() == [6] * 4
    np.testing.assert_allclose(table["rho"], expected.statistic, rtol=1e-12)
    assert (table["verdict"] == "undecided").all()


@pytest.mark.parametrize(("sign", "verdict"), [(1, "agrees"), (-1, "disagrees")])
def test_a_correlation_within_groups_is_found_against_one_between_them(sign, verdict):
    easy = [(n, 1 + sign * n / 100) for n in range(3, 10)]
    hard = [(n - 50 * sign, 100 + sign * n / 100) for n in range(60, 67)]
    table = learned.complexity_and_error(pd.concat([rows(*easy), rows(*hard, experiment="diabetes")]))
    np.testing.assert_allclose(table["rho"], sign)
    assert table["groups"].tolist() == [2] * 4
    assert (table["p"] < 0.01).all()
    assert (table["verdict"] == verdict).all()


def test_chance_is_significant_as_often_as_it_should_be():
    rng = np.random.default_rng(0)
    found = [
        learned._stratified(
            [learned._centred_ranks(pd.Series(rng.permutation(6)))] * 2,
            [learned._centred_ranks(pd.Series(rng.permutation(6))) for _ in range(2)],
            "test",
            str(trial),
        )[1]
        for trial in range(100)
    ]
    assert 0 <= np.mean(np.array(found) < 0.05) <= 0.12


def test_without_runs_to_compare_nothing_is_claimed():
    table = learned.complexity_and_error(rows((3, 1.0)))
    assert (table["verdict"] == "not testable").all()
    assert (table["n"] == 0).all()
    same = learned.complexity_and_error(rows((3, 1.0), (3, 2.0)))
    assert (same["verdict"] == "not testable").all()


def test_every_formula_shown_is_proved():
    losses = {name: example.loss(weighted=True) for name, example in EXAMPLES.items()}
    losses |= {
        "task": TaskLoss("binary"),
        "taylor": TaylorLoss(theta=[0.3, -1.2345678, 0.5, 2, 0.1, 1, 1, 1]),
        "learned": em.LearnedLoss("mul(square(sub(y, f)), tanh(y))", phi=[1.234567, 0.3, 0.9, -1.1, 0.7, 2.0]),
    }
    proof = learned.simplifications(losses).set_index("loss")
    assert (proof["deviation"] < 1e-12).all()
    assert (proof["simplified"] <= proof["operations"]).all()
    assert 1e-6 < proof.loc["learned", "deviation as shown"] < 1e-3
    assert proof.loc["d", "formula"] == r"$f_\theta(x)^{3} - f_\theta(x)^{2} y - f_\theta(x) y^{2} + y^{3}$"


def test_a_wrong_formula_would_be_seen():
    f, y = variables()
    loss = em.LearnedLoss("square(sub(y, f))")
    assert learned._deviation(loss, (f - y) ** 2) == 0
    assert learned._deviation(loss, 1.01 * (f - y) ** 2) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("sine", 0),
        ("diabetes", 0),
        ("digits", 2),
        ("digits5", 5),
        ("digits-logistic", 10),
        ("cifar10", 5),
        ("cifar10-alexnet", 10),
        ("surname", 9),
        ("cifar100-wideresnet", 100),
    ],
)
def test_the_number_of_classes_is_the_experiments(name, classes):
    assert learned.classes_of(name) == classes
    entry = experiment(name)
    if entry.missing() is None:
        task = entry.problem(entry.profile("smoke"), 0).train[0]
        assert len(task.classes) == classes
        assert task.kind == {0: "regression", 2: "binary"}.get(classes, "multiclass")


def test_figures_show_every_example_and_every_experiment(finished):
    shown = {name: example.loss(weighted=True) for name, example in EXAMPLES.items()}
    classifying = {name: loss for name, loss in shown.items() if loss.kind == "multiclass"}
    regressing = {name: loss for name, loss in shown.items() if loss.kind == "regression"}
    figure = plots_losses.figure6(classifying, regressing)
    assert [len(axes.lines) for axes in figure.axes[:3]] == [6, 6, 6]
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert named == ["cross-entropy", *"abcde", "squared error", *"fghij"]
    assert [len(axes.lines) for axes in plots_losses.effective_losses(classifying).axes[:2]] == [3, 6]
    best, losses = learned.best_losses(finished, "smoke")
    for gradient in (False, True):
        (axes,) = plots_losses.own_losses(best, losses, gradient=gradient).axes
        assert len(axes.lines) == 3
        assert axes.get_title(loc="left") == "sine, n = 2 seeds"


def test_every_kind_of_loss_is_drawn_and_diverged_runs_are_counted():
    parts = [rows((4, 0.1), (6, np.inf)), rows((4, 0.0), (6, 0.2), experiment="mnist-mlp")]
    best = pd.concat([*parts, rows((4, np.inf), experiment="mnist")])
    best.loc[best["experiment"] == "mnist-mlp", "kind"] = "multiclass"
    best.loc[best["experiment"] == "mnist", "kind"] = "binary"
    losses = {
        (row.experiment, "evomal", row.seed): em.LearnedLoss("square(sub(y, f))", row.kind)
        for row in best.itertuples()
    }
    figure = plots_losses.own_losses(best, losses)
    assert [axes.get_xlabel()[:11] for axes in figure.axes] == ["error f − y", "probability", "probability"]
    panels = plots_losses.complexity(best).axes
    assert all(tick == round(tick) for axes in panels[:2] for tick in axes.get_xticks())
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["sine, n = 2 (1 diverged)", "mnist-mlp, n = 2", "mnist, n = 1 (1 diverged)"]
