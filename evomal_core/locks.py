"""Locks between processes: a run, a pack or a checkpoint is worked on by one process at a time."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from evomal_core.files import check_writable

log = logging.getLogger("evomal")

POLL_SECONDS = 0.5
"""Seconds between tries of a waiting process."""


@contextmanager
def locked(path: Path, subject: str, wait: bool = True) -> Iterator[str]:
    """Context manager: hold a lock file and yield "", or yield its owner if another process has it and not `wait`.

    A process that has to wait says in one line for whom. The kernel frees the lock of a process that dies, however
    it dies. The file is removed at the end; one left by a killed process is harmless.

    Args:
        path: the lock file; its folder is made if it is missing.
        subject: the thing that is locked, for the line: "run sine/quick/evomal/seed-0".
        wait: wait for another owner to end, or go on at once without the lock.

    Raises:
        OSError: the file can't be written.
    """
    check_writable(path)
    lock = FileLock(path, poll_interval=POLL_SECONDS, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        owner = _owner(path)
        if not wait:
            yield owner
            return
        log.warning("%s is in use by %s; waiting until that ends", subject, owner)
        _acquire(lock, path)
    path.write_text(f"process {os.getpid()} on {platform.node() or 'this host'}\n", encoding="utf-8")
    try:
        yield ""
    finally:
        with suppress(OSError):  # an open file can't be removed on Windows
            path.unlink()
        lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    """Wait for the lock, also where its owner removes the folder of the file meanwhile."""
    while not lock.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            lock.acquire()


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
