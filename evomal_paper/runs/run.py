"""A run and its folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomal_core.checkpoints import first_difference
from evomal_core.checks import refuse_unknown
from evomal_core.files import read_json
from evomal_core.search import METHODS
from evomal_core.seeds import check_seed
from evomal_paper.experiments.catalogue import EXPERIMENTS, experiment
from evomal_paper.experiments.profiles import PROFILES, Profile

log = logging.getLogger("evomal")

FILES = ("history.csv", "test.csv", "front.csv", "loss.json")
"""A complete run's files beside `run.json`; one that lacks any is computed again."""


@dataclass(frozen=True)
class Run:
    """One run and its folder, `results/<experiment>/<profile>/<method>/seed-<k>`.

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

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        return Path(self.results_dir, self.experiment, self.profile, self.method, f"seed-{self.seed}")

    @property
    def sizes(self) -> Profile:
        """The profile's configuration."""
        return experiment(self.experiment).profile(self.profile)

    def configuration(self) -> dict[str, Any]:
        """What the run's results are a function of, beside the code."""
        sizes = self.sizes.model_dump(mode="json")
        sizes["search"].pop("engine")  # engines differ by rounding only
        sizes.pop("seeds")
        names = {name: getattr(self, name) for name in ("experiment", "profile", "method", "seed")}
        return names | sizes

    def record(self) -> dict[str, Any] | None:
        """The content of `run.json`, or None if the run was never started.

        Raises:
            ValueError: the folder belongs to a run of another configuration, or the file is damaged.
        """
        path = self.folder / "run.json"
        if not path.exists():
            return None
        try:
            record = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, or move it away") from None
        if not isinstance(record, dict) or "configuration" not in record or "status" not in record:
            raise ValueError(f"{path} is not the record of a run; move it away")
        if difference := first_difference(self._completed(record["configuration"]), self.configuration()):
            raise ValueError(
                f"{self.folder} holds a run of another configuration: {difference}; "
                "choose another --results-dir, or delete that folder"
            )
        return record

    def _completed(self, found: Any) -> Any:
        """A recorded configuration with the settings that did not exist when it was written, at their defaults."""
        try:
            sizes = {name: found[name] for name in Profile.model_fields if name in found}
            whole = Profile.model_validate(sizes | {"seeds": self.sizes.seeds}).model_dump(mode="json")
        except (TypeError, ValueError):
            return found  # a difference will be named, or nothing is wrong
        whole["search"].pop("engine")
        whole.pop("seeds")
        return found | whole

    @property
    def is_complete(self) -> bool:
        """Whether the run is finished and its files can be read."""
        record = self.record()
        if record is None or record["status"] != "complete":
            return False
        return all((self.folder / name).exists() for name in FILES)


def _place(run: Run) -> tuple[int, int, str, int, int]:
    profile, _, changes = run.profile.partition("@")
    order = (list(EXPERIMENTS), list(PROFILES), list(METHODS))
    places = [names.index(name) for names, name in zip(order, (run.experiment, profile, run.method), strict=True)]
    return places[0], places[1], changes, places[2], run.seed


def complete_runs(results_dir: Path | str = "results") -> list[Run]:
    """The complete runs of a results folder, in the order of experiments, profiles, methods and seeds.

    What is no run of this version, or is damaged, is left out, and a warning names it and the remedy.
    """
    runs = []
    for path in sorted(Path(results_dir).glob("*/*/*/seed-*/run.json")):
        name, profile, method, seed = path.parent.relative_to(results_dir).parts
        try:
            run = Run(name, profile, method, _seed(path.parent, seed), Path(results_dir))
            if run.is_complete:
                runs.append(run)
            elif (run.record() or {}).get("status") == "complete":
                command = f"evomal run {name} --profile {profile} --method {method} --seeds {run.seed}"
                raise ValueError(f"{run.folder} lacks a file; delete it, or compute it again with `{command}`")
        except (OSError, ValueError) as error:
            leave_out(path.parent, error)
    return sorted(runs, key=_place)


def _seed(folder: Path, name: str) -> int:
    number = name.removeprefix("seed-")
    if not number.isdecimal() or str(int(number)) != number:
        raise ValueError(f"{folder} is not named seed-<k>; move it away")
    return int(number)


def leave_out(place: Path, error: Exception) -> None:
    """Warn that a folder or file is not used: which, why, and what to do."""
    text = " ".join(str(error).split())
    where = "" if str(place) in text else f"{place}: "
    remedy = "" if "delete" in text or "move" in text else "; delete it, or move it away"
    log.warning("left out: %s%s%s", where, text, remedy)
