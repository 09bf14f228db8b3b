"""Downloads by pooch: whole and checked, or refused with the reason; and torchvision, imported where it can be."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch.library import Library

from evomal_core.lazy import LazyModule

pooch = LazyModule("pooch")

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as stalled."""
RETRIES = 2


class DownloadError(OSError):
    """No address served the file; the message says what each did."""


@dataclass(frozen=True)
class Remote:
    """A file to download: its place under the data folder, its addresses, and its checksum where one is known."""

    path: str
    urls: tuple[str, ...]
    checksum: str | None = None
    """Checksum such as "md5:…" or "sha256:…"."""

    def download(self, folder: Path, progress: bool = True) -> None:
        """Write the file under a folder, from the first address that serves it whole.

        Raises:
            DownloadError: every address fails, stalls, or serves something else.
            OSError: the folder can't be written to.
        """
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.get_logger().setLevel(logging.WARNING)
        as_stored = {"Accept-Encoding": "identity"}  # else an archive may arrive unpacked
        take = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=progress, headers=as_stored)
        failures = []
        for url in self.urls:
            files = pooch.create(
                target.parent,
                base_url="",
                registry={target.name: self.checksum},
                urls={target.name: url},
                retry_if_failed=RETRIES,
            )
            try:
                files.fetch(target.name, downloader=take)
                return
            except (ValueError, OSError) as error:  # those of requests are OSErrors
                failures.append(f"{url}: {' '.join(str(error).split())}")
        raise DownloadError(f"can't download {target.name} ({'; '.join(failures)})")


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
