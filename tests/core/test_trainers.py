"""Losses in other people's training loops: Hugging Face Trainer, Lightning, skorch."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import evomal_core as em

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
THEIR_WARNINGS = pytest.mark.filterwarnings("ignore")  # of packages that we only call
ERRORS = em.LearnedLoss("square(sub(y, f))", "multiclass")


@pytest.fixture(autouse=True)
def without_broken_torchvision(monkeypatch):
    """Trainers import torchvision where it is installed, even of another build than torch, which fails."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return
    except RuntimeError:
        installed = metadata.distribution

        def without(name: str) -> metadata.Distribution:
            if name == "torchvision":
                raise metadata.PackageNotFoundError(name)
            return installed(name)

        monkeypatch.setitem(sys.modules, "torchvision", None)
        monkeypatch.setattr(metadata, "distribution", without)


def example(section: str) -> str:
    """The code blocks of a section of the page, one after the other."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def run(section: str, folder: Path, monkeypatch) -> dict[str, Any]:
    """What the example leaves behind, run in a folder of its own."""
    monkeypatch.chdir(folder)
    ERRORS.save("loss.json")
    names: dict[str, Any] = {"__name__": "example"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(example(section), section, "exec"), names)
    return names


def logits_and_classes(*shape: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, classes, generator=rng), torch.randint(0, classes, shape, generator=rng)


def output(name: str, logits: torch.Tensor) -> Any:
    """What a model of `transformers` returns: a dictionary with attributes, of some class."""
    return type(name, (dict,), {"logits": property(lambda self: self["logits"])})(logits=logits)


@pytest.mark.parametrize("loss", [ERRORS, em.TaskLoss("multiclass")])
def test_accumulated_gradients_are_those_of_one_large_batch(loss):
    """As transformers has it: micro-batches of unequal length, each sum divided by the number of all labels."""
    logits, labels = logits_and_classes(10)
    labels[[2, 7]] = -100
    pieces = [
        loss(output("SequenceClassifierOutput", logits[rows]), labels[rows], num_items_in_batch=torch.tensor(8))
        for rows in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    torch.testing.assert_close(sum(pieces), loss(logits, labels))
    own = functional.cross_entropy(logits, labels, reduction="sum") / 8
    torch.testing.assert_close(em.TaskLoss("multiclass")(logits, labels, num_items_in_batch=8), own)


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_columns_of_labels_are_counted_as_the_trainer_counts_them(kind):
    """Its number of items is that of the labels, (rows · columns)."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=rng), torch.rand(6, 4, generator=rng).round()
    loss = em.LearnedLoss("square(sub(y, f))", kind)
    pieces = [loss(logits[rows], labels[rows], num_items_in_batch=24) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(pieces), loss(logits, labels))


def test_shapes_of_models_of_tokens_and_of_one_output():
    loss = em.TaskLoss("multiclass")
    logits, labels = logits_and_classes(2, 5)
    labels[0, 3:] = -100
    tokens = loss(output("TokenClassifierOutput", logits), labels)
    torch.testing.assert_close(tokens, functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    shifted = loss(output("CausalLMOutputWithPast", logits), labels)
    torch.testing.assert_close(
        shifted, functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    )
    one = torch.randn(6, 1), torch.randn(6)
    single = em.TaskLoss()(output("SequenceClassifierOutput", one[0]), one[1])
    torch.testing.assert_close(single, functional.mse_loss(one[0][:, 0], one[1]))


def test_outputs_that_can_not_be_used_are_one_clear_line():
    with pytest.raises(ValueError, match="y_pred is a tensor, or a model's output with logits; got a tuple"):
        ERRORS((torch.zeros(2, 3),), torch.zeros(2))
    with pytest.raises(ValueError, match="the batch has no labels"):
        ERRORS(SimpleNamespace(logits=torch.zeros(2, 3)), None)


@THEIR_WARNINGS
def test_the_hugging_face_example(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    left = run("Hugging Face Trainer", tmp_path, monkeypatch)
    assert left["trainer"].state.global_step == 10


@THEIR_WARNINGS
def test_a_trainer_accumulates_to_the_steps_of_large_batches(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    rows = [{"x": row, "labels": row[:3].argmax()} for row in x]

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 3)
            nn.init.constant_(self.out.weight, 0.1)
            nn.init.zeros_(self.out.bias)

        def forward(self, x, labels=None):
            return {"logits": self.out(x)}

    def trained(batch: int, accumulate: int) -> torch.Tensor:
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
            learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", report_to="none", use_cpu=True, seed=0,
            max_grad_norm=0.0, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(Linear(), arguments, train_dataset=rows, compute_loss_func=ERRORS)
        trainer.train()
        return trainer.model.out.weight.detach().cpu()

    torch.testing.assert_close(trained(2, 4), trained(8, 1))


@THEIR_WARNINGS
def test_the_lightning_example(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    left = run("Lightning", tmp_path, monkeypatch)
    assert left["again"].hparams.loss_file == "loss.json"
    assert str(left["again"].loss.expression) == "square(sub(y, f))"
    x, y = left["rows"].dataset.tensors
    assert (left["again"].network(x).argmax(dim=1) == y).float().mean() > 0.5


@THEIR_WARNINGS
def test_the_skorch_example(tmp_path, monkeypatch):
    pytest.importorskip("skorch")
    left = run("skorch", tmp_path, monkeypatch)
    np.testing.assert_allclose(left["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert left["net"].score(left["x"], left["y"]) > 0.6
    both, second = left["two"].predict_proba(left["x"]), left["x"][:, 0] > 0
    assert both.shape == (96, 2)
    np.testing.assert_allclose(both.sum(axis=1), 1, rtol=1e-5)
    assert left["two"].score(left["x"], second) > 0.8
    assert left["two"].criterion_.phi.tolist() == [1, 1, 1]
