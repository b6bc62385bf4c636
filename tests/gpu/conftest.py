"""Everything here runs on a real NVIDIA GPU; where there is none it is skipped, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import CAN_WRITE_GRAPHS
from on_gpu import plain_session
from torchless.session import cuda_problem

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    if cause := cuda_problem(0):
        pytest.skip(cause)


@pytest.fixture(scope="session")
def gpu_bundle(gpu: None, sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample in fp32 and fp16, judged here: by the GPU."""
    if not CAN_WRITE_GRAPHS:
        pytest.skip("nothing here can export the sample")
    from torchless_export import export

    target = tmp_path_factory.mktemp("gpu") / "bundle"
    export(sample_checkpoint, target, variants=("fp32", "fp16"))
    return target


@pytest.fixture(scope="session")
def in_fp32(gpu_bundle: Path) -> Iterator[Any]:
    """The sample's fp32 graph on the CPU: what every answer is held against."""
    return plain_session(str(gpu_bundle / "model.onnx"), cuda=False)
