"""Downloads that end: whole and checked, or refused with the reason; and torchvision, imported where it can be."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch.library import Library
from tqdm.auto import tqdm

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as stalled."""
SLOWEST = 1000.0
"""Bytes per second on average, below which a transfer is given up after TIMEOUT seconds."""
ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt at an address; doubled at each further one."""
LIMIT = 2**30
"""Bytes of the largest file that is accepted."""


class DownloadError(OSError):
    """No address served the file; the message says what each did."""


class _TransferError(Exception):
    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Remote:
    """A file to download: its place under the data folder, its addresses, and its checksum where one is known."""

    path: str
    urls: tuple[str, ...]
    checksum: str | None = None
    """Checksum such as "md5:…" or "sha256:…"."""

    def download(self, folder: Path, progress: bool = True) -> None:
        """Write the file under a folder, from the first address that serves it whole.

        What comes is written in place: give a folder that is thrown away if this fails.

        Raises:
            DownloadError: every address fails, is stalled, cut short, or serves something else.
            OSError: the folder can't be written to.
        """
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = []
        for url in self.urls:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(PAUSE * 2 ** (attempt - 1))
                try:
                    _transfer(url, target, self.checksum, progress)
                    return
                except _TransferError as error:
                    failure = f"{url}: {error}"
                    if error.final:
                        break
            failures.append(failure)
        raise DownloadError(f"can't download {target.name} ({'; '.join(failures)})")


def _transfer(url: str, target: Path, checksum: str | None, progress: bool) -> None:
    algorithm, _, expected = (checksum or "sha256:").partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    bar = tqdm(desc=target.name, unit="B", unit_scale=True, disable=not progress, leave=False)
    with bar, target.open("wb") as file:
        for chunk, total in _chunks(url):
            bar.total = total
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if expected and digest.hexdigest() != expected:
        raise _TransferError(
            f"serves something else ({algorithm} {digest.hexdigest()}, not {expected})", final=True
        )


def _chunks(url: str) -> Iterator[tuple[bytes, int | None]]:
    """The bytes that an address serves, with their total where it is announced; its failures as _TransferError."""
    if not url.startswith(("http://", "https://")):
        raise _TransferError("is not an http address", final=True)
    request = urllib.request.Request(url, headers={"User-Agent": "evomal"})
    begin, received = time.monotonic(), 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 200:
                raise _TransferError(f"answers {response.status} {response.reason}")
            total = response.length
            # read1, not read: read waits for a whole block, which a server that drips could put off for ever.
            while chunk := response.read1(2**16):
                received += len(chunk)
                seconds = time.monotonic() - begin
                if received > LIMIT:
                    raise _TransferError(f"serves more than {LIMIT} bytes", final=True)
                if seconds > TIMEOUT and received < SLOWEST * seconds:
                    raise _TransferError(f"is too slow ({received} bytes in {seconds:.0f} s)")
                yield chunk, total
    except urllib.error.HTTPError as error:
        error.close()
        final = error.code not in (408, 429) and error.code < 500
        raise _TransferError(f"answers {error.code} {error.reason}", final) from None
    except TimeoutError:
        raise _TransferError(f"sent nothing for {TIMEOUT:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        stalled = isinstance(reason, TimeoutError)
        text = f"sent nothing for {TIMEOUT:g} s" if stalled else str(reason) or type(reason).__name__
        raise _TransferError(text) from None
    if total is not None and received != total:
        raise _TransferError(f"cut short after {received} of {total} bytes")


@cache
def import_torchvision() -> ModuleType:
    """The package torchvision with its `datasets`, also where torch is built without CUDA.

    torchvision's wheels hold compiled operators for a CUDA build of torch. With a CPU build these can't be
    loaded, and the import fails with "operator torchvision::nms does not exist" because torchvision attaches
    shape rules to operators that are not there. Data sets and transforms need none of them, so they are declared
    (without any implementation) and the import is tried again. Only then: declaring them where they exist fails.

    Raises:
        RuntimeError: torchvision can't be imported for another reason.
        ImportError: it is not installed.
    """
    try:
        import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for operator in ("nms", "qnms"):
            _TORCHVISION.append(Library("torchvision", "FRAGMENT"))
            _TORCHVISION[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision.datasets")
    return sys.modules["torchvision"]


_TORCHVISION: list[Library] = []  # a declaration ends with its library object


def torchvision_files(name: str) -> Sequence[Remote]:
    """Files of torchvision's data set of a class name, from its own list of addresses and checksums."""
    source = getattr(import_torchvision().datasets, name)
    if hasattr(source, "mirrors"):  # MNIST and its kin
        return [
            Remote(f"{name}/raw/{file}", tuple(mirror + file for mirror in source.mirrors), f"md5:{md5}")
            for file, md5 in source.resources
        ]
    if hasattr(source, "tgz_md5"):  # CIFAR
        return [Remote(source.filename, (source.url,), f"md5:{source.tgz_md5}")]
    splits = [source.split_list[split] for split in ("train", "test")]  # SVHN
    return [Remote(file, (url,), f"md5:{md5}") for url, file, md5 in splits]
