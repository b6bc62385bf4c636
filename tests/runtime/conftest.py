"""Fixtures of input files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

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
