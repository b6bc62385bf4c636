"""Fixtures of runs that are stopped and gone on with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resumable_runs import write_source
from torchless.cli import resume


@pytest.fixture
def saved_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not really synced: some thousand runs are made here; `Disk` knows what that would do."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(resume, "_INTERVAL", 0)
    monkeypatch.setattr(resume, "_COSTS", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The input, in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    return write_source(folder / "texts.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the output."""
    path = tmp_path / "out"
    path.mkdir()
    return path
