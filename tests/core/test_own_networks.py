"""Networks that users bring: tied weights, frozen statistics, buffers of their own, lazy and in-place layers."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from helpers import Centred, global_generators_untouched, regression_task, tiny_config
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.checkpoint import checkpoint

import evomal_core as em
from evomal_core.engines import choose_engine, fitness, local_search
from evomal_core.learners import Learner, make_learners
from evomal_core.population.local_search import batched_meta_gradients
from evomal_core.training import train
from evomal_core.unroll import ENGINES, meta_gradient

BASE = em.SGD(lr=0.1, momentum=0.7, nesterov=True, weight_decay=0.02, batch_size=6)


class Frozen(nn.Module):
    """A batch norm that stays in evaluation mode, as in a pretrained part."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.out = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.norm.running_mean.fill_(0.3)
        self.norm.running_var.fill_(2.0)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.dense(x))))


class Shared(nn.Module):
    """One batch norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.out = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)
        self.again = self.norm

    def forward(self, x):
        return self.out(self.again(torch.tanh(self.dense(self.norm(x)))))


class Shifted(nn.Module):
    """Changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        x -= 0.1
        return self.out(x)


class Noisy(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.generator = nn.Linear(3, 1), torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.out(x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype))


class Scaled(nn.Module):
    """Has a weight without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.scale = nn.Linear(3, 1), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * self.out(x)


class AlwaysNoisy(nn.Module):
    """Draws in evaluation mode too, as Monte Carlo dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(nn.functional.dropout(x, 0.5))


class Replacing(Centred):
    """As `Centred`, by a new tensor for each mean."""

    def forward(self, x):
        h = self.dense(x)
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * h.detach().mean(0)
        return self.out(torch.tanh(h - self.mean))


class Checkpointed(nn.Module):
    """Computes its hidden layer again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(checkpoint(lambda h: torch.tanh(self.dense(h)), x, use_reentrant=False))


class Stateful(nn.Module):
    """Has a state that is no tensor, and a text that differs from process to process."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.function = nn.Linear(3, 1), lambda x: x

    def forward(self, x):
        return self.function(self.out(x))

    def extra_repr(self):
        return str(self.function)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ELU(), nn.Linear(8, 1))


def tied() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 1))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(1))


def learner(model, config: em.SearchConfig, dtype=torch.float64) -> Learner:
    (made,) = make_learners([regression_task().to(dtype=dtype)], model, config, 0, "test")
    return made


def losses() -> list[em.LearnedLoss]:
    return [em.LearnedLoss(text).double() for text in ("tanh(sub(f, mul(y, f)))", "square(sub(f, y))")]


def gradient(loss: em.Loss, made: Learner, config: em.SearchConfig, engine: str) -> torch.Tensor:
    return parameters_to_vector(meta_gradient(loss, made, 2, config, engine)[1])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("model", [Frozen, Shared, tied, lazy])
def test_engines_agree(model, steps):
    config = em.SearchConfig(base=BASE, unroll_steps=steps)
    made = learner(model, config)
    for row, loss in zip(batched_meta_gradients(losses(), [made], config, 2)[1], losses(), strict=True):
        wanted = gradient(loss, made, config, "higher")
        for found in (row[: loss.size], *(gradient(loss, made, config, engine) for engine in ENGINES)):
            assert (found - wanted).norm() <= 1e-10 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_that_forward_mode_differentiates_wrongly_fall_to_double_backward(dtype, caplog):
    """PyTorch's layer norm is right for one unrolled step, and wrong by a hundredth for two."""
    caplog.set_level(logging.WARNING, "evomal")
    one = em.SearchConfig(base=BASE)
    assert choose_engine([learner(layer_norm, one, dtype)], one) == "batched"
    assert not caplog.records
    two = one.replace(unroll_steps=2)
    engine = choose_engine([learner(layer_norm, two, dtype)], two)
    made = learner(layer_norm, two)
    wanted = gradient(losses()[0], made, two, "higher")
    assert (gradient(losses()[0], made, two, engine) - wanted).norm() <= 1e-10 * wanted.norm()
    assert "would be off by" in caplog.text


