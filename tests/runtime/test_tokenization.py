"""Token ids are the library's own, whatever was asked before and from however many threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from torchless import tokenization
from torchless.errors import BundleError, InputError, InputTypeError
from torchless.manifest import TokenizerSpec
from torchless.tokenization import CutEncoding, Tokenizer, Truncation

SPEC = TokenizerSpec(6, 40, "right", 0, 0, ("input_ids", "attention_mask", "token_type_ids"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def library(**changes: object) -> tokenizers.Tokenizer:
    """Return a word tokenizer of the library; `changes` replace parts of its JSON."""
    ids = {word: i for i, word in enumerate(WORDS)}
    built = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizers.Tokenizer.from_str(json.dumps(json.loads(built.to_str()) | changes))


def ours(built: tokenizers.Tokenizer | None = None, spec: TokenizerSpec = SPEC) -> Tokenizer:
    return Tokenizer((built or library()).to_str().encode(), spec)


TOKENIZER = ours()
LINES = st.lists(st.sampled_from([*"abcd", "x"]), max_size=12).map(" ".join)
TEXTS = st.lists(LINES | st.tuples(LINES, LINES), max_size=6)
TRUNCATIONS = st.builds(Truncation, st.integers(3, 12), st.just("longest_first"))


def expected(text: str | tuple[str, str], truncation: Truncation | None, special_tokens: bool = True):
    built = library()
    if truncation is not None:
        built.enable_truncation(truncation.max_length, strategy=truncation.strategy)
    return built.encode(*([text] if isinstance(text, str) else text), add_special_tokens=special_tokens)


@given(TEXTS, st.none() | TRUNCATIONS, st.booleans(), st.booleans())
def test_the_ids_are_the_librarys(texts, truncation, special_tokens, offsets):
    found = TOKENIZER.encode_each(texts, truncation=truncation, special_tokens=special_tokens, offsets=offsets)
    assert len(found) == len(texts)
    for index, (encoding, text) in enumerate(zip(found, texts, strict=True)):
        wanted = expected(text, truncation, special_tokens)
        if not wanted.ids:
            assert isinstance(encoding, InputError)
            assert str(encoding).startswith(f"text {index} has no tokens")
            continue
        assert (encoding.ids, encoding.type_ids) == (wanted.ids, wanted.type_ids)
        if offsets:
            assert (encoding.tokens, encoding.offsets) == (wanted.tokens, wanted.offsets)


@pytest.mark.parametrize(
    ("strategy", "ids"),
    [
        ("longest_first", [2, 4, 5, 3, 7, 6, 5, 3]),
        ("only_first", [2, 4, 3, 7, 6, 5, 4, 3]),
        ("only_second", [2, 4, 5, 6, 3, 7, 6, 3]),
    ],
)
def test_a_pair_is_cut_on_the_side_asked_for(strategy, ids):
    [encoding] = TOKENIZER.encode([("a b c", "d c b a")], truncation=Truncation(8, strategy))
    assert encoding.ids == ids


def test_only_what_was_cut_says_so():
    texts = ["a", "a b c d a b c d", "a b", ("a b c", "d")]
    encodings = TOKENIZER.encode(texts, truncation=Truncation(6))
    assert [isinstance(encoding, CutEncoding) for encoding in encodings] == [False, True, False, True]


@pytest.mark.parametrize(
    ("words", "truncation", "fits"), [(5, None, True), (6, None, False), (6, 7, True), (7, 8, False)]
)
def test_what_is_beyond_the_position_table_is_an_input_error(words, truncation, fits):
    tokenizer = ours(spec=TokenizerSpec(6, 7, "right", 0, 0, ("input_ids",)))
    texts = ["a", " ".join(["a"] * words)]
    cut = truncation and Truncation(truncation)
    if fits:
        assert len(tokenizer.encode(texts, truncation=cut)) == 2
        return
    with pytest.raises(InputError, match=f"text 1 has {truncation or words + 2} tokens, .* holds 7; pass") as caught:
        tokenizer.encode(texts, truncation=cut)
    assert caught.value.index == 1


def test_padding_and_truncation_of_the_file_are_reset():
    built = library()
    built.enable_padding(length=9, pad_id=0)
    built.enable_truncation(3)
    encodings = ours(built).encode(["a b c d", "a"])
    assert [encoding.ids for encoding in encodings] == [[2, 4, 5, 6, 7, 3], [2, 4, 3]]
    [cut] = ours(built).encode(["a b c d"], truncation=Truncation(5))
    assert cut.ids == [2, 4, 5, 6, 3]


@pytest.mark.parametrize("texts", [[], [""], ["", "a"]])
def test_nothing_to_tokenize(texts):
    assert [encoding.ids for encoding in TOKENIZER.encode(texts)] == [expected(text, None).ids for text in texts]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (None, "is NoneType, wanted a string"),
        (7, "is int, wanted a string"),
        (b"bytes", "is bytes, wanted a string"),
        (("a", None), "is NoneType"),
        ("ab\ud800", "holds a lone surrogate at character 2"),
        (("a", "\udfff"), "holds a lone surrogate at character 0"),
    ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_a_wrong_type_is_refused_with_its_index(wrong, found, index):
    texts = ["a", "b", "c"]
    texts[index] = wrong
    with pytest.raises(InputTypeError, match=f"text {index} {found}") as caught:
        TOKENIZER.encode(texts, truncation=Truncation(3))
    assert caught.value.index == index


WRONG = {"none": None, "surrogate": "\ud800", "triple": ("a", "b", "c"), "uncuttable": ("a b c d", "a b c d")}


@given(st.lists(st.sampled_from(["a", "a b", "d c b a d c b a", *WRONG]), max_size=8), st.booleans())
def test_an_error_stands_in_the_place_of_its_text(names, numbered):
    texts = [WRONG.get(name, name) for name in names]
    indices = [10 * (i + 1) for i in range(len(texts))] if numbered else None
    found = TOKENIZER.encode_each(texts, truncation=Truncation(5, "only_second"), indices=indices)
    assert len(found) == len(texts)
    for i, (name, item) in enumerate(zip(names, found, strict=True)):
        wrong = name in WRONG or name == "d c b a d c b a"  # which has no second text to cut
        assert isinstance(item, InputError) == wrong
        if wrong:
            assert item.index == (indices[i] if indices else i)
            assert f"text {item.index} " in str(item)
        else:
            assert item.ids == expected(name, None).ids
    errors = [item for item in found if isinstance(item, InputError)]
    if errors:
        with pytest.raises(type(errors[0]), match=f"^text {errors[0].index} "):
            TOKENIZER.encode(texts, truncation=Truncation(5, "only_second"), indices=indices)


def test_beside_a_wrong_text_each_is_tokenized_once_more(monkeypatch):
    tokenizer, calls = ours(), []
    encode_batch = tokenizer._library.encode_batch_fast

    class Watched:
        def encode_batch_fast(self, texts, add_special_tokens):
            calls.append(list(texts))
            return encode_batch(texts, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(tokenizer, "_library", Watched())
    texts = ["a", None, "b", ("a", "b", "c"), "c"]
    assert [isinstance(item, InputError) for item in tokenizer.encode_each(texts)] == [False, True, False, True, False]
    assert calls == [texts, ["a"], ["b"], [("a", "b", "c")], ["c"]]


def test_a_triple_is_an_input_error():
    with pytest.raises(InputError, match="text 1 cannot be tokenized") as caught:
        TOKENIZER.encode(["a", ("a", "b", "c")])
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("text", "truncation"),
    [
        (("a b c d", "a b c d"), Truncation(5, "only_second")),  # the first text alone is longer
        ("a b c d", Truncation(4, "only_second")),
        (("a", "b"), Truncation(2)),  # three special tokens
    ],
)
def test_what_cannot_be_cut_so_is_an_input_error_with_its_index(text, truncation):
    with pytest.raises(InputError, match="text 1 cannot be") as caught:
        TOKENIZER.encode(["a", text], truncation=truncation)
    assert caught.value.index == 1


def test_a_panic_while_tokenizing_is_an_input_error():
    tokenizer = ours(library(pre_tokenizer={"type": "FixedLength", "length": 0}))  # chunks of no length
    with pytest.raises(InputError, match="text 1: the tokenizer panics: ") as caught:
        tokenizer.encode(["", "a b"])
    assert caught.value.index == 1


class PanicException(BaseException):
    """As pyo3 raises it: no Exception."""


class Failing:
    """A tokenizer of the library that raises: for a text always, from the keyboard or another signal once."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[tokenizers.Encoding]:
        once = isinstance(self.error, KeyboardInterrupt | SystemExit | TimeoutError)
        if "b" in texts and not (once and len(texts) == 1):
            raise self.error
        return library().encode_batch_fast(texts, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (PanicException("index out\nof range"), InputError, "text 1: the tokenizer panics: index out of range"),
        (ValueError("no"), InputError, "text 1 cannot be tokenized: no"),
        (Exception("no"), InputError, "text 1 cannot be tokenized: no"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (TimeoutError("a second"), TimeoutError, "a second"),
        (SystemExit(3), SystemExit, "3"),
    ],
)
def test_what_the_library_raises(monkeypatch, error, raised, message):
    tokenizer = ours()
    monkeypatch.setattr(tokenizer, "_library", Failing(error))
    with pytest.raises(raised) as caught:
        tokenizer.encode(["a", "b"])
    assert str(caught.value) == message


