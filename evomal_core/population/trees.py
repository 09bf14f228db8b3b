"""A population of expressions as one program: dM/df and the mixed product, for all at once.

Nodes at the same distance from their root and of the same operation are evaluated together, so that the
number of launched operations depends on the height of the trees, not on how many there are. Derivatives
are those of `primitives`.

Rows of different candidates never meet in one sum, so a candidate that overflows can't disturb another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomal_core.expression import Expression
from evomal_core.primitives import PRIMITIVES, SOFTPLUS_THRESHOLD, TERMINALS, arity


@dataclass(frozen=True)
class _Level:
    """All nodes at one distance from their roots: inner ones by operation, then f, y and constants."""

    groups: tuple[tuple[str, int, int], ...]
    leaves: dict[str, tuple[int, int]]
    rows: int
    inner: int
    first: Tensor
    """Row of each inner node's first child in the next level."""
    second: Tensor
    """Row of each binary node's second child."""
    parents: Tensor
    """Place of each next-level row's parent among first, then second, arguments."""
    weights: Tensor
    """Place of each row in the flattened phi."""
    candidates: Tensor
    """Candidate of each leaf f."""


@dataclass
class _Block:
    """Results of the sweeps over one level, each (rows, elements)."""

    weight: Tensor
    value: Tensor
    a: Tensor
    b: Tensor
    slope_a: Tensor
    slope_b: Tensor
    before: Tensor | None = None
    """∂M/∂(weighted value) of each row: the derivative before its edge's weight."""
    after: Tensor | None = None
    """∂M/∂value of each row: `before` times the weight."""


Tape = list[_Block]


