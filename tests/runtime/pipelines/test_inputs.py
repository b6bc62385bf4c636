"""`torchless.pipelines.inputs`: the forms of texts, and transformers' tokenizer arguments."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.bundle import Bundle
from torchless.errors import InputError, InputTypeError, TorchlessWarning
from torchless.pipelines.inputs import TokenizerArguments, read_text, read_texts, read_tokenizer_arguments
from torchless.tokenization import Tokenizer, Truncation


@pytest.fixture(scope="module")
def tokenizer(sample_bundle: Path) -> Tokenizer:
    bundle = Bundle.open(sample_bundle)
    return Tokenizer(bundle.read("tokenizer.json"), bundle.manifest.tokenizer)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a", "a"),
        ("", ""),
        ({"text": "a"}, "a"),
        ({"text": "a", "text_pair": None}, "a"),
        ({"text": "a", "text_pair": "b"}, ("a", "b")),
        ({"text_pair": "b", "text": "a"}, ("a", "b")),
        ([["a", "b"]], ("a", "b")),
        ({"text": "a", "text_pair": ""}, "a"),
        ([["a", ""]], "a"),
    ],
)
def test_forms_of_one_text(given: Any, wanted: Any) -> None:
    assert read_text(given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"), [("a", ("a", "x")), ({"text": "a"}, ("a", "x")), ({"text": "", "text_pair": "b"}, None),
                          ({"text": "a", "text_pair": None}, None), ([["a", "b"]], None), (3, None)]
)  # fmt: skip
def test_a_pair_for_every_text(given: Any, wanted: Any) -> None:
    if wanted is None:
        with pytest.raises(InputTypeError, match=r"input 3 (is|has a text_pair, and so has the call)"):
            read_text(given, 3, "x")
    else:
        assert read_text(given, 3, "x") == wanted
        assert read_text(given, 3, "") == "a"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (None, InputTypeError, "is NoneType"),
        (3, InputTypeError, "is int"),
        (b"a", InputTypeError, "is bytes"),
        (("a", "b"), InputTypeError, "is tuple"),
        ({}, InputTypeError, "a dict with no keys"),
        ({"sentence": "a"}, InputTypeError, "'sentence': str"),
        ({"text": 3}, InputTypeError, "'text': int"),
        ({"text": "a", "text_pair": 3}, InputTypeError, "'text_pair': int"),
        ({"text": "a", "label": "b"}, InputError, "the key 'label'"),
        ([], InputError, "is a list"),
        (["a", "b"], InputError, 'is a list; pass {"text": "...", "text_pair": "..."}'),
        ([["a", "b", "c"]], InputError, "is a list"),
        ([["a", "b"], ["c", "d"]], InputError, "is a list"),
    ],
)
@pytest.mark.parametrize(("index", "which"), [(None, "the input "), (7, "input 7 ")])
def test_forms_that_are_no_text(given: Any, error: type[InputError], says: str, index: int | None, which: str) -> None:
    with pytest.raises(InputError) as caught:
        read_text(given, index)
    assert type(caught.value) is error
    assert str(caught.value).startswith(which)
    assert says in str(caught.value)
    assert caught.value.index == index


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "text_pair", "x"]), inner),
    max_leaves=6,
)


@given(JSON)
def test_anything_is_a_text_or_an_input_error(value: Any) -> None:
    with contextlib.suppress(InputError):
        text = read_text(value, 0)
        assert all(isinstance(part, str) for part in (text if isinstance(text, tuple) else (text,)))


def test_texts_for_one_step_alone() -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert read_texts("a") == ["a"]
    assert read_texts(("a", "b")) == [("a", "b")]
    assert read_texts(pair) == [("a", "b")]
    assert read_texts(["a", ("a", "b"), pair, None]) == ["a", ("a", "b"), ("a", "b"), None]
    assert read_texts(text for text in "ab") == ["a", "b"]
    for wrong in (None, 3):
        with pytest.raises(InputTypeError, match=f"the input is {type(wrong).__name__}"):
            read_texts(wrong)
    for wrong in ({"x": "b"}, ["a", "b"]):
        with pytest.raises(InputError) as caught:
            read_texts(["a", wrong])
        assert caught.value.index == 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, TokenizerArguments()),
        ({"truncation": True}, TokenizerArguments(truncation=Truncation(512))),
        ({"truncation": True, "max_length": 9}, TokenizerArguments(truncation=Truncation(9))),
        ({"truncation": "only_first"}, TokenizerArguments(truncation=Truncation(512, "only_first"))),
        ({"truncation": False, "max_length": 9}, TokenizerArguments()),
        ({"truncation": "do_not_truncate", "max_length": 9}, TokenizerArguments()),
        ({"padding": True}, TokenizerArguments()),
        ({"padding": "longest"}, TokenizerArguments()),
        ({"padding": "do_not_pad"}, TokenizerArguments()),
        ({"padding": "max_length"}, TokenizerArguments(pad_to=512)),
        ({"padding": "max_length", "max_length": 9}, TokenizerArguments(pad_to=9)),
        ({"padding": True, "max_length": 9}, TokenizerArguments()),
        ({"padding": "do_not_pad", "max_length": 9}, TokenizerArguments()),
        ({"pad_to_multiple_of": 8}, TokenizerArguments()),
        ({"pad_to_multiple_of": 8, "padding": True}, TokenizerArguments(multiple_of=8)),
        (
            {"pad_to_multiple_of": 8, "padding": True, "truncation": True},
            TokenizerArguments(multiple_of=8, truncation=Truncation(512)),
        ),
        ({"return_token_type_ids": False}, TokenizerArguments(type_ids=False)),
        ({"return_token_type_ids": True}, TokenizerArguments(type_ids=True)),
        ({"return_token_type_ids": None}, TokenizerArguments()),
        ({"pad_to_multiple_of": None}, TokenizerArguments()),
        ({"add_special_tokens": False}, TokenizerArguments(special_tokens=False)),
        ({"on_truncation": print}, TokenizerArguments(on_truncation=print)),
    ],
)
def test_tokenizer_arguments(tokenizer: Tokenizer, given: dict[str, Any], wanted: TokenizerArguments) -> None:
    assert read_tokenizer_arguments(tokenizer, given) == wanted


@pytest.mark.parametrize("more", [{}, {"padding": False}, {"truncation": None}])
def test_max_length_alone_cuts_and_says_so(tokenizer: Tokenizer, more: dict[str, Any]) -> None:
    with pytest.warns(TorchlessWarning, match="pass truncation=True"):
        read = read_tokenizer_arguments(tokenizer, {"max_length": 9, **more})
    assert read.truncation == Truncation(9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"padding": "left"}, "padding is 'left'"),
        ({"padding": 3}, "padding is 3"),
        ({"padding": 1}, "padding is 1"),
        ({"padding": None}, "padding is None"),
        ({"padding": ["longest"]}, r"padding is ['longest']"),
        ({"truncation": 1}, "truncation is 1"),
        ({"truncation": ["longest_first"]}, "truncation is ['longest_first']"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, "cut at 9 tokens and padded"),
        ({"padding": True, "truncation": True, "pad_to_multiple_of": 9}, "cut at 512 tokens and padded"),
        ({"pad_to_multiple_of": -8}, "pad_to_multiple_of is -8"),
        ({"truncation": "left"}, "truncation is 'left'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"truncation": True, "max_length": 1}, "less than the 2 special tokens"),
    ],
)
def test_wrong_tokenizer_arguments(tokenizer: Tokenizer, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_tokenizer_arguments(tokenizer, given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"maxlength": 9}, "unknown argument 'maxlength', wanted one of add_special_tokens, max_length"),
        ({"return_tensors": "np"}, "unknown argument 'return_tensors'"),
        ({"is_split_into_words": True}, "unknown argument 'is_split_into_words'"),
        ({"max_length": "9", "padding": True}, "max_length is '9'"),
        ({"max_length": 9.0, "truncation": True}, "max_length is 9.0"),
        ({"max_length": True, "truncation": True}, "max_length is True"),
        ({"pad_to_multiple_of": 8.0}, "pad_to_multiple_of is 8.0"),
        ({"add_special_tokens": None}, "add_special_tokens is None, wanted True or False"),
    ],
)
def test_tokenizer_arguments_of_a_wrong_type(tokenizer: Tokenizer, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputTypeError) as caught:
        read_tokenizer_arguments(tokenizer, given)
    assert says in str(caught.value)


def test_padding_needs_a_pad_token(tokenizer: Tokenizer) -> None:
    bare = Tokenizer(tokenizer._library.to_str().encode(), dataclasses.replace(tokenizer.spec, pad_id=None))
    for padding in (True, "longest", "max_length"):
        with pytest.raises(InputError, match="the tokenizer has no pad token"):
            read_tokenizer_arguments(bare, {"padding": padding})
    assert read_tokenizer_arguments(bare, {"padding": "do_not_pad"}) == TokenizerArguments()


@pytest.mark.parametrize("name", ["num_workers", "stride", "return_length", "clean_up_tokenization_spaces"])
def test_arguments_that_only_add_outputs_are_ignored_with_one_warning(tokenizer: Tokenizer, name: str) -> None:
    with pytest.warns(TorchlessWarning, match=f"'{name}' has no meaning here"):
        assert read_tokenizer_arguments(tokenizer, {name: 1}) == TokenizerArguments()
    read_tokenizer_arguments(tokenizer, {name: 1})  # a second warning would be an error


@given(st.integers(0, 600), st.none() | st.integers(1, 600), st.integers(1, 64))
def test_padded_length(longest: int, pad_to: int | None, multiple_of: int) -> None:
    length = TokenizerArguments(pad_to=pad_to, multiple_of=multiple_of).padded(longest)
    assert length % multiple_of == 0 or length == longest > (pad_to or longest)
    assert max(longest, pad_to or 0) <= length < max(longest, pad_to or 0) + multiple_of


class Caseless(str):
    """A text that is equal to others."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "pair"),
    [(Caseless("a"), None), (Caseless("a"), "b"), ({"text": Caseless("a"), "text_pair": Caseless("b")}, None),
     ([[Caseless("a"), Caseless("b")]], None), ({"text": Caseless("a")}, None)],
)  # fmt: skip
def test_of_a_subclass_only_the_text_counts(given: Any, pair: str | None) -> None:
    text = read_text(given, text_pair=pair)
    assert {type(part) for part in ((text,) if isinstance(text, str) else text)} == {str}
    assert text in ("a", ("a", "b"))


@pytest.mark.parametrize(
    ("name", "wrong"), [("on_truncation", 5), ("return_token_type_ids", 5), ("return_token_type_ids", "no")]
)
def test_a_mistake_shows_before_it_matters(tokenizer: Tokenizer, name: str, wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=f"{name} is {wrong!r}, wanted"):
        read_tokenizer_arguments(tokenizer, {name: wrong})
    assert read_tokenizer_arguments(tokenizer, {name: None}) == TokenizerArguments()
