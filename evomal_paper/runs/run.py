"""A run and its place on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomal_core.checkpoints import first_difference
from evomal_core.checks import refuse_unknown
from evomal_core.files import read_json
from evomal_core.library import loss_from_record
from evomal_core.losses import Loss
from evomal_core.search import METHODS
from evomal_core.seeds import check_seed
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.experiments.profiles import PROFILES, Profile
from evomal_paper.runs.packed import Finished, Key, Pack

log = logging.getLogger("evomal")

WORK = ".work"
"""The folder of runs under way in a results folder; git ignores it."""

INDIFFERENT: Any = {"seeds": True, "methods": True, "search": {"engine"}}
"""Settings of a method's profile that its runs do not depend on: engines differ by rounding only."""


@dataclass(frozen=True)
class Run:
    """One run: in the pack `results/<experiment>/<profile>` once it is complete, in a working folder before.

    Raises:
        ValueError: the experiment, profile, method or seed is unknown.
    """

    experiment: str
    profile: str
    method: str
    seed: int
    results_dir: Path = Path("results")

    def __post_init__(self) -> None:
        experiment(self.experiment).profile(self.profile)
        refuse_unknown("method", self.method, list(METHODS))
        check_seed(self.seed)

    @classmethod
    def named(cls, name: str, results_dir: Path) -> Run:
        """The run of a name such as `sine/quick/evomal/seed-0`.

        Raises:
            ValueError: the name has another form, or an unknown part.
        """
        parts = name.split("/")
        number = parts[-1].removeprefix("seed-")
        if len(parts) != 4 or parts[-1] != f"seed-{number}" or not number.isdecimal():
            raise ValueError(f"a run is named as in sine/quick/evomal/seed-0, got {name!r}")
        return cls(parts[0], parts[1], parts[2], int(number), results_dir)

    def __str__(self) -> str:
        return f"{self.experiment}/{self.profile}/{self.method}/seed-{self.seed}"

    @property
    def key(self) -> Key:
        """Method and seed: the run's place in its pack."""
        return self.method, self.seed

    @property
    def pack(self) -> Pack:
        """The complete runs of the experiment and profile."""
        return Pack(Path(self.results_dir, self.experiment, self.profile))

    @property
    def work(self) -> Path:
        """The folder of the run while it is under way."""
        return Path(self.results_dir, WORK, str(self))

    @property
    def sizes(self) -> Profile:
        """The profile's configuration, as the method has it."""
        return experiment(self.experiment).profile(self.profile).of(self.method)

    def configuration(self) -> dict[str, Any]:
        """Inputs that determine the run's results, beside the code."""
        names = {name: getattr(self, name) for name in ("experiment", "profile", "method", "seed")}
        return names | self.sizes.model_dump(mode="json", exclude=INDIFFERENT)

    @property
    def is_complete(self) -> bool:
        """Whether the run is in its pack; a ValueError as of `record`."""
        return self.record() is not None and self.key in self.pack.records()

    @property
    def is_finished(self) -> bool:
        """Whether all is computed: the run is in its pack, or can be put there; a ValueError as of `record`."""
        record = self.record()
        return record is not None and record.get("status") != "running"

    def record(self) -> Mapping[str, Any] | None:
        """The record of the run, complete or under way, or None if it was never started.

        Raises:
            ValueError: it is of another configuration, or a file is damaged.
        """
        place, record = self.pack.folder, self.pack.records().get(self.key)
        if record is None:
            place, record = self.work, self._record_of_work()
        if record is None:
            return None
        if difference := first_difference(self._completed(record["configuration"]), self.configuration()):
            raise ValueError(
                f"{place} holds a run of another configuration: {difference}; "
                "choose another --results-dir, or delete that folder"
            )
        return record

    def _record_of_work(self) -> dict[str, Any] | None:
        path = self.work / "run.json"
        try:
            record = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or move it away") from None
        if not isinstance(record, dict) or "configuration" not in record or "status" not in record:
            raise ValueError(f"{path} is not the record of a run; move it away")
        return record

    def finished(self) -> Finished:
        """The content of the complete run.

        Raises:
            ValueError: the run is not complete, or a file is damaged.
        """
        if not self.is_complete:
            raise ValueError(
                f"{self.pack.folder} has no complete run of {self.method}, seed {self.seed}; "
                f"compute it with `{self.command}`"
            )
        return self.pack.finished(self.key)

    def loss(self) -> Loss:
        """The learned loss of the complete run, its weights fixed; a ValueError as of `finished`."""
        return loss_from_record(self.finished().loss, f"{self.pack.folder}/losses.jsonl").requires_grad_(False)

    @property
    def command(self) -> str:
        """The command that computes the run."""
        return f"evomal run {self.experiment} --profile {self.profile} --method {self.method} --seeds {self.seed}"

    def _completed(self, found: Any) -> Any:
        """A recorded configuration with the settings that did not exist when it was written, at their defaults."""
        try:
            sizes = {name: found[name] for name in Profile.model_fields if name in found}
            whole = Profile.model_validate(sizes | {"seeds": self.sizes.seeds})
        except (TypeError, ValueError):
            return found  # a difference will be named, or nothing is wrong
        return found | whole.model_dump(mode="json", exclude=INDIFFERENT)


def _place(run: Run) -> tuple[int, int, str, int, int]:
    profile, _, changes = run.profile.partition("@")
    order = (list(EXPERIMENTS), list(PROFILES), list(METHODS))
    places = [names.index(name) for names, name in zip(order, (run.experiment, profile, run.method), strict=True)]
    return places[0], places[1], changes, places[2], run.seed


def complete_runs(results_dir: Path | str = "results") -> list[Run]:
    """The complete runs of a results folder, in the order of experiments, profiles, methods and seeds.

    What is no run of this version, or is damaged, is left out, and a warning names it and the remedy.
    """
    runs: list[Run] = []
    for index in sorted(Path(results_dir).glob("*/*/runs.jsonl")):
        name, profile = index.parent.relative_to(results_dir).parts
        problems: dict[str, ValueError] = {}  # one that several runs have is named once
        try:
            for method, seed in Pack(index.parent).records():
                try:
                    run = Run(name, profile, method, seed, Path(results_dir))
                    run.record()
                    runs.append(run)
                except ValueError as error:
                    problems[str(error)] = error
        except ValueError as error:
            problems[str(error)] = error
        for problem in problems.values():
            leave_out(index, problem)
    return sorted(runs, key=_place)


def leave_out(place: Path, error: Exception) -> None:
    """Warn that a folder or file is not used: which, why, and what to do."""
    text = " ".join(str(error).split())
    where = "" if str(place) in text else f"{place}: "
    remedy = "" if "delete" in text or "move" in text else "; delete it, or move it away"
    log.warning("left out: %s%s%s", where, text, remedy)
