"""Fixtures of the attacks: bundles that an attacker may have written, with a manifest that fits them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attempts import Outcome, attempt
from hostile import edit
from hub_layouts import DESCRIPTIONS, lay_out

TEXTS = ["a fine film", "dull"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them all where processes cannot be limited."""
    if sys.platform != "linux":
        for item in items:
            item.add_marker(pytest.mark.skip(reason="the limits on time and memory are read from Linux"))


@pytest.fixture
def bundle(sample_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of the sample, fp32 alone, to be damaged."""
    folder = tmp_path / "target" / "bundle"
    folder.mkdir(parents=True)
    for name in (*DESCRIPTIONS, "model.onnx", "torchless.json"):
        shutil.copyfile(sample_bundle / name, folder / name)

    def fp32_alone(manifest: dict[str, Any]) -> None:
        manifest["variants"] = {"fp32": manifest["variants"]["fp32"]}
        manifest["files"] = [entry for entry in manifest["files"] if entry["path"] != "model_int8.onnx"]

    edit(folder / "torchless.json", fp32_alone)
    return folder


@pytest.fixture
def layout(sample_bundle: Path, tmp_path: Path) -> Path:
    """The sample as a repository of the hub has it, without a manifest, to be damaged."""
    return lay_out(sample_bundle, tmp_path / "target" / "layout", ["fp32"])


@pytest.fixture
def open_it(tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that opens a model and runs texts, in a process with limits, watching the whole test folder."""
    cache = tmp_path / "cache"

    def run(folder: Path, texts: list[Any] = TEXTS, **options: Any) -> Outcome:
        environment = {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
        return attempt("pipeline", str(folder), options, texts, watch=[tmp_path], environment=environment)

    return run
