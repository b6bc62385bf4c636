"""Tokenizers that were made to harm whoever uses them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attempts import check_refused
from hostile import edit, seal
from torchless.tokenizer_risks import find_risk

Change = Callable[[dict[str, Any]], object]


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def normalizers(*parts: dict[str, Any]) -> Change:
    return lambda tokenizer: tokenizer.update(normalizer={"type": "Sequence", "normalizers": list(parts)})


def charsmap(longest: int) -> str:
    """Return a SentencePiece map whose trie has one unit, and one replacement of so many characters."""
    return base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * longest + b"\0").decode()


def split(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def template(count: int) -> dict[str, Any]:
    piece = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [piece] * count + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }


# The library takes 4 GiB for it before it looks, and where it gets none it ends the process.
LYING_MAP = base64.b64encode(b"\xff\xff\xff\xff" + bytes(64)).decode()

# What a stranger's file may not hold without trust=True: name to how it is made, and what is said of it.
RISKS: dict[str, tuple[Change, str]] = {
    "a regex that backtracks": (normalizers(replace({"Regex": "(a|a)*$"}, "")), "the regular expression"),
    "one that splits": (lambda t: t.update(pre_tokenizer=split({"Regex": "(x+x+)+y"})), "the regular expression"),
    "one in a sequence": (
        lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split({"Regex": "(.*)*z"})]}),
        "the regular expression",
    ),
    "a replacement of a million": (normalizers(replace({"String": "a"}, "a" * 10**6)), "over 100 times as long"),
    "one between all characters": (normalizers(replace({"String": ""}, "a" * 1000)), "over 100 times as long"),
    "replacements that double": (normalizers(*[replace({"String": "a"}, "aa")] * 40), "over 100 times as long"),
    "one for a known pattern": (normalizers(replace({"Regex": " "}, " " * 1000)), "over 100 times as long"),
    "a long prefix": (normalizers({"type": "Prepend", "prepend": "a" * 10**6}), "over 100 times as long"),
    "a map to long texts": (
        normalizers({"type": "Precompiled", "precompiled_charsmap": charsmap(10**5)}),
        "over 100 times as long",
    ),
    "a map that lies about its size": (
        normalizers({"type": "Precompiled", "precompiled_charsmap": LYING_MAP}),
        "says that it is larger than it is",
    ),
    "many normalizers": (normalizers(*[{"type": "NFC"}] * 10_000), "over 100 parts"),
    "many special tokens": (lambda t: t.update(post_processor=template(10**5)), "over 100 special tokens"),
    "words without end": (
        lambda t: t["model"].update(max_input_chars_per_word=10**9),
        "words of up to 1000000000 characters",
    ),
}


@pytest.mark.parametrize("risk", RISKS)
def test_a_stranger_may_not(layout: Path, open_it: Any, risk: str) -> None:
    change, says = RISKS[risk]
    edit(layout / "tokenizer.json", change)
    check_refused(open_it(layout), says=says + ".*pass trust=True")


@pytest.mark.parametrize("risk", ["one that splits", "many normalizers"])
def test_whoever_trusts_may(layout: Path, open_it: Any, risk: str) -> None:
    edit(layout / "tokenizer.json", RISKS[risk][0])
    outcome = open_it(layout, [], trust=True)
    assert outcome.error is None, outcome


def test_what_published_tokenizers_are_made_of_is_no_risk() -> None:
    """BERT's, RoBERTa's, XLM-RoBERTa's, ALBERT's and LLaMA's parts, with the longest map that SentencePiece ships."""
    known: list[dict[str, Any]] = [
        {"normalizer": {"type": "BertNormalizer", "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
        {"normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "use_regex": True}, "post_processor": template(2)},
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    replace({"String": "``"}, '"'),
                    replace({"String": "''"}, '"'),
                    {"type": "NFKD"},
                    {"type": "StripAccents"},
                    {"type": "Lowercase"},
                    {"type": "Precompiled", "precompiled_charsmap": charsmap(18)},
                    replace({"Regex": " {2,}"}, "▁"),
                ],
            },
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"},
            "model": {"type": "Unigram", "vocab": [["<unk>", 0.0]]},
        },
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}},
        {"model": {"type": "WordPiece", "max_input_chars_per_word": 100}},
        {},
        {"normalizer": 3, "pre_tokenizer": "x", "post_processor": [], "model": None},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "no base64"}},
    ]
    assert [find_risk(tokenizer) for tokenizer in known] == [None] * len(known)


