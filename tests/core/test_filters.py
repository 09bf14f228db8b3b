"""The time-saving filters: what they refuse, what they let through, and that each can be switched off."""

from __future__ import annotations

import json
import math

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
    weights_for,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import evomal_core as em
from evomal_core.engines import promises
from evomal_core.expression import Expression
from evomal_core.filters import (
    gradient_signature,
    is_irrelevant,
    is_rejected,
    minimise_predictions,
    sample_predictions,
)
from evomal_core.learners import make_learners
from evomal_core.losses import initial_phi

CONFIG = em.SearchConfig(rejection_steps=200, rejection_lr=0.01)
TASKS = {"regression": regression_task(), "binary": class_task(2), "multiclass": class_task(3)}
OUTPUTS = {"regression": 1, "binary": 1, "multiclass": 3}
POPULATION = 8


def samples(kind="regression", config=CONFIG):
    learners = make_learners([TASKS[kind]], small_model(outputs=OUTPUTS[kind]), config, 0, "test")
    return sample_predictions(learners, config)


def rejected(text, kind="regression", phi=None):
    loss = em.LearnedLoss(text, kind, phi=phi)
    return is_rejected(*promises([loss], samples(kind), CONFIG, kind))


@pytest.mark.parametrize("text", ["square(sub(f, y))", "abs(sub(f, y))", "sqrt(square(sub(f, y)))"])
def test_losses_that_pull_predictions_to_labels_are_kept(text):
    assert not rejected(text)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("text", ["mul(mul(-1, y), log(f))", "square(sub(f, y))", "sub(f, mul(y, add(f, f)))"])
def test_losses_like_cross_entropy_are_kept(text, kind):
    if kind == "binary" and "log" in text:
        text = "mul(-1, log(add(sub(f, 1), y)))"  # −ln|f + y − 1|: −ln f for y = 1, −ln(1 − f) for y = 0
    assert not rejected(text, kind)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize(
    "text",
    [
        "mul(-1, square(sub(f, y)))",  # pushes away from the labels
        "add(1, -1)",
        "add(y, mul(1, 1))",
        "sign(sub(f, y))",  # no slope
        "sub(sub(f, f), y)",
    ],
)
def test_constants_and_losses_that_push_away_are_rejected(text, kind):
    assert rejected(text, kind)


def test_a_loss_without_weights_or_slope_is_rejected_not_an_error():
    for text in ("y", "1"):
        assert rejected(text)


def test_losses_that_are_nan_or_overflow_are_rejected():
    assert rejected("square(square(square(sub(f, y))))", phi=[1e9] * 5)
    assert rejected("sub(square(square(f)), square(square(y)))", phi=[1e30] * 6)
    assert is_rejected(math.nan)
    assert is_rejected(-math.inf)
    assert is_rejected(0.0)
    assert not is_rejected(1e-9)


def test_promise_is_the_fall_of_the_summed_error_for_the_minimised_predictions():
    (pair,) = samples()
    y_pred, y_true = pair
    best = minimise_predictions(em.TaskLoss(), y_pred, y_true, CONFIG)
    wanted = (y_pred - y_true).square().sum() - (best - y_true).square().sum()
    assert promises([em.TaskLoss()], [pair], CONFIG, "regression") == pytest.approx([wanted.item()], rel=1e-5)
    assert promises([em.TaskLoss()], [pair, pair], CONFIG, "regression") == pytest.approx(
        [2 * wanted.item()], rel=1e-5
    )


def test_minimised_predictions_are_adams():
    """Kingma & Ba 2015, on the squared error of a batch, whose slope is 2(ŷ − y)/B."""
    y_pred, y_true = samples()[0]
    y_hat, mean, square = y_pred.double(), 0.0, 0.0
    for step in range(1, 21):
        slope = 2 * (y_hat - y_true) / len(y_hat)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        y_hat = y_hat - 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    config = CONFIG.replace(rejection_steps=20)
    got = minimise_predictions(em.TaskLoss(), y_pred, y_true, config)
    torch.testing.assert_close(got, y_hat.float(), rtol=1e-4, atol=1e-5)


def test_samples_are_the_untrained_networks_predictions_for_distinct_training_rows():
    config = CONFIG.replace(rejection_samples=10)
    (learner,) = make_learners([TASKS["regression"]], small_model(), config, 0, "test")
    ((y_pred, y_true),) = sample_predictions([learner], config)
    x, y = learner.task.train
    pairs = {(round(a.item(), 5), round(b.item(), 5)) for a, b in zip(learner.network(x), y, strict=True)}
    drawn = {(round(a.item(), 5), round(b.item(), 5)) for a, b in zip(y_pred, y_true, strict=True)}
    assert len(drawn) == 10
    assert drawn <= pairs
    everything = sample_predictions([learner], CONFIG.replace(rejection_samples=1000))
    assert len(everything[0][0]) == len(x)


