"""Strict JSON is JSON, less what two readers could understand differently."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchless.strict_json import JSONError, loads

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(10**39), 10**39) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back(document, ascii_only, indent):
    assert loads(json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()) == document


def test_keys_keep_their_order():
    assert list(loads(b'{"b": 1, "a": 2, "c": 3}')) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "line 1, column 1"),
        (b"{}\n\n {}", "line 3, column 2: Extra data"),
        (b"{'a': 1}", "line 1, column 2"),
        (b"[1,]", "line 1"),
        (b'["\xff"]', "byte 2 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"é": 1}'.encode("utf-16"), "UTF-8"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice"),
        (b'[{"x": {"a": 1, "\\u0061": 2}}]', "the key 'a' stands twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"[1e999]", "1e999 is too large"),
        (b"-1" + b"0" * 400 + b".0", "too large"),
        (b"9" * 41, "an integer of 41 digits"),
        (b"-" + b"9" * 5000, "an integer of 5001 digits"),
        (b'["\\ud800"]', "lone surrogate"),
        (b'{"a": {"\\uDC00": 1}}', "lone surrogate"),
    ],
)
def test_what_is_refused(data, why):
    with pytest.raises(JSONError, match=why):
        loads(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"1000000000000000019884624838656", int(1e30)),  # model_max_length, as transformers writes it
        (b"-" + b"9" * 40, 1 - 10**40),
        (b"1e30", 1e30),
        (b'"\\ud83d\\ude42"', "🙂"),
        (b'"\\\\ud800"', r"\ud800"),
        (b" [ ] \n", []),
    ],
)
def test_what_is_taken(data, value):
    assert loads(data) == value


@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
@pytest.mark.parametrize("repeats", [101, 500, 950, 2000, 300_000])
def test_deep_nesting_is_refused_at_any_depth(start, end, repeats):
    with pytest.raises(JSONError, match="more than 100 levels"):
        loads(start * repeats + b"0" + end * repeats)


def test_a_hundred_levels_are_taken():
    assert loads(b"[" * 100 + b"]" * 100) is not None
    with pytest.raises(JSONError):
        loads(b"[" * 101 + b"]" * 101)


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0-9.eE \\ud8aNnull', max_size=40).map(str.encode))
@example(b'{"a":' * 5)
def test_any_bytes_give_a_document_or_a_json_error(data):
    with contextlib.suppress(JSONError):
        document = loads(data)
        assert loads(json.dumps(document).encode()) == document
