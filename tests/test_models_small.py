"""GECCO's small networks: their numbers of weights by hand, their shapes, and that they learn."""

from itertools import pairwise

import pytest
import torch

import evomal_core as em
from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.models import gecco_cnn, lenet5
from evomal_core.training import train


def weights(network):
    return sum(p.numel() for p in network.parameters())


def convolution(before, after):
    return 25 * before * after + after


def dense(*sizes):
    return sum(a * b + b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lenet5(10, size=32), 61_706),  # LeCun et al. 1998, with full connections in the second convolution
        (lenet5(10), convolution(1, 6) + convolution(6, 16) + dense(16 * 4 * 4, 120, 84, 10)),
        (lenet5(1, size=16), convolution(1, 6) + convolution(6, 16) + dense(16, 120, 84, 1)),
        (
            gecco_cnn(5),
            convolution(3, 32) + 2 * 32 + convolution(32, 64) + 2 * 64 + dense(64 * 5 * 5, 256, 128, 5),
        ),
    ],
    ids=["lenet5-32", "lenet5-28", "lenet5-16", "cnn"],
)
def test_the_number_of_weights_is_that_of_the_layers(network, expected):
    assert weights(network) == expected


@pytest.mark.parametrize("size", [16, 17, 28, 32])
@pytest.mark.parametrize(("make", "channels"), [(lenet5, 1), (lenet5, 3), (gecco_cnn, 1), (gecco_cnn, 3)])
def test_any_image_that_fits_gives_one_row_of_logits(make, channels, size):
    assert make(4, size, channels)(torch.rand(2, channels, size, size)).shape == (2, 4)


@pytest.mark.parametrize("make", [lenet5, gecco_cnn])
def test_images_too_small_are_refused_by_their_size(make):
    with pytest.raises(ValueError, match="15×15 are too small for two 5×5 convolutions; use 16×16 or more"):
        make(2, 15)


@pytest.mark.parametrize("make", [lenet5, gecco_cnn])
def test_some_steps_of_training_lower_the_error(make):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(48, 1, 16, 16, generator=rng)
    y = (torch.arange(48) % 3).long()
    x[torch.arange(48), 0, 5 * y, :] += 2  # a bright line whose place tells the class
    task = em.Task("lines", "multiclass", (x, y))
    base = em.SGD(lr=0.05, momentum=0.9, batch_size=16)
    config = em.SearchConfig(base=base, initialisation="glorot")
    (learner,) = make_learners([task], lambda: make(3, 16, 1), config, 0, "test")
    before, *_, after = train(TaskLoss("multiclass"), learner, base, 40, [0]).curve
    assert before["train"] > 0.3
    assert after["train"] < 0.05
