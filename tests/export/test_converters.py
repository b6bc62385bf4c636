"""`torchless_export.converters`: which way from a checkpoint to its graph is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from torchless.errors import CheckpointError, InputError
from torchless_export import converters, optimum_converter
from torchless_export.checkpoint import Checkpoint, open_checkpoint


@pytest.fixture
def known(sample_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(sample_checkpoint)


@pytest.fixture
def changed(sample_checkpoint: Path, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Return a function that opens the sample with a config that says otherwise."""

    def opened(**config: object) -> Checkpoint:
        folder = Path(shutil.copytree(sample_checkpoint, tmp_path / "checkpoint"))
        document = json.loads((folder / "config.json").read_bytes()) | config
        (folder / "config.json").write_text(json.dumps(document))
        return open_checkpoint(folder)

    return opened


def test_what_the_graph_builder_knows_it_writes(known: Checkpoint) -> None:
    assert converters.choose_converter("auto", known).name == "graph"
    assert converters.choose_converter("graph", known).name == "graph"


def test_optimum_where_it_is_asked_for(known: Checkpoint) -> None:
    pytest.importorskip("optimum")
    assert converters.choose_converter("optimum", known).name == "optimum"


def test_optimum_for_what_only_it_knows(changed: Callable[..., Checkpoint]) -> None:
    pytest.importorskip("optimum")
    other = changed(model_type="xlm")
    with pytest.raises(CheckpointError, match="xlm"):
        converters.choose_converter("graph", other)
    assert converters.choose_converter("auto", other).name == "optimum"


def test_nothing_for_what_neither_knows(changed: Callable[..., Checkpoint]) -> None:
    other = changed(model_type="flaubird")
    for name in ("auto", "graph", "optimum"):
        with pytest.raises(CheckpointError, match="flaubird"):
            converters.choose_converter(name, other)


def test_without_optimum_the_line_is_the_builders(
    changed: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimum_converter, "AVAILABLE", False)
    with pytest.raises(CheckpointError, match=r"model_type 'xlm' is none .*; export with --converter optimum$"):
        converters.choose_converter("auto", changed(model_type="xlm"))


def test_names(known: Checkpoint) -> None:
    assert converters.NAMES == ("auto", "graph", "optimum")
    with pytest.raises(InputError, match="converter is 'pickle', wanted one of auto, graph, optimum"):
        converters.choose_converter("pickle", known)
