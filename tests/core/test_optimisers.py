"""Base optimisers other than SGD: `torch.optim`'s own steps and schedules, and plain SGD in the unrolled step."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from helpers import class_task, regression_task, small_model, tiny_config
from torch.nn import functional
from torch.optim import lr_scheduler

import evomal_core as em
from evomal_core.checkpoints import Snapshot
from evomal_core.engines import fitness, local_search
from evomal_core.learners import make_learners
from evomal_core.population.optimisers import ELEMENTWISE
from evomal_core.population.training import train_stack
from evomal_core.training import train
from evomal_core.unroll import ENGINES, meta_gradient

STEPS = 12
ADAM = em.Optimizer("Adam", lr=0.01, batch_size=8)


def learners_of(base, tasks=None, **changes):
    config = tiny_config(base=base, **changes)
    return make_learners(tasks or [regression_task()], small_model(), config, 0, "test"), config


def by_hand(taught, optimiser_of, scheduler_of):
    """The weights after STEPS of a plain loop with `torch.optim`'s optimiser and scheduler."""
    network = copy.deepcopy(taught.network)
    optimiser = optimiser_of(network.parameters())
    scheduler = scheduler_of(optimiser)
    for step in range(STEPS):
        x, y = taught.batch(step)

        def closure(x=x, y=y):
            optimiser.zero_grad()
            value = functional.cross_entropy(network(x), y)
            value.backward()
            return value

        optimiser.step(closure)
        scheduler.step()
    return list(network.parameters())


def constant(optimiser):
    return lr_scheduler.ConstantLR(optimiser, factor=1.0)


