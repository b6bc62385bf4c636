"""Checkpoints whose safetensors lie about themselves, and configs that ask for more than there is."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attempts import RESIDENT, attempt
from hostile import edit

pytest.importorskip("safetensors")
pytest.importorskip("onnx")

WHOLE = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}


def file(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def tensor(**changes: Any) -> bytes:
    return file({"a": WHOLE["a"] | changes})


HEADERS: dict[str, bytes] = {
    "no header at all": b"",
    "cut within its size": b"\1\0\0",
    "a header larger than the file": file(WHOLE, length=1 << 20),
    "a header of 2**63 bytes": file(WHOLE, length=1 << 63),
    "a header of 2**64 - 1 bytes": file(WHOLE, length=(1 << 64) - 1),
    "an empty header": file(b""),
    "no JSON": file(b"\0\xff" * 100),
    "a list": file([]),
    "nested": file(b"[" * 100_000),
    "a name twice": file(b'{"a": {"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                         b'"a": {"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "more data than described": tensor(shape=[2], data_offsets=[0, 8]),
    "less data than described": tensor(shape=[400], data_offsets=[0, 1600]),
    "a shape larger than its bytes": tensor(shape=[1 << 40]),
    "a shape whose product overflows": tensor(shape=[1 << 32, 1 << 32]),
    "a product that overflows to the right size": tensor(shape=[1 << 62, 4, 1, 1]),
    "a negative shape": tensor(shape=[-4]),
    "negative axes that make the size": tensor(shape=[-2, -2]),
    "a shape of fractions": tensor(shape=[4.0]),
    "a shape of strings": tensor(shape=["4"]),
    "offsets the wrong way round": tensor(data_offsets=[16, 0]),
    "negative offsets": tensor(data_offsets=[-16, 0]),
    "offsets beyond the end": tensor(data_offsets=[1 << 40, (1 << 40) + 16]),
    "three offsets": tensor(data_offsets=[0, 16, 32]),
    "an unknown type": tensor(dtype="F31"),
    "a type that is no string": tensor(dtype={"a": 1}),
    "an entry that is no object": file({"a": 1}),
    "tensors that share their bytes": file({str(i): WHOLE["a"] for i in range(1000)}),
    "a million tensors": file(b"{" + b",".join(
        b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(700_000)) + b"}", b""),
}  # fmt: skip


CONFIGS: dict[str, dict[str, Any]] = {
    "a vocabulary of 2**60": {"vocab_size": 1 << 60},
    "a million layers": {"n_layers": 10**6},
    "no heads": {"n_heads": 0},
    "heads that do not divide": {"n_heads": 7},
    "positions without end": {"max_position_embeddings": 1 << 40},
    "a width that is a string": {"dim": "128"},
    "a negative width": {"dim": -128},
    "code": {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}},
    "an activation that is a path": {"activation": "../../evil"},
    "a model type of control characters": {"model_type": "\x1b[2J\n"},
}


@pytest.fixture
def checkpoint(sample_checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a copy of the sample, to be damaged."""
    return lambda name: Path(shutil.copytree(sample_checkpoint, tmp_path / "checkpoints" / name))


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[list[Path]], list[str]]:
    """Return a function that tries to export checkpoints, each of which must be refused; returns the messages."""

    def run(checkpoints: list[Path]) -> list[str]:
        outcome = attempt("exports", [str(path) for path in checkpoints], str(tmp_path / "bundle"), watch=[tmp_path])
        assert outcome.error is None, outcome
        assert outcome.written == []
        assert outcome.resident < RESIDENT
        raised = dict(zip([path.name for path in checkpoints], ast.literal_eval(outcome.answer), strict=True))
        assert {name for name, error in raised.items() if error is None} == set()
        assert {name for name, error in raised.items() if error[0] != "CheckpointError"} == set()
        assert all(message.isprintable() and len(message) <= 1000 for _, message in raised.values())
        return [message for _, message in raised.values()]

    return run


def test_a_header_that_lies(checkpoint: Any, refused: Any) -> None:
    damaged = [checkpoint(what) for what in HEADERS]
    for folder, data in zip(damaged, HEADERS.values(), strict=True):
        (folder / "model.safetensors").write_bytes(data)
    refused(damaged)


def test_a_config_that_the_weights_do_not_fit(checkpoint: Any, refused: Any) -> None:
    damaged = [checkpoint(what) for what in CONFIGS]
    for folder, changes in zip(damaged, CONFIGS.values(), strict=True):
        edit(folder / "config.json", lambda config, changes=changes: config.update(changes))
        (folder / "evil.py").write_text("open('ran', 'w')")
    refused(damaged)


def test_a_pickle_is_never_opened(checkpoint: Any, refused: Any) -> None:
    damaged = [checkpoint(name) for name in ("pytorch_model.bin", "model.pt")]
    for folder in damaged:
        (folder / "model.safetensors").unlink()
        (folder / folder.name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert all("pickle" in message for message in refused(damaged))
