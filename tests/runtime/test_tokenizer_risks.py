"""`torchless.tokenizer_risks`: each bound, at it and over it. Whole directories that pass them: tests/attacks."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.tokenizer_risks import find_risk


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(*texts: bytes, trie: int = 4, says: int | None = None) -> dict[str, Any]:
    size = (trie if says is None else says).to_bytes(4, "little")
    data = base64.b64encode(size + bytes(trie) + b"".join(text + b"\0" for text in texts))
    return {"type": "Precompiled", "precompiled_charsmap": data.decode()}


def template(tokens: int, ids: int = 1) -> dict[str, Any]:
    return {"single": [{"SpecialToken": {"id": "x"}}] * tokens, "special_tokens": {"x": {"ids": [0] * ids}}}


def texts(*names: str) -> dict[str, Any]:
    return {"single": [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate(names)]}


PATTERN, LONG, PARTS = "the regular expression", "over 100 times as long", "over 100 parts"


@pytest.mark.parametrize(
    ("key", "part", "risk"),
    [
        ("normalizer", replace("", Regex=" {2,}"), None),
        ("normalizer", replace("", Regex=" {3,}"), PATTERN),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "x"}}, PATTERN),
        ("pre_tokenizer", {"type": "Split", "pattern": {"String": "(x+)+"}}, None),
        ("decoder", replace("", Regex="(x+)+"), None),
        ("normalizer", replace("x" * 100, String="a"), None),
        ("normalizer", replace("x" * 101, String="a"), LONG),
        ("normalizer", replace("x" * 200, String="aa"), None),
        ("normalizer", replace("x" * 202, String="aa"), LONG),
        ("normalizer", replace("x" * 99, String=""), None),
        ("normalizer", replace("x" * 100, String=""), LONG),
        ("normalizer", replace("x" * 100, Regex=" "), LONG),
        ("normalizer", [replace("x" * 10, String="a")] * 2, None),
        ("normalizer", [replace("x" * 10, String="a")] * 3, LONG),
        ("normalizer", [replace("x" * 50, String="a"), replace("x", String="aaaa")], None),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 100}, None),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 101}, LONG),
        ("normalizer", {"type": "Prepend", "prepend": ""}, None),
        ("normalizer", charsmap(b"x", b"y" * 100), None),
        ("normalizer", charsmap(b"y" * 101, b"x"), LONG),
        ("normalizer", charsmap("é".encode() * 100), None),
        ("normalizer", charsmap(), None),
        ("normalizer", charsmap(b"x", says=6), None),
        ("normalizer", charsmap(b"x", says=7), "larger than it is"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "not base64"}, None),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": 3}, None),
        ("normalizer", [{"type": "NFC"}] * 100, None),
        ("normalizer", [{"type": "NFC"}] * 101, PARTS),
        ("normalizer", [{"type": "ByteLevel"}] * 6, None),
        ("normalizer", [{"type": "ByteLevel"}] * 7, LONG),
        ("pre_tokenizer", [{"type": "ByteLevel"}] * 7, LONG),
        ("post_processor", texts("A", "B"), None),
        ("post_processor", texts("A", "A"), "repeats a text"),
        ("post_processor", [texts("A"), texts("B", "A"), texts("B", "A", "B")], "repeats a text"),
        ("post_processor", template(99), None),
        ("post_processor", template(100), "over 100 special tokens"),
        ("post_processor", template(1, 99), None),
        ("post_processor", template(1, 100), "over 100 special tokens"),
        ("model", {"max_input_chars_per_word": 1000}, None),
        ("model", {"max_input_chars_per_word": 1001}, "words of up to 1001 characters"),
        ("model", {"max_input_chars_per_word": "1001"}, None),
        ("model", [], None),
    ],
)
def test_bounds(key: str, part: Any, risk: str | None) -> None:
    found = find_risk({key: part})
    assert (found is None) if risk is None else (found is not None and risk in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["type", "pattern", "content", "Regex", "String", "prepend", "precompiled_charsmap", "ids",
                         "normalizers", "Sequence"]), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["normalizer", "pre_tokenizer", "post_processor", "model"]), JSON))
def test_whatever_is_there_it_gives_an_answer(tokenizer: dict[str, Any]) -> None:
    found = find_risk(tokenizer)
    assert found is None or found