class Broken(torch.autograd.Function):
    """x², with NaN for its derivative in forward mode."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return torch.nan * tangent


class Squared(nn.Linear):
    """A linear layer, squared."""

    def forward(self, x):
        return Broken.apply(super().forward(x))


def test_forward_mode_that_gives_nan_is_not_used(caplog):
    config = em.SearchConfig(base=BASE)
    assert choose_engine([learner(lambda: Squared(3, 1), config)], config) == "autograd"
    assert "would be off by nan" in caplog.text


def test_dropout_within_attention_is_the_same_in_every_pass():
    def model():
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        return nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 1))

    config = em.SearchConfig(base=BASE)
    made = learner(model, config)
    engine = choose_engine([made], config)
    loss = losses()[0]
    found = (
        batched_meta_gradients([loss], [made], config, 2)[1][0]
        if engine == "batched"
        else gradient(loss, made, config, engine)
    )
    wanted = gradient(loss, made, config, "higher")
    assert (found - wanted).norm() <= 1e-10 * wanted.norm()


def test_recurrent_layers_are_computed_without_cudnn_which_has_no_second_derivative():
    seen = []

    class Watched(nn.GRU):
        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(x)[0]

    made = learner(lambda: nn.Sequential(Watched(3, 4), nn.Linear(4, 1)), tiny_config())
    assert torch.backends.cudnn.enabled
    seen.clear()
    made.forward(made.theta, made.batch(0)[0], 0)
    assert seen == [False]
    assert torch.backends.cudnn.enabled


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(3, 1))


class Centring(nn.Linear):
    """A linear layer that subtracts a running mean, which may stand in several places."""

    def __init__(self, mean: torch.Tensor | None = None) -> None:
        super().__init__(3, 3)
        self.register_buffer("mean", torch.zeros(3) if mean is None else mean)

    def forward(self, x):
        h = super().forward(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return torch.tanh(h - self.mean)


def block_in_two_places() -> nn.Module:
    block = Centring()
    return nn.Sequential(block, block, nn.Linear(3, 1))


def one_mean_in_two_blocks() -> nn.Module:
    block = Centring()
    return nn.Sequential(block, Centring(block.mean), nn.Linear(3, 1))


class Counting(nn.Module):
    """Keeps its state in plain attributes: a number, and a tensor that it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.calls, self.mean = nn.Linear(3, 1), 0, torch.zeros(3, dtype=torch.float64)

    def forward(self, x):
        self.calls += 1
        self.mean.mul_(0.9).add_(0.1 * x.double().mean(0))
        return torch.tanh(self.out(x - self.mean.to(x.dtype))) / self.calls


@dataclass
class Memory:
    """What a forward pass writes on."""

    calls: int = 0
    means: dict = field(default_factory=lambda: {"all": [torch.zeros(3, dtype=torch.float64)]})
    last: deque = field(default_factory=deque)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(2))


class Owner(nn.Module):
    """Has no weights."""


