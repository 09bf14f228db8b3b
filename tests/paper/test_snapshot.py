"""A killed meta-testing goes on from its snapshot, to the same weights bit by bit."""

from pathlib import Path

import pytest
import torch
from helpers import class_task, tiny_config
from torch import nn

from evomal_core.checkpoints import Snapshot
from evomal_core.config import SGD
from evomal_core.learners import make_learners
from evomal_core.losses import TaskLoss
from evomal_core.training import train
from evomal_paper.runs import compute
from evomal_paper.runs.run import Run

NESTEROV = SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, batch_size=8)


class Kill(BaseException):
    """What no handler of errors takes."""


class FatalLoss(TaskLoss):
    """Cross-entropy that kills the training at its nth value."""

    def __init__(self, at: int) -> None:
        super().__init__("multiclass")
        self.left = at

    def forward(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise Kill
        return super().forward(y_pred, y)


def learner():
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))

    return make_learners([class_task(classes=3, features=6)], model, tiny_config(base=NESTEROV), 5, "test")[0]


@pytest.mark.parametrize("killed_at", [0, 1, 7, 12, 19])
def test_goes_on_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    length = {"base": NESTEROV, "steps": 20, "record": [0, 5, 12], "milestones": [10]}
    whole = train(TaskLoss("multiclass"), learner(), **length)

    monkeypatch.setattr(Snapshot, "SECONDS", 0.0)
    with pytest.raises(Kill):
        train(FatalLoss(killed_at), learner(), **length, snapshot=Snapshot(tmp_path / "a.pt", "loss"))
    values = FatalLoss(20 - killed_at)  # no step is done twice
    ticks: list[int] = []
    resumed = train(values, learner(), **length, snapshot=Snapshot(tmp_path / "a.pt", "loss"), tick=ticks.append)
    assert (values.left, sum(ticks)) == (0, 20)
    assert resumed.curve == whole.curve
    for a, b in zip(resumed.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_is_not_repeated_however_short(tmp_path: Path) -> None:
    curves = [
        train(FatalLoss(left), learner(), NESTEROV, 5, snapshot=Snapshot(tmp_path / "a.pt", "loss")).curve
        for left in (5, 0)
    ]
    assert curves[0] == curves[1]


def test_of_another_loss_is_not_taken_up(tmp_path: Path) -> None:
    Snapshot(tmp_path / "a.pt", "one").save({"done": 3})
    assert Snapshot(tmp_path / "a.pt", "one").load() == {"done": 3}
    assert Snapshot(tmp_path / "a.pt", "two").load() is None


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 50])
def test_damaged_is_one_clear_error(tmp_path: Path, damage) -> None:
    snapshot = Snapshot(tmp_path / "a.pt", "one")
    snapshot.save({"weights": torch.ones(1000)})
    snapshot.path.write_bytes(damage(snapshot.path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.pt is damaged .*; delete it"):
        snapshot.load()


def test_a_run_killed_while_meta_testing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's files equal those of an undisturbed one, and no working file stays."""
    monkeypatch.setattr(Snapshot, "SECONDS", 0.0)
    whole, killed = (Run("digits", "smoke", "baseline", 0, tmp_path / name) for name in ("whole", "killed"))
    compute.compute(whole, progress=False)
    steps = []

    def kill_at_step_3(*args: object, **kwargs: object) -> None:
        steps.append(args)
        save(*args, **kwargs)
        if len(steps) == 3:
            raise Kill

    save = Snapshot.save
    monkeypatch.setattr(Snapshot, "save", kill_at_step_3)
    with pytest.raises(Kill):
        compute.compute(killed, progress=False)
    assert list(killed.work.glob("*.pt"))
    compute.compute(killed, progress=False)
    assert killed.finished().tables == whole.finished().tables
    assert not killed.work.exists()
