"""Logits and labels from what a Hugging Face model returns, so that a loss is a Trainer's `compute_loss_func`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional


def logits_and_labels(outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of a model's outputs, with labels in the shapes that `evomal_core.labels` has; tensors stay.

    A model of tokens has logits (rows, tokens, classes) for labels (rows, tokens), -100 for those left out; a
    causal language model's token t predicts label t + 1. Labels of a regression, and binary ones, may be (rows,).

    Raises:
        ValueError: the outputs have no logits, or there are no labels.
    """
    if isinstance(outputs, Tensor):
        return outputs, labels
    logits = outputs.get("logits") if hasattr(outputs, "get") else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(f"y_pred is a tensor, or a model's output with logits; got a {type(outputs).__name__}")
    if not isinstance(labels, Tensor):
        raise ValueError(
            "the batch has no labels; name them, for example TrainingArguments(label_names=['labels'])"
        )
    if type(outputs).__name__.startswith("CausalLM"):
        labels = functional.pad(labels, (0, 1), value=-100)[..., 1:]
    if labels.shape == logits.shape[:-1]:
        if logits.shape[-1] == 1:
            return logits, labels.unsqueeze(-1)
        return logits.flatten(0, -2), labels.flatten()
    return logits, labels
