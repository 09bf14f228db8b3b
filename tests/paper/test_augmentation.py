"""Training images are cropped and mirrored as drawn from (seed, step), and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import global_generators_untouched, tiny_config
from torch import nn

import evomal_core as em
from evomal_core.engines import fitness, local_search
from evomal_core.fingerprints import fingerprint
from evomal_core.learners import Learner, make_learners
from evomal_core.losses import LearnedLoss
from evomal_core.population.local_search import batched_local_search
from evomal_core.seeds import numpy_rng, torch_rng
from evomal_core.training import train
from evomal_paper.experiments.augmentation import Augmentation

AUGMENT = Augmentation(padding=2, black=(-1.0, -2.0))


def image_task(rows=30, size=6, augment=AUGMENT):
    x = numpy_rng(0, "images").normal(size=(rows, 2, size, size))
    return replace(em.Task.from_arrays(x, np.arange(rows) % 3, kind="multiclass"), augment=augment)


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


def every_change(image, augmentation):
    """All crops of one framed image and their mirror images, by NumPy."""
    channels, height, width = image.shape
    p = augmentation.padding
    framed = np.empty((channels, height + 2 * p, width + 2 * p), image.dtype)
    framed[:] = np.broadcast_to(np.array(augmentation.black, image.dtype), (channels,)).reshape(-1, 1, 1)
    framed[:, p : p + height, p : p + width] = image
    for i in range(2 * p + 1):
        for j in range(2 * p + 1):
            cut = framed[:, i : i + height, j : j + width]
            yield (i, j, False), cut
            if augmentation.flip:
                yield (i, j, True), cut[:, :, ::-1]


@pytest.mark.parametrize("augmentation", [AUGMENT, Augmentation(padding=1, flip=False), Augmentation(padding=0)])
def test_each_image_is_a_crop_of_its_framed_self_and_all_crops_occur(augmentation):
    x = torch_rng(1, "x")
    x = torch.randn(400, 2, 5, 7, generator=x)
    changed = augmentation(x, torch_rng(0, "draws"))
    assert changed.shape == x.shape
    seen = []
    for before, after in zip(x.numpy(), changed.numpy(), strict=True):
        found = [key for key, cut in every_change(before, augmentation) if np.allclose(cut, after, atol=1e-6)]
        assert len(found) == 1
        seen += found
    possible = [key for key, _ in every_change(x[0].numpy(), augmentation)]
    assert set(seen) == set(possible)
    counts = np.array([seen.count(key) for key in possible])
    expected = len(x) / len(possible)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_draws_depend_on_the_seed_and_step_alone():
    task = image_task()
    learners = [
        Learner(task, network(), batch_size, seed) for batch_size, seed in ((8, 0), (8, 0), (8, 1), (99, 0))
    ]
    with global_generators_untouched():
        first, again, other, whole = ([learner.batch(step)[0] for step in range(3)] for learner in learners)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(whole[0], whole[1])  # a batch of all rows is drawn anew in each step
    rows = learners[0].batch_rows(1)
    assert torch.equal(first[1], AUGMENT(task.train[0][rows], torch_rng(0, "augmentation", 0, 1)))


def test_validation_and_plain_tasks_stay_as_they_are():
    task, plain = image_task(), image_task(augment=None)
    ours, theirs = (Learner(each, network(), 4, 0) for each in (task, plain))
    assert torch.equal(ours.batch(0, "validation")[0], theirs.batch(0, "validation")[0])
    rows = theirs.batch_rows(0)
    assert torch.equal(theirs.batch(0)[0], plain.train[0][rows])
    assert torch.equal(ours.batch(0)[1], theirs.batch(0)[1])
    assert task.to(dtype=torch.float64).augment == AUGMENT


def test_batched_search_and_fitness_give_the_same_with_augmentation():
    config = tiny_config(meta_steps=3, fitness_steps=5, base=em.SGD(lr=0.05, batch_size=8))
    losses = [LearnedLoss(text, "multiclass") for text in ("square(sub(f, y))", "abs(sub(y, f))")]
    for make in (network, lambda: em.models.mlp(72, [5], 3)):
        learners = make_learners([image_task().to(dtype=torch.float64)], make, config, 0, "test")
        one, many = (fitness(losses, learners, config, engine) for engine in ("autograd", "batched"))
        assert one == pytest.approx(many, rel=1e-9)
        tuned = batched_local_search(losses, learners, config)
        expected = local_search(losses, learners, config, "autograd")
        for ours, theirs in zip(tuned, expected, strict=True):
            torch.testing.assert_close(ours.loss.phi, theirs.loss.phi, rtol=1e-5, atol=1e-7)


def test_augmentation_changes_training_and_the_fingerprint():
    config = tiny_config()
    pairs = [make_learners([image_task(augment=each)], network, config, 0, "test") for each in (AUGMENT, None)]
    loss = LearnedLoss("square(sub(f, y))", "multiclass")
    ours, theirs = (train(loss, learners[0], config.base, 4).network for learners in pairs)
    assert not torch.equal(ours[0].weight, theirs[0].weight)
    named, plain = (fingerprint("evomal", learners, config, 0, []) for learners in pairs)
    assert "padding=2" in named["augment"]
    assert "augment" not in plain


def test_the_learning_rate_falls_at_milestones():
    learner = make_learners([image_task(augment=None)], network, tiny_config(), 0, "test")[0]
    base = em.SGD(lr=0.1, momentum=0.9, nesterov=True, batch_size=8)
    loss = LearnedLoss("square(sub(f, y))", "multiclass")
    ours = train(loss, learner, base, 9, record=[2, 5], milestones=(3, 6)).network
    with torch.random.fork_rng():
        expected = network()
    expected.load_state_dict(learner.network.state_dict())
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[3, 6], gamma=0.1)
    for step in range(9):
        x, y = learner.batch(step)
        optimiser.zero_grad()
        loss(expected(x), y).backward()
        optimiser.step()
        schedule.step()
    for a, b in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)