def test_texts_that_are_too_much_together_are_tokenized_one_by_one(monkeypatch):
    tokenizer, encode_batch = ours(), TOKENIZER._library.encode_batch_fast

    class Small:
        def encode_batch_fast(self, texts, add_special_tokens):
            if len(texts) > 1:
                raise MemoryError
            return encode_batch(texts, add_special_tokens=add_special_tokens)

    wanted = [encoding.ids for encoding in tokenizer.encode(["a", "b c"])]
    monkeypatch.setattr(tokenizer, "_library", Small())
    assert [encoding.ids for encoding in tokenizer.encode(["a", "b c"])] == wanted


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "cannot read it"),
        (b"{}", "cannot read it"),
        (b"\xff\xfe", "cannot read it"),
        (b"[" * 5000, "cannot read it"),
        (library().to_str().encode()[:-9], "cannot read it"),
        (b'{"version":"9.0","model":{"type":"Oracle"}}', "cannot read it"),
    ],
)
def test_a_broken_file_is_a_bundle_error(data, complaint):
    with pytest.raises(BundleError, match=rf"^b/tokenizer\.json: the tokenizers library {complaint}"):
        Tokenizer(data, SPEC, "b/tokenizer.json")


def test_a_file_that_the_library_panics_on_is_a_bundle_error():
    document = json.loads(library().to_str()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    with pytest.raises(BundleError, match=r"the tokenizers library (panics on|cannot read) it"):
        Tokenizer(json.dumps(document).encode(), SPEC)


def test_a_panic_while_reading_is_a_bundle_error(monkeypatch):
    def from_buffer(data):
        raise PanicException("so bad")

    monkeypatch.setattr(tokenization.tokenizers, "Tokenizer", type("Tokenizer", (), {"from_buffer": from_buffer}))
    with pytest.raises(BundleError, match="panics on it: so bad"):
        Tokenizer(b"{}", SPEC)


def test_sixteen_threads_give_what_one_gives():
    texts = ["a b c d " * repeats for repeats in range(1, 9)]
    ways = [None, *(Truncation(length) for length in range(3, 13))]
    wanted = {way: [expected(text, way).ids for text in texts] for way in ways}
    tokenizer = ours()

    def work(seed: int) -> None:
        for step in range(40):
            way = ways[(seed * 7 + step * (seed + 1)) % len(ways)]
            assert [encoding.ids for encoding in tokenizer.encode(texts, truncation=way)] == wanted[way]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


@pytest.mark.parametrize(
    ("strategy", "max_length", "truncation"),
    [
        (True, None, Truncation(6)),
        (True, 4, Truncation(4)),
        ("longest_first", 9, Truncation(9)),
        ("only_first", None, Truncation(6, "only_first")),
        ("only_second", None, Truncation(6, "only_second")),
        (False, 4, None),
        (None, 4, None),
        ("do_not_truncate", 4, None),
        (True, 2, Truncation(2)),
    ],
)
def test_truncation_arguments(strategy, max_length, truncation):
    assert TOKENIZER.truncation(strategy, max_length) == truncation


def test_a_model_without_a_maximum_is_not_truncated_unasked():
    tokenizer = ours(spec=TokenizerSpec(None, None, "right", 0, 0, ("input_ids",)))
    assert tokenizer.truncation(True, None) is None
    assert tokenizer.truncation(True, 5) == Truncation(5)


@pytest.mark.parametrize(
    ("strategy", "max_length", "complaint"),
    [
        ("longest", None, "truncation is 'longest', wanted True, False, 'longest_first', 'only_first'"),
        ([], None, "truncation is"),
        (True, 0, "max_length is 0, wanted a whole number from 1"),
        (True, True, "max_length is True, wanted"),
        (True, 3.0, "max_length is 3.0"),
        (True, "9", "max_length is '9'"),
        (True, 1, "max_length is 1, less than the 2 special tokens"),
    ],
)
def test_truncation_arguments_refused(strategy, max_length, complaint):
    with pytest.raises(InputError, match=complaint):
        TOKENIZER.truncation(strategy, max_length)


@pytest.mark.parametrize("thorough", [False, True])
def test_largest_id(thorough):
    assert ours().largest_id(thorough=thorough) == 7
    built = library()
    built.add_tokens(["new", "newer"])
    tokenizer = ours(built)
    assert tokenizer.largest_id(thorough=thorough) == 9
    assert tokenizer.vocabulary == 10


def test_largest_id_of_a_vocabulary_with_holes():
    built = library(model={"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 900}, "unk_token": "[UNK]"})
    assert ours(built).largest_id(thorough=True) == 900


def test_the_sample_bundles_tokenizer(sample_bundle):
    tokenizer = Tokenizer((sample_bundle / "tokenizer.json").read_bytes(), SPEC)
    [encoding] = tokenizer.encode(["a good film"], offsets=True)
    assert encoding.tokens == ["[CLS]", "a", "good", "film", "[SEP]"]
    assert encoding.offsets[1:-1] == [(0, 1), (2, 6), (7, 11)]
    assert tokenizer.largest_id() == tokenizer.largest_id(thorough=True) == tokenizer.vocabulary - 1
