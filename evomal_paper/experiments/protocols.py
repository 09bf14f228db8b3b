"""The two protocols: as the authors' code runs, and as the papers' sentences read.

`published/switches.toml` says of each setting what the code and the text say. The profile `paper` follows the code
where it speaks, and the text elsewhere. `text` takes the text literally.
"""

import json
from collections.abc import Collection
from typing import Any

from evomal_core.config import SGD, SearchConfig
from evomal_paper.published.tables import facts

SWITCHES = facts("switches", "switch")
"""The settings in which code and text differ, or may: name, what each says, and the values here."""

DIFFERENCES = facts("switches", "difference")
"""Points in which this project differs from the authors' code in both profiles: the code, here, and why."""


def parsed(text: str) -> Any:
    """A number, true, false, a list, or else the text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def stated(protocol: str, known: Collection[str]) -> dict[str, Any]:
    """The settings among `known` of a protocol, "paper" or "text", but for those that vary between experiments."""
    rows = [row for row in SWITCHES if row["name"] in known and not row[protocol].startswith("by ")]
    return {row["name"]: parsed(row[protocol]) for row in rows}


CODE = stated("paper", SearchConfig.model_fields)
"""Settings of a search in the authors' code."""

TEXT = stated("text", SearchConfig.model_fields)
"""Settings of a search in the papers' text; where it is silent, this project's own choice."""

COMMON = SearchConfig(
    population=25,
    generations=50,
    tournament=4,
    parsimony=1.0,
    crossover_rate=0.70,
    mutation_rate=0.25,
    elitism_rate=0.05,
    initial_heights=(2, 4),
    height_limit=10,
    softplus=False,
    meta_lr=1e-3,
    unroll_steps=1,
    initialisation="glorot",
    symbolic_archive=True,
    rejection_samples=100,
    reject_first=False,
    skip_irrelevant=False,
    known=False,
    keep_better=False,
    initialisations=1,
    finalists=0,
    taylor_sigma=1.2,
    **CODE,
)
"""Settings of both papers."""

GECCO23 = COMMON.replace(
    function_set="gecco23",
    meta_steps=1000,
    task_loss_on="same",
    base=SGD(lr=1e-3),
    fitness_on="train",
    rejection_steps=0,
    gradient_equivalence=False,
)
"""GECCO'23: what its four data sets share, and the local search steps of three; the rest is each one's own."""

TPAMI23 = COMMON.replace(
    function_set="tpami23",
    meta_steps=250,
    task_loss_on="validation",
    base=SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    fitness_steps=500,
    fitness_on="validation",
    rejection_steps=1000,
    gradient_equivalence=False,
)
"""TPAMI'23."""


def whole_ml3(paper: SearchConfig) -> dict[str, dict[str, Any]]:
    """ML³'s own settings in a smaller profile: all of the published meta-steps.

    It tunes one loss, so they cost little, and its 2,650 weights do not stand the large steps of `few_steps`.
    """
    return {"ml3": {"meta_steps": paper.meta_steps, "meta_lr": paper.meta_lr}}


def few_steps(steps: int) -> dict[str, Any]:
    """Settings of a local search of few steps: Adam's rate is such that they lead as far as the papers' many."""
    return {"meta_steps": steps, "meta_lr": min(0.1, float(f"{1.5 / steps:.1g}"))}
