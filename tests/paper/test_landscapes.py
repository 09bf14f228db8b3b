"""Landscapes against closed forms, an invariance, and the networks that runs trained."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import class_task, global_generators_untouched, regression_task
from torch import nn

import evomal_core as em
from evomal_core.losses import TaskLoss
from evomal_paper.analysis import landscapes
from evomal_paper.analysis.landscapes import Grid, direction, heights
from evomal_paper.runs.tables import load_or_run

LINE = Grid(points=5, radius=1.0)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def convolutional(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(2 * 4 * 4, 3)),
        )


def images(rows=20):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(rows, 1, 8, 8, generator=rng), torch.arange(rows) % 3


def test_each_filter_of_a_direction_has_the_norm_of_its_weights_and_the_rest_is_zero():
    network = convolutional()
    found = direction(network, 0)
    assert set(found) == {name for name, _ in network.named_parameters()}
    for name, weights in network.named_parameters():
        if weights.ndim < 2:
            assert not found[name].any()
        else:
            for way, filter_ in zip(found[name], weights, strict=True):
                assert float(way.norm()) == pytest.approx(float(filter_.detach().norm()))


def test_directions_depend_on_the_seed_and_the_axis_alone():
    with global_generators_untouched():
        first, again = direction(convolutional(0), 3), direction(convolutional(0), 3)
        other_weights = direction(convolutional(1), 3)
    others = direction(convolutional(0), 4), direction(convolutional(0), 3, axis=1)
    for name in ("0.weight", "3.weight", "6.weight"):
        assert torch.equal(first[name], again[name])
        same_way = torch.cosine_similarity(first[name].flatten(1), other_weights[name].flatten(1))
        assert same_way.numpy() == pytest.approx(1)
        assert all(not torch.allclose(first[name], other[name]) for other in others)


def test_a_zero_filter_stays_where_it_is():
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight[0] = 0
    assert not direction(network, 0)["weight"][0].any()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_landscape_of_a_linear_model_is_the_quadratic_of_its_closed_form(dimensions):
    """Mean (X(w + a·d) − y)² = |r|²/n + 2a·rᵀXd/n + a²·|Xd|²/n with r = Xw − y, for one direction and for two."""
    task = regression_task(rows=50, features=4).to(dtype=torch.float64)
    network = nn.Linear(4, 1)
    x, y = task.train
    grid = Grid(points=7, radius=2.0, dimensions=dimensions)
    table = landscapes.landscape(network, task, grid, seed=5)
    residual = (network(x) - y).detach()
    ways = [x @ direction(network, 5, axis)["weight"].T for axis in range(dimensions)]
    for row in table[table["measure"] == "task"].to_dict("records"):
        moved = residual + sum(row[axis] * way for axis, way in zip("xy", ways, strict=False))
        assert row["height"] == pytest.approx(float((moved**2).mean()), rel=1e-12)
    wide = table.pivot(index=[*"xy"[:dimensions]], columns="measure", values="height")
    assert wide["task"].to_numpy() == pytest.approx(wide["error"].to_numpy())
    assert len(wide) == 7**dimensions


def test_sharpness_of_a_quadratic_is_its_curvature_times_the_mean_square():
    x = np.linspace(-1, 1, 51)
    line = pd.DataFrame({"x": x, "height": 3 + 0.7 * x + 4 * x**2})
    run = {"experiment": "e", "profile": "p", "method": "baseline", "seed": 0}
    table = line.assign(**run, measure="task", task=0, diverged=False)
    row = landscapes.sharpness(table, radius=0.5).iloc[0]
    inside = x[(x != 0) & (np.abs(x) <= 0.5)]
    assert row["sharpness"] == pytest.approx(4 * (inside**2).mean())  # the slope cancels
    assert row["centre"] == pytest.approx(3)
    for radius in (0.0, 0.01, 1.5):
        with pytest.raises(ValueError, match=f"radius {radius:g} is not within"):
            landscapes.sharpness(table, radius=radius)


def test_a_diverged_training_is_infinitely_sharp_and_has_no_heights():
    run = {"experiment": "e", "profile": "p", "method": "baseline", "seed": 0, "measure": "task", "task": 0}
    table = pd.DataFrame({"x": [-0.5, 0.0, 0.5], "height": [2.0, 1.0, 2.0]}).assign(**run, diverged=True)
    assert np.isposinf(landscapes.per_seed(table)["height"]).all()
    assert np.isposinf(landscapes.sharpness(table)["sharpness"]).all()


def test_rescaling_a_relu_layer_changes_the_weights_but_not_the_filter_normalised_landscape():
    network = em.models.mlp(3, [6, 5], 3).to(torch.float64)
    scaled = copy.deepcopy(network)
    first, second = scaled[1], scaled[3]
    with torch.no_grad():
        first.weight.mul_(10)
        first.bias.mul_(10)
        second.weight.div_(10)
    task = class_task(3).to(dtype=torch.float64)
    ours, theirs = (landscapes.landscape(n, task, LINE, 2) for n in (network, scaled))
    assert theirs["height"].to_numpy() == pytest.approx(ours["height"].to_numpy(), rel=1e-12)
    plain = {name: torch.randn_like(w) for name, w in network.named_parameters()}
    measure, offsets = [TaskLoss("multiclass")], LINE.offsets()
    without = [heights(n, task.train, measure, [plain], offsets)[:, 0] for n in (network, scaled)]
    assert not torch.allclose(*without)


def test_batches_of_rows_and_threads_change_nothing(monkeypatch):
    network, part = convolutional().eval(), images(600)
    measures = [TaskLoss("multiclass"), em.LearnedLoss("square(sub(y, f))", "multiclass")]
    ways = [direction(network, 0, axis) for axis in (0, 1)]
    offsets = Grid(points=3, dimensions=2).offsets()
    found = heights(network, part, measures, ways, offsets)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(heights(network, part, measures, ways, offsets), found)
    for offset, row in zip(offsets, found, strict=True):
        moved = {
            name: weights.detach() + offset[0] * ways[0][name] + offset[1] * ways[1][name]
            for name, weights in network.named_parameters()
        }
        y_pred = torch.func.functional_call(network, moved, (part[0],))
        assert [float(m(y_pred, part[1]).detach()) for m in measures] == pytest.approx(row.tolist(), rel=1e-12)


def test_batch_norm_keeps_the_running_statistics_of_the_trained_network():
    network, (x, y) = convolutional(), images()
    with torch.no_grad():
        network(3 + 2 * x)  # moves the running statistics away from those of x
    before = copy.deepcopy(network.state_dict())
    centre = torch.zeros(1, 1)
    found = heights(network, (x, y), [TaskLoss("multiclass")], [direction(network, 0)], centre)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training
    expected = nn.functional.cross_entropy(copy.deepcopy(network).eval()(x), y)
    assert float(found) == pytest.approx(float(expected.detach()))


def test_heights_that_are_not_numbers_are_infinite():
    network = nn.Linear(1, 1)
    part = torch.full((2, 1), 1e200), torch.zeros(2, 1)
    measures = [TaskLoss(), lambda y_pred, _: torch.log(-y_pred.abs()).mean()]
    assert torch.isposinf(heights(network, part, measures, [direction(network, 0)], torch.zeros(1, 1))).all()


@pytest.mark.parametrize("points", [1, 4, 0])
def test_a_grid_has_the_trained_network_among_its_points(points):
    with pytest.raises(ValueError, match=f"Grid.points = {points}: an odd number of at least 3"):
        Grid(points=points)
    assert 0.0 in Grid(points=31, radius=0.7).offsets()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("results")
    results = load_or_run(
        "sine", "smoke", methods=["baseline", "evomal"], seeds=2, results_dir=folder, progress=False
    )
    return results, folder


def computed(runs, grid=LINE):
    return landscapes.load_or_compute(runs[0], grid, results_dir=runs[1], progress=False)


def test_the_centre_of_a_landscape_is_the_network_that_the_run_tested(runs):
    torch.set_default_dtype(torch.float32)
    table = computed(runs)
    centres = table[(table["x"] == 0) & (table["measure"] == "error")]
    final = runs[0].final().query("group == 'in-sample' and split == 'train'")
    keys = ["method", "seed"]
    ours = centres.groupby(keys, observed=True)["height"].mean()
    theirs = final.groupby(keys, observed=True)["error"].mean()
    for method, rel in (("baseline", 1e-5), ("evomal", 1e-2)):  # tests train all tasks at once: a loss that is
        # steep at places, as a logarithm is, multiplies what the two round differently
        assert ours[method].to_numpy() == pytest.approx(theirs[method].to_numpy(), rel=rel)


def test_landscapes_are_kept_and_loaded_and_others_refused(runs, monkeypatch):
    torch.set_default_dtype(torch.float32)
    first = computed(runs)
    folder = runs[1] / "landscapes" / "sine" / "smoke" / "evomal" / "seed-1"
    assert {path.name for path in folder.iterdir()} == {"line-5.csv", "line-5.json"}
    monkeypatch.setattr(landscapes, "landscape", None)  # computing fails from here on
    pd.testing.assert_frame_equal(computed(runs), first)
    with pytest.raises(ValueError, match=r"line-5.json is of another configuration: radius.*delete that file"):
        computed(runs, LINE.replace(radius=2.0))
    (folder / "line-5.csv").write_text("")
    with pytest.raises(ValueError, match=r"line-5.csv is damaged .*delete it"):
        computed(runs)
