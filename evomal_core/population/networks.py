"""Stacks of base networks: one architecture with many sets of weights, for all candidates and tasks at once.

Every tensor of weights has two leading axes, (T, P, …): tasks, and candidates. P = 1 means that all
candidates share it, as at the initial weights. Predictions are (T, P, B, C): batch rows and outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn import functional

from evomal_core.kinds import Kind
from evomal_core.labels import as_rows, read_labels
from evomal_core.population.convolution_algebra import ConvolutionAlgebra, Jacobian
from evomal_core.population.convolutions import Layer as PlainLayer
from evomal_core.population.convolutions import plain_layers
from evomal_core.population.perceptrons import Perceptron, dense_layers, sequential
from evomal_core.population.recurrent import RecurrentForm, recurrent_form
from evomal_core.population.recurrent_algebra import Record, RecurrentAlgebra, Weights
from evomal_core.population.rows import Rows, same_batches
from evomal_core.population.steps import Factors, Stacked, product, through, times, times_transposed
from evomal_core.pure import pure_call
from evomal_core.seeds import isolated_torch

if TYPE_CHECKING:
    from evomal_core.learners import Batch, Learner

Pullback = Callable[[Tensor], list[Any]]
"""Map of cotangents of the predictions (T, P, B, C) to gradients of the weights, `Factors` where asked for."""
Pushforward = Callable[[Sequence[Any]], Tensor]
"""Map of tangents of the weights to tangents of the predictions (T, P, B, C)."""


class NotBatchable(RuntimeError):  # noqa: N818 - it is a finding, and not always an error
    """A base network or a loss can't be evaluated for a whole population at once; its text says why."""


