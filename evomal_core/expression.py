"""Expressions: the individuals of the genetic programming search, immutable and hashable.

An expression is a tuple of node names in prefix order. Random trees, one-point crossover and uniform
mutation are DEAP's (Fortin et al. 2012); reading text never evaluates it.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, TypeVar

from deap import gp

from evomal_core.checks import hint
from evomal_core.primitives import (
    ARITHMETIC,
    CLAMPED,
    PRIMITIVES,
    TERMINALS,
    FunctionSet,
    Primitive,
    arity,
    function_names,
)

T = TypeVar("T")

MAX_HEIGHT = 30
MAX_NODES = 5000


@dataclass(frozen=True)
class Expression:
    """A symbolic loss M(y, f): node names in prefix order, e.g. `("square", "sub", "y", "f")`.

    `f` is the prediction and `y` the label. A malformed tree is refused here, where it is built.

    Raises:
        ValueError: a name is unknown, subtrees are missing or left over, or the tree is larger than
            MAX_NODES nodes or higher than MAX_HEIGHT.
    """

    nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.nodes) <= MAX_NODES:
            raise ValueError(f"an expression has 1 to {MAX_NODES} nodes, got {len(self.nodes)}")
        for name in self.nodes:
            _check_name(name)
        missing = 1
        for position, name in enumerate(self.nodes):
            if missing == 0:
                raise ValueError(f"tree is complete before node {position} ({name!r}): {' '.join(self.nodes)}")
            missing += arity(name) - 1
        if missing:
            raise ValueError(f"tree needs {missing} more subtree(s) at its end: {' '.join(self.nodes)}")
        if self.height > MAX_HEIGHT:
            raise ValueError(f"an expression is at most {MAX_HEIGHT} high, got {self.height}")

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read `square(sub(y, f))`; the text is tokenised, never evaluated.

        Raises:
            ValueError: the text is not an expression; the message names the offending part.
        """
        if not isinstance(text, str):
            raise ValueError(f"an expression is text such as 'square(sub(y, f))', got {text!r}")
        return cls(tuple(_parse(text)))

    def __str__(self) -> str:
        return self.fold(lambda _, name: name, lambda _, name, children: f"{name}({', '.join(children)})")

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def height(self) -> int:
        """Edges on the longest path from the root to a leaf."""
        return self.fold(lambda i, name: 0, lambda i, name, children: 1 + max(children))

    @property
    def edges(self) -> int:
        """Number of weights of the meta-loss network: one per edge, none on the root."""
        return len(self.nodes) - 1

    @property
    def is_loss(self) -> bool:
        """Whether both required arguments, f and y, occur (GECCO section 3.1.3)."""
        return "f" in self.nodes and "y" in self.nodes

    def fold(self, leaf: Callable[[int, str], T], node: Callable[[int, str, Sequence[T]], T]) -> T:
        """Combine the tree from its leaves to its root: the transposed graph of GECCO section 3.2.

        Args:
            leaf: called with the position and name of each terminal.
            node: called with the position, name and children's values of each inner node.
        """
        stack: list[T] = []
        for position in range(len(self.nodes) - 1, -1, -1):
            name = self.nodes[position]
            count = arity(name)
            if count:
                children = [stack.pop() for _ in range(count)]
                stack.append(node(position, name, children))
            else:
                stack.append(leaf(position, name))
        return stack[0]


def _check_name(name: str) -> None:
    if name in PRIMITIVES or name in TERMINALS:
        return
    known = [*PRIMITIVES, *TERMINALS]
    otherwise = f"known are {', '.join(known)}, written as in square(sub(y, f))"
    raise ValueError(f"unknown name {name!r:.40} in an expression; {hint(name, known, otherwise)}")


