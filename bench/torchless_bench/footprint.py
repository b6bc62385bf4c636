"""Which files a contender takes on disk: those that it opens, and those of the libraries that it is made of.

Loaded by its path in the contender's own process, like `worker.py` and with no more around it than that.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any


def files_opened(options: dict[str, Any]) -> list[str]:
    """Return the files of `options["model"]` without the graphs in it that are not `options["file"]`."""
    folder, graph = options["model"], options.get("file")
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    if graph is not None:
        names = [name for name in names if ".onnx" not in name or name.partition(".onnx")[0] + ".onnx" == graph]
    return [os.path.join(folder, name) for name in names]


def files_installed(requirements: list[str]) -> set[str]:
    """Return all files of the distributions that pip installs for `requirements`, by their records in this environment.

    Of an editable one, whose record names no module, the packages are counted that its `.pth` file points to.

    Raises:
        NotImplementedError: one of them is not installed here.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError:
        raise NotImplementedError(f"packaging not installed in {sys.executable}") from None
    waiting: list[tuple[Any, str]] = [(Requirement(line), "") for line in requirements]
    seen: set[tuple[str, str]] = set()
    files: set[str] = set()
    while waiting:
        asked, extra = waiting.pop()
        if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *asked.extras):
            key = (asked.name.lower().replace("_", "-").replace(".", "-"), wanted)
            if key in seen:
                continue
            seen.add(key)
            try:
                found = importlib.metadata.distribution(asked.name)
            except importlib.metadata.PackageNotFoundError:
                raise NotImplementedError(f"{asked.name} not installed in {sys.executable}") from None
            waiting += [(Requirement(line), wanted) for line in found.requires or ()]
            paths = {os.path.realpath(str(found.locate_file(file))) for file in found.files or ()}
            files |= {path for path in paths if os.path.isfile(path)}
    return files | {file for path in files if path.endswith(".pth") for file in _packages_behind(path)}


def _packages_behind(pth: str) -> set[str]:
    with open(pth, encoding="utf-8") as file:
        folders = [line.strip() for line in file if os.path.isdir(line.strip())]
    return {
        os.path.join(path, name)
        for folder in folders
        for path, _, names in os.walk(folder)
        for name in names
        if "__pycache__" not in path
    }
