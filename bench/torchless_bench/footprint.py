"""Which files a contender takes on disk: those that it opens, and those of the libraries that it is made of.

Loaded by its path in the contender's own process, like `worker.py` and with no more around it than that.
"""

from __future__ import annotations

import importlib.metadata
import marshal
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


def sizes_installed(requirements: list[str]) -> dict[str, int]:
    """Return all files of the distributions that pip installs for `requirements`, and their bytes.

    They are those of the records in this environment. Of an editable one, whose record names no module, they are the
    packages that its `.pth` file points to, each module with the byte code that pip would have compiled beside it.

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
    sizes = {path: os.lstat(path).st_size for path in files}
    for pth in [path for path in files if path.endswith(".pth")]:
        for path in _packages_behind(pth):
            sizes[path] = os.lstat(path).st_size
            if path.endswith(".py"):
                sizes[f"{path}c"] = _bytes_compiled(path)
    return sizes


def _packages_behind(pth: str) -> set[str]:
    """Return the files of each package in the directories that a `.pth` file names."""
    with open(pth, encoding="utf-8") as file:
        folders = [line.strip() for line in file if os.path.isdir(line.strip())]
    packages = [
        os.path.join(folder, name)
        for folder in folders
        for name in os.listdir(folder)
        if os.path.isfile(os.path.join(folder, name, "__init__.py"))
    ]
    return {
        os.path.join(path, name)
        for package in packages
        for path, _, names in os.walk(package)
        for name in names
        if "__pycache__" not in path
    }


def _bytes_compiled(path: str) -> int:
    """Return the size of a module's `.pyc`: a header of 16 bytes (PEP 552), and the code."""
    with open(path, "rb") as file:
        return 16 + len(marshal.dumps(compile(file.read(), path, "exec", dont_inherit=True)))