def _parse(text: str) -> Iterator[str]:
    """Node names in prefix order; brackets, commas and argument counts are checked without recursion."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    tokens = re.findall(r"-?\w+|[^\s\w]", text)
    open_calls: list[tuple[str, int]] = []  # name, arguments begun
    want_operand, previous = True, "the start"
    for token, following in zip(tokens, [*tokens[1:], ""], strict=False):
        if previous in PRIMITIVES:
            open_calls.append((previous, 1))  # token is "(", as was checked one token earlier
        elif want_operand:
            _check_name(token)
            yield token
            if token in PRIMITIVES and following != "(":
                raise ValueError(f"{token!r} needs its arguments in brackets: {shown}")
            want_operand = token in PRIMITIVES
        elif not open_calls or token not in (",", ")"):
            raise ValueError(f"unexpected {token!r} after {previous!r} in {shown}")
        else:
            name, count = open_calls.pop()
            if token == ",":
                open_calls.append((name, count + 1))
                want_operand = True
            elif count != arity(name):
                raise ValueError(f"{name!r} takes {arity(name)} argument(s), got {count}: {shown}")
        previous = token
    if open_calls or want_operand:
        raise ValueError(f"the expression ends too early: {shown or 'it is empty'}")


def primitive_set(function_set: FunctionSet) -> gp.PrimitiveSet:
    """The function set as a DEAP primitive set (its callables are never compiled by DEAP).

    Raises:
        ValueError: the function set is unknown.
    """
    return _primitive_set(tuple(PRIMITIVES[name] for name in function_names(function_set)))


@cache
def _primitive_set(rows: tuple[Primitive, ...]) -> gp.PrimitiveSet:
    pset = gp.PrimitiveSet("loss", 0)
    for row in rows:
        pset.addPrimitive(row.torch, row.arity, name=row.name)
    for name in TERMINALS:
        pset.addTerminal(name, name=name)
    return pset


_DEAP_LOCK = threading.Lock()


@contextmanager
def _deap_draws_from(rng: random.Random) -> Iterator[None]:
    """DEAP draws from Python's global generator: lend it ours, and put everything back."""
    with _DEAP_LOCK:
        outside = random.getstate()
        random.setstate(rng.getstate())
        try:
            yield
        finally:
            rng.setstate(random.getstate())
            random.setstate(outside)


def _to_deap(expression: Expression, pset: gp.PrimitiveSet) -> gp.PrimitiveTree:
    outside = [name for name in expression.nodes if name not in pset.mapping]
    if outside:
        raise ValueError(f"{outside[0]!r} in {expression} is not in the chosen function set")
    return gp.PrimitiveTree([pset.mapping[name] for name in expression.nodes])


def _from_deap(tree: Sequence[gp.Primitive | gp.Terminal]) -> Expression:
    return Expression(tuple(node.name for node in tree))


def random_expression(
    rng: random.Random, function_set: FunctionSet, heights: tuple[int, int] = (2, 4)
) -> Expression:
    """A random tree by ramped half-and-half (Koza 1992), heights drawn from the closed range `heights`."""
    pset = primitive_set(function_set)
    with _deap_draws_from(rng):
        return _from_deap(gp.genHalfAndHalf(pset, *heights))


def in_form_of(function_set: FunctionSet, expression: Expression) -> Expression:
    """The expression with its protected operations as the function set has them."""
    names = function_names(function_set)
    forms = {
        name: form for plain, clamped in CLAMPED.items() for name, form in ((plain, clamped), (clamped, plain))
    }
    return Expression(tuple(name if name in names else forms.get(name, name) for name in expression.nodes))


def crossover(rng: random.Random, mother: Expression, father: Expression, function_set: FunctionSet) -> Expression:
    """One-point crossover: the mother with one subtree replaced by one of the father's."""
    pset = primitive_set(function_set)
    with _deap_draws_from(rng):
        child, _ = gp.cxOnePoint(_to_deap(mother, pset), _to_deap(father, pset))
    return _from_deap(child)


def mutate(
    rng: random.Random,
    parent: Expression,
    function_set: FunctionSet,
    trees: Literal["full", "half"] = "full",
) -> Expression:
    """Uniform mutation: one random subtree replaced by a new one of height 0 to 2, full or half-and-half."""
    pset = primitive_set(function_set)
    generate = gp.genFull if trees == "full" else gp.genHalfAndHalf

    def grow(pset: gp.PrimitiveSet, type_: type) -> list:
        return generate(pset, 0, 2, type_)

    with _deap_draws_from(rng):
        (child,) = gp.mutUniform(_to_deap(parent, pset), expr=grow, pset=pset)
    return _from_deap(child)


def repair(
    rng: random.Random,
    expression: Expression,
    function_set: FunctionSet,
    operations: Literal["binary", "arithmetic"] = "binary",
) -> Expression:
    """Enforce the required arguments (GECCO section 3.1.3): a valid expression is returned as it is.

    Otherwise a random terminal becomes a random binary node with f and y in random order; one of ARITHMETIC, if so
    asked, as in the authors' code.
    """
    if expression.is_loss:
        return expression
    terminals = [i for i, name in enumerate(expression.nodes) if not arity(name)]
    place = rng.choice(terminals)
    binary = [name for name in function_names(function_set) if arity(name) == 2]
    node = rng.choice(binary if operations == "binary" else ARITHMETIC)
    arguments = rng.sample(["f", "y"], 2)
    return Expression((*expression.nodes[:place], node, *arguments, *expression.nodes[place + 1 :]))