# What the library, in Rust, panics on or refuses: PyO3 raises a panic as PanicException, which is no Exception.
BROKEN: dict[str, Change] = {
    "a map that is too short": normalizers({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a map without texts": normalizers({"type": "Precompiled", "precompiled_charsmap": charsmap(0)[:8]}),
    "an unknown model": lambda t: t["model"].update(type="Markov"),
    "merges of tokens that are not there": lambda t: t.update(
        model={"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}
    ),
    "a Unigram without its unknown token": lambda t: t.update(
        model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}
    ),
    "an empty Unigram": lambda t: t.update(model={"type": "Unigram", "vocab": [], "unk_id": None}),
    "ids beyond 32 bits": lambda t: t["model"]["vocab"].update(a=1 << 40),
    "negative ids": lambda t: t["model"]["vocab"].update(a=-1),
    "a regex that does not compile": lambda t: t.update(pre_tokenizer=split({"Regex": "(("})),
    "a template of tokens that are not there": lambda t: t.update(
        post_processor=template(1) | {"special_tokens": {}}
    ),
    "a truncation of nothing": lambda t: t.update(truncation={"max_length": -1}),
    "an unknown normalizer": normalizers({"type": "Rot13"}),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_what_the_library_cannot_read(request: Any, open_it: Any, kind: str, what: str) -> None:
    folder = request.getfixturevalue(kind)
    edit(folder / "tokenizer.json", BROKEN[what])
    if kind == "bundle":
        seal(folder)
    outcome = open_it(folder, trust=True)
    check_refused(outcome, "InputError" if outcome.error == "InputError" else "BundleError")


BEYOND: dict[str, Change] = {
    "a word": lambda t: t["model"]["vocab"].update({"fine": 100_000}),
    "a word with a hole before it": lambda t: t["model"]["vocab"].update({"zzzz": (1 << 32) - 1}),
    "an added token": lambda t: t["added_tokens"].append(
        {"id": 50_000, "content": "<x>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
    ),
    "a special token of the template": lambda t: t.update(
        post_processor=template(1)
        | {"special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [99_999], "tokens": ["[CLS]"]}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BEYOND)
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_ids_beyond_the_vocabulary(request: Any, open_it: Any, kind: str, what: str) -> None:
    """No row of the embeddings is there for them: refused, or an error of the graph, and never a read beside it."""
    folder = request.getfixturevalue(kind)
    edit(folder / "tokenizer.json", BEYOND[what])
    if kind == "bundle":
        seal(folder)
    outcome = open_it(folder)
    check_refused(outcome, "InferenceError" if outcome.error == "InferenceError" else "BundleError")


def test_a_vocabulary_that_the_config_overstates(bundle: Path, open_it: Any) -> None:
    """The config says that the model has a row for it, and the graph has not."""
    edit(bundle / "tokenizer.json", BEYOND["a word"])
    edit(bundle / "config.json", lambda config: config.update(vocab_size=200_000))
    check_refused(open_it(seal(bundle), ["a fine film"]), "InferenceError", "ONNX Runtime failed")


def test_a_text_that_is_too_much(bundle: Path, open_it: Any) -> None:
    """10 MB in one text, and a file of 300,000 tokens a text: told, or cut, and nothing kept of it."""
    text = "fine " * 2_000_000
    (bundle.parent / "text").write_text(json.dumps(text))
    check_refused(open_it(bundle, [text[:100_000]]), "InputError", "position table")
