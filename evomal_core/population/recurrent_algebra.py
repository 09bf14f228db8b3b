"""Forward pass and derivatives of embedding, LSTM and dense layers, by hand in PyTorch, for many candidates.

Weights are (P, …): candidates; P is 1 for what all of them share. Gates are (P, B, 4·units), in PyTorch's order
i, f, g, o. An embedding is only ever read through the LSTM's input weights, so what each symbol adds to the gates
is computed once, and its gradients are summed by a product with the one-hot matrix of the letters: unlike a
scatter, it adds in the same order each time.

This is what a GPU computes; on a CPU the compiled kernels are faster (`kernels_recurrent`), where they take the
losses and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from evomal_core.population.recurrent import RecurrentForm
from evomal_core.population.steps import product_each, through


@dataclass(frozen=True)
class Weights:
    """A network's weights, or a direction of them, by their roles; each (P, …)."""

    table: Tensor
    into: Tensor
    recurrent: Tensor
    biases: tuple[Tensor, ...]
    """Biases of the input and of the recurrent weights, where the network has them."""
    dense: tuple[tuple[Tensor, Tensor | None], ...]


@dataclass(frozen=True)
class Step:
    """Values of one letter that the derivatives need: the gates after their activations, and states."""

    gates: tuple[Tensor, Tensor, Tensor, Tensor]
    state_before: Tensor
    cell_before: Tensor
    cell: Tensor
    """tanh(c)."""


@dataclass(frozen=True)
class Record:
    """Values of a forward pass that the derivatives need."""

    letters: Tensor
    """(letters · B,), symbols by number."""
    steps: tuple[Step, ...]
    dense: tuple[Tensor, ...]
    """The input of each dense layer, then the output."""