def signature(text, phi=None, kind="regression"):
    return gradient_signature(em.LearnedLoss(text, kind, phi=phi), samples(kind))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("square(sub(f, y))", "square(sub(y, f))"),
        ("add(f, mul(y, f))", "add(mul(f, y), f)"),
        ("square(sub(f, y))", "add(square(sub(f, y)), y)"),
        ("square(sub(f, y))", "mul(-1, square(sub(f, y)))"),  # norms do not tell a sign, as in Eq. 12
    ],
)
def test_losses_with_the_same_gradient_norms_are_equivalent(left, right):
    assert signature(left) == signature(right) is not None


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_signed_signature_tells_a_loss_from_its_negative(kind):
    def signed(loss):
        return gradient_signature(loss, samples(kind), signed=True)

    loss, negative = em.LearnedLoss("square(sub(f, y))", kind), em.LearnedLoss("mul(-1, square(sub(f, y)))", kind)
    assert gradient_signature(loss, samples(kind)) == gradient_signature(negative, samples(kind))
    assert signed(loss) == (*gradient_signature(loss, samples(kind)), "+")
    assert signed(negative) == (*signed(loss)[:-1], "-")
    assert signed(em.LearnedLoss("square(sub(y, f))", kind)) == signed(loss)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("square(sub(f, y))", "add(square(sub(f, y)), square(sub(f, y)))"),  # M and 2·M
        ("square(sub(f, y))", "abs(sub(f, y))"),
        ("mul(f, y)", "mul(y, add(f, y))".replace("add(f, y)", "square(f)")),
    ],
)
def test_losses_with_other_gradient_norms_are_not(left, right):
    assert signature(left) != signature(right)


def test_equivalence_is_to_two_significant_digits():
    y = torch.zeros(1, 1)

    def of(slope):
        return gradient_signature(em.LearnedLoss("mul(f, 1)", phi=[slope, 1.0]), [(y, y)])

    assert of(1.23456) == of(1.18) == ("1.2e+00",)
    assert of(1.23456) != of(1.27)
    assert of(1.2) != of(12.0)
    assert of(123456.0) == ("1.2e+05",)
    assert of(0.0) == ("0.0e+00",)


def test_a_signature_has_one_norm_per_row_over_its_outputs():
    ((y_pred, y_true),) = samples("multiclass")
    leaf = y_pred.clone().requires_grad_()
    rows = em.LearnedLoss("square(sub(f, y))", "multiclass")
    wanted = []
    for row in range(len(leaf)):
        (slope,) = torch.autograd.grad(rows(leaf[row : row + 1], y_true[row : row + 1]), [leaf])
        wanted.append(f"{slope[row].norm().item():.1e}")
    assert gradient_signature(rows, [(y_pred, y_true)]) == tuple(wanted)


def test_a_loss_with_an_infinite_gradient_has_no_signature():
    assert signature("square(square(square(sub(f, y))))", phi=[1e9] * 5) is None


@settings(max_examples=25)
@given(trees(max_leaves=5), SEEDS)
def test_filters_take_any_tree_draw_nothing_and_leave_the_loss_alone(tree, seed):
    loss = em.LearnedLoss(tree)
    before = loss.phi.detach().clone()
    config = CONFIG.replace(rejection_steps=3)
    with global_generators_untouched():
        (g,) = promises([loss], samples(config=config), config, "regression")
        gradient_signature(loss, samples(config=config))
    assert is_rejected(g) in (True, False)
    assert torch.equal(loss.phi, before)
    assert loss.phi.grad is None


def search(initial=(), **changes):
    tasks = [regression_task()]
    config = tiny_config(generations=3, population=POPULATION, **changes)
    return em.learn_loss(tasks, small_model(), config=config, seed=1, initial=initial, progress=False)


def statuses(result):
    return {entry.status for entry in result.evaluations}


