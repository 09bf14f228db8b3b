"""Configuration: frozen, validated, and refusing names that it does not know."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from evomal_core.checks import hint
from evomal_core.initialisation import Initialisation, Start
from evomal_core.primitives import CLAMPED, FunctionSet, function_names

Count = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Rate = Annotated[Real, Field(ge=0, le=1)]
PositiveFloat = Annotated[Real, Field(gt=0)]
Flag = Annotated[bool, Field(strict=True)]


class Config(BaseModel):
    """Base of all configurations: immutable, and `Config(**values)` raises ValueError on a misspelt name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, *unnamed: Any, **values: Any) -> None:
        known = type(self).model_fields
        _refuse_unnamed(type(self).__name__, known, unnamed)
        for name in values:
            if name not in known:
                remedy = hint(name, known)
                if "base" in known and name in SGD.model_fields:
                    remedy = f"it is a setting of the base optimiser: write base=SGD({name}=…)"
                raise ValueError(f"{type(self).__name__} has no field {name!r}; {remedy}")
        try:
            super().__init__(**{name: _plain(value) for name, value in values.items()})
        except ValidationError as error:
            raise ValueError(_one_line(type(self).__name__, error)) from None

    def replace(self, *unnamed: Any, **changes: Any) -> Self:
        """A copy with some fields changed, by name, validated anew."""
        _refuse_unnamed(f"{type(self).__name__}.replace", type(self).model_fields, unnamed)
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def _refuse_unnamed(called: str, known: Mapping[str, FieldInfo], unnamed: Sequence[Any]) -> None:
    if not unnamed:
        return
    given = " ".join(repr(unnamed[0]).split())
    name, field = next((name, field) for name, field in known.items() if not field.is_required())
    raise ValueError(f"{called} got {given:.60}; give settings by name, as in {called}({name}={field.default!r})")


def _plain(value: Any) -> Any:
    """The value with NumPy's numbers and arrays, such as those of a grid, as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value


def _one_line(owner: str, error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing" and len(first["loc"]) == 1:
        example = ", as in Optimizer('AdamW', lr=1e-3)" if owner == "Optimizer" else ""
        return f"{owner}.{place} is required{example}"
    message = first["msg"].removeprefix("Value error, ")
    given = " ".join(repr(first["input"]).split())  # an optimiser's own text has several lines
    return f"{owner}.{place} = {given:.60}: {message}" if place else f"{owner}: {message}"


class SGD(Config):
    """Stochastic gradient descent for the base network: theta ← theta − lr · (gradient step).

    With momentum μ and weight decay λ: G = ∇M + λ·theta, b ← μ·b + G, and the step is b, or G + μ·b with
    Nesterov's correction, as `torch.optim.SGD` has it.
    """

    lr: PositiveFloat = 0.01
    """The learning rate α."""
    momentum: Rate = 0.0
    """μ, the share of the last step's direction that is kept."""
    nesterov: Flag = False
    """Whether Nesterov's correction is used; needs momentum."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    """λ, the share of the weights that is added to the gradient."""
    batch_size: Positive = 128
    """Rows of a batch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @property
    def unrolled(self) -> SGD:
        """The steps that local search unrolls: these."""
        return self

    @property
    def first_rate(self) -> float:
        """The size of the first step in units of the gradient: α, with Nesterov's correction α·(1 + μ)."""
        return self.lr * (1 + self.momentum if self.nesterov else 1)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step (from 0) of a training of `steps`: always lr."""
        return self.lr

    def make(self, weights: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """PyTorch's optimiser of some weights."""
        own = {name: getattr(self, name) for name in ("lr", "momentum", "nesterov", "weight_decay")}
        return torch.optim.SGD(weights, **own)


