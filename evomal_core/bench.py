"""A process that evaluates for another: the benches that it was sent, and its answers to calls."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from evomal_core.devices import one_thread, plain_torch, threads_for
from evomal_core.primitives import PRIMITIVES
from evomal_core.sending import unpacked


class WorkerError(RuntimeError):
    """A worker could not do its part; the message says why and what helps."""


def in_one_line(error: BaseException) -> str:
    """An error's type and the beginning of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given':.120}"


def versions() -> dict[str, str]:
    """Versions that a worker must have in common with the caller."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    ours = f"{sys.modules['evomal_core'].__version__} (source {_source()})"
    return {"evomal": ours, "torch": torch.__version__, "Python": python}


@cache
def _source() -> str:
    """Digest of the package's files, as two checkouts of one version may differ."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]


@dataclass(frozen=True)
class Answer:
    """The answer of a worker to a call.

    Attributes:
        worker: the process.
        address: of a Dask worker, by which it can be asked for more; "" elsewhere.
        found: a result for each candidate; None of a worker that was not sent the bench yet.
    """

    worker: str
    address: str
    found: list[Any] | None = None


KEPT = 2**30
"""Bytes of benches that a worker keeps beside the one in use."""
_BENCHES: OrderedDict[str, tuple[Any, int]] = OrderedDict()
"""Benches that this process was sent, and their bytes, by the names of their content, the last used at the end."""
_WORKING = RLock()
"""One evaluation at a time in a process: its random generators belong to all threads."""
_SENT: set[str] = set()
"""Names of operations that came with a bench; those that this process registered itself stay."""
_ASKED: set[str] = set()
"""Calls that a search in this process waits for; of others, threads of this process compute nothing."""


def this_process() -> str:
    """A name for this process that no other of a cluster has."""
    return f"{platform.node()} {os.getpid()}"


def asked(call: str) -> str:
    """Note a call that a search in this process waits for."""
    _ASKED.add(call)
    return call


def forget(calls: Sequence[str], patience: float) -> None:
    """Wait for no call any more; a thread of this process that is at one ends it first, but for one that hangs.

    The caller is about to compute in the same process, with the same random generators.
    """
    held = _WORKING.acquire(timeout=patience)
    _ASKED.difference_update(calls)
    if held:
        _WORKING.release()


def work(wanted: dict[str, str], *unit: Any) -> Answer:
    """Compute a phase for one unit in a worker; see `_work`, which other versions may call otherwise.

    Raises:
        WorkerError: the worker has other versions, or can't load what it was sent.
    """
    with _WORKING:
        _check_versions(wanted)
        return Answer(this_process(), _address(), _work(*unit))


def _work(name: str, content: bytes | None, phase: str, losses: bytes, call: str) -> list[Any] | None:
    """Results of a bench for a unit; None where this process lacks the bench, or where nobody waits for them.

    Args:
        name: which bench.
        content: the bench, where the worker is known to lack it.
        phase: a method of the bench.
        losses: the candidates.
        call: the caller's process, and a number.
    """
    if call.startswith(f"{this_process()} ") and call not in _ASKED:
        return None
    if name not in _BENCHES and content is None:
        return None
    try:
        if content is not None and name not in _BENCHES:
            _BENCHES[name] = unpacked(content), len(content)
        bench, _ = _BENCHES[name]
        candidates = unpacked(losses)
    except Exception as error:
        raise WorkerError(
            f"the worker on {platform.node()} can't load what it was sent ({in_one_line(error)}); "
            "install there what the model, the metric and the tasks come from"
        ) from None
    _BENCHES.move_to_end(name)
    while len(_BENCHES) > 1 and sum(size for _, size in _BENCHES.values()) > KEPT:
        _BENCHES.popitem(last=False)
    _SENT.update(bench.operations.keys() - PRIMITIVES.keys())
    PRIMITIVES.update({name: row for name, row in bench.operations.items() if name in _SENT})
    weights = sum(weights.numel() for weights in bench.learners[0].theta.values())
    with plain_torch(bench.learners[0].device), threads_for(weights):
        return getattr(bench, phase)(candidates, lambda: None)


def _address() -> str:
    """The address of the Dask worker that this thread belongs to, if it does."""
    if (distributed := sys.modules.get("distributed")) is None:
        return ""
    try:
        return str(distributed.get_worker().address)
    except ValueError:
        return ""


def call(wanted: dict[str, str], content: bytes, number: str) -> Any:
    """Call a pickled function with its arguments in a worker, on one thread; the number tells two calls apart.

    Raises:
        WorkerError: the worker has other versions.
    """
    with _WORKING, one_thread():
        _check_versions(wanted)
        function, arguments = unpacked(content)
        return function(*arguments)


def _check_versions(wanted: dict[str, str]) -> None:
    for package, version in versions().items():
        if version != wanted[package]:
            raise WorkerError(
                f"the worker on {platform.node()} has {package} {version}, the caller {wanted[package]}; "
                "install the same"
            )
