"""Profiles and problems: what an experiment is made of; one run is (experiment, profile, method, seed)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from evomal_core.checks import refuse_unknown
from evomal_core.config import SGD, Config, Count, Flag, Positive, SearchConfig
from evomal_core.files import read_json
from evomal_core.learners import ModelFactory
from evomal_core.tasks import Task
from evomal_paper.datasets.catalogue import DataSet
from evomal_paper.experiments.protocols import TEXT, parsed, stated
from evomal_paper.published.tables import facts

PROFILES = {
    "smoke": "seconds, for tests: everything runs, nothing is learned",
    "quick": "minutes: smaller searches, networks and data, shorter trainings and fewer seeds",
    "narrow": "tabular data as in paper or calibrated, with hidden layers a tenth as wide",
    "paper": "as the authors' code, or the text where that is silent: what made the published numbers",
    "text": "the papers' sentences taken literally, where the authors' code differs from them",
    "calibrated": "as paper, with base settings that match the baseline's published error, or that train at all",
}
"""Any of them can be varied: `quick@meta_optimizer=adam,base.lr=0.003` is the profile `quick` with two settings
changed, see `Profile.changed`."""


class Profile(Config):
    """The sizes of an experiment: its search, its final training, and how many seeds."""

    search: SearchConfig
    methods: Mapping[str, Mapping[str, Any]] = {}
    """Settings of the search that single methods have of their own, by method, see `of`."""
    test_steps: Positive
    """Gradient steps of meta-testing."""
    seeds: Positive
    hidden: tuple[Positive, ...] = ()
    """Widths of the base network's hidden layers, where the experiment leaves them open."""
    split: Literal["disjoint", "leaking"] = "disjoint"
    """Split of tabular data: 60:20:20, or as in the authors' code, with training rows among the test rows."""
    rows: Literal["sklearn0", "draw"] = "sklearn0"
    """The order of the rows that tabular data are split in: as in the authors' code, or a random one."""
    draw: Count = 0
    """Number of the random order of the rows of tabular data, with rows="draw"; the same for all seeds."""
    validation_draw: Literal["seed", "fixed"] = "seed"
    """Whether the validation images differ from seed to seed."""
    augment_train: Flag = False
    """Whether training images are cropped and mirrored, anew in each batch."""
    augment_validation: Flag = False
    """Whether validation images are cropped and mirrored too, once, before the search."""
    augment_test: Flag = False
    """Whether test images are cropped and mirrored, too."""
    network: Literal["code", "text"] = "code"
    """The form of AllCNN-C and PreResNet: of the authors' code (of 2022), or of the text."""
    test_start: Literal["search", "new"] = "search"
    """Start of the meta-tests compared with published cells: the initial weights and batches that the search
    saw, or from new ones. Both are always computed."""
    learn_on: Count = 0
    """Number of the task on which a loss is learned, of several; the others are test tasks."""
    test_milestones: tuple[Positive, ...] = ()
    """Steps of meta-testing after which the base learning rate is multiplied by 0.1."""
    images: Count = 0
    """Number of training images, those of the validation part among them; 0: all."""
    test_images: Count = 0
    """Number of test images; 0: all."""
    points: Positive = 50
    """Approximate number of steps of meta-testing at which errors are measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.draw and self.rows != "draw":
            raise ValueError(f"draw={self.draw} numbers random orders of the rows; write rows='draw' too")
        return self

    def changed(self, text: str) -> Profile:
        """The profile with settings changed by a text such as `meta_optimizer=adam,base.lr=0.003`.

        A setting is a field of the profile, of its search, or of the search's `base`; lists are written [40,40].

        Raises:
            ValueError: a setting is unknown, its value does not fit, or the text is not of this form.
        """
        profile, known = self, set()
        for part in changes_in(text):
            name, equals, value = part.partition("=")
            name = name.removeprefix("search.")
            if not equals or not name or not value:
                raise ValueError(f"changes of a profile are written name=value,name=value, got {part!r}")
            if name in known:
                raise ValueError(f"{name} is changed twice in {text!r}")
            if name == "seeds":
                raise ValueError("seeds are no part of a profile's name: use --seeds or the parameter seeds")
            if (wanted := _text(parsed(value))) != value:  # one configuration has one name, and one folder
                raise ValueError(f"write {name}={wanted}, got {part!r}")
            known.add(name)
            profile = profile._with(name, parsed(value))
        own = {
            method: {name: value for name, value in settings.items() if name not in known}
            for method, settings in profile.methods.items()
        }
        return profile.replace(methods=own)

    def of(self, method: str) -> Profile:
        """The profile of a single method: its own settings of the search in place of those of all methods."""
        return self.replace(search=self.search.replace(**self.methods.get(method, {})), methods={})

    def _with(self, name: str, value: Any) -> Profile:
        search = self.search
        if name in Profile.model_fields and name not in ("search", "methods"):
            return self.replace(**{name: value})
        if name.startswith("base."):
            base = search.base.replace(**{name.removeprefix("base."): value})
            return self.replace(search=search.replace(base=base))
        if name in SGD.model_fields:
            raise ValueError(f"{name} is a setting of the base optimiser: write base.{name}={_text(value)}")
        return self.replace(search=search.replace(**{name: value}))

    def recorded_steps(self) -> range:
        """The meta-testing steps at which errors are measured: about `points` of them, from 0."""
        return range(0, self.test_steps + 1, max(1, self.test_steps // self.points))


def changes_in(text: str) -> list[str]:
    """The single changes of a text such as `hidden=[40,40],base.lr=0.003`: a list has commas of its own."""
    return re.split(r",(?![^\[]*\])", text)


def split_name(profile: str) -> tuple[str, list[str]]:
    """The name of a profile without its changes, and these: `quick@base.lr=0.1` is `quick` and `base.lr=0.1`."""
    base, _, changes = profile.partition("@")
    return base, changes_in(changes) if changes else []


def varied(profile: str, *changes: str) -> str:
    """The name of a profile with further changes."""
    base, own = split_name(profile)
    return "@".join(filter(None, [base, ",".join([*own, *changes])]))


OPTIONAL = (
    *("hidden", "split", "rows", "draw", "learn_on", "images", "test_images", "validation_draw", "network"),
    *("augment_train", "augment_validation", "augment_test"),
)
"""Settings of profiles that only some experiments have."""

CALIBRATED = Path(__file__).parents[1] / "published" / "calibrated.json"
"""Settings under which the baseline meets its published errors, as `base_settings` found them."""


def calibrated(name: str, paper: Profile) -> dict[str, Profile]:
    """The profile `calibrated` of an experiment, made from its profile `paper`; none if nothing was found yet."""
    found = read_json(CALIBRATED).get(name) if CALIBRATED.exists() else None
    if found is None:
        return {}
    base = paper.search.base.replace(lr=found["lr"], momentum=found["momentum"])
    return {"calibrated": paper.replace(search=paper.search.replace(base=base), learn_on=found["learn_on"])}


TINY = {"population": 4, "generations": 2, "meta_steps": 2, "fitness_steps": 3, "initial_heights": (1, 2)}
"""A search of seconds, for the profile `smoke`."""


def profiles_of(name: str, search: SearchConfig) -> dict[str, Profile]:
    """The profiles of a row of sizes in `published/experiments.toml`, from the protocol's settings of a search.

    Before the row's own changes, `smoke` has those of TINY, and `text` those in which the papers' sentences differ
    from the authors' code.
    """
    row = _sizes(name)
    given = {"smoke": {"search": TINY}, "text": stated("text", Profile.model_fields) | {"search": TEXT}}
    paper = Profile(**_settings(search, row["paper"]))
    changes = {profile: _merged(given.get(profile, {}), row[profile]) for profile in PROFILES if profile in row}
    return {
        profile: paper if profile == "paper" else paper.replace(**_settings(paper.search, own))
        for profile, own in changes.items()
    }


def _sizes(name: str) -> Mapping[str, Any]:
    (row,) = (row for row in facts("experiments", "sizes") if row["name"] == name)
    return _merged(_sizes(row["like"]), row) if "like" in row else row


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of both, those within their tables too; of the same setting, the second's."""
    tables = {name: _merged(first.get(name, {}), own) for name, own in second.items() if isinstance(own, Mapping)}
    return {**first, **second, **tables}