class Optimizer(Config):
    """Any optimiser of `torch.optim` for the base network, e.g. `Optimizer("AdamW", lr=3e-4, weight_decay=0.01)`.

    It trains base networks for fitness, comparison and meta-testing: whole populations at once, unless it is
    Adafactor, LBFGS or Muon, which do not treat each weight alone. Local search goes on unrolling plain steps of
    SGD, with a learning rate of their own: Adam and its relatives divide the gradient by its own size, so their
    first step is lr · sign(∇M), whose derivative with respect to the loss's weights is zero.

    Args:
        name: a class of `torch.optim`; the first argument, without its name.
        **values: the fields below, and whatever else that class takes, by name.

    Raises:
        ValueError: `torch.optim` has no such optimiser, or it does not take these options.
    """

    name: str
    """The class of `torch.optim`."""
    lr: PositiveFloat = 1e-3
    """The learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate from lr to 0 over a training, if any."""
    warmup: Rate = 0.0
    """Share of a training in which the learning rate first rises linearly to lr."""
    unrolled_lr: PositiveFloat = 0.01
    """The learning rate α of the steps of SGD that local search unrolls."""
    batch_size: Positive = 128
    """Rows of a batch."""
    options: tuple[tuple[str, Any], ...] = ()
    """Other arguments of that class, such as `weight_decay`."""

    def __init__(self, name: str | None = None, /, *unnamed: Any, **values: Any) -> None:
        known = type(self).model_fields
        _refuse_unnamed("Optimizer", known, unnamed)
        options = dict(values.pop("options", ()))
        options |= {option: values.pop(option) for option in list(values) if option not in known}
        named = {} if name is None else {"name": name}
        super().__init__(**named, **values, options=tuple(sorted(options.items())))

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in OPTIMISERS:
            same = [known for known in OPTIMISERS if known.lower() == name.lower()]
            near = same or get_close_matches(name, OPTIMISERS, n=1, cutoff=0.4)
            raise ValueError(f"did you mean {near[0]!r}?" if near else f"known are {', '.join(OPTIMISERS)}")
        return name

    @field_validator("options")
    @classmethod
    def _hashable(cls, options: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
        return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in options)

    @model_validator(mode="after")
    def _check(self) -> Self:
        taken = [name for name in inspect.signature(OPTIMISERS[self.name]).parameters if name != "params"]
        for option, _ in self.options:
            if option not in taken:
                remedy = hint(option, [*taken, *type(self).model_fields], f"it takes {', '.join(taken)}")
                raise ValueError(f"torch.optim.{self.name} has no option {option!r}; {remedy}")
        if dict(self.options).get("differentiable"):
            raise ValueError("differentiable=True can't train weights that are leaves; leave it out")
        try:
            self.make([torch.nn.Parameter(torch.zeros(1, 1))])
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"torch.optim.{self.name} refuses its options: {error}") from None
        return self

    @property
    def unrolled(self) -> SGD:
        """The steps that local search unrolls: plain ones of SGD."""
        return SGD(lr=self.unrolled_lr, batch_size=self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step (from 0) of a training of `steps`."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        share = (step - rising) / max(steps - rising, 1)
        falling = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
        return self.lr * falling[self.schedule]

    def make(self, weights: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """PyTorch's optimiser of some weights."""
        return OPTIMISERS[self.name](weights, lr=self.lr, **dict(self.options))


OPTIMISERS: dict[str, Any] = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam")
}
"""The optimisers of `torch.optim` by name; SparseAdam takes no dense gradients."""


class SearchConfig(Config):
    """Everything that a search depends on beside its tasks, base network and seed.

    For problems of your own start from `EVERYDAY`. The defaults are the sizes and rates of TPAMI 2023,
    sections III and IV; where its text is silent or its authors' code differs, they are this project's choice. The
    papers' experiments set all of them.
    """

    # Genetic programming (GECCO section 3.1, TPAMI section III-B)
    function_set: str | tuple[str, ...] = "tpami23"
    """A paper's operations, or a list of names, which may be those of `primitives.register`."""
    population: Positive = 25
    """Number of losses of a generation."""
    generations: Positive = 50
    """Number of generations, the first one included."""
    tournament: Positive = 4
    """Number of candidates drawn, with replacement, for each selection; the one of lowest fitness wins."""
    parsimony: Annotated[Real, Field(ge=1, le=2)] = 1.0
    """Expected number of two tournament winners kept by size (DEAP's `parsimony_size`); 1 switches it off."""
    crossover_rate: Rate = 0.70
    """Share of a generation made by exchanging subtrees of two winners of tournaments."""
    mutation_rate: Rate = 0.25
    """Share made by growing a new subtree in a winner."""
    elitism_rate: Rate = 0.05
    """Share taken over as it is. The three add up to at most 1; the rest are winners taken over."""
    elitism: Literal["elite", "reproduction"] = "elite"
    """Source of that share: the best stay, or winners of tournaments are copied as they are."""
    mutation_trees: Literal["full", "half"] = "full"
    """Subtrees grown by mutation: full ones, or half-and-half."""
    repair_with: Literal["binary", "arithmetic"] = "binary"
    """Operations that repair inserts: any binary one, or one of + − × and the analytic quotient."""
    protection: Literal["add", "clamp"] = "add"
    """Protection of sqrt and log: taken of |x| + ε, or of max(|x|, ε)."""
    initial_heights: tuple[Count, Count] = (2, 4)
    """Least and greatest height of the random trees of the first generation."""
    height_limit: Annotated[int, Field(ge=1, le=15, strict=True)] = 10
    """Greatest height of any tree."""
    softplus: Flag = False
    """Whether a loss's value goes through softplus, which makes it positive."""

    # Local search by unrolled differentiation (Algorithm 1)
    meta_steps: Count = 250
    """Steps of local search; 0 switches it off."""
    meta_optimizer: Literal["sgd", "adam"] = "adam"
    """Optimiser of the loss's weights phi."""
    meta_lr: PositiveFloat = 1e-3
    """The learning rate η of the loss's weights phi."""
    unroll_steps: Positive = 1
    """Steps of training that each step of local search differentiates through."""
    task_loss_on: Literal["same", "other", "validation"] = "validation"
    """The batch of the task loss: the unrolled step's own, another training batch, or a validation batch."""
    meta_objective: Literal["task loss", "probability"] = "task loss"
    """Objective of tuning phi: squared error or cross-entropy, or minus the probability of the true class."""
    engine: Literal["auto", "higher", "autograd", "jvp", "batched"] = "auto"
    """Computation of the meta-gradient; "auto" takes the fastest that the network allows."""

    # Fitness by a partial training session (Algorithm 2)
    base: SGD | Optimizer = SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    """Optimiser of the base network, see `SGD` and `Optimizer`."""
    fitness_steps: Positive = 500
    """Steps of the partial training session after which fitness is measured."""
    fitness_on: Literal["train", "validation"] = "validation"
    """Rows on which fitness is measured."""
    initialisation: Initialisation = "default"
    """The base network's initial weights: as its constructor makes them, Glorot-uniform with zero biases, or
    He-normal by fan-in or fan-out, see `initialisation.RULES`."""
    theta0: Start = "auto"
    """The initial weights of each meta-step: "redrawn", "fixed", or "auto": redrawn where the model allows it."""

    batches: Literal["epochs", "fresh"] = "epochs"
    """Draw of batches: epochs of shuffled rows, or for each step the first rows of a new permutation."""

    # Filters (TPAMI section III-E)
    symbolic_archive: Flag = True
    """Whether a loss that was evaluated before keeps its fitness instead of being trained with again."""
    rejection_steps: Count = 1000
    """Adam steps of the rejection protocol on the predictions; 0 switches the filter off."""
    rejection_lr: PositiveFloat = 1e-3
    """Adam's learning rate in the rejection protocol."""
    rejection_samples: Positive = 100
    """Number of training rows whose predictions the rejection protocol and gradient equivalence look at."""
    gradient_equivalence: Flag = True
    """Whether losses with the same slopes on these predictions share one training."""
    # Two more that the paper lacks
    reject_first: Flag = False
    """Whether the rejection protocol also looks at the untuned losses, and those that it rejects are not tuned."""
    skip_irrelevant: Flag = False
    """Whether losses whose weights provably can't matter are not tuned; results stay the same."""

    # Beyond the papers: what makes learned losses win
    known: Flag = False
    """Whether the first generation holds the known losses of the kind beside random ones."""
    keep_better: Flag = False
    """Whether each loss is trained with tuned and untuned, and the better of the two is kept."""
    initialisations: Positive = 1
    """Number of initial weights from which a task's network is trained for fitness."""
    finalists: Count = 0
    """Number of the best losses trained again after the search, with the known ones, to choose the best."""
    finalist_initialisations: Positive = 4
    """Number of new initial weights from which finalists are trained."""
    finalist_steps: Positive = 1000
    """Steps for which finalists are trained; the best step on the validation part counts."""
    finalist_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    """Learning rates of the finalists, as multiples of the base network's; the best counts."""

    # GLO
    glo_trees: Positive = 3
    """Number of the best trees whose weights are searched by CMA-ES."""
    glo_generations: Positive = 10
    """Generations of CMA-ES for each of them."""
    glo_sigma: PositiveFloat = 0.1
    """Initial standard deviation of CMA-ES around weights of 1."""

    # TaylorGLO
    taylor_sigma: PositiveFloat = 1.2
    """Initial standard deviation of CMA-ES over TaylorGLO's 8 parameters."""
    taylor_roles: Literal["correct", "swapped"] = "correct"
    """Whether the prediction has its own place in TaylorGLO's polynomial, or the label's, see `TaylorLoss`."""
    ml3_init: Literal["glorot", "he_normal"] = "glorot"
    """Initial weights of ML³'s network."""

    @field_validator("base", mode="before")
    @classmethod
    def _check_base(cls, value: Any) -> Any:
        if isinstance(value, SGD | Optimizer | dict):
            return value
        name = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
        name = name if name in OPTIMISERS else "AdamW"
        raise ValueError(f"write base=Optimizer({name!r}, lr=…), or base=SGD(lr=…)")

    @field_validator("function_set")
    @classmethod
    def _check_function_set(cls, value: FunctionSet) -> FunctionSet:
        if isinstance(value, str) and value not in ("gecco23", "tpami23"):
            raise ValueError("a function set is 'gecco23', 'tpami23' or a list of operations")
        function_names(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.initial_heights
        if not low <= high <= self.height_limit:
            raise ValueError(
                f"initial_heights {self.initial_heights} must ascend, to at most height_limit={self.height_limit}"
            )
        if self.reject_first and not self.rejection_steps:
            raise ValueError("reject_first needs the rejection protocol; set rejection_steps above 0")
        total = self.crossover_rate + self.mutation_rate + self.elitism_rate
        if total > 1 + 1e-9:
            raise ValueError(f"crossover_rate + mutation_rate + elitism_rate = {total:g} is above 1")
        return self

    @property
    def operations(self) -> FunctionSet:
        """The function set with its protected operations, see `primitives.function_names`."""
        if self.protection == "add":
            return self.function_set
        if isinstance(self.function_set, str):
            return f"{self.function_set} clamped"
        return tuple(CLAMPED.get(name, name) for name in self.function_set)

    @property
    def elites(self) -> int:
        """Number of the best that are kept: elitism_rate of the population, at least one unless the rate is 0."""
        if self.elitism_rate == 0 or self.elitism == "reproduction":
            return 0
        return min(self.population, max(1, round(self.elitism_rate * self.population)))


EVERYDAY = SearchConfig(
    population=16,
    generations=8,
    meta_steps=50,
    meta_lr=3e-2,
    base=SGD(lr=0.03, momentum=0.9, batch_size=64),
    fitness_steps=200,
    rejection_steps=0,
    known=True,
    keep_better=True,
    initialisations=2,
    finalists=8,
    finalist_initialisations=10,
    finalist_steps=400,
    finalist_rates=(0.3, 1.0, 3.0),
)
"""The defaults of `learn_loss`: not the papers' protocol, but what was found to win on small problems."""
THOROUGH = EVERYDAY.replace(population=64, generations=40)
"""Twenty times as many losses, for labels that no known loss is made for: EVERYDAY mostly chooses among those."""
