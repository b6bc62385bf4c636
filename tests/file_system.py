"""What a test sees in a folder, and the mark of those that need POSIX's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


def only(folder: Path) -> list[str]:
    """Return the names of all that is in a folder, sorted."""
    return sorted(os.listdir(folder))
