"""GECCO's small networks: their numbers of weights by hand, their shapes, and that they learn."""

from itertools import pairwise

import pytest
import torch

import evomal_core as em
from evomal_core.engines import choose_engine
from evomal_core.learners import make_learners
from evomal_core.losses import LearnedLoss, TaskLoss
from evomal_core.population.convolutions import layers_of
from evomal_core.population.networks import NetworkStack
from evomal_core.training import train
from evomal_core.unroll import ENGINES, meta_gradient
from evomal_paper.networks import LetterLSTM, gecco_cnn, lenet5


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
        (LetterLSTM(9, 80), 80 * 256 + 4 * 64 * (256 + 64 + 1) + dense(64, 256, 9)),
    ],
    ids=["lenet5-32", "lenet5-28", "lenet5-16", "cnn", "lstm"],
)
def test_the_number_of_weights_is_that_of_the_layers(network, expected):
    assert weights(network) == expected


@pytest.mark.parametrize("size", [16, 17, 28, 32])
@pytest.mark.parametrize(("make", "channels"), [(lenet5, 1), (lenet5, 3), (gecco_cnn, 1), (gecco_cnn, 3)])
def test_any_image_that_fits_gives_one_row_of_logits(make, channels, size):
    assert make(4, size, channels)(torch.rand(2, channels, size, size)).shape == (2, 4)


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


def names(rows=24, symbols=5, letters=6):
    """Names whose class is their last letter but one, before a last letter that tells nothing."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(1, symbols, (rows, letters), generator=rng)
    x[:, -2] = torch.arange(rows) % 3
    return x, x[:, -2].clone()


def test_the_lstm_is_pytorchs_own():
    network = LetterLSTM(3, 5, embedding=7, units=4, dense=6).double()
    theirs = torch.nn.LSTM(7, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(network.inputs.weight)
        theirs.bias_ih_l0.copy_(network.inputs.bias)
        theirs.weight_hh_l0.copy_(network.recurrent.weight)
        theirs.bias_hh_l0.zero_()
    x, _ = names()
    last = theirs(network.embedding(x))[0][:, -1]
    torch.testing.assert_close(network(x), network.output(torch.relu(network.hidden(last))))


def letter_learner(base):
    config = em.SearchConfig(base=base, initialisation="glorot", task_loss_on="same", unroll_steps=2)
    task = em.Task("letters", "multiclass", names())
    (learner,) = make_learners([task], lambda: LetterLSTM(3, 5, 12, 8, 16).double(), config, 0, "test")
    return learner, config


def test_the_lstm_learns_from_letters():
    base = em.SGD(lr=0.2, momentum=0.9, batch_size=24)
    learner, _ = letter_learner(base)
    before, *_, after = train(TaskLoss("multiclass"), learner, base, 80, [0]).curve
    assert before["train"] > 0.3
    assert after["train"] == 0


def test_all_engines_take_the_lstm_and_agree():
    learner, config = letter_learner(em.SGD(lr=0.1, batch_size=8))
    loss = LearnedLoss("mul(square(sub(f, y)), log(f))", "multiclass").double()
    found = {engine: meta_gradient(loss, learner, 1, config, engine)[1][0] for engine in ENGINES}
    for gradient in found.values():
        torch.testing.assert_close(gradient, found["higher"], rtol=1e-10, atol=1e-14)
    assert found["higher"].abs().max() > 1e-8
    assert choose_engine([learner], config) == "batched"


def test_the_lstm_can_be_vectorised_over_candidates():
    """As a GPU does it: `torch.vmap` through the network, its derivative, and its forward-mode product."""
    learner, _ = letter_learner(em.SGD(lr=0.1, batch_size=8))
    loop, vmapped = NetworkStack([learner]), NetworkStack([learner])
    vmapped.vectorised = True
    x = learner.batch(0)[0].unsqueeze(0)
    rng = torch.Generator().manual_seed(1)
    theta = [w + 0.1 * torch.randn((1, 3, *w.shape[2:]), generator=rng, dtype=w.dtype) for w in loop.theta0]
    cotangents = torch.randn((1, 3, 8, 3), generator=rng, dtype=torch.float64)
    for weights in (theta, loop.theta0):
        (f, pull, push), (g, pull_v, push_v) = (stack.linearise(weights, x, 0) for stack in (loop, vmapped))
        torch.testing.assert_close(g, f)
        direction = pull(cotangents)
        torch.testing.assert_close(pull_v(cotangents), direction)
        torch.testing.assert_close(push_v(direction), push(direction))


@pytest.mark.parametrize(("model", "shape"), [(lenet5, (1, 28, 28)), (gecco_cnn, (3, 32, 32))])
def test_the_compiled_kernels_take_the_convolutional_networks(model, shape):
    assert layers_of(model(5), shape)[-1].outputs == (5,)
