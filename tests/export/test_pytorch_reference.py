"""The original under PyTorch: loaded as transformers loads it, or refused by name."""

from __future__ import annotations

import errno
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.errors import CheckpointError
from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import PyTorchReference, quiet, system_errors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS: list[Any] = ["a good film", ("bad", "and long"), "", "waiting " * 90]


@pytest.fixture(scope="module")
def tiny(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("bert", labels=3)


@pytest.fixture(scope="module")
def reference(tiny: Path) -> PyTorchReference:
    return PyTorchReference(open_checkpoint(tiny))


def test_the_model_is_in_float32_and_evaluates(reference: PyTorchReference):
    assert {parameter.dtype for parameter in reference.model.parameters()} == {torch.float32}
    assert not reference.model.training
    assert type(reference.model).__name__ == "BertForSequenceClassification"


def test_encode_is_transformers_tokenizer(reference: PyTorchReference, tiny: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    found = reference.encode(TEXTS, 16)
    wanted = tokenizer(TEXTS, padding=True, truncation=True, max_length=16, return_tensors="np")
    assert found.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    for name, array in found.items():
        assert (array.shape, array.dtype) == ((4, 16), np.int64)
        np.testing.assert_array_equal(array, wanted[name])
    assert reference.encode(["waiting " * 90], None)["input_ids"].shape == (1, 92)


def test_a_tokenizer_that_makes_no_mask_is_asked_for_one(make_checkpoint: Callable[..., Path]):
    reference = PyTorchReference(open_checkpoint(make_checkpoint(tokenizer={"model_input_names": ["input_ids"]})))
    inputs = reference.encode(["bad", "a good film"], None)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_a_tokenizer_saved_by_transformers_5(reference: PyTorchReference, changed: Path):
    """It names a class of its own, says special tokens otherwise, and leaves special_tokens_map.json out."""
    path = changed / "tokenizer_config.json"
    config = json.loads(path.read_bytes()) | {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}
    for extra in ({}, {"extra_special_tokens": ["film", "[MASK]"]}):
        path.write_text(json.dumps(config | extra), encoding="utf-8")
        (changed / "special_tokens_map.json").unlink(missing_ok=True)
        found = PyTorchReference(open_checkpoint(changed))
        assert ("film" in found.tokenizer.all_special_tokens) == bool(extra)
        wanted = reference.encode(TEXTS, 16)
        for name, array in found.encode(TEXTS, 16).items():
            np.testing.assert_array_equal(array, wanted[name])


def test_padding_does_not_change_logits(reference: PyTorchReference):
    together = reference.forward(reference.encode(TEXTS, 16))
    alone = [reference.forward(reference.encode([text], 16))[0] for text in TEXTS]
    assert (together.shape, together.dtype) == ((4, 3), np.float32)
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-6)


def test_texts_that_the_original_cannot_answer(make_checkpoint: Callable[..., Path]):
    """A tokenizer with two types of tokens, and a model with one: transformers answers texts, and no pairs."""
    reference = PyTorchReference(open_checkpoint(make_checkpoint("bert", type_vocab_size=1)))
    assert np.isfinite(reference.forward(reference.encode(["bad"], None))).all()
    with pytest.raises(
        CheckpointError, match=r"the original fails .* token_type_ids up to 1.*IndexError.*--calibration"
    ):
        reference.forward(reference.encode([("bad", "and long")], None))


def test_tokenizer_json_holds_neither_padding_nor_truncation(tiny: Path):
    reference = PyTorchReference(open_checkpoint(tiny))
    before = json.loads(reference.tokenizer_json())
    reference.encode(TEXTS, 16)  # which sets both in the backend
    assert json.loads(reference.tokenizer_json()) == before
    assert before["padding"] is before["truncation"] is None


@pytest.mark.parametrize("form", ["names", "tuples"])
def test_a_head_of_another_size_is_refused(changed: Path, monkeypatch: pytest.MonkeyPatch, form: str):
    config = json.loads((changed / "config.json").read_text())
    config["id2label"] = {str(i): f"label {i}" for i in range(5)}
    (changed / "config.json").write_text(json.dumps(config))
    load = transformers.AutoModelForSequenceClassification.from_pretrained

    def loaded(*arguments: Any, **options: Any) -> Any:
        model, loading = load(*arguments, **options)
        names = [key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]]
        assert sorted(names) == ["classifier.bias", "classifier.weight"]
        loading["mismatched_keys"] = [(n, (3,), (5,)) for n in names] if form == "tuples" else names
        return model, loading

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", loaded)
    with pytest.raises(
        CheckpointError, match=r"classifier\.bias is \[3\], the config \(5 labels\) wants \[5\]; correct"
    ):
        PyTorchReference(open_checkpoint(changed))


@pytest.mark.parametrize("removed", [("classifier.weight",), ("bert.pooler.dense.weight", "classifier.bias")])
def test_a_missing_tensor_is_named(changed: Path, removed: tuple[str, ...]):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(changed / "model.safetensors")
    for name in removed:
        del tensors[name]
    safetensors.save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=f"its weights lack {', '.join(removed)}, which text-classification needs"
    ):
        PyTorchReference(open_checkpoint(changed))


def test_an_unknown_architecture_is_refused(changed: Path):
    config = json.loads((changed / "config.json").read_text()) | {"model_type": "perceptron-9000"}
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: the architecture 'perceptron-9000' is unknown to transf"):
        PyTorchReference(open_checkpoint(changed))


def test_a_slow_tokenizer_is_refused(changed: Path):
    (changed / "vocab.json").write_text(json.dumps({"<unk>": 0, "a</w>": 1}))
    (changed / "merges.txt").write_text("#version: 0.2\n")
    config = json.loads((changed / "tokenizer_config.json").read_text()) | {"tokenizer_class": "CTRLTokenizer"}
    (changed / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="CTRLTokenizer is a slow tokenizer; only fast ones"):
        PyTorchReference(open_checkpoint(changed))


@pytest.mark.parametrize(
    "text", ["No space left on device (os error 28)", "I/O error: No space left on device (os error 28) at the end"]
)
def test_errors_of_the_system_are_known_as_such(text: str):
    with pytest.raises(OSError, match="No space left") as caught, system_errors():
        raise RuntimeError(text)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [ValueError("a fault"), KeyboardInterrupt(), PermissionError(13, "denied")])
def test_other_errors_stay_what_they_are(error: BaseException):
    with pytest.raises(type(error)) as caught, system_errors():
        raise error
    assert caught.value is error


def test_quiet_is_quiet_and_leaves_no_trace(capsys: pytest.CaptureFixture[str]):
    logger = logging.getLogger("transformers")
    level, filters = logger.level, list(warnings.filters)

    def fail() -> None:
        with quiet():
            sys.stdout.write("noise")
            warnings.warn("noise", stacklevel=1)
            logger.warning("noise")
            list(transformers.utils.logging.tqdm(range(2)))
            raise ValueError("fault")

    with pytest.raises(ValueError, match="fault"):
        fail()
    assert logger.level == level
    assert list(warnings.filters) == filters
    assert transformers.utils.logging.is_progress_bar_enabled()
    sys.stdout.write("said")
    assert capsys.readouterr() == ("said", "")
