"""The machine and the versions that a run was computed with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def hardware(device: str = "cpu") -> dict[str, Any]:
    """The machine: processor, cores, and the GPU's name where one is used."""
    record = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)}
    if torch.device(device).type == "cuda":
        record["gpu"] = torch.cuda.get_device_name(device)
    return record


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python, of what computes, and the commit of this project where it is a checkout."""
    found = {name: version(name) for name in ("evomal", "torch", "numpy", "deap", "cmaes")}
    found["python"] = platform.python_version()
    if commit := _commit():
        found["commit"] = commit
    return found


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