def test_counts_of_each_generation_add_up_to_the_population():
    result = search()
    for row in result.generations:
        assert row["cached"] + row["rejected"] + row["equivalent"] + row["evaluated"] == POPULATION
        assert row["diverged"] <= row["evaluated"]
        assert row["optimised"] == POPULATION - row["cached"]
    totals = result.history[["rejected", "equivalent", "evaluated"]].sum()
    assert totals.sum() == len(result.evaluations)
    assert totals["rejected"] == sum(entry.status == "rejected" for entry in result.evaluations) > 0
    assert totals["equivalent"] == sum(entry.status == "equivalent" for entry in result.evaluations) > 0
    assert result.history["cached"].sum() > 0


def test_rejection_switched_off_rejects_nothing():
    result = search(rejection_steps=0)
    assert "rejected" not in statuses(result)
    assert result.history["rejected"].sum() == 0
    assert math.isfinite(result.fitness)


def test_gradient_equivalence_switched_off_borrows_nothing():
    assert "equivalent" in statuses(search())
    assert "equivalent" not in statuses(search(gradient_equivalence=False))


def test_archive_switched_off_evaluates_the_elite_again_and_finds_the_same():
    with_archive = search(gradient_equivalence=False)
    without = search(symbolic_archive=False, gradient_equivalence=False)
    assert without.fitness == with_archive.fitness
    assert str(without.best) == str(with_archive.best)
    assert without.history["evaluated"].sum() > with_archive.history["evaluated"].sum()
    assert [e.fitness for e in without.population] == [e.fitness for e in with_archive.population]


def test_without_rejection_a_negative_does_not_inherit_the_fitness_of_its_twin():
    pair = ["square(sub(f, y))", "mul(-1, square(sub(f, y)))"]
    result = search(initial=pair, rejection_steps=0, meta_steps=0)
    loss, negative = result.evaluations[:2]
    assert [str(e.loss.expression) for e in (loss, negative)] == pair
    assert (loss.status, negative.fitness > loss.fitness) == ("ok", True)
    assert negative.status != "equivalent"


def test_without_the_archive_a_tree_that_comes_again_stays_one_that_was_trained_with():
    with_archive, without = search(), search(symbolic_archive=False)
    assert everything(without)[0] == everything(with_archive)[0]
    assert without.best_evaluation.status == "ok"
    assert without.history["equivalent"].sum() > with_archive.history["equivalent"].sum()


def test_an_equivalent_loss_has_the_fitness_of_its_twin():
    result = search()
    ok = {entry.fitness for entry in result.evaluations if entry.status in ("ok", "diverged")}
    assert {entry.fitness for entry in result.evaluations if entry.status == "equivalent"} <= ok


def dead(text):
    return is_irrelevant(Expression.parse(text))


def test_weights_below_a_sign_can_not_matter():
    for text in (
        "add(sign(f), y)",
        "mul(y, sign(square(sub(f, y))))",
        "sub(sign(sign(f)), sign(mul(f, y)))",
    ):
        assert dead(text)
    for text in ("square(sub(f, y))", "add(sign(f), mul(f, y))", "mul(sign(y), f)", "max(1, min(f, -1))"):
        assert not dead(text)


def test_a_tree_that_could_overflow_is_not_called_irrelevant():
    """0 times infinity is NaN: local search would find such a candidate diverged."""
    text = "f"
    for _ in range(8):
        text = f"square({text})"
    assert not dead(f"add(sign({text}), y)")
    assert not dead("add(sign(log(log(log(f)))), y)")
    assert dead("add(sign(log(sub(f, y))), y)")


@settings(max_examples=300)
@given(trees(max_leaves=12), SEEDS, st.sampled_from(["regression", "multiclass"]), st.booleans())
def test_irrelevant_weights_have_no_meta_gradient_by_double_backward(tree, seed, kind, softplus):
    """PyTorch's own derivatives, for weights and inputs far from those that a search meets."""
    assume(tree.edges and is_irrelevant(tree))
    rng = torch.Generator().manual_seed(seed)
    loss = em.LearnedLoss(tree, kind, phi=weights_for(tree, seed).clamp(-2, 2), softplus=softplus)
    scale = 10.0 ** torch.randint(-3, 4, (20, 3), generator=rng)
    f = (torch.randn(20, 3, generator=rng) * scale).clamp(-1e3, 1e3).requires_grad_()
    y = (torch.randn(20, 3, generator=rng) * scale).clamp(-1e3, 1e3)
    value = loss.elementwise(f, y).sum()
    assert torch.isfinite(value)
    if value.requires_grad:
        (slope,) = torch.autograd.grad(value, [f], create_graph=True, materialize_grads=True)
        assert torch.equal(slope, torch.zeros_like(f))
        if slope.requires_grad:
            change = (slope * 1e10 * torch.randn(20, 3, generator=rng)).sum()
            (meta,) = torch.autograd.grad(change, [loss.phi], materialize_grads=True)
            assert torch.equal(meta, torch.zeros_like(loss.phi))


