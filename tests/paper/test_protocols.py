"""The switches of the protocol: each documented, with the values that the profiles have; and what they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import evomal_core as em
from evomal_core.config import SearchConfig
from evomal_core.learners import make_learners
from evomal_core.parametric import NeuralLoss
from evomal_core.unroll import ENGINES, meta_gradient
from evomal_paper import cli
from evomal_paper.comparison.verdicts import of_sample
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.experiments.image_tasks import image_task
from evomal_paper.experiments.profiles import Profile
from evomal_paper.experiments.protocols import CODE, DIFFERENCES, SWITCHES, TEXT
from evomal_paper.networks import in_form
from evomal_paper.runs.compute import compute
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import load
from tests.helpers import class_task, regression_task, small_model, tiny_config


def value_of(profile, name):
    owner = profile.search if name in SearchConfig.model_fields else profile
    return getattr(owner, name)


@pytest.mark.parametrize("row", SWITCHES, ids=lambda row: row["name"])
def test_every_switch_is_a_setting_with_its_stated_values(row):
    name = row["name"]
    assert name in {*SearchConfig.model_fields, *Profile.model_fields}
    assert row["in_code"]
    assert row["in_text"]
    for profile in ("paper", "text"):
        found = {str(value_of(entry.profiles[profile], name)).lower() for entry in EXPERIMENTS.values()}
        if row[profile].startswith("by "):
            assert len(found) > 1 or name == "learn_on"
        elif name == "split" and profile == "paper":
            assert {value_of(EXPERIMENTS[each].profiles["paper"], name) for each in ("diabetes", "boston")} == {
                "leaking"
            }
        elif name == "gradient_equivalence":
            assert value_of(EXPERIMENTS["diabetes"].profiles["text"], name)
        else:
            assert found == {row[profile]}


BY_EXPERIMENT = {
    # initialisation, gradient equivalence, rejection steps, momentum, task loss, images augmented
    "sine": ("glorot", False, 0, 0.0, "same", ""),
    "mnist": ("glorot", False, 0, 0.0, "same", ""),
    "diabetes": ("glorot", False, 1000, 0.9, "validation", ""),
    "mnist-logistic": ("glorot", False, 100, 0.0, "validation", ""),
    "mnist-mlp": ("glorot", False, 100, 0.0, "validation", ""),
    "mnist-lenet5": ("glorot", True, 100, 0.0, "validation", ""),
    "cifar10-alexnet": ("he_fan_in", True, 1000, 0.9, "validation", "train validation"),
    "cifar10-resnet18": ("he_fan_in", True, 1000, 0.9, "validation", "train validation"),
    "cifar10-preresnet": ("he_fan_out", True, 1000, 0.9, "validation", "train validation"),
    "cifar10-squeezenet": ("glorot", True, 1000, 0.9, "validation", "train validation"),
    "cifar100-pyramidnet": ("he_fan_out", True, 1000, 0.9, "validation", "train validation"),
    "svhn-wideresnet": ("he_fan_out", True, 1000, 0.9, "validation", "train validation test"),
}
"""Values in the profile `paper` of settings that vary between experiments."""


@pytest.mark.parametrize("name", BY_EXPERIMENT)
def test_settings_that_vary_between_experiments_are_the_codes(name):
    profile = EXPERIMENTS[name].profile("paper")
    search = profile.search
    augmented = " ".join(part for part in ("train", "validation", "test") if getattr(profile, f"augment_{part}"))
    found = (search.initialisation, search.gradient_equivalence, search.rejection_steps)
    assert (*found, search.base.momentum, search.task_loss_on, augmented) == BY_EXPERIMENT[name]


def test_the_text_of_mnist_has_momentum_and_augmented_training_images():
    for network in ("logistic", "mlp", "lenet5"):
        profile = EXPERIMENTS[f"mnist-{network}"].profile("text")
        assert (profile.search.base.momentum, profile.search.rejection_steps) == (0.9, 1000)
        assert (profile.augment_train, profile.augment_validation, profile.augment_test) == (True, False, False)
    entry = EXPERIMENTS["digits-mlp"]
    changed = entry.profile("smoke").replace(augment_train=True)
    (plain,), (task,) = (entry.problem(profile, 0).train for profile in (entry.profile("smoke"), changed))
    assert plain.augment is None
    x = task.train[0]
    assert not torch.equal(task.augment(x, torch.Generator().manual_seed(0)), x)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain.parts().values(), task.parts().values(), strict=True))


def test_code_and_text_set_only_documented_switches():
    assert {*CODE, *TEXT} == {row["name"] for row in SWITCHES} & {*CODE, *TEXT}


def test_list_shows_the_switches(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(row["in_code"] in shown for row in [*SWITCHES, *DIFFERENCES])
    assert all(row["here"] in shown for row in DIFFERENCES)


def test_fresh_batches_are_the_first_rows_of_a_new_permutation_at_each_step():
    config = tiny_config(batches="fresh")
    (learner,) = make_learners([regression_task(rows=60)], small_model(), config, 0, "test")
    steps = [learner.batch_rows(step).tolist() for step in range(40)]
    assert all(len({*rows}) == 8 for rows in steps)
    assert len({*np.concatenate(steps[:4])}) < 32, "epochs would repeat no row"
    assert learner.batch_rows(3).tolist() == steps[3]
    assert np.bincount(np.concatenate(steps), minlength=36).min() > 0


@pytest.mark.parametrize("name", ["sine", "mnist", "mnist-mlp", "diabetes"])
def test_ml3_has_the_published_meta_steps_at_quick_unless_they_are_varied(name):
    paper = EXPERIMENTS[name].profile("paper").search
    for profile, method, whole in (("quick", "ml3", True), ("quick", "evomal", False)):
        search = Run(name, profile, method, 0).sizes.search
        assert ((search.meta_steps, search.meta_lr) == (paper.meta_steps, paper.meta_lr)) == whole
    varied = Run(name, "quick@meta_steps=7", "ml3", 0).configuration()
    assert varied["search"]["meta_steps"] == 7
    assert varied["search"]["meta_lr"] == paper.meta_lr
    assert "methods" not in varied


def test_ml3_starts_from_the_codes_slopes():
    f, y = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))

    def slope(init):
        found = []
        for seed in range(20):
            leaf = f.clone().requires_grad_()
            NeuralLoss(seed=seed, init=init).elementwise(leaf, y).sum().backward()
            found.append(leaf.grad.abs().mean().item())
        return np.mean(found)

    assert slope("he_normal") > 4 * slope("glorot")


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_swapped_roles_leave_three_parameters_of_taylorglo_without_effect(kind, tmp_path):
    task = regression_task() if kind == "regression" else class_task(2 if kind == "binary" else 3)
    (learner,) = make_learners([task], small_model(outputs=task.outputs), tiny_config(), 0, "test")
    x, y = task.train
    theta = torch.linspace(-1, 1, 8)

    def gradient(theta, roles="swapped"):
        leaf = learner.network(x).detach().requires_grad_()
        em.TaylorLoss(kind, theta=theta, roles=roles)(leaf, y).backward()
        return leaf.grad

    changed = theta.clone()
    changed[2:5] += 1
    assert torch.equal(gradient(theta), gradient(changed))
    assert not torch.allclose(gradient(theta, "correct"), gradient(changed, "correct"))
    loss = em.TaylorLoss(kind, theta=theta, roles="swapped")
    loss.save(tmp_path / "loss.json")
    assert em.load_loss(tmp_path / "loss.json").roles == "swapped"
    losses = [loss, em.TaylorLoss(kind, theta=changed, roles="swapped")]
    together, alone = (
        em.engines.fitness(losses, [learner], tiny_config(), name) for name in ("batched", "autograd")
    )
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_engines_agree_on_minus_the_probability(classes):
    config = tiny_config(meta_objective="probability")
    task = class_task(classes).to(dtype=torch.float64)
    (learner,) = make_learners([task], small_model(outputs=task.outputs), config, 0, "test")
    loss = em.LearnedLoss("square(sub(f, y))", task.kind).double()
    values = {name: meta_gradient(loss, learner, 1, config, name) for name in ENGINES}
    from evomal_core.population.local_search import batched_meta_gradients

    value, gradients = batched_meta_gradients([loss, loss], [learner], config, 1)
    for found, (gradient,) in values.values():
        assert found.item() == pytest.approx(value[0].item(), rel=1e-10)
        assert -1 < found.item() < 0
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-10, atol=1e-14)


def test_validation_images_follow_the_seed_unless_fixed():
    def labels(draw):
        return image_task("digits", validation=0.1, draw=draw).validation[0]

    assert torch.equal(labels(1), labels(1))
    assert not torch.equal(labels(0), labels(1))
    entry = experiment("digits-logistic")
    for profile, same in (("smoke", False), ("smoke@validation_draw=fixed", True)):
        (a,), (b,) = (entry.problem(entry.profile(profile), seed).train for seed in (0, 1))
        assert torch.equal(a.validation[0], b.validation[0]) == same


def test_networks_in_the_codes_forms():
    def weights(name, form):
        return sum(w.numel() for w in in_form(name, form)(10).parameters())

    assert weights("preresnet", "code") == pytest.approx(1.73e6, rel=0.01)
    assert weights("preresnet", "text") == 1_054_106
    code, text = (in_form("allcnnc", form)(10) for form in ("code", "text"))
    assert sum(isinstance(m, torch.nn.ReLU) for m in text) - sum(isinstance(m, torch.nn.ReLU) for m in code) == 2
    x = torch.randn(2, 3, 32, 32)
    assert code(x).shape == text(x).shape == (2, 10)
    code.eval()
    border = torch.zeros(1, 10, 8, 8)
    border[..., 6:, :] = 1
    assert code[-2](border).abs().max() == 0


@pytest.mark.parametrize("method", ["baseline", "ml3", "gp-lfl"])
def test_from_the_searchs_start_tests_of_equal_length_repeat_the_fitness_bit_by_bit(method, tmp_path):
    run = Run("sine", "smoke@test_steps=3", method, 0, tmp_path)
    compute(run, progress=False)
    results = load([run])
    errors = results.final("search").set_index(["group", "split"])["error"]
    assert errors["in-sample", "train"] == results.runs["fitness"].item()
    assert (
        results.final().set_index(["group", "split"])["error"]["in-sample", "train"]
        != errors["in-sample", "train"]
    )
    both = results.compared().set_index(["group", "split"])
    assert both["error"].equals(errors)
    assert set(results.tests["start"]) == {"search", "new"}


def test_published_deviations_are_widened_to_those_of_samples():
    assert of_sample((1.0, np.std([1, 2, 4]), 3)) == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert np.isnan(of_sample((1.0, np.nan, 5)))
