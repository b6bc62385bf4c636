"""Folders that stand for bundles, filled with a word, and what is left of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from torchless.manifest import MANIFEST_NAME
from torchless_export.writer import DirectoryWriter

FILES = ("a.onnx", "b.json", "c.json", MANIFEST_NAME)
linux = pytest.mark.skipif(sys.platform != "linux", reason="renameat2 and flock are Linux's")


def fill(folder: Path, what: str) -> None:
    """Write a word into each file."""
    for name in FILES:
        (folder / name).write_text(what)


def put(target: Path, what: str, *, force: bool = False) -> None:
    """Put a bundle at `target` as an export does."""
    with DirectoryWriter(target, force=force) as made:
        fill(made.folder, what)
        made.commit()


def content(folder: Path) -> str | None:
    """Return what a whole bundle was filled with; None: there is none."""
    if not folder.exists():
        return None
    assert sorted(os.listdir(folder)) == sorted(FILES)
    found = {(folder / name).read_text() for name in FILES}
    assert len(found) == 1
    return found.pop()
