"""A tiny checkpoint to export, and a copy of it to change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint that tests may read and copy, not change."""
    return make_checkpoint()


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))
