"""Figures show what the tables hold, in one fixed style, and are the same bytes each time."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

import evomal_core as em
from evomal_core.losses import TaskLoss
from evomal_core.search import METHODS
from evomal_paper import plots
from evomal_paper.plots.style import log_scale, new_figure
from evomal_paper.published import tables as paper

SEEDS = (0, 1, 2)


@pytest.fixture
def tests():
    """Errors of two methods, three seeds and two tasks, on both groups and splits."""
    rng = np.random.default_rng(0)
    rows = [
        {"method": method, "seed": seed, "group": group, "task": task, "step": step, "split": split}
        | {"experiment": "sine", "profile": "quick", "error": float(rng.uniform(1, 5))}
        for method in ("baseline", "evomal")
        for seed in SEEDS
        for group in ("in-sample", "out-of-sample")
        for task in (0, 1)
        for step in (0, 10, 20)
        for split in ("train", "test")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def final(tests):
    last = tests[tests["step"] == 20]
    keys = ["experiment", "profile", "method", "seed", "group", "split"]
    return last.groupby(keys, sort=False)["error"].mean().reset_index()


def _legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def _lines(figure):
    """The lines that show data, without the samples of the legend."""
    return [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]


def _seeds(axes):
    """The heights of the points of each method, in the order of the axis."""
    return [np.ma.getdata(points.get_offsets())[:, 1] for points in axes.collections if len(points.get_offsets())]


def test_every_method_has_a_style_and_a_label_in_the_one_order():
    assert list(plots.STYLES) == list(METHODS) == list(paper.LABELS)
    for look in ("color", "marker"):
        assert len({str(getattr(style, look)) for style in plots.STYLES.values()}) == len(METHODS)


def test_neighbours_that_share_a_line_style_differ_in_grey():
    def grey(name):
        return np.dot(to_rgb(plots.STYLES[name].color), (0.2126, 0.7152, 0.0722))

    solid = [name for name, style in plots.STYLES.items() if not style.dashes]
    assert solid == ["baseline", "evomal"]
    assert abs(grey("baseline") - grey("evomal")) > 0.25


def test_learning_curves_are_medians_over_seeds_of_means_over_tasks(tests):
    figure = plots.learning_curves(tests, "in-sample", "test")
    assert _legend(figure) == ["Baseline (n = 3)", "EvoMAL (n = 3)"]
    chosen = tests.query("method == 'evomal' and group == 'in-sample' and split == 'test'")
    by_hand = [chosen[chosen["step"] == step].groupby("seed")["error"].mean().median() for step in (0, 10, 20)]
    assert _lines(figure)[1].get_ydata() == pytest.approx(by_hand)
    (band,) = figure.axes[0].collections[1].get_paths()
    quartile = [
        np.quantile(chosen[chosen["step"] == step].groupby("seed")["error"].mean(), 0.25) for step in (0, 10, 20)
    ]
    assert set(quartile) <= set(band.vertices[:, 1])
    assert figure.axes[0].get_xlabel() == "base gradient steps"
    assert figure.axes[0].get_ylabel() == "held-out error (MSE)"
    assert len(figure.axes[0].collections) == 2  # the bands


def test_a_diverged_seed_counts_as_infinite_in_the_median_and_is_said(tests):
    lost = (tests["method"] == "evomal") & (tests["seed"] == 1) & (tests["step"] == 20)
    tests.loc[lost, "error"] = np.inf
    figure = plots.learning_curves(tests, "out-of-sample", "train")
    assert _legend(figure)[1] == "EvoMAL (n = 3, 1 diverged)"
    assert "diverged seeds count as infinite" in figure.get_suptitle()
    chosen = tests.query("method == 'evomal' and group == 'out-of-sample' and split == 'train' and step == 20")
    larger = chosen[chosen["seed"] != 1].groupby("seed")["error"].mean().max()  # the middle one of three
    assert _lines(figure)[1].get_ydata()[-1] == pytest.approx(larger)
    assert "cut where the axis ends" in figure.get_suptitle()


def test_a_line_leaves_the_panel_where_the_median_is_infinite(tests):
    lost = (tests["method"] == "evomal") & (tests["seed"] < 2) & (tests["step"] == 20)
    tests.loc[lost, "error"] = np.nan
    figure = plots.learning_curves(tests, "in-sample", "train")
    top = figure.axes[0].get_ylim()[1]
    assert top < 100
    assert (_lines(figure)[1].get_ydata() > top).tolist() == [False, False, True]
    assert _legend(figure)[1] == "EvoMAL (n = 3, 2 diverged)"


def test_one_exploding_seed_stretches_no_axis(tests):
    tests.loc[(tests["method"] == "evomal") & (tests["seed"] == 1), "error"] = 1e7
    figure = plots.learning_curves(tests, "in-sample", "test")
    assert figure.axes[0].get_ylim()[1] < 20
    assert "band: quartiles, cut where the axis ends" in figure.get_suptitle()
    assert _legend(figure)[1] == "EvoMAL (n = 3)"


def test_one_seed_has_no_band(tests):
    figure = plots.learning_curves(tests[tests["seed"] == 0], "in-sample", "test")
    assert not [path for band in figure.axes[0].collections for path in band.get_paths() if len(path.vertices)]
    assert _legend(figure)[0] == "Baseline (n = 1)"


def test_a_wrong_group_or_several_experiments_are_refused(tests):
    with pytest.raises(
        ValueError, match="no rows of group 'outside' and split 'test'; there are in-sample, train"
    ):
        plots.learning_curves(tests, "outside", "test")
    both = pd.concat([tests, tests.assign(experiment="diabetes")])
    with pytest.raises(ValueError, match="a figure shows one experiment, got sine, diabetes"):
        plots.learning_curves(both, "in-sample", "test")


def test_meta_training_draws_methods_without_generations_as_level_lines():
    rows = [
        {"method": "evomal", "seed": s, "generation": g, "best_fitness": 5.0 - g} for s in SEEDS for g in range(4)
    ]
    rows += [{"method": "baseline", "seed": s, "generation": 0, "best_fitness": 6.0} for s in SEEDS]
    histories = pd.DataFrame(rows).assign(experiment="sine", profile="quick")
    figure = plots.meta_training_curves(histories)
    level, falling = _lines(figure)
    assert (level.get_xdata().tolist(), level.get_ydata().tolist()) == ([0, 3], [6, 6])
    assert falling.get_ydata().tolist() == [5, 4, 3, 2]
    assert figure.axes[0].get_xlabel() == "generation"


def test_a_line_of_meta_training_begins_where_most_seeds_have_a_usable_loss():
    fitness = {0: [np.inf, 4.0, 3.0], 1: [6.0, 6.0, 5.0], 2: [np.inf, np.inf, np.inf]}
    rows = [{"seed": s, "generation": g, "best_fitness": y} for s, ys in fitness.items() for g, y in enumerate(ys)]
    figure = plots.meta_training_curves(
        pd.DataFrame(rows).assign(method="evomal", experiment="sine", profile="quick")
    )
    (line,) = _lines(figure)
    assert line.get_ydata()[0] > 1e9 > figure.axes[0].get_ylim()[1]
    assert line.get_ydata()[1:] == pytest.approx([6.0, 5.0])
    assert _legend(figure) == ["EvoMAL (n = 3, 1 failed)"]


def test_a_method_whose_every_seed_diverged_is_still_named(tests, final):
    tests.loc[tests["method"] == "evomal", "error"] = np.inf
    final.loc[final["method"] == "evomal", "error"] = np.inf
    assert _legend(plots.learning_curves(tests, "in-sample", "test"))[1] == "EvoMAL (n = 3, 3 diverged)"
    axes = plots.final_errors(final).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Baseline", "EvoMAL"]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("↑3", 1)]


def test_final_errors_show_every_seed_the_mean_and_the_published_value(final):
    published = paper.published("2").query("experiment == 'sine'")
    figure = plots.final_errors(final, published)
    assert len(figure.axes) == 4
    assert "n = 3" in figure.get_suptitle()
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "in-sample, training error"
    by_hand = final.query("method == 'baseline' and group == 'in-sample' and split == 'train'")["error"]
    assert sorted(_seeds(axes)[0]) == pytest.approx(sorted(by_hand))
    assert np.nanmean(axes.get_lines()[0].get_ydata()) == pytest.approx(by_hand.mean())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Baseline", "EvoMAL"]
    drawn = {float(y) for line in axes.get_lines() for y in line.get_ydata()}
    assert 3.028 in drawn


def test_final_errors_count_diverged_seeds_and_leave_them_out_of_the_mean(final):
    final.loc[0, "error"] = np.inf
    figure = plots.final_errors(final)
    axes = figure.axes[0]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("↑1", 0)]
    assert "↑k: k seeds diverged" in figure.get_suptitle()
    left = final.query("method == 'baseline' and group == 'in-sample' and split == 'train'")["error"][1:]
    assert np.nanmean(axes.get_lines()[0].get_ydata()) == pytest.approx(left.mean())


@pytest.mark.parametrize("error", [0.0, np.inf])
def test_where_nothing_is_above_zero_the_axis_stays_linear(tests, final, error, tmp_path):
    figure = plots.final_errors(final.assign(error=error))
    plots.save(figure, tmp_path / "errors.png")
    assert figure.axes[0].get_yscale() == "linear"
    plots.save(plots.learning_curves(tests.assign(error=error), "in-sample", "test"), tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("largest", "labels"),
    [(4e3, ["0.1", "1", "10", "100", "1000"]), (4e6, [rf"$\mathdefault{{10^{{{n}}}}}$" for n in range(-1, 7)])],
)
def test_a_log_axis_has_plain_numbers_or_powers_of_ten(largest, labels):
    figure, grid = new_figure(3, 2)
    axes = grid[0, 0]
    axes.plot([0.05, largest])
    log_scale(axes)
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    shown = [tick.label1.get_text() for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert shown == labels


def test_errors_from_new_starts_stand_hollow_beside(final):
    final["error from new starts"] = final["error"] + 1
    final.loc[0, "error from new starts"] = np.inf
    figure = plots.final_errors(final)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["↑1"]
    assert sorted(_seeds(axes)[2]) == pytest.approx(sorted(_seeds(axes)[0][1:] + 1))
    hollow = [tuple(points.get_facecolor()[0, :3]) == (1, 1, 1) for points in axes.collections]
    assert hollow == [False, False, True, True]
    assert "hollow: from new starts" in figure.get_suptitle()


def test_parameter_counts_leave_out_methods_without_weights():
    sizes = {"baseline": 0, "ml3": 2650, "evomal": 30}
    runs = pd.DataFrame([{"method": m, "seed": s, "parameters": n} for m, n in sizes.items() for s in SEEDS])
    figure = plots.parameter_counts(runs.assign(experiment="sine", profile="quick"), paper.published("3"))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["ML³", "EvoMAL"]
    assert figure.axes[0].get_ylabel() == "trainable weights of the loss"


def test_regression_shapes_show_value_and_gradient_over_the_error():
    shown = {"evomal": em.LearnedLoss("abs(sub(y, f))"), "baseline": TaskLoss("regression")}
    figure = plots.loss_shapes(shown, "regression")
    value, gradient = figure.axes[0], figure.axes[3]
    squared, learned = value.get_lines()
    error = squared.get_xdata()
    assert squared.get_ydata() == pytest.approx(error**2 / 9, abs=1e-6)
    assert learned.get_ydata() == pytest.approx(np.abs(error) / 3, abs=1e-6)
    away = np.abs(error) > 1e-3
    assert gradient.get_lines()[1].get_ydata()[away] == pytest.approx(np.sign(error[away]))
    assert (gradient.get_xlabel(), gradient.get_ylabel()) == ("error f − y", "gradient ∂M/∂f")
    assert _legend(figure) == ["squared error", "EvoMAL"]


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_classification_shapes_go_over_probabilities_for_both_labels(kind):
    figure = plots.loss_shapes({"mine": em.LearnedLoss("square(sub(y, f))", kind)}, kind)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        "classification, y = 0",
        "classification, y = 1",
    ]
    entropy = figure.axes[3].get_lines()[0]
    p = entropy.get_xdata()
    assert entropy.get_ydata() == pytest.approx(-1 / p, rel=1e-4)
    assert figure.axes[3].get_xlabel() == "probability f"


def test_a_loss_without_gradient_is_drawn_flat():
    figure = plots.loss_shapes({"mine": em.LearnedLoss("sign(mul(y, f))")}, "regression")
    assert not figure.axes[4].get_lines()[1].get_ydata().any()


def test_pictures_have_a_palette_of_few_colours_and_look_the_same(tmp_path):
    figure, ((axes,),) = new_figure(3, 2)
    axes.imshow(np.random.default_rng(0).normal(size=(30, 30)), cmap="viridis")
    png = plots.save(figure, tmp_path / "map.png")
    exact = io.BytesIO()
    figure.savefig(exact, format="png", dpi=200, facecolor="white")
    with Image.open(png) as small, Image.open(exact) as large:
        assert small.mode == "P"
        assert len(small.getcolors()) <= 128
        assert small.size == large.size
        assert small.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        apart = np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(large.convert("RGB"), float))
    assert apart.mean() < 2
    assert png.stat().st_size < 0.7 * len(exact.getvalue())


def test_saved_files_are_the_same_bytes_each_time(final, tmp_path):
    for folder in ("a", "b"):
        figure = plots.final_errors(final)
        figure._repr_png_()  # showing it changes nothing
        plots.save(figure, tmp_path / folder / "errors.v1.png")
    first, second = ((tmp_path / folder / "errors.v1.png").read_bytes() for folder in "ab")
    assert first == second
    assert first.startswith(b"\x89PNG")
