"""Searching: what breeding keeps, what a seed decides, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import (
    SEEDS,
    class_task,
    global_generators_untouched,
    regression_task,
    small_model,
    tiny_config,
    trees,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import evomal_core as em
from evomal_core import engines, evolution
from evomal_core.evolution import breed
from evomal_core.expression import Expression, repair
from evomal_core.primitives import FUNCTION_SETS, TERMINALS

SEARCHING = ["random", "gp-lfl", "taylorglo", "evomal"]
ON_ALL_METHODS = pytest.mark.parametrize("method", list(em.METHODS))


def learn(method="evomal", seed=0, config=None, **keywords):
    keywords = {"progress": False} | keywords
    return em.learn_loss(
        [regression_task()], small_model(), method, config=config or tiny_config(), seed=seed, **keywords
    )


def outcome(result: em.SearchResult):
    """Everything in a result that must be reproducible, bit by bit."""
    weights = [[w.tolist() for w in entry.loss.parameters()] for entry in result.evaluations]
    names = [str(getattr(entry.loss, "expression", "")) for entry in result.evaluations]
    ranks = [(entry.fitness, entry.status) for entry in result.evaluations]
    population = [entry.fitness for entry in result.population]
    return weights, names, ranks, population, list(result.generations)


@ON_ALL_METHODS
def test_a_population_of_two_is_searched_without_a_warning(method):
    assert learn(method, config=tiny_config(population=2)).best is not None


def entry(text: str, fitness: float) -> em.Evaluation:
    return em.Evaluation(em.LearnedLoss(text), fitness)


POPULATION = st.lists(
    st.builds(
        lambda tree, fitness: em.Evaluation(em.LearnedLoss(repair(random.Random(0), tree, "tpami23")), fitness),
        trees(max_leaves=8).filter(lambda tree: tree.height <= 5),
        st.floats(0, 100) | st.just(math.inf),
    ),
    min_size=1,
    max_size=8,
)


@given(POPULATION, SEEDS, st.integers(1, 12), st.sampled_from([1.0, 1.4]))
def test_breeding_gives_a_population_of_valid_losses_with_the_elite_unchanged(population, seed, size, parsimony):
    config = em.SearchConfig(population=size, height_limit=6, initial_heights=(1, 2), parsimony=parsimony)
    with global_generators_untouched():
        children = breed(population, config, random.Random(seed))
    assert len(children) == size
    assert children[0] == min(population, key=lambda e: e.fitness).loss.expression
    for child in children:
        assert child.is_loss
        assert child.height <= 6, "the limit holds after repair"
        assert set(child.nodes) <= {*FUNCTION_SETS["tpami23"], *TERMINALS}
    assert breed(population, config, random.Random(seed)) == children


def test_reproduction_keeps_no_elite_and_copies_a_share_of_winners():
    rows = [entry(f"add(f, {'square(' * depth}y{')' * depth})", depth) for depth in range(1, 8)]
    config = em.SearchConfig(population=2000, elitism="reproduction", tournament=1)
    copies = set(rows_of(rows)) & set(breed(rows, config, random.Random(0)))
    assert config.elites == 0
    children = breed(rows, config, random.Random(0))
    assert copies
    assert sum(child in rows_of(rows) for child in children) / 2000 >= 0.05
    one = config.replace(population=1, crossover_rate=0.0, mutation_rate=1.0, elitism_rate=0.0)
    assert any(breed(rows, one, random.Random(seed))[0] not in rows_of(rows) for seed in range(5))


def rows_of(population):
    return [each.loss.expression for each in population]


def test_height_limit_is_checked_after_repair():
    """Parents at the limit: repair of a child without f or y adds a level, and the parent takes its place."""
    deep = "square(square(add(f, y)))"
    population = [entry(deep, 1.0), entry("square(square(mul(y, f)))", 2.0)]
    config = em.SearchConfig(
        population=50, height_limit=3, initial_heights=(1, 2), mutation_rate=0.9, crossover_rate=0.0
    )
    heights = [child.height for seed in range(20) for child in breed(population, config, random.Random(seed))]
    assert max(heights) == 3


def test_shares_of_crossover_mutation_and_reproduction_are_the_papers(monkeypatch):
    calls = {"crossover": 0, "mutate": 0}
    for name in calls:
        original = getattr(evolution, name)

        def counted(*arguments, name=name, original=original, **options):
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(evolution, name, counted)
    population = [entry("square(sub(f, y))", 1.0)] * 4000
    breed(population, em.SearchConfig(population=4000), random.Random(0))
    assert calls["crossover"] / 4000 == pytest.approx(0.70, abs=0.02)
    assert calls["mutate"] / 4000 == pytest.approx(0.25, abs=0.02)


def picks(population, n=4000, **changes):
    config = em.SearchConfig(**changes)
    rng = random.Random(0)
    chosen = [str(evolution._select(population, config, rng)) for _ in range(n)]
    return [chosen.count(str(e.loss.expression)) / n for e in population]


def test_tournaments_pick_the_lowest_fitness_with_the_known_probabilities():
    texts = ["add(f, y)", "sub(f, y)", "mul(f, y)", "div(f, y)", "square(sub(f, y))"]
    population = [
        entry(text, fitness) for text, fitness in zip(texts, [3.0, 1.0, math.inf, 2.0, 0.5], strict=True)
    ]
    # the r-th best of n wins with probability ((n−r+1)^k − (n−r)^k) / n^k
    n, k = 5, 4
    wanted = {r: ((n - r + 1) ** k - (n - r) ** k) / n**k for r in range(1, 6)}
    shares = picks(population, tournament=k)
    for share, rank in zip(shares, [4, 2, 5, 3, 1], strict=True):
        assert share == pytest.approx(wanted[rank], abs=0.02)


def test_infinite_fitness_never_beats_a_finite_one():
    population = [entry("add(f, y)", math.inf), entry("sub(f, y)", 1e300)]
    # an infinite one wins only a tournament of infinite ones: probability 1/16
    share = picks(population, tournament=4)[0]
    assert share == pytest.approx(1 / 16, abs=0.015)


def test_parsimony_prefers_the_smaller_of_two_winners():
    population = [entry("square(sub(f, y))", 1.0), entry("square(square(sub(f, y)))", 1.0)]
    plain = picks(population, tournament=1)[0]
    frugal = picks(population, tournament=1, parsimony=1.4)[0]
    assert plain == pytest.approx(0.5, abs=0.03)
    assert frugal == pytest.approx(0.25 + 0.5 * 0.7, abs=0.03)


def test_nan_is_never_a_fitness():
    with pytest.raises(ValueError, match="a fitness is never NaN"):
        entry("add(f, y)", math.nan)


@ON_ALL_METHODS
def test_every_method_returns_the_same_kind_of_result(method):
    with global_generators_untouched():
        result = learn(method)
    assert isinstance(result, em.SearchResult)
    assert result.method == method
    assert math.isfinite(result.fitness)
    assert result.fitness == min(e.fitness for e in result.evaluations)
    best = result.best_evaluation.loss
    assert str(result.best) == str(best)
    assert all(map(torch.equal, result.best.parameters(), best.parameters()))
    x, y = torch.randn(5, 1), torch.randn(5, 1)
    assert torch.isfinite(result.best(x, y))
    assert len(result.generations) == (3 if method in SEARCHING else 1)
    assert list(result.history["generation"]) == list(range(len(result.generations)))
    assert {"best_fitness", "mean_fitness", "finite", "diverged", "evaluated"} <= set(result.history.columns)
    assert result.table()["fitness"].iloc[-1] == result.fitness
    assert result.front()[-1].loss.latex() in result._repr_html_()
    assert method in repr(result)


@ON_ALL_METHODS
@pytest.mark.parametrize("classes", [2, 3])
def test_every_method_takes_binary_and_multiclass_tasks(method, classes):
    outputs = 1 if classes == 2 else classes
    task = class_task(classes)
    config = tiny_config(generations=2, population=4, rejection_steps=0)
    result = em.learn_loss([task], small_model(outputs=outputs), method, config=config, progress=False)
    assert 0 <= result.fitness <= 1, "an error rate"
    assert result.best.kind == task.kind


@ON_ALL_METHODS
def test_a_seed_decides_everything_whatever_the_global_generators_hold(method):
    first = learn(method, seed=3)
    random.seed(8)
    np.random.seed(8)  # noqa: NPY002 - shown to have no effect
    torch.manual_seed(8)
    assert outcome(learn(method, seed=3)) == outcome(first)
    if method != "baseline":
        assert outcome(learn(method, seed=4)) != outcome(first)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_the_population_never_worsens(archive, seed, monkeypatch):
    bests = []
    evaluate = evolution.Evaluator.evaluate

    def watched(self, expressions):
        population, counts = evaluate(self, expressions)
        bests.append(min(population, key=lambda e: e.fitness))
        return population, counts

    monkeypatch.setattr(evolution.Evaluator, "evaluate", watched)
    result = learn(seed=seed, config=tiny_config(generations=6, symbolic_archive=archive))
    fitness = [best.fitness for best in bests]
    assert fitness == sorted(fitness, reverse=True)
    assert result.history["best_fitness"].tolist() == pytest.approx(fitness)
    assert result.fitness == fitness[-1]


def test_without_elitism_the_best_may_be_lost():
    """So that the test before this one can fail."""
    population = [entry("add(f, y)", 0.0), *[entry("square(sub(f, y))", 1.0)] * 9]
    config = em.SearchConfig(population=10, elitism_rate=0.0, tournament=1)
    lost = [Expression.parse("add(f, y)") not in breed(population, config, random.Random(s)) for s in range(20)]
    assert any(lost)


def test_initial_losses_are_in_the_first_generation_and_the_result_is_no_worse():
    known = ["square(sub(y, f))", em.LearnedLoss("abs(sub(y, f))", phi=[1, 2, 3]), Expression.parse("mul(f, y)")]
    result = learn(initial=known, config=tiny_config(rejection_steps=0))
    tried = [str(e.loss.expression) for e in result.evaluations]
    assert tried[:3] == ["square(sub(y, f))", "abs(sub(y, f))", "mul(f, y)"]
    alone = learn(initial=known, config=tiny_config(generations=1, rejection_steps=0))
    assert result.fitness <= alone.fitness


def test_a_small_population_takes_the_first_of_many_initial_losses(caplog):
    known = em.known_losses("regression")
    result = learn("gp-lfl", initial=known, config=tiny_config(generations=1, rejection_steps=0))
    tried = [e.loss.expression for e in result.evaluations]
    assert tried == [loss.expression for loss in known.values()][:6]
    assert f"a population of 6 takes the first 6 of {len(known)} initial losses" in caplog.text


def test_a_search_goes_on_from_an_earlier_result():
    first = learn()
    second = learn(initial=first, config=tiny_config(generations=1))
    tried = {str(e.loss.expression) for e in second.evaluations}
    assert str(first.best.expression) in tried
    assert {str(e.loss.expression) for e in first.population} <= tried
    assert second.fitness <= first.fitness


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ("square(sub(y, f))", r"write initial=\['square\(sub\(y, f\)\)'\]"),
        (em.LearnedLoss("sub(y, f)"), r"write initial=\[LearnedLoss\(sub\(y, f\), kind='regression'\)\]"),
        (None, "initial is a list of losses, got None; leave it out"),
        (["square(sub(y, g))"], "unknown name 'g'"),
        (["(y - f)**2"], r"written as in square\(sub\(y, f\)\)"),
        (["square(y)"], "uses both f and y"),
        (["tanh(sub(f, y))"], "'tanh' .*not in function_set='gecco23'"),
        (["square(" * 11 + "sub(f, y)" + ")" * 11], "above height_limit 10"),
        ([None], "an expression is text"),
    ],
)
def test_initial_losses_that_cannot_be_used_are_refused_before_anything_is_computed(initial, message, monkeypatch):
    for name in ("local_search", "promises", "fitness"):
        monkeypatch.setattr(engines, name, None)
    with pytest.raises(ValueError, match=message):
        learn(initial=initial, config=tiny_config(function_set="gecco23"))


def test_a_search_without_a_usable_loss_says_what_to_change():
    config = tiny_config(base=em.SGD(lr=1e30, batch_size=8), rejection_steps=0, generations=1)
    result = learn("gp-lfl", config=config, initial=["square(sub(f, y))"] * 6)
    assert result.fitness == math.inf
    with pytest.raises(RuntimeError, match=r"gp-lfl found no usable loss: all .* smaller base learning rate"):
        _ = result.best
    assert result.table().empty
    assert "gp-lfl" in result._repr_html_()


class KilledError(Exception):
    """Stands for a kill: nothing of the search runs after it."""


def stopped_after(method, generation, folder, config, monkeypatch, **keywords):
    """Run a search that dies right after saving a generation."""
    from evomal_core.checkpoints import Checkpoint

    save, saved = Checkpoint.save, []

    def dying(self, state):
        save(self, state)
        saved.append(state)
        if len(saved) == generation:
            raise KilledError

    monkeypatch.setattr(Checkpoint, "save", dying)
    with pytest.raises(KilledError):
        learn(method, seed=2, config=config, checkpoint=folder, **keywords)
    monkeypatch.setattr(Checkpoint, "save", save)


@pytest.mark.parametrize("method", SEARCHING)
@pytest.mark.parametrize("generation", [1, 3])
def test_a_stopped_search_goes_on_and_ends_bit_by_bit_the_same(method, generation, tmp_path, monkeypatch):
    config = tiny_config(generations=4, meta_optimizer="adam")
    whole = learn(method, seed=2, config=config)
    stopped_after(method, generation, tmp_path, config, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.json"]
    resumed = learn(method, seed=2, config=config, checkpoint=tmp_path)
    assert outcome(resumed) == outcome(whole)


def test_a_search_with_diverged_weights_and_infinite_fitness_resumes(tmp_path, monkeypatch):
    config = tiny_config(meta_optimizer="sgd", meta_lr=1e38, meta_steps=1, base=em.SGD(lr=5.0))
    whole = learn(seed=2, config=config)
    assert any(not torch.isfinite(e.loss.phi).all() for e in whole.evaluations), "or the test shows nothing"
    stopped_after("evomal", 1, tmp_path, config, monkeypatch)
    json.loads((tmp_path / "checkpoint.json").read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    resumed = learn(seed=2, config=config, checkpoint=tmp_path)
    # NaN weights are equal in text only
    assert str(outcome(resumed)) == str(outcome(whole))


def test_a_search_may_go_on_with_another_engine(tmp_path, monkeypatch):
    config = tiny_config(engine="autograd")
    stopped_after("evomal", 1, tmp_path, config, monkeypatch)
    assert learn(seed=2, config=config.replace(engine="higher"), checkpoint=tmp_path).engine == "higher"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 3}, "seed is 2 there and 3 here"),
        ({"method": "gp-lfl"}, "method is 'evomal' there and 'gp-lfl' here"),
        ({"config": {"meta_lr": 0.5}}, "config.meta_lr is 0.001 there and 0.5 here"),
        ({"initial": ["mul(f, y)"]}, "initial is"),
        ({"task": {"seed": 9}}, "tasks is"),
        ({"model": lambda: em.models.mlp(3, [5], 1)}, "(architecture|networks) is"),
        (
            {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))},
            "architecture",
        ),
    ],
)
def test_a_checkpoint_of_another_search_is_refused_and_left_as_it_was(change, difference, tmp_path, monkeypatch):
    stopped_after("evomal", 1, tmp_path, tiny_config(), monkeypatch)
    before = (tmp_path / "checkpoint.json").read_bytes()
    keywords = {"seed": 2} | {k: v for k, v in change.items() if k in ("seed", "initial")}
    with pytest.raises(ValueError, match=f"belongs to another search: {difference}"):
        em.learn_loss(
            [regression_task(**change.get("task", {}))],
            change.get("model", small_model()),
            change.get("method", "evomal"),
            config=tiny_config(**change.get("config", {})),
            checkpoint=tmp_path,
            progress=False,
            **keywords,
        )
    assert (tmp_path / "checkpoint.json").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"version": 2', '"version": 1'),
        lambda text: text.replace('"fingerprint"', '"finger"'),
        lambda text: text.replace('"state"', '"stat"'),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(damage, tmp_path, monkeypatch):
    stopped_after("evomal", 1, tmp_path, tiny_config(), monkeypatch)
    path = tmp_path / "checkpoint.json"
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    remedy = "delete it to start|move it away to start|choose another folder, or delete"
    with pytest.raises(ValueError, match=rf"checkpoint\.json (is not|belongs).*({remedy})") as caught:
        learn(seed=2, checkpoint=tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["generations", "seconds", "archive", "signatures", "population"])
def test_a_checkpoint_with_a_part_missing_or_of_another_type_is_damaged(part, tmp_path, monkeypatch):
    stopped_after("evomal", 1, tmp_path, tiny_config(), monkeypatch)
    path = tmp_path / "checkpoint.json"
    whole = json.loads(path.read_text())
    for state in (whole["state"] | {part: None}, {k: v for k, v in whole["state"].items() if k != part}):
        path.write_text(json.dumps(whole | {"state": state}))
        with pytest.raises(ValueError, match=r"checkpoint\.json is damaged .*delete it"):
            learn(seed=2, checkpoint=tmp_path)


@pytest.mark.parametrize("inner", ["", "state"])
def test_a_file_in_place_of_the_checkpoints_folder_is_refused_at_once(inner, tmp_path):
    file = tmp_path / "a.json"
    file.write_text("mine")
    with pytest.raises(
        ValueError, match=r"checkpoint is a folder, but '.*a\.json' is a file; name another folder"
    ):
        learn(checkpoint=file / inner)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "initial",
    [em.known_losses("multiclass"), [em.LearnedLoss("square(sub(y, f))", "binary")]],
    ids=["known losses", "one loss"],
)
def test_initial_losses_of_another_kind_are_refused(initial):
    said = r"is of kind '\w+', but the tasks are of kind 'regression'; give .*known_losses\('regression'\)"
    with pytest.raises(ValueError, match=said):
        learn(initial=initial)


def test_a_result_of_another_kind_is_refused_as_initial_losses():
    config = tiny_config(generations=1)
    other = em.learn_loss([class_task(2)], small_model(), "gp-lfl", config=config, progress=False)
    with pytest.raises(ValueError, match="is of kind 'binary', but the tasks are of kind 'regression'"):
        learn(initial=other)


@pytest.mark.parametrize("steps", [1, 7, 30])
def test_finalists_and_comparisons_of_few_steps_never_count_the_untrained_network(steps):
    config = tiny_config(finalists=2, finalist_initialisations=2, finalist_steps=steps, generations=1)
    result = learn("gp-lfl", config=config)
    assert all(1 <= finalist.steps <= steps for finalist in result.finalists)
    recorded = set(result.compare(steps=steps, initialisations=2).curves()["step"])
    assert min(recorded) >= 1
    assert max(recorded) == steps
    assert len(recorded) == min(steps, 20)


@pytest.mark.parametrize("place", ["", "  "])
def test_a_checkpoint_without_a_name_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint='\s*' names no folder; name one, such as 'runs/mine'"):
        learn(checkpoint=place)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [3, True, b"ck"])
def test_a_checkpoint_that_is_no_path_is_refused(place):
    with pytest.raises(ValueError, match="checkpoint is the name of a folder, such as 'runs/mine', got"):
        learn(checkpoint=place)


def dropping() -> nn.Module:
    """A network that draws random numbers, and whose meta-gradients are taken by PyTorch's forward mode."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))


