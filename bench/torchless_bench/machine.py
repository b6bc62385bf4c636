"""What a run was made on and of: processor, memory, system, and the commit of the source."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torchless
from torchless.cpu import features, usable_cpus


def describe_machine() -> dict[str, Any]:
    """Return the facts about this machine that a reader of the figures needs; None for what is not known here."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "features": sorted(features()),
        "usable_cpus": usable_cpus(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.release()}",
    }


def load_average() -> float | None:
    """Return how many processes wanted to run, on average over the last minute; None: not known here."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def source_commit() -> dict[str, Any] | None:
    """Return the commit that the running source was checked out at, and whether it was changed since.

    None where it runs from no checkout: an installed package, or no git.
    """
    package = Path(torchless.__file__).parent
    commit = _git(package, "rev-parse", "HEAD")
    # A virtual environment may lie within the checkout of something else.
    if commit is None or not _git(package, "ls-files", "--", "__init__.py"):
        return None
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