class Remembering(nn.Module):
    """Keeps its state in objects, collections and arrays, which another module knows too."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.known_by, self.memory = nn.Linear(3, 1), Owner(), Memory()
        self.known_by.memory = self.memory

    def forward(self, x):
        memory = self.known_by.memory
        memory.calls += 1
        memory.last.append(0.01)
        memory.sums[0] += 0.1
        self.memory.means["all"][0].mul_(0.9).add_(0.1 * x.double().mean(0))
        by = memory.calls + sum(memory.last) + float(memory.sums.sum())
        return torch.tanh(self.out(x - self.memory.means["all"][0].to(x.dtype))) / by


STATEFUL = [Centred, spectral, block_in_two_places, one_mean_in_two_blocks, Counting, Remembering]


@pytest.mark.parametrize("engine", ["autograd", "jvp"])
@pytest.mark.parametrize("model", STATEFUL)
def test_a_forward_pass_leaves_the_network_as_it_was(model, engine):
    if (model, engine) == (spectral, "jvp"):
        pytest.skip("spectral norm has no forward mode")
    config = em.SearchConfig(base=BASE, unroll_steps=2)
    made = learner(model, config)
    before = {name: tensor.clone() for name, tensor in made.stateless.state_dict(keep_vars=True).items()}
    owners = {name: id(tensor) for name, tensor in made.stateless.state_dict(keep_vars=True).items()}
    once, again = (gradient(losses()[1], made, config, engine) for _ in range(2))
    assert torch.equal(once, again)
    for name, tensor in made.stateless.state_dict(keep_vars=True).items():
        assert id(tensor) == owners[name]
        assert torch.equal(tensor, before[name])
    assert getattr(made.stateless, "calls", 0) == 0
    assert not isinstance(made.stateless, Remembering) or repr(made.stateless.memory) == repr(Memory())


@pytest.mark.parametrize(
    ("model", "engine"),
    [(Centred, "batched"), (block_in_two_places, "batched"), *((model, "autograd") for model in STATEFUL)],
)
def test_buffers_that_a_network_moves_carry_nothing_from_one_candidate_to_the_next(model, engine):
    config = em.SearchConfig(base=BASE, meta_steps=3)
    first, second = losses()
    made = learner(model, config)
    _, after = local_search([first, second], [made], config, engine)
    (alone,) = local_search([second], [learner(model, config)], config, engine)
    assert torch.equal(after.loss.phi, alone.loss.phi)


class Detached(nn.Linear):
    """Cuts its output off from its weights."""

    def forward(self, x):
        return super().forward(x).detach()


class Undifferentiated(nn.Linear):
    """Is computed without gradients, as for prediction only."""

    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize("model", [Detached, Undifferentiated])
@pytest.mark.parametrize("method", ["baseline", "evomal"])
def test_a_network_whose_output_has_no_gradient_is_refused(model, method):
    with pytest.raises(ValueError, match=r"output has no gradient by its weights.*torch\.no_grad"):
        em.learn_loss([regression_task()], lambda: model(3, 1), method, config=tiny_config(), progress=False)


@pytest.mark.parametrize("model", [Shifted, lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1))])
def test_a_network_that_writes_on_its_input_is_refused_and_the_data_are_kept(model):
    task = regression_task()
    before = task.train[0].clone()
    with pytest.raises(ValueError, match=r"changes its input in place.*x = x\.clone\(\)"):
        em.learn_loss([task], model, config=tiny_config(), progress=False)
    assert torch.equal(task.train[0], before)


def test_a_factory_that_returns_one_network_again_and_again_keeps_it():
    network = em.models.mlp(3, [4], 1).eval()
    before = parameters_to_vector(network.parameters()).clone()
    config = tiny_config(initialisation="glorot")
    em.learn_loss([regression_task()], lambda: network, "baseline", config=config, progress=False)
    assert torch.equal(parameters_to_vector(network.parameters()), before)
    assert not network.training


def test_lazy_layers_get_their_sizes_and_train():
    config = tiny_config()
    made = learner(lazy, config, torch.float32)
    assert train(em.TaskLoss(), made, config.base, 3).final["train"] < 10


@pytest.mark.parametrize(
    "model", [Centred, Replacing, Scaled, AlwaysNoisy, block_in_two_places, Counting, Remembering]
)
def test_networks_train_all_at_once_as_one_by_one(model):
    config = tiny_config(base=BASE, fitness_steps=8)
    with global_generators_untouched():
        made = learner(model, config)
        at_once = fitness(losses()[1:] * 2, [made], config, "batched")
        one_by_one = fitness(losses()[1:], [made], config)
    assert at_once == pytest.approx(one_by_one * 2, rel=1e-10)


def test_that_networks_train_one_by_one_is_said_once_a_search(caplog):
    em.learn_loss([regression_task()], Replacing, "gp-lfl", config=tiny_config(), progress=False, compare=False)
    assert caplog.messages == [
        "training one network at a time (the network puts new tensors in place of its buffers, or keeps state in "
        "plain attributes)"
    ]


def test_activation_checkpointing_is_refused():
    """Its second forward pass would take the module's own weights, not those that are trained."""
    with pytest.raises(ValueError, match=r"switch torch\.utils\.checkpoint off"):
        learner(Checkpointed, em.SearchConfig(base=BASE))