class Program:
    """Expressions, evaluated together at predictions f and labels y.

    Args:
        expressions: the candidates, P of them.
        softplus: whether each root passes through a softplus.
        device: where phi, f and y live.
    """

    def __init__(
        self, expressions: Sequence[Expression], softplus: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.expressions = tuple(expressions)
        self.softplus = softplus
        self.width = max(1, *(e.edges for e in self.expressions), 1)
        """E, the padded number of weights of a candidate."""
        self._levels = _levels([e.nodes for e in self.expressions], self.width, torch.device(device))

    def pad(self, phi: Sequence[Tensor]) -> Tensor:
        """Weights of each candidate, (edges,), as one tensor (P, E); the padding holds ones."""
        padded = phi[0].new_ones((len(phi), self.width))
        for row, weights in zip(padded, phi, strict=True):
            row[: len(weights)] = weights.detach()
        return padded

    def slope(self, phi: Tensor, f: Tensor, y: Tensor) -> tuple[Tensor, Tape]:
        """dM/df elementwise, (P, N), and the tape that `mixed` needs."""
        tape = self._forward(phi, f, y)
        root = tape[0]
        root.after = self._softplus_slope(root.value) if self.softplus else torch.ones_like(root.value)
        slope = torch.zeros_like(f)
        for level, block, below in zip(self._levels, tape, [*tape[1:], None], strict=True):
            assert block.after is not None
            _collect(slope, level, block.after)
            if below is not None:
                below.before = _to_children(
                    level, block.slope_a * block.after[: level.inner], block.slope_b * block.after[: len(block.b)]
                )
                below.after = below.weight * below.before
        return slope, tape

    def mixed(self, tape: Tape, u: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of s = Σ_n (dM/df)_n · u_n with respect to phi and f: (P, E) and (P, N).

        One tangent sweep along df = u, then one reverse sweep over both. `u` is (P, N).
        """
        tangents, curvatures = self._tangents(tape, u)
        root = tape[0]
        by_phi = u.new_zeros(u.shape[0] * self.width)
        by_f = torch.zeros_like(u)
        adjoint = torch.zeros_like(root.value)
        if self.softplus:
            adjoint = self._softplus_curvature(root.value) * tangents[0]
        for depth, (level, block) in enumerate(zip(self._levels, tape, strict=True)):
            _collect(by_f, level, adjoint)
            if depth + 1 == len(tape):
                break
            below = tape[depth + 1]
            assert block.after is not None
            assert below.before is not None
            change_a, change_b = curvatures[depth]
            binary = len(block.b)
            before = _to_children(
                level,
                block.slope_a * adjoint[: level.inner] + change_a * block.after[: level.inner],
                block.slope_b * adjoint[:binary] + change_b * block.after[:binary],
            )
            per_weight = (before * below.value + below.before * tangents[depth + 1]).sum(dim=1)
            by_phi[self._levels[depth + 1].weights] = per_weight
            adjoint = below.weight * before
        return by_phi.view(-1, self.width), by_f

    def _forward(self, phi: Tensor, f: Tensor, y: Tensor) -> Tape:
        flat = phi.reshape(-1)
        tape: Tape = []
        weighted = f.new_empty((0, f.shape[1]))
        for depth in range(len(self._levels) - 1, -1, -1):
            level = self._levels[depth]
            value = f.new_empty((level.rows, f.shape[1]))
            a, b = weighted[level.first], weighted[level.second]
            slope_a, slope_b = torch.empty_like(a), torch.empty_like(b)
            for name, start, stop in level.groups:
                rows = slice(start, stop)
                arguments = (a[rows], b[rows])
                value[rows] = PRIMITIVES[name].torch(*arguments[: arity(name)])
                slope_a[rows], slope = PRIMITIVES[name].slopes(*arguments, value[rows])
                if arity(name) == 2:
                    slope_b[rows] = slope
            for name, (start, stop) in level.leaves.items():
                value[start:stop] = f[level.candidates] if name == "f" else y if name == "y" else float(name)
            weight = flat[level.weights].unsqueeze(1) if depth else f.new_ones(())
            weighted = weight * value
            tape.append(_Block(weight, value, a, b, slope_a, slope_b))
        return tape[::-1]

    def _tangents(self, tape: Tape, u: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """d value along df = u for each level, and the change of the slopes along it."""
        tangents, curvatures = [], []
        weighted = u.new_empty((0, u.shape[1]))
        for level, block in zip(self._levels[::-1], tape[::-1], strict=True):
            da, db = weighted[level.first], weighted[level.second]
            tangent = torch.zeros_like(block.value)
            tangent[: level.inner] = block.slope_a * da
            tangent[: len(db)] += block.slope_b * db
            if "f" in level.leaves:
                start, stop = level.leaves["f"]
                tangent[start:stop] = u[level.candidates]
            change_a, change_b = torch.zeros_like(da), torch.zeros_like(db)
            for name, start, stop in level.groups:
                if PRIMITIVES[name].is_linear:
                    continue
                rows = slice(start, stop)
                blocks = (block.a, block.b, block.value, block.slope_a, da, db)
                change_a[rows], change = PRIMITIVES[name].curvatures(*(x[rows] for x in blocks))
                if arity(name) == 2:
                    change_b[rows] = change
            weighted = block.weight * tangent
            tangents.append(tangent)
            curvatures.append((change_a, change_b))
        return tangents[::-1], curvatures[::-1]

    @staticmethod
    def _softplus_slope(x: Tensor) -> Tensor:
        return torch.where(x > SOFTPLUS_THRESHOLD, 1.0, torch.sigmoid(x))

    @staticmethod
    def _softplus_curvature(x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return torch.where(x > SOFTPLUS_THRESHOLD, 0.0, s * (1 - s))


def _collect(total: Tensor, level: _Level, adjoint: Tensor) -> None:
    """Add the adjoints of the leaves f to their candidates' rows, in a fixed order."""
    if "f" in level.leaves:
        start, stop = level.leaves["f"]
        # Accumulating index_put_ adds in the order of the index on CUDA too, where index_add_ does not.
        if total.is_cuda:
            total.index_put_((level.candidates,), adjoint[start:stop], accumulate=True)
        else:
            total.index_add_(0, level.candidates, adjoint[start:stop])


def _to_children(level: _Level, to_first: Tensor, to_second: Tensor) -> Tensor:
    return torch.cat((to_first, to_second))[level.parents]


def _levels(trees: Sequence[tuple[str, ...]], width: int, device: torch.device) -> list[_Level]:
    """Lay the nodes of all trees out by depth and, within a depth, by operation."""
    # Binary operations come first in a level, so that second arguments fill its first rows.
    names = [*sorted(PRIMITIVES, key=lambda name: -arity(name)), *TERMINALS]
    ranks = {name: rank for rank, name in enumerate(names)}
    by_depth: dict[int, list[tuple[int, int, int]]] = {}  # (rank of the name, candidate, position)
    children: dict[tuple[int, int], list[int]] = {}
    for candidate, nodes in enumerate(trees):
        open_nodes: list[int] = []  # positions that still lack children, outermost first
        for position, name in enumerate(nodes):
            by_depth.setdefault(len(open_nodes), []).append((ranks[name], candidate, position))
            if open_nodes:
                children[candidate, open_nodes[-1]].append(position)
            children[candidate, position] = []
            open_nodes.append(position)
            while open_nodes and len(children[candidate, open_nodes[-1]]) == arity(nodes[open_nodes[-1]]):
                open_nodes.pop()
    rows = [sorted(by_depth[depth]) for depth in range(len(by_depth))]
    places = [{(c, p): row for row, (_, c, p) in enumerate(level)} for level in rows]
    return [
        _level(rows[d], places[d + 1] if d + 1 < len(rows) else {}, children, trees, width, device)
        for d in range(len(rows))
    ]


def _level(
    rows: list[tuple[int, int, int]],
    below: dict[tuple[int, int], int],
    children: dict[tuple[int, int], list[int]],
    trees: Sequence[tuple[str, ...]],
    width: int,
    device: torch.device,
) -> _Level:
    names = [trees[c][p] for _, c, p in rows]
    spans: dict[str, tuple[int, int]] = {}
    for row, name in enumerate(names):
        spans[name] = (spans.get(name, (row, row))[0], row + 1)
    first = [below[c, children[c, p][0]] for _, c, p in rows if children[c, p]]
    second = [below[c, children[c, p][1]] for _, c, p in rows if len(children[c, p]) == 2]
    parents = [0] * len(below)
    for place, row in enumerate([*first, *second]):
        parents[row] = place

    def index(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=device)

    return _Level(
        groups=tuple((name, *span) for name, span in spans.items() if name in PRIMITIVES),
        leaves={name: span for name, span in spans.items() if name in TERMINALS},
        rows=len(rows),
        inner=len(first),
        first=index(first),
        second=index(second),
        parents=index(parents),
        weights=index([c * width + max(p - 1, 0) for _, c, p in rows]),
        candidates=index([c for (_, c, _), name in zip(rows, names, strict=True) if name == "f"]),
    )