class Stack:
    """Networks of T learners that have the same shapes, for P candidates."""

    row_axis = 1
    """The axis of `features` that numbers the rows of a batch."""
    by_hand = False
    """Whether the derivatives are written by hand here, and not left to PyTorch's."""

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = tuple(learners)
        self.kind: Kind = learners[0].task.kind
        self.outputs = learners[0].task.outputs
        self.random = learners[0].draws
        weights = zip(*(learner.theta.values() for learner in learners), strict=True)
        self.theta0: Stacked = [torch.stack(parts).unsqueeze(1) for parts in weights]
        """The weights that training starts from, each (T, 1, …); meta-steps start from `initial`."""
        self.buffers: Stacked = []
        """State that training moves beside the weights (running statistics); updated in place by `train_step`."""
        self._held: dict[str, tuple[Sequence[Batch], Rows]] = {}

    def features(self, x: Tensor) -> Tensor:
        """Rows (T, B, …) in the form that the network takes."""
        return x

    def rows(self, batches: Sequence[Batch]) -> Rows:
        """The batches of the learners, which are equally long, as one."""
        x, y, *weights = (torch.stack(parts) for parts in zip(*batches, strict=True))
        dtype, kind = self.theta0[0].dtype, self.kind
        if all(learner.task.plain for learner in self.learners):
            numbers = functional.one_hot(y, self.outputs) if kind == "multiclass" else y
            return Rows(self.features(x), numbers.to(dtype).unsqueeze(1), y, kind)
        each = [
            read_labels(labels, kind, self.outputs, dtype, weight=weight[0] if weight else None)
            for _, labels, *weight in batches
        ]
        share = None
        if any(labels.weight is not None for labels in each):
            share = torch.stack([labels.share for labels in each]).unsqueeze(1)
        numbers = torch.stack([labels.y for labels in each]).unsqueeze(1)
        return Rows(self.features(x), numbers, y, kind, share, weights[0] if weights else None)

    def held_rows(self, key: str, batches: Sequence[Batch]) -> Rows:
        """`rows`; those of the key's last call if the batches are the same tensors (full-batch training)."""
        held = self._held.get(key)
        if held is None or not same_batches(held[0], batches):
            held = self._held[key] = (batches, self.rows(batches))
        return held[1]

    def initial(self, meta_step: int) -> Stacked:
        """The initial weights of a meta-step, each (T, 1, …); the same list each time if they are not redrawn."""
        if (vectors := self.initial_vectors(meta_step)) is None:
            return self.theta0
        parts = vectors.split([w[0].numel() for w in self.theta0], dim=1)
        return [part.view_as(w).to(w.dtype) for part, w in zip(parts, self.theta0, strict=True)]

    def initial_vectors(self, meta_step: int) -> Tensor | None:
        """The initial weights of a meta-step as vectors, (T, W); None if they are not redrawn."""
        vectors = [learner.initial_vector(meta_step) for learner in self.learners]
        drawn = [vector for vector in vectors if vector is not None]
        return torch.stack(drawn).to(self.theta0[0]) if drawn else None

    def apply(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions or logits (T, P, B, C) in training mode, differentiable any number of times."""
        raise NotImplementedError

    def linearise(
        self, theta: Sequence[Any], x: Tensor, draw: int, factored: bool = False
    ) -> tuple[Tensor, Pullback, Pushforward]:
        """Predictions, with their derivative transposed and as it is; P may be 1 in theta and not in those.

        Where `factored`, gradients of wide layers may be `Factors`, and theta may be so too.
        """
        raise NotImplementedError

    def start(self, candidates: int) -> Stacked:
        """Initial weights for training P candidates apart."""
        return [w.expand(-1, candidates, *w.shape[2:]).clone() for w in self.theta0]

    def keep(self, candidates: Tensor) -> None:
        """Go on training with the running statistics of the candidates of a mask (P,) only."""
        self.buffers = [b[candidates] for b in self.buffers]

    def train_step(self, theta: Stacked, x: Tensor, draw: int, factored: bool = False) -> tuple[Tensor, Pullback]:
        """Linearise for one step of training, which also moves running statistics."""
        predictions, pullback, _ = self.linearise(theta, x, draw, factored)
        return predictions, pullback

    def evaluate(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions (T, P, B, C) in evaluation mode; a network that draws even there does so by `draw`."""
        return self.apply(theta, x, 0)


def make_stacks(learners: Sequence[Learner]) -> list[Stack]:
    """Group learners into stacks: MLPs of one shape and number of rows together, others alone."""
    groups: dict[Any, tuple[_Form, list[Learner]]] = {}
    for index, learner in enumerate(learners):
        form = _form(learner)
        key: Any = index
        if isinstance(form, Perceptron):
            x = learner.task.train[0]
            rows = tuple((name, x.shape, y.shape) for name, (x, y) in learner.task.parts().items())
            key = (form, rows, learner.task.kind, learner.batch_size, x.dtype, x.device)
        groups.setdefault(key, (form, []))[1].append(learner)
    return [_stack(form, group) for form, group in groups.values()]


_Form = Perceptron | RecurrentForm | tuple[PlainLayer, ...] | None


def _form(learner: Learner) -> _Form:
    """The kind of network that is computed without its module; None if it is none of them."""
    network, x = learner.network, learner.task.train[0]
    if (found := sequential(network, x, learner.task.kind)) is not None:
        return found
    if (form := recurrent_form(network, x, learner.batch_size)) is not None:
        return form
    layers = plain_layers(network, x, lambda: learner.replaces_buffers)
    return None if layers is None else dense_layers(layers) or layers


def _stack(form: _Form, learners: Sequence[Learner]) -> Stack:
    match form:
        case None:
            return NetworkStack(learners)
        case Perceptron():
            return MLPStack(learners, form)
        case RecurrentForm():
            return RecurrentStack(learners[0], form)
    return ConvolutionStack(learners[0], form)


class MLPStack(Stack):
    """Multi-layer perceptrons by batched matrix products, with hand-written derivatives."""

    row_axis = 2
    by_hand = True

    def __init__(self, learners: Sequence[Learner], form: Perceptron) -> None:
        super().__init__(learners)
        self.layers, self.flattens = form.layers, form.flattens

    def features(self, x: Tensor) -> Tensor:
        """Rows (T, B, …) flattened to (T, 1, B, features); steps of sequences (T, B, time, features) are rows."""
        return (x.flatten(2) if self.flattens else x.flatten(1, -2)).unsqueeze(1)

    def _pairs(self, theta: Sequence[Any]) -> list[tuple[Any, Tensor | None]]:
        weights = iter(theta)
        return [(next(weights), next(weights) if layer[2] else None) for layer in self.layers]

    def _forward(self, theta: Sequence[Any], x: Tensor) -> Stacked:
        """Each layer's output, that of the input first."""
        outputs: Stacked = [x]
        for (w, b), (*_, activation) in zip(self._pairs(theta), self.layers, strict=True):
            z = times_transposed(outputs[-1], w)
            if b is not None:
                z += b.unsqueeze(2)
            if activation:
                z = torch.relu_(z) if activation == "relu" else torch.tanh_(z)
            outputs.append(z)
        return outputs

    def apply(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions or logits (T, P, B, C)."""
        h = x
        for (w, b), (*_, activation) in zip(self._pairs(theta), self.layers, strict=True):
            h = product(h, w.mT)
            h = h if b is None else h + b.unsqueeze(2)
            if activation:
                h = torch.relu(h) if activation == "relu" else torch.tanh(h)
        return h

    def linearise(
        self, theta: Sequence[Any], x: Tensor, draw: int, factored: bool = False
    ) -> tuple[Tensor, Pullback, Pushforward]:
        """Predictions, with their derivative transposed and as it is."""
        outputs = self._forward(theta, x)
        pairs = self._pairs(theta)
        shared = outputs[-1].shape[1] == 1 and outputs[-1].shape[3] == 1

        def cotangents(delta: Tensor) -> Stacked:
            """Cotangents of each layer's values before activation."""
            found: Stacked = []
            for depth in range(len(pairs) - 1, -1, -1):
                delta = through(self.layers[depth][3], delta, outputs[depth + 1])
                found.append(delta)
                if depth:
                    delta = times(delta, pairs[depth][0])
            return found[::-1]

        # One output: the Jacobian of each row is a vector that all candidates share.
        jacobian = cotangents(torch.ones_like(outputs[-1])) if shared else None

        def pullback(delta: Tensor) -> list[Any]:
            deltas = cotangents(delta) if jacobian is None else [delta * rows for rows in jacobian]
            gradients: list[Any] = []
            for delta, before, (inputs, size, has_bias, _) in zip(deltas, outputs[:-1], self.layers, strict=True):
                if factored and Factors.pay(before.shape[2], inputs, size):
                    gradients.append(Factors(delta, before))
                else:
                    gradients.append(product(delta.mT, before))
                if has_bias:
                    gradients.append(delta.sum(dim=2))
            return gradients

        def pushforward(direction: Sequence[Any]) -> Tensor:
            tangent: Tensor | None = None
            for depth, (dw, db) in enumerate(self._pairs(direction)):
                z = times_transposed(outputs[depth], dw)
                if db is not None:
                    z += db.unsqueeze(2)
                if jacobian is not None:
                    z = z.mul_(jacobian[depth]).sum(dim=3, keepdim=True)
                    tangent = z if tangent is None else tangent + z
                    continue
                if tangent is not None:
                    z += times_transposed(tangent, pairs[depth][0])
                tangent = through(self.layers[depth][3], z, outputs[depth + 1])
            assert tangent is not None
            return tangent

        return outputs[-1], pullback, pushforward


class NetworkStack(Stack):
    """Any network of one learner: one task's candidates through `torch.vmap`, or one after another.

    A CPU gains little from grouped convolutions, so there each candidate has its own products, and its
    result can't depend on its company; so it is with a network that vmap does not take. The initial forward
    pass is still shared.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        super().__init__(learners)
        (self.learner,) = learners
        self.names = tuple(self.learner.theta)
        self.vectorised = self.theta0[0].is_cuda and self.learner.vectorises
        self.trained = copy.deepcopy(self.learner.network)
        self.buffer_names = tuple(name for name, _ in self.trained.named_buffers())

    def start(self, candidates: int) -> Stacked:
        """Initial weights and running statistics for training P candidates apart.

        Raises:
            NotBatchable: the network keeps state outside its buffers, or puts new tensors in their place.
        """
        if self.learner.replaces_buffers:
            raise NotBatchable(
                "the network puts new tensors in place of its buffers, or keeps state in plain attributes"
            )
        self.buffers = [b.expand(candidates, *b.shape).clone() for b in self.trained.buffers()]
        return super().start(candidates)

    def _pure(self, weights: Stacked, x: Tensor) -> Tensor:
        return as_rows(self.learner.call(dict(zip(self.names, weights, strict=True)), x), self.kind)

    def _call(self, weights: Stacked, buffers: Stacked, x: Tensor) -> Tensor:
        state = dict(zip(self.names, weights, strict=True)) | dict(zip(self.buffer_names, buffers, strict=True))
        return as_rows(pure_call(self.trained, state, x), self.kind)

    def _map(
        self, function: Callable[..., Tensor], scope: Callable[[], AbstractContextManager[None]], *stacks: Stacked
    ) -> Tensor:
        """`function` of each candidate's tensors, stacked along P; within `scope` all draw the same."""
        if self.vectorised:
            with scope():
                return torch.vmap(function, randomness="same")(*stacks)
        results = []
        for p in range(len(stacks[0][0])):
            with scope():
                results.append(function(*([part[p] for part in stack] for stack in stacks)))
        return torch.stack(results)

    def apply(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions or logits (1, P, B, C) in training mode."""
        return self._map(
            partial(self._pure, x=x[0]), partial(self.learner.dropout, draw), [w[0] for w in theta]
        ).unsqueeze(0)

    def linearise(
        self, theta: Sequence[Any], x: Tensor, draw: int, factored: bool = False
    ) -> tuple[Tensor, Pullback, Pushforward]:
        """Predictions, with their derivative transposed and as it is."""
        leaves = [w.detach().requires_grad_() for w in theta]
        with torch.enable_grad():
            predictions = self.apply(leaves, x, draw)

        def pullback(cotangents: Tensor) -> list[Any]:
            if cotangents.shape[1] == predictions.shape[1]:
                return _gradients(predictions, leaves, cotangents)
            rows = cotangents.unbind(dim=1)
            if self.vectorised:
                gradients = torch.autograd.grad(
                    predictions,
                    leaves,
                    torch.stack(rows).unsqueeze(2),
                    retain_graph=True,
                    is_grads_batched=True,
                    materialize_grads=True,
                )
                return [g.squeeze(2).transpose(0, 1) for g in gradients]
            each = [_gradients(predictions, leaves, row.unsqueeze(1)) for row in rows]
            return [torch.cat(parts, dim=1) for parts in zip(*each, strict=True)]

        def pushforward(direction: Sequence[Any]) -> Tensor:
            if theta[0].shape[1] > 1 or direction[0].shape[1] == 1:
                return jvp(lambda weights: self.apply(weights, x, draw), (theta,), (direction,))[1]

            def along(tangents: Stacked) -> Tensor:
                return jvp(partial(self._pure, x=x[0]), ([w[0, 0] for w in theta],), (tangents,))[1]

            return self._map(along, partial(self.learner.dropout, draw), [d[0] for d in direction]).unsqueeze(0)

        return predictions.detach(), pullback, pushforward

    def train_step(self, theta: Stacked, x: Tensor, draw: int, factored: bool = False) -> tuple[Tensor, Pullback]:
        """Predictions of one step of training, and their derivative transposed; moves running statistics."""
        leaves = [w.detach().requires_grad_() for w in theta]
        self.trained.train()
        one = partial(self._call, x=x[0])
        with torch.enable_grad():
            predictions = self._map(
                one, partial(self.learner.dropout, draw), [w[0] for w in leaves], self.buffers
            ).unsqueeze(0)
        return predictions.detach(), lambda cotangents: _gradients(predictions, leaves, cotangents, retain=False)

    def evaluate(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions (1, P, B, C) in evaluation mode."""
        self.trained.eval()
        with torch.no_grad(), self.learner.kernels():
            one = partial(self._call, x=x[0])
            scope = partial(isolated_torch, 0, "evaluation", draw)
            return self._map(one, scope, [w[0] for w in theta], self.buffers).unsqueeze(0)


class ConvolutionStack(NetworkStack):
    """A plain convolutional network of one learner: by the compiled kernels on a CPU, by hand on a GPU."""

    def __init__(self, learner: Learner, layers: Sequence[PlainLayer]) -> None:
        super().__init__([learner])
        self.layers = tuple(layers)
        self.algebra = ConvolutionAlgebra(layers)
        self.by_hand = self.theta0[0].is_cuda

    def linearise(
        self, theta: Sequence[Any], x: Tensor, draw: int, factored: bool = False
    ) -> tuple[Tensor, Pullback, Pushforward]:
        """Predictions, with their derivative transposed and as it is."""
        if not self.by_hand:
            return super().linearise(theta, x, draw, factored)
        weights = self.algebra.weights([w[0] for w in theta])
        out, kept = self.algebra.forward(weights, x[0])
        jacobian = cache(partial(Jacobian, self.algebra, weights, kept, (out.shape[1], out.shape[2])))

        def pays(candidates: int) -> bool:
            return self.algebra.rows_apart and len(out) == 1 and candidates >= self.outputs

        def pullback(cotangents: Tensor) -> list[Any]:
            delta = cotangents[0].mT
            if pays(len(delta)):
                return [g.unsqueeze(0) for g in jacobian().pullback(delta)]
            return [g.unsqueeze(0) for g in self.algebra.pullback(weights, kept, delta)]

        def pushforward(direction: Sequence[Any]) -> Tensor:
            along = self.algebra.weights([d[0] for d in direction])
            if pays(direction[0].shape[1]):
                return jacobian().pushforward(along).mT.unsqueeze(0)
            return self.algebra.pushforward(weights, kept, along).mT.unsqueeze(0)

        return out.mT.unsqueeze(0), pullback, pushforward

    def train_step(self, theta: Stacked, x: Tensor, draw: int, factored: bool = False) -> tuple[Tensor, Pullback]:
        """Predictions of one step of training, and their derivative transposed; moves running statistics."""
        if not self.by_hand:
            return super().train_step(theta, x, draw, factored)
        weights = self.algebra.weights([w[0] for w in theta])
        out, kept = self.algebra.forward(weights, x[0])
        self._move_statistics(kept)

        def pullback(cotangents: Tensor) -> list[Any]:
            return [g.unsqueeze(0) for g in self.algebra.pullback(weights, kept, cotangents[0].mT)]

        return out.mT.unsqueeze(0), pullback

    def _move_statistics(self, kept: Sequence[Any]) -> None:
        """Running means and variances of batch norms follow those of the batch, as `nn.BatchNorm2d` has it."""
        buffers = dict(zip(self.buffer_names, self.buffers, strict=True))
        for layer, held in zip(self.layers, kept, strict=True):
            if layer.name == "norm":
                standard, _, mean, variance = held
                number = math.prod(standard.shape[2:])
                batch = {"running_mean": mean, "running_var": variance * (number / (number - 1))}
                for name, value in batch.items():
                    buffers[f"{layer.statistics}.{name}"].lerp_(value.flatten(1), layer.momentum)
                buffers[f"{layer.statistics}.num_batches_tracked"].add_(1)


class RecurrentStack(NetworkStack):
    """A network of one learner with an embedding and an LSTM, by hand-written derivatives."""

    by_hand = True

    def __init__(self, learner: Learner, form: RecurrentForm) -> None:
        super().__init__([learner])
        self.form = form
        self.algebra = RecurrentAlgebra(form, [w[0, 0].numel() for w in self.theta0])

    def apply(self, theta: Stacked, x: Tensor, draw: int) -> Tensor:
        """Predictions or logits (1, P, B, C)."""
        return self._forward(theta, x)[1].unsqueeze(0)

    evaluate = apply

    def linearise(
        self, theta: Sequence[Any], x: Tensor, draw: int, factored: bool = False
    ) -> tuple[Tensor, Pullback, Pushforward]:
        """Predictions, with their derivative transposed and as it is."""
        weights, out, record = self._forward(theta, x)

        def pullback(cotangents: Tensor) -> list[Any]:
            return [g.unsqueeze(0) for g in self.algebra.pullback(weights, record, cotangents[0])]

        def pushforward(direction: Sequence[Any]) -> Tensor:
            along = self.algebra.weights([d[0] for d in direction])
            return self.algebra.pushforward(weights, record, along).unsqueeze(0)

        return out.unsqueeze(0), pullback, pushforward

    def train_step(self, theta: Stacked, x: Tensor, draw: int, factored: bool = False) -> tuple[Tensor, Pullback]:
        """Predictions of one step of training, and their derivative transposed."""
        return self.linearise(theta, x, draw)[:2]

    def _forward(self, theta: Sequence[Any], x: Tensor) -> tuple[Weights, Tensor, Record]:
        weights = self.algebra.weights([w[0] for w in theta])
        return weights, *self.algebra.forward(weights, x[0])


def _gradients(predictions: Tensor, leaves: Stacked, cotangents: Tensor, retain: bool = True) -> Stacked:
    return list(torch.autograd.grad(predictions, leaves, cotangents, retain_graph=retain, materialize_grads=True))