def learn_dropping(_: object = None) -> object:
    return outcome(em.learn_loss([regression_task()], dropping, config=tiny_config(), progress=False))


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_modes_of_pytorch_change_nothing(mode):
    wanted = learn_dropping()
    with mode():
        assert learn_dropping() == wanted
        assert not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


def test_batches_of_one_row_with_batch_norm_are_refused_before_the_search():
    config = tiny_config().replace(base=em.SGD(batch_size=1))
    with pytest.raises(
        ValueError, match=r"the model fails on rows of shape .*Expected more than 1 value per channel"
    ):
        em.learn_loss([regression_task()], dropping, config=config, progress=False)


def test_searches_in_several_threads_do_not_disturb_each_other():
    wanted = learn_dropping()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(learn_dropping, range(4))) == [wanted] * 4


class Grumpy:
    """A stand-in for a table or an array given in place of a task."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "evomol"}, r"unknown method 'evomol'; did you mean 'evomal'\?"),
        ({"method": None}, "unknown method None; known are baseline"),
        ({"seed": -1}, "at least 0, got -1"),
        ({"seed": 1.5}, "at least 0, got 1.5"),
        ({"device": "gpu"}, "can't use device 'gpu'"),
        ({"device": "cuda:77"}, "this machine has"),
        ({"config": {"population": 3}}, "config is a SearchConfig"),
        ({"tasks": []}, "one or more tasks of one kind, got kinds: none"),
        ({"tasks": regression_task()}, r"tasks is a list of tasks, e.g. \[task\]"),
        ({"tasks": [Grumpy()]}, "evomal_core.Task objects, got Grumpy; see Task.from_arrays"),
        ({"tasks": 5}, "tasks is a list of tasks"),
        ({"tasks": [regression_task(), class_task(2)]}, "got kinds: binary, regression"),
        ({"model": nn.Linear(3, 1)}, "model=lambda: ..., got a Linear"),
        ({"model": None}, "model=lambda: ..., got a NoneType"),
        ({"model": lambda: nn.Linear(2, 1)}, r"the model fails on rows of shape \(3,\)"),
        ({"model": lambda: nn.Linear(3, 9)}, r"its labels need \(2, 1\)"),
    ],
)
def test_bad_arguments_are_one_line_naming_the_offender(changes, message):
    arguments = {"tasks": [regression_task()], "model": small_model(), "config": tiny_config(), "progress": False}
    with pytest.raises(ValueError, match=message) as caught:
        em.learn_loss(**arguments | changes)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["task_loss_on", "fitness_on"])
def test_a_task_without_the_validation_part_that_is_read_is_refused(field):
    whole = regression_task()
    task = em.Task("mine", "regression", whole.train, test=whole.test)
    other = {"task_loss_on": "same", "fitness_on": "train"}
    with pytest.raises(ValueError, match=f"'mine' has no validation part, which {field}='validation' reads"):
        em.learn_loss([task], small_model(), config=tiny_config(**other | {field: "validation"}), progress=False)
    assert em.learn_loss([task], small_model(), config=tiny_config(**other), progress=False).generations


def test_front_has_the_losses_that_no_simpler_one_matches():
    result = em.SearchResult(
        "evomal",
        [
            entry("square(sub(f, y))", 0.5),
            entry("mul(f, y)", 2.0),
            entry("add(f, y)", 3.0),
            entry("abs(sub(f, y))", 0.7),
            entry("square(square(sub(f, y)))", 0.6),
            entry("sub(mul(f, f), y)", 0.125),
            entry("sqrt(sqrt(add(f, y)))", math.inf),
        ],
        [],
    )
    table = result.table()
    assert table["loss"].tolist() == ["mul(f, y)", "square(sub(f, y))", "sub(mul(f, f), y)"]
    assert table["complexity"].tolist() == [3, 4, 5]
    assert table["score"].tolist()[1:] == pytest.approx([math.log(4), math.log(4)])


def test_of_equal_fitness_the_best_loss_is_one_that_was_trained_with():
    simple = em.Evaluation(em.LearnedLoss("mul(f, y)"), 0.5, "equivalent")
    trained, larger = entry("square(sub(f, y))", 0.5), entry("sub(mul(f, f), y)", 0.5)
    result = em.SearchResult("evomal", [simple, larger, trained], [])
    assert result.best_evaluation is trained
    (only,) = result.front()
    assert (str(only.loss), only.fitness, only.status) == (str(trained.loss), 0.5, "ok")


@settings(max_examples=30)
@given(POPULATION)
def test_front_descends_in_fitness_and_dominates_every_evaluation(evaluations):
    result = em.SearchResult("evomal", evaluations, [])
    front = result.front()
    assert [e.complexity for e in front] == sorted({e.complexity for e in front})
    assert [e.fitness for e in front] == sorted({e.fitness for e in front}, reverse=True)
    for e in evaluations:
        if math.isfinite(e.fitness):
            assert any(f.complexity <= e.complexity and f.fitness <= e.fitness for f in front)
    assert result.table()["score"].iloc[1:].ge(0).all()


def test_random_search_evaluates_new_trees_in_each_generation():
    result = learn("random", config=tiny_config(rejection_steps=0, gradient_equivalence=False, population=8))
    assert result.history["evaluated"].sum() == len(result.evaluations) > 12
    assert all(torch.equal(e.loss.phi, torch.ones(e.loss.size)) for e in result.evaluations), "no local search"


def test_each_generation_is_bred_from_draws_of_its_own(monkeypatch):
    states = []

    def watched(population, config, rng):
        states.append(rng.getstate())
        return breed(population, config, rng)

    monkeypatch.setattr(evolution, "breed", watched)
    learn("gp-lfl", config=tiny_config(generations=4))
    learn("gp-lfl", config=tiny_config(generations=4), seed=1)
    assert len(set(states)) == len(states) == 6


def test_single_settings_may_be_given_as_they_are():
    config, task = tiny_config(), regression_task()
    found = em.learn_loss([task], small_model(), config=config, progress=False, compare=False, generations=1)
    assert found.problem.config == config.replace(generations=1)
    with pytest.raises(TypeError, match="learn_loss takes no 'sed'; did you mean 'seed'"):
        em.learn_loss([task], small_model(), sed=1)
    with pytest.raises(TypeError, match="learn_loss takes no 'generation'; did you mean 'generations'"):
        em.learn_loss([task], small_model(), generation=1)
    with pytest.raises(ValueError, match=r"write base=SGD\(lr=…\)"):
        em.learn_loss([task], small_model(), lr=0.1)