def test_a_search_goes_on_with_a_network_of_another_text_and_a_state_of_its_own(tmp_path):
    searches = [
        em.learn_loss([regression_task()], Stateful, config=tiny_config(), checkpoint=tmp_path, progress=False)
        for _ in range(2)
    ]
    assert searches[0].fitness == searches[1].fitness


@pytest.mark.parametrize("method", ["random", "gp-lfl", "taylorglo", "baseline"])
def test_methods_that_unroll_nothing_need_no_second_derivatives(method, caplog):
    caplog.set_level(logging.WARNING, "evomal")
    rng = np.random.default_rng(0)
    task = em.Task.from_arrays(rng.integers(0, 5, (40, 2)), rng.normal(size=40), "regression", indices=True)

    def model():  # which PyTorch differentiates only once
        return nn.Sequential(nn.EmbeddingBag(5, 3), nn.Linear(3, 1))

    config = tiny_config(rejection_steps=0)
    result = em.learn_loss([task], model, method, config=config, progress=False)
    assert np.isfinite(result.fitness)
    assert not caplog.records
    with pytest.raises(ValueError, match="no engine can differentiate this network twice"):
        em.learn_loss([task], model, "evomal", config=config, progress=False)
    untuned = em.learn_loss([task], model, "evomal", config=config.replace(meta_steps=0), progress=False)
    assert np.isfinite(untuned.fitness)


def test_a_network_that_draws_by_itself_is_named(caplog):
    caplog.set_level(logging.WARNING, "evomal")
    learner(Noisy, em.SearchConfig(base=BASE))
    assert "generator of its own" in caplog.text


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda logits: {"logits": logits}, r"returns a dict.* forward returns its predictions or logits alone"),
        (lambda logits: logits.transpose(1, 2), r"\(2, 4, 3\), but .* \(2, 3, 4\); write output.movedim\(-1, 1\)"),
        (lambda logits: logits[:, 0], r"has shape \(2, 4\), but its labels need \(2, 3, 4\)$"),
    ],
)
def test_an_output_of_another_form_is_told_how_to_mend_it(returned, said):
    class Network(nn.Conv1d):
        def forward(self, x):
            return returned(super().forward(x))

    rng = np.random.default_rng(0)
    task = em.Task.from_arrays(rng.normal(size=(20, 2, 4)), np.arange(80).reshape(20, 4) % 3, "multiclass")
    with pytest.raises(ValueError, match=said):
        make_learners([task], lambda: Network(2, 3, 1), tiny_config(), 0, "test")
    flat = em.Task.from_arrays(rng.normal(size=(20, 2)), rng.normal(size=20), "regression")
    with pytest.raises(ValueError, match=r"write output.unsqueeze\(1\)"):
        make_learners([flat], lambda: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), tiny_config(), 0, "test")


def test_an_embedding_of_standardised_features_is_told_of_indices():
    task = em.Task.from_arrays(np.arange(40).reshape(20, 2) % 5, np.arange(20.0), "regression")
    with pytest.raises(ValueError, match=r"Task\.from_arrays\(\.\.\., indices=True\)"):
        make_learners([task], lambda: nn.Embedding(5, 3), tiny_config(), 0, "test")


def test_embeddings_are_in_the_precision_of_the_labels():
    rng = np.random.default_rng(0)
    task = em.Task.from_arrays(rng.integers(0, 5, (20, 2)), rng.normal(size=20), "regression", indices=True)

    def model():
        return nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))

    (made,) = make_learners([task.to(dtype=torch.float64)], model, tiny_config(), 0, "test")
    assert {weights.dtype for weights in made.theta.values()} == {torch.float64}
