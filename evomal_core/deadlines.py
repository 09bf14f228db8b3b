"""The end of the time that a search was given."""

from __future__ import annotations

import time


class OutOfTimeError(Exception):
    """A deadline passed before the work was done."""


def check_time(until: float) -> None:
    """Raise `OutOfTimeError` if `time.monotonic()` has passed a moment."""
    if time.monotonic() > until:
        raise OutOfTimeError