def _settings(search: SearchConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a profile, with those of its search made."""
    own = changes.get("search", {})
    return {**changes, "search": search.replace(**own | {"base": search.base.replace(**own.get("base", {}))})}


def _text(value: Any) -> str:
    """The one way in which a value is written in a profile's name."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class Problem:
    """Inputs of a run: tasks to learn a loss from, new tasks to test it on, and the base network.

    Meta-training tasks are tested as "in-sample", test tasks as "out-of-sample".
    """

    train: list[Task]
    test: list[Task]
    model: ModelFactory


@dataclass(frozen=True)
class Experiment:
    """One experiment of the papers."""

    name: str
    title: str
    source: str
    table: str
    """The papers' table of its final errors, a key of `paper.TABLES`."""
    notebook: str
    profiles: dict[str, Profile]
    minutes: dict[str, float]
    """Guessed minutes of all methods and seeds on two cores, for profiles that were not run whole; of `text` and
    `calibrated` they are those of `paper`."""
    problem: Callable[[Profile, int], Problem]
    dataset: DataSet | None = None
    settings: tuple[str, ...] = ()
    """Settings of OPTIONAL on which the experiment's problem depends."""

    def profile(self, name: str) -> Profile:
        """The profile of a name, with the changes that follow an `@` in it.

        Raises:
            ValueError: the experiment has no such profile, or it has no such setting.
        """
        base, at, changes = name.partition("@")
        if base in PROFILES and base not in self.profiles:
            raise ValueError(f"{self.name} has no profile {base!r}; it has {', '.join(self.profiles)}")
        refuse_unknown("profile", base, list(self.profiles))
        if not at:
            return self.profiles[base]
        changed = self.profiles[base].changed(changes)
        for setting in OPTIONAL:
            same = getattr(changed, setting) == getattr(self.profiles[base], setting)
            if not same and setting not in self.settings:
                raise ValueError(
                    f"{self.name} has no setting {setting}; the profile {name!r} would measure nothing new"
                )
        return changed

    def missing(self) -> str | None:
        """Why the experiment can't run here, or None if its data is at hand."""
        if self.dataset is None:
            return None
        try:
            self.dataset.load()
        except (FileNotFoundError, ValueError) as error:
            return str(error)
        return None
