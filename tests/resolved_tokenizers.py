"""What a tokenizer resolves to, beside what the version of transformers that is installed makes of its files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.errors import TorchlessWarning
from torchless.hub_layout import read_tokenizer_spec
from torchless.tokenization import Tokenizer
from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import quiet
from torchless_export.tokenizer import ResolvedTokenizer, TokenizersReference, resolve

pytest.importorskip("transformers")

import transformers

VERSION = int(transformers.__version__.split(".")[0])
SHARED = Path(__file__).parents[2] / "shared"

Write = Callable[..., Path]
Families = Mapping[str, dict[str, Any]]

BERT_LIKE = ("bert", "distilbert", "electra")
FAMILIES = (
    "albert", *BERT_LIKE, "camembert", "deberta", "deberta-v2", "modernbert", "mpnet", "roberta", "xlm-roberta",
)  # fmt: skip
ODDITIES: tuple[Any, ...] = (
    "", " ", "Hello  World\t, the CAFÉ cafe\u0301 naïve 中文film x\n", "a[MASK]b [MASK] c [mask]", "a<mask>b <mask> c",
    " film and film", "hello[SEP]</s><s>[CLS]", "ＡＢ…ﬁ\u3000``good''", "\u200b\x00\ufffd 👩‍👩‍👧 e\u0301\u0327 İ ẞ",
    ("Hello the film", "a movie"), ("", "x"), ("good " * 12, "bad " * 9), ("x", " "), "film " * 30,
)  # fmt: skip


def resolved(folder: Path) -> ResolvedTokenizer:
    """Resolve, and let it warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchlessWarning)
        return resolve(open_checkpoint(folder))


def bundled(found: ResolvedTokenizer, folder: Path, write: Write) -> Path:
    """A directory with the resolved files and the checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    bundle = write(config["model_type"], found.tokenizer_json, model_config=config)
    for name, content in found.files.items():
        (bundle / name).write_bytes(content)
    return bundle


def auto(folder: Path) -> Any:
    """Load with transformers, which is to print nothing."""
    with quiet():
        return transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, texts: Sequence[Any], max_length: int | None) -> dict[str, Any]:
    """Return what a tokenizer of transformers gives, padded where there are several texts."""
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    with quiet():
        return dict(tokenizer(list(texts), padding=len(texts) > 1, return_tensors="np", **cut))


def batches(texts: Sequence[Any], pads: bool) -> list[Sequence[Any]]:
    """Return each text alone, and where the tokenizer `pads` all of them together."""
    return [*([text] for text in texts), *([texts] if pads and len(texts) > 1 else [])]


def assert_same(wanted: Any, reference: TokenizersReference, texts: Sequence[Any], pads: bool = True) -> None:
    """Assert that two tokenizers give the same arrays, cut and whole."""
    for batch in batches(texts, pads):
        for max_length in (None, 9):
            found, expected = reference.encode(batch, max_length), encode(wanted, batch, max_length)
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                assert found[name].dtype == np.int64
                np.testing.assert_array_equal(found[name], array, err_msg=f"{name} of {batch!r} cut at {max_length}")


def assert_as_in_transformers(folder: Path, texts: Sequence[Any]) -> None:
    """The checkpoint's tokenizer gives what the version installed gives, in all arrays that both give."""
    wanted, reference = auto(folder), TokenizersReference(open_checkpoint(folder))
    assert VERSION == 5 or set(wanted.model_input_names) == set(reference.inputs)
    wanted.model_input_names = [name for name in wanted.model_input_names if name in reference.inputs]
    reference.inputs = tuple(wanted.model_input_names)
    assert {"input_ids", "attention_mask"} <= set(reference.inputs)
    assert_same(wanted, reference, texts)


def assert_resolved(folder: Path, write: Write, texts: Sequence[Any]) -> ResolvedTokenizer:
    """Resolve; the bundle gives the same in transformers, and resolves to itself. Returns what was resolved."""
    found = resolved(folder)
    document = json.loads(found.tokenizer_json)
    assert document["padding"] is document["truncation"] is None
    bundle = bundled(found, folder, write)
    reference = TokenizersReference(open_checkpoint(folder))
    loaded = auto(bundle)
    pads = found.config["pad_token"] is not None
    assert_same(loaded, reference, texts, pads)
    spec = read_tokenizer_spec(document, dict(found.config), {}, None)
    assert spec.pad_id == loaded.pad_token_id
    assert (spec.padding_side, spec.truncation_side, spec.pad_type_id) == (
        loaded.padding_side,
        loaded.truncation_side,
        loaded.pad_token_type_id,
    )
    assert (spec.max_length or loaded.model_max_length) == loaded.model_max_length
    ours = Tokenizer(found.tokenizer_json.encode(), spec)
    for text, encoding in zip(texts, ours.encode(texts), strict=True):
        assert encoding.ids == reference.encode([text], None)["input_ids"][0].tolist()
    again = resolve(open_checkpoint(bundle))
    assert (again.tokenizer_json, again.files, again.notes) == (found.tokenizer_json, found.files, ())
    return found


def is_copied(found: ResolvedTokenizer, folder: Path) -> bool:
    """Return whether tokenizer_config.json is as it was."""
    path = folder / "tokenizer_config.json"
    return path.exists() and found.files["tokenizer_config.json"] == path.read_bytes()


OPTIONS = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