IRRELEVANT = ["add(sign(f), y)", "sub(square(y), sign(mul(f, y)))", "tanh(mul(y, sign(sub(f, 1))))"]


def everything(result):
    """All of a result but the seconds and the counts of what local search was spared."""
    found = [(str(e.loss.expression), e.fitness, e.status, e.loss.phi.tolist()) for e in result.evaluations]
    rows = [{k: v for k, v in row.items() if k not in ("optimised", "skipped")} for row in result.generations]
    return found, rows, [e.fitness for e in result.population]


@pytest.mark.parametrize("engine", ["batched", "jvp", "autograd"])
@pytest.mark.parametrize("rejection_steps", [0, 10])
def test_skipping_irrelevant_weights_changes_nothing_bit_for_bit(engine, rejection_steps):
    common = {"initial": IRRELEVANT, "engine": engine, "rejection_steps": rejection_steps, "meta_steps": 3}
    without, skipping = search(**common), search(**common, skip_irrelevant=True)
    assert everything(skipping) == everything(without)
    spared = skipping.history["skipped"].sum()
    assert spared >= len(IRRELEVANT)
    assert without.history["skipped"].sum() == 0
    assert skipping.history["optimised"].sum() + spared == without.history["optimised"].sum()


@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_skipping_changes_nothing_with_several_unrolled_steps_and_the_plain_meta_step(unroll_steps):
    common = {"initial": IRRELEVANT, "unroll_steps": unroll_steps, "meta_optimizer": "sgd", "meta_lr": 0.1}
    skipping = search(**common, skip_irrelevant=True)
    assert everything(skipping) == everything(search(**common))
    assert skipping.history["skipped"].sum() > 0


def test_rejecting_first_spares_local_search_and_keeps_untuned_weights():
    result = search(reject_first=True)
    early = [entry for entry in result.evaluations if entry.status == "rejected early"]
    assert len(early) == result.history["rejected early"].sum() > 0
    config = tiny_config(generations=3, population=POPULATION)
    learners = make_learners([regression_task()], small_model(), config, 1, "meta-train")
    drawn = sample_predictions(learners, config)
    for entry in early:
        assert math.isinf(entry.fitness)
        assert torch.equal(entry.loss.phi, initial_phi(entry.loss.expression, 1))
        assert is_rejected(*promises([entry.loss], drawn, config, "regression"))
    assert "rejected early" not in statuses(search())
    for row in result.generations:
        parts = ("cached", "rejected early", "rejected", "equivalent", "evaluated")
        assert sum(row[name] for name in parts) == POPULATION
        assert row["optimised"] == POPULATION - row["cached"] - row["rejected early"]
        assert row["evaluated"] - row["diverged"] <= row["trained"] <= row["evaluated"]


def test_rejecting_first_without_the_protocol_is_refused():
    with pytest.raises(ValueError, match="reject_first needs the rejection protocol; set rejection_steps above 0"):
        em.SearchConfig(reject_first=True, rejection_steps=0)


def test_early_rejection_is_for_methods_that_tune():
    config = tiny_config(reject_first=True, skip_irrelevant=True)
    result = em.learn_loss([regression_task()], small_model(), "gp-lfl", config=config, seed=1, progress=False)
    assert result.history[["rejected early", "skipped", "optimised"]].to_numpy().sum() == 0
    assert result.history["rejected"].sum() > 0


def test_each_filter_has_its_seconds_within_those_of_all():
    seconds = search(reject_first=True, skip_irrelevant=True).seconds
    parts = ("symbolic archive", "early rejection", "irrelevant weights", "rejection", "gradient equivalence")
    found = {name: value for name, value in seconds.items() if name.startswith("filter:")}
    assert set(found) == {f"filter: {part}" for part in parts}
    assert 0 < sum(found.values()) <= seconds["filters"]


def test_a_search_stopped_before_these_filters_existed_goes_on(tmp_path):
    config = tiny_config()
    em.learn_loss([regression_task()], small_model(), config=config, seed=1, progress=False, checkpoint=tmp_path)
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text())
    for name in ("reject_first", "skip_irrelevant"):
        del record["fingerprint"]["config"][name]
    path.write_text(json.dumps(record))
    em.learn_loss([regression_task()], small_model(), config=config, seed=1, progress=False, checkpoint=tmp_path)
