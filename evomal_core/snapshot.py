"""Snapshots: the state of one long training as a file, so that a killed one goes on instead of starting anew."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch

from evomal_core.files import write_atomic


class Snapshot:
    """The file that a training saves its state to about once a minute, and resumes from.

    Args:
        path: where the file lies.
        subject: what the state belongs to; a state of another subject is not taken up.
    """

    SECONDS = 60.0
    """Between two saves; what a kill loses."""

    def __init__(self, path: Path, subject: str) -> None:
        self.path, self.subject = path, subject
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None if there is none of this subject.

        Raises:
            ValueError: the file is no snapshot, or is damaged.
        """
        self._saved = time.monotonic()
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            return state["state"] if state["subject"] == self.subject else None
        except Exception as error:  # whatever a damaged file makes PyTorch raise
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.path} is damaged ({problem:.80}); delete it to train anew") from None

    @property
    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved >= self.SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state, atomically. It holds tensors, numbers, strings, lists and dictionaries."""
        content = io.BytesIO()
        torch.save({"subject": self.subject, "state": state}, content)
        write_atomic(self.path, content.getvalue())
        self._saved = time.monotonic()
