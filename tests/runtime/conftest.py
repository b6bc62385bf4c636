"""Input files, and the sample as the hub's repositories have it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hub_layouts import lay_out
from read_records import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a file and return its path; a name that ends in .gz is compressed."""

    def write(name: str, content: bytes | str) -> str:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
        return str(path)

    return write


@pytest.fixture
def layout(sample_bundle: Path, tmp_path: Path) -> Path:
    """The sample as the hub's repositories with ONNX files have it."""
    return lay_out(sample_bundle, tmp_path / "layout")
