"""What the pipelines' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import torchless


@pytest.fixture(scope="module")
def pipe(sample_bundle: Path) -> Iterator[torchless.Pipeline]:
    """The sample, opened in float32; a test that changes or closes one opens its own."""
    with torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu") as opened:
        yield opened
