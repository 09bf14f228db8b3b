"""Packages that are loaded when they are first used, so that importing this one stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """A stand-in for a package that imports it at the first access to one of its names.

    Args:
        name: the package or module, such as "scipy.stats".
        extra: what to install where it is missing, such as "evomal[paper]".
        needs: packages of that extra that a module of this project imports.
    """

    def __init__(self, name: str, extra: str = "", needs: tuple[str, ...] = ()) -> None:
        self._name, self._extra, self._needs = name, extra, needs

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyModule, (self._name, self._extra, self._needs)  # a process that is sent it loads its own

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "_module":  # not there yet
            self._module = self._load()
            return self._module
        return getattr(self._module, attribute)

    def _load(self) -> Any:
        try:
            return import_module(self._name)
        except ModuleNotFoundError as error:
            own = self._name.split(".")[0]
            if not self._extra or error.name not in (own, *self._needs):
                raise
            raise ModuleNotFoundError(
                f"this needs {self._name if error.name == own else error.name}, which is not installed: "
                f"pip install '{self._extra}'",
                name=error.name,
            ) from None
