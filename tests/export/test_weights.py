"""`torchless_export.weights`: tensors as float32, and which are refused."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("onnx")

from torchless.errors import CheckpointError
from torchless_export.checkpoint import open_checkpoint
from torchless_export.weights import Weights

A = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


@pytest.fixture
def weights_of(sample_checkpoint: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Weights]:
    """Return a function that opens a checkpoint with these tensors: name -> (dtype, shape, bytes)."""

    def opened(tensors: dict[str, tuple[str, list[int], bytes]]) -> Weights:
        folder = tmp_path / "checkpoint"
        shutil.copytree(sample_checkpoint, folder)
        header, data = {}, b""
        for name, (dtype, shape, content) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        encoded = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
        return Weights(open_checkpoint(folder))

    return opened


@pytest.mark.parametrize(
    ("dtype", "stored", "precision"),
    [
        ("F32", A.tobytes(), 0),
        ("F64", A.astype(np.float64).tobytes(), 0),
        ("F16", A.astype(np.float16).tobytes(), 2**-11),
        ("BF16", (A.view(np.uint32) >> 16).astype(np.uint16).tobytes(), 2**-7),
    ],
)
def test_every_floating_type_becomes_float32(weights_of: Any, dtype: str, stored: bytes, precision: float) -> None:
    with weights_of({"a": (dtype, [2, 3], stored)}) as weights:
        array = weights.read("a", (2, 3))
        assert "a" in weights
        assert list(weights) == ["a"]
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, A, rtol=precision, atol=0)


def test_shards_are_one_set(sample_checkpoint: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(sample_checkpoint)
    folder = tmp_path / "sharded"
    model.save_pretrained(folder, max_shard_size="2MB")
    shutil.copyfile(sample_checkpoint / "tokenizer.json", folder / "tokenizer.json")
    assert len(list(folder.glob("*.safetensors"))) > 1
    with Weights(open_checkpoint(folder)) as weights:
        assert weights.names == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(torch.from_numpy(weights.read(name)), tensor)


@pytest.mark.parametrize(
    ("tensor", "asked", "says"),
    [
        (("F32", [2, 3], A.tobytes()), ("b", None), "its weights lack the tensor b"),
        (("F32", [2, 3], A.tobytes()), ("a", (3, 2)), r"the tensor a is \[2, 3\], config.json wants \[3, 2\]"),
        (("I32", [2, 3], A.tobytes()), ("a", None), "the tensor a is I32, wanted F64, F32, F16, BF16"),
        (("F8_E4M3", [2, 3], bytes(6)), ("a", None), "the tensor a is F8_E4M3, wanted F64, F32, F16, BF16"),
        (("F32", [2], np.float32([1, np.nan]).tobytes()), ("a", None), r"the tensor a holds nan at \[1\]"),
        (("F64", [1], np.float64([1e300]).tobytes()), ("a", None), r"the tensor a holds inf at \[0\]"),
    ],
)
def test_what_is_refused(weights_of: Any, tensor: Any, asked: Any, says: str) -> None:
    with weights_of({"a": tensor}) as weights, pytest.raises(CheckpointError, match=says):
        weights.read(*asked)