@pytest.mark.parametrize(
    ("base", "optimiser_of", "scheduler_of"),
    [
        (ADAM, lambda w: torch.optim.Adam(w, lr=0.01), constant),
        (
            em.Optimizer("AdamW", lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), schedule="cosine", batch_size=8),
            lambda w: torch.optim.AdamW(w, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9)),
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS),
        ),
        (
            em.Optimizer("RMSprop", lr=0.01, momentum=0.5, schedule="linear", batch_size=8),
            lambda w: torch.optim.RMSprop(w, lr=0.01, momentum=0.5),
            lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=STEPS),
        ),
        (
            em.Optimizer("SGD", lr=0.1, schedule="linear", warmup=0.25, batch_size=8),
            lambda w: torch.optim.SGD(w, lr=0.1),
            lambda o: lr_scheduler.SequentialLR(
                o,
                [
                    lr_scheduler.LambdaLR(o, lambda step: (step + 1) / 3),
                    lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=9),
                ],
                milestones=[3],
            ),
        ),
        (
            em.Optimizer("LBFGS", lr=0.1, max_iter=3, batch_size=8),
            lambda w: torch.optim.LBFGS(w, lr=0.1, max_iter=3),
            constant,
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # by SequentialLR itself
def test_training_equals_a_plain_loop_with_torchs_optimiser_and_scheduler(base, optimiser_of, scheduler_of):
    config = tiny_config(base=base)
    (taught,) = make_learners([class_task(3)], small_model(outputs=3), config, 0, "test")
    trained = train(em.TaskLoss("multiclass"), taught, base, STEPS)
    for ours, theirs in zip(
        trained.network.parameters(), by_hand(taught, optimiser_of, scheduler_of), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_every_optimiser_of_torch_that_takes_dense_gradients_can_be_named():
    for name in ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adamax", "NAdam", "RAdam", "Rprop"):
        base = em.Optimizer(name, batch_size=8)
        (taught,), _ = learners_of(base)
        before = [weights.clone() for weights in taught.network.parameters()]
        after = list(train(em.TaskLoss(), taught, base, 2).network.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unrolled_step_is_plain_sgd_at_its_own_rate(engine):
    base = em.Optimizer("AdamW", lr=0.5, unrolled_lr=0.03, batch_size=8)
    learners, config = learners_of(base, unroll_steps=2)
    plain = config.replace(base=em.SGD(lr=0.03, batch_size=8))
    loss = em.LearnedLoss("square(sub(y, f))", phi=[0.9, 1.1, 0.8])
    ours, wanted = (meta_gradient(loss, learners[0], 0, c, engine)[1] for c in (config, plain))
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
    assert wanted[0].abs().max() > 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_population_is_tuned_at_once_whatever_trains_the_networks(steps):
    base = em.Optimizer("Adam", lr=0.5, unrolled_lr=0.03, batch_size=8)
    learners, config = learners_of(base, unroll_steps=steps)
    losses = [em.LearnedLoss("square(sub(y, f))"), em.LearnedLoss("abs(sub(y, f))")]
    plain = config.replace(base=em.SGD(lr=0.03, batch_size=8))
    ours, wanted = (local_search(losses, learners, c, "batched") for c in (config, plain))
    for a, b in zip(ours, wanted, strict=True):
        assert torch.equal(a.loss.phi, b.loss.phi)


LOSSES = ["square(sub(y, f))", "tanh(sub(y, f))", "square(y)"]
"""The last does not depend on the prediction: it moves no weight, not even by weight decay."""

UNUSUAL = {
    "ASGD": {"t0": 3, "weight_decay": 0.1},
    "Adam": {"betas": (0.8, 0.9), "weight_decay": 0.1},
    "AdamW": {"weight_decay": 0.1, "amsgrad": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "SGD": {"momentum": 0.5, "dampening": 0.1},
}


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("options", [{}, UNUSUAL], ids=["plain", "unusual"])
@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_a_population_is_trained_at_once_as_each_network_alone(name, options, kernels, monkeypatch):
    monkeypatch.setenv("EVOMAL_KERNELS", kernels)
    base = em.Optimizer(name, lr=0.01, schedule="cosine", warmup=0.2, batch_size=8, **options.get(name, {}))
    learners, _ = learners_of(base, [regression_task(20), regression_task(30)])
    losses = [em.LearnedLoss(text) for text in LOSSES]
    rows = train_stack(losses, learners, base, STEPS, record=[0, 5], milestones=[7])
    for loss, row in zip(losses, rows, strict=True):
        for learner, found in zip(learners, row, strict=True):
            alone = train(loss, learner, base, STEPS, record=[0, 5], milestones=[7]).curve
            assert found.curve == [pytest.approx(point, rel=1e-4) for point in alone]


@pytest.mark.parametrize("name", sorted(ELEMENTWISE - {"Rprop"}))  # whose steps NaN does not move
def test_a_diverged_network_is_left_out_and_disturbs_no_other(name, monkeypatch):
    monkeypatch.setenv("EVOMAL_KERNELS", "0")
    base = em.Optimizer(name, lr=0.01, batch_size=8)
    learners, _ = learners_of(base)
    wild = em.LearnedLoss("sub(square(square(f)), square(square(f)))", phi=[1e9] * 6)
    rows = train_stack([wild, em.LearnedLoss(LOSSES[0])], learners, base, 60)
    alone = train(em.LearnedLoss(LOSSES[0]), learners[0], base, 60).curve
    assert rows[0][0].diverged
    assert rows[1][0].curve == [pytest.approx(point, rel=1e-3) for point in alone]


def test_fitness_of_a_population_falls_back_with_one_line(caplog):
    base = em.Optimizer("LBFGS", lr=0.1, batch_size=8)
    learners, config = learners_of(base)
    losses = [em.LearnedLoss("square(sub(y, f))"), em.LearnedLoss("abs(sub(y, f))")]
    wanted = [
        train(loss, learners[0], base, config.fitness_steps, splits=["validation"]).final["validation"]
        for loss in losses
    ]
    with caplog.at_level(logging.WARNING, "evomal"):
        assert fitness(losses, learners, config, "batched") == wanted
        assert fitness(losses, learners, config, "batched") == wanted
    (line,) = caplog.messages
    assert "one network at a time" in line
    assert "LBFGS" in line


@pytest.mark.parametrize("method", ["evomal", "taylorglo", "ml3"])
def test_a_search_takes_any_optimiser_and_goes_on_from_its_checkpoint(method, tmp_path):
    base = em.Optimizer("AdamW", lr=0.01, betas=(0.8, 0.9), schedule="cosine", batch_size=8)

    def learn(checkpoint=None):
        model = small_model()
        config = tiny_config(base=base, generations=2)
        return em.learn_loss(
            [regression_task()], model, method, config=config, checkpoint=checkpoint, progress=False, compare=False
        )

    whole = [entry.fitness for entry in learn().evaluations]
    assert [entry.fitness for entry in learn(tmp_path).evaluations] == whole
    assert [entry.fitness for entry in learn(tmp_path).evaluations] == whole


def test_a_scheduled_training_that_was_cut_ends_bit_by_bit_the_same(tmp_path, monkeypatch):
    base = em.Optimizer("AdamW", lr=0.01, schedule="cosine", warmup=0.2, batch_size=8)
    (taught,), _ = learners_of(base)
    whole = train(em.TaskLoss(), taught, base, STEPS, record=[4])
    monkeypatch.setattr(Snapshot, "SECONDS", 0.0)

    class KilledError(Exception):
        pass

    done = 0

    def tick(steps):
        nonlocal done
        done += steps
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        train(em.TaskLoss(), taught, base, STEPS, record=[4], snapshot=Snapshot(tmp_path / "s", "x"), tick=tick)
    again = train(em.TaskLoss(), taught, base, STEPS, record=[4], snapshot=Snapshot(tmp_path / "s", "x"))
    assert again.curve == whole.curve
    for a, b in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_milestones_lower_the_scheduled_rate():
    base = em.Optimizer("SGD", lr=0.1, schedule="linear", batch_size=8)
    (taught,), _ = learners_of(base)
    network = copy.deepcopy(taught.network)
    for step in range(4):
        x, y = taught.batch(step)
        rate = 0.1 * (1 - step / 4) * (0.1 if step >= 2 else 1)
        gradients = torch.autograd.grad(em.TaskLoss()(network(x), y), list(network.parameters()))
        with torch.no_grad():
            for weights, gradient in zip(network.parameters(), gradients, strict=True):
                weights -= rate * gradient
    trained = train(em.TaskLoss(), taught, base, 4, milestones=[2])
    for a, b in zip(trained.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["AdmaW"], {}, r"Optimizer\.name = 'AdmaW': did you mean 'AdamW'\?"),
        (["adamw"], {}, r"Optimizer\.name = 'adamw': did you mean 'AdamW'\?"),
        (["SparseAdam"], {}, r"Optimizer\.name = 'SparseAdam': "),
        ([], {}, r"Optimizer\.name"),
        ([torch.optim.AdamW([torch.zeros(1)])], {}, r"Optimizer\.name = AdamW \( Parameter Group 0 .*string"),
        (["AdamW"], {"differentiable": True}, r"differentiable=True can't train weights that are leaves"),
        (["AdamW"], {"weight_deacy": 0.1}, r"AdamW has no option 'weight_deacy'; did you mean 'weight_decay'\?"),
        (["AdamW"], {"schedul": "cosine"}, r"AdamW has no option 'schedul'; did you mean 'schedule'\?"),
        (["AdamW"], {"betas": (2, 0.9)}, r"AdamW refuses its options: Invalid beta"),
        (["AdamW"], {"lr": -1.0}, r"Optimizer\.lr = -1\.0: "),
        (["AdamW"], {"schedule": "cosin"}, r"Optimizer\.schedule = 'cosin': "),
    ],
)
def test_a_wrong_optimiser_is_one_line(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        em.Optimizer(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("base", ["RMSprop", torch.optim.RMSprop, torch.optim.RMSprop([torch.zeros(1)])])
def test_something_else_than_an_optimiser_is_told_how_to_be_one(base):
    with pytest.raises(ValueError, match=r"base = .*: write base=Optimizer\('RMSprop', lr=…\)") as caught:
        em.SearchConfig(base=base)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(TypeError, match=r"learn_loss takes no 'optimizer'; write base=Optimizer"):
        em.learn_loss([regression_task()], small_model(), optimizer=base)


def test_an_optimiser_that_does_not_take_the_network_is_refused_before_the_search():
    config = tiny_config(base=em.Optimizer("Muon", batch_size=8))
    with pytest.raises(ValueError, match=r"Muon can't train this network: .*2D"):
        em.learn_loss([regression_task()], small_model(), config=config, progress=False)


def test_an_optimiser_is_a_hashable_value_that_survives_json():
    base = em.Optimizer("AdamW", lr=0.1, betas=(0.8, 0.9), weight_decay=0)
    config = em.SearchConfig(base=base)
    again = em.SearchConfig(**json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config
    assert hash(again) == hash(config)
    changed = base.replace(lr=0.2)
    assert (changed.name, changed.lr, changed.options) == ("AdamW", 0.2, base.options)
    assert em.SearchConfig(**em.SearchConfig().model_dump(mode="json")).base == em.SearchConfig().base
