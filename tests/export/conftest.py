"""A tiny checkpoint to export, a copy of it to change, and a place for a bundle."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle_folders import put


@pytest.fixture(scope="session")
def tiny(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint that tests may read and copy, not change."""
    return make_checkpoint()


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a bundle is to stand; its parent is not there yet."""
    return tmp_path / "place" / "bundle"


@pytest.fixture
def old(target: Path) -> Path:
    """A target at which a bundle stands."""
    put(target, "old")
    return target


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a bundle is replaced: as on Linux, and as elsewhere."""
    if request.param == "two renames":
        monkeypatch.setattr("torchless_export.writer._renameat2", lambda *arguments: False)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    return request.param
