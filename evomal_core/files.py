"""Files that are whole or absent: atomic writes, and JSON that stays valid with infinities."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Write text or bytes so that a reader, a crash or a full disk never leaves half a file.

    The content goes to a temporary file in the same folder, is flushed to disk and renamed.

    Raises:
        OSError: the path is a folder, it would lie in a file, or the disk is full or read-only.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with _naming(path):
        handle, partial = _temporary(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def check_writable(path: Path | str) -> None:
    """Raise the error that `write_atomic` would raise, before a long computation."""
    path = Path(path)
    with _naming(path):
        handle, partial = _temporary(path)
        os.close(handle)
        partial.unlink()


def _temporary(path: Path) -> tuple[int, Path]:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if (place := file_in_the_way(path.parent)) is not None:
        raise NotADirectoryError(f"{path} can't be written: {place} is a file, not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    return handle, Path(partial)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Context manager: name the file that was asked for, not the temporary one, in system errors."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise type(error)(f"{path} can't be written: {error.strerror}; name another place, or free it") from error


def file_in_the_way(folder: Path) -> Path | None:
    """The file in place of a folder or of one of its parents; None if there is none."""
    return next((place for place in (folder, *folder.parents) if place.is_file()), None)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically; infinities and NaN become the strings "inf", "-inf" and "nan"."""
    write_atomic(path, json.dumps(encode(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError, ValueError: it is missing, or not whole JSON; the message names the file.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}); it may be truncated") from None


def encode(value: Any) -> Any:
    """Replace non-finite floats in nested data by strings that JSON can hold and `float` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(value: Any) -> Any:
    """Undo `encode`: the strings "inf", "-inf" and "nan" become floats again."""
    if isinstance(value, str) and value in ("inf", "-inf", "nan"):
        return float(value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value