class RecurrentAlgebra:
    """A recurrent network's forward pass, pullback and pushforward."""

    def __init__(self, form: RecurrentForm, sizes: Sequence[int]) -> None:
        """Sizes: the number of weights in each of the network's parameters, in their order."""
        self.form = form
        numbers = {place: number for number, place in enumerate(accumulate(sizes, initial=0))}
        _, self.units, *places, self.padding = form.shape.tolist()
        self.places = [numbers.get(place) for place in places]
        self.dense = [(numbers[w], numbers.get(b)) for _, _, w, b, _ in form.layers.tolist()]
        self.activations = [("", "relu", "tanh")[number] for number in form.layers[:, 4]]

    def weights(self, theta: Sequence[Tensor]) -> Weights:
        """The roles of the network's parameters, each (P, …)."""
        table, into, recurrent, *biases = (None if n is None else theta[n] for n in self.places)
        assert table is not None
        assert into is not None
        assert recurrent is not None
        dense = tuple((theta[w], None if b is None else theta[b]) for w, b in self.dense)
        return Weights(table, into, recurrent, tuple(b for b in biases if b is not None), dense)

    def forward(self, weights: Weights, x: Tensor) -> tuple[Tensor, Record]:
        """Predictions (P, B, C) of rows of symbols (B, letters)."""
        letters = x.mT.flatten()
        steps: list[Step] = []
        state = cell = weights.recurrent.new_zeros(len(weights.recurrent), len(x), self.units)
        for gates in self._read(self._symbols(weights), letters, len(x)):
            before, cell_before = state, cell
            i, f, g, o = (gates + product_each(state, weights.recurrent.mT)).chunk(4, dim=-1)
            opened = (torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o))
            cell = opened[1] * cell + opened[0] * opened[2]
            squashed = torch.tanh(cell)
            state = opened[3] * squashed
            steps.append(Step(opened, before, cell_before, squashed))
        values = [state]
        for (w, b), activation in zip(weights.dense, self.activations, strict=True):
            z = product_each(values[-1], w.mT)
            z = z if b is None else z + b.unsqueeze(1)
            values.append({"relu": torch.relu, "tanh": torch.tanh}.get(activation, torch.clone)(z))
        return values[-1], Record(letters, tuple(steps), tuple(values))

    def pullback(self, weights: Weights, record: Record, delta: Tensor) -> list[Tensor]:
        """Gradients of the parameters, in their order, from cotangents (P, B, C) of the predictions."""
        found: dict[int, Tensor] = {}
        for depth in range(len(self.dense) - 1, -1, -1):
            delta = through(self.activations[depth], delta, record.dense[depth + 1])
            weight, bias = self.dense[depth]
            found[weight] = product_each(delta.mT, record.dense[depth])
            if bias is not None:
                found[bias] = delta.sum(dim=1)
            delta = product_each(delta, weights.dense[depth][0])
        found |= self._through_time(weights, record, delta)
        return [found[number] for number in sorted(found)]

    def pushforward(self, weights: Weights, record: Record, direction: Weights) -> Tensor:
        """Tangents (P, B, C) of the predictions along a direction of the weights."""
        table = direction.table
        if self.padding >= 0:
            table = table.clone()
            table[:, self.padding] = 0  # as in `nn.Embedding`, whose padding row has no gradient
        along = product_each(table, weights.into.mT) + product_each(weights.table, direction.into.mT)
        along = along + sum(bias.unsqueeze(1) for bias in direction.biases)
        batch = record.steps[0].state_before.shape[1]
        state: Tensor | None = None
        cell: Tensor | None = None
        for gates, step in zip(self._read(along, record.letters, batch), record.steps, strict=True):
            change = gates + product_each(step.state_before, direction.recurrent.mT)
            if state is not None:
                change = change + product_each(state, weights.recurrent.mT)
            i, f, g, o = step.gates
            di, df, dg, do = (s * c for s, c in zip(_slopes(step.gates), change.chunk(4, dim=-1), strict=True))
            moved = df * step.cell_before + di * g + i * dg
            cell = moved if cell is None else moved + f * cell
            state = do * step.cell + o * (1 - step.cell**2) * cell
        assert state is not None
        tangent = state
        for depth, (dw, db) in enumerate(direction.dense):
            z = product_each(tangent, weights.dense[depth][0].mT) + product_each(record.dense[depth], dw.mT)
            z = z if db is None else z + db.unsqueeze(1)
            tangent = through(self.activations[depth], z, record.dense[depth + 1])
        return tangent

    def _symbols(self, weights: Weights) -> Tensor:
        """Contribution of each symbol to the gates, (P, symbols, 4·units)."""
        gates = product_each(weights.table, weights.into.mT)
        for bias in weights.biases:
            gates = gates + bias.unsqueeze(1)
        return gates

    def _read(self, symbols: Tensor, letters: Tensor, rows: int) -> tuple[Tensor, ...]:
        """The gates of each letter in turn, (P, B, 4·units)."""
        return symbols.index_select(1, letters).split(rows, dim=1)

    def _through_time(self, weights: Weights, record: Record, state: Tensor) -> dict[int, Tensor]:
        """Gradients of embedding and LSTM, by number of the parameter, from cotangents of the last state."""
        cell = torch.zeros_like(state)
        deltas: list[Tensor] = []
        for step in reversed(record.steps):
            i, f, g, o = step.gates
            cell = cell + state * o * (1 - step.cell**2)
            opened = (cell * g, cell * step.cell_before, cell * i, state * step.cell)
            delta = torch.cat([d * s for d, s in zip(opened, _slopes(step.gates), strict=True)], dim=-1)
            deltas.append(delta)
            state, cell = product_each(delta, weights.recurrent), cell * f
        delta = torch.cat(deltas[::-1], dim=1)  # (P, letters · B, 4·units)
        before = torch.cat([step.state_before for step in record.steps], dim=1)
        symbols = torch.arange(weights.table.shape[1], device=delta.device)
        one_hot = (record.letters == symbols.unsqueeze(1)).to(delta.dtype)
        by_symbol = product_each(one_hot.unsqueeze(0), delta)
        table = product_each(by_symbol, weights.into)
        if self.padding >= 0:
            table[:, self.padding] = 0
        gradients = [table, product_each(by_symbol.mT, weights.table), product_each(delta.mT, before)]
        gradients += [delta.sum(dim=1), delta.sum(dim=1)]  # apart: an optimiser writes on them
        return {n: gradient for n, gradient in zip(self.places, gradients, strict=True) if n is not None}


def _slopes(gates: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of the gates' activations, which their outputs tell: sigmoids, but tanh for the third."""
    i, f, g, o = gates
    return i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)
