"""A tokenizer is loaded as the transformers that is installed loads it, 4 or 5: the same tokenizer.json in the end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import quiet
from torchless_export.tokenizer import transformers4, transformers5
from torchless_export.tokenizer.sources import LoadedTokenizer, LoadError, read_sources

transformers = pytest.importorskip("transformers")
VERSION = int(transformers.__version__.split(".")[0])

FAMILIES = (
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
    "xlm-roberta",
)  # fmt: skip
CLASSES = (
    "AlbertTokenizer", "BertTokenizerFast", "CamembertTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer",
    "DistilBertTokenizer", "ElectraTokenizerFast", "MPNetTokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast",
    "RobertaTokenizer", "TokenizersBackend", "XLMRobertaTokenizer", "NobodysTokenizer",
)  # fmt: skip


def options(**changes: bool) -> dict[str, Any]:
    given = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return given | changes


# What may stand under each key of tokenizer_config.json, beside nothing at all.
TOKENS = (
    "[CLS]", "<s>", "[MASK]", "<mask>", "<new>", "hello", None,
    {"__type": "AddedToken", "content": "[MASK]", **options()},
    {"__type": "AddedToken", "content": "<mask>", **options(lstrip=True, special=False)},
)  # fmt: skip
KEYS: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (True, False),
    "keep_accents": (True, False),
    "remove_space": (True, False),
    "split_by_punct": (True, False),
    "add_prefix_space": (True, False),
    "trim_offsets": (True, False),
    "unk_id": (0, 3),
    "padding_side": ("left", "right", "up"),
    "truncation_side": ("left", "right"),
    "model_max_length": (8, int(1e30)),
    "max_len": (9,),
    "model_input_names": (["input_ids"], ["input_ids", "attention_mask", "token_type_ids"]),
    "additional_special_tokens": ([], ["<extra>"], ["hello", {"__type": "AddedToken", "content": "<e>", **options()}]),
    "extra_special_tokens": ({}, {"image_token": "<image>"}, [], ["<extra>", "<2>"], None),
    "image_token": ("<picture>",),
    "tokenizer_file": (None,),
    "backend": ("tokenizers",),
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), TOKENS
    ),
}
LOWER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
NORMALIZERS = (
    None, LOWER | {"lowercase": True}, LOWER | {"lowercase": False, "handle_chinese_chars": False},
    LOWER | {"lowercase": False, "strip_accents": True, "clean_text": False}, {"type": "Lowercase"},
    {"type": "Sequence", "normalizers": [{"type": "NFC"}, LOWER | {"lowercase": False}]},
)  # fmt: skip
BYTES = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS = (
    {"type": "BertPreTokenizer"}, BYTES | {"add_prefix_space": True}, BYTES | {"add_prefix_space": False},
    {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, BYTES | {"add_prefix_space": True}]},
    {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
)  # fmt: skip
PROCESSORS = (
    None,
    {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": False,
        "add_prefix_space": True,
    },
    BYTES | {"add_prefix_space": True},
)
STORED_PADDING = {
    "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 5, "pad_type_id": 1,
    "pad_token": "hello",
}  # fmt: skip
STORED_TRUNCATION = {"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0}

FLAGS = ("lstrip", "rstrip", "normalized", "")
MAPS = (
    None, None, {"cls_token": "[CLS]"}, {"mask_token": {"content": "<new>", "lstrip": True}},
    {"additional_special_tokens": ["<1>"]}, {"extra_special_tokens": ["<1>"]},
    {"additional_special_tokens": [{"content": "<1>", "rstrip": True}]},
)  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """What is done to a family's published files."""
    keys = draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=4, unique=True))
    parts = draw(st.lists(st.sampled_from(["normalizer", "pre_tokenizer", "post_processor"]), max_size=1))
    values = {"normalizer": NORMALIZERS, "pre_tokenizer": PRE_TOKENIZERS, "post_processor": PROCESSORS}
    return {
        "config": {key: draw(st.sampled_from(KEYS[key])) for key in keys},
        "without": draw(st.lists(st.sampled_from(["added_tokens_decoder", "tokenizer_class", *KEYS]), max_size=3)),
        "bare": draw(st.integers(0, 9)) == 0,
        "class": draw(st.sampled_from([None, None, None, *CLASSES])),
        "parts": {part: draw(st.sampled_from(values[part])) for part in parts},
        "padding": draw(st.integers(0, 5)) == 0,
        "truncation": draw(st.integers(0, 5)) == 0,
        "added": draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(FLAGS)), max_size=2)),
        "decoded": draw(st.lists(st.sampled_from(["drop", "new", "lstrip"]), max_size=2)),
        "map": draw(st.sampled_from(MAPS)),
        "added_tokens": draw(st.sampled_from([None, None, None, {"<late>": 999}, {"<mask>": 4, "<new>": 998}])),
    }  # fmt: skip


def change(family: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `write` for a family's files, changed."""
    document, config = copy.deepcopy(family["document"]), copy.deepcopy(family["config"])
    config |= how["config"]
    document |= how["parts"]
    if how["padding"]:
        document["padding"] = STORED_PADDING
    if how["truncation"]:
        document["truncation"] = STORED_TRUNCATION
    for index, flag in how["added"]:
        if index < len(document["added_tokens"]):
            if flag:
                document["added_tokens"][index][flag] ^= True
            else:
                del document["added_tokens"][index]
    decoder = config["added_tokens_decoder"]
    for action in how["decoded"]:
        first = min(decoder, key=int)
        if action == "drop" and len(decoder) > 1:
            del decoder[first]
        elif action == "new":
            decoder["900"] = {"content": "<late>", **options(special=False, normalized=True)}
        else:
            decoder[first]["lstrip"] = True
    for key in how["without"]:
        config.pop(key, None)
    if how["class"]:
        config["tokenizer_class"] = how["class"]
    return {
        "document": document,
        "config": {} if how["bare"] else config,
        "special_tokens_map": how["map"],
        "added_tokens": how["added_tokens"],
    }


def original(folder: Path) -> Any:
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(folder)
        except Exception:
            return None


def load(folder: Path) -> LoadedTokenizer | LoadError:
    try:
        return (transformers4 if VERSION == 4 else transformers5).load(read_sources(open_checkpoint(folder)))
    except LoadError as error:
        return error


def without_settings(text: str) -> dict[str, Any]:
    document = json.loads(text)
    for key in ("padding", "truncation", "decoder"):
        document.pop(key)
    return document


def check(folder: Path) -> None:
    wanted, found = original(folder), load(folder)
    if wanted is None:
        assert isinstance(found, LoadError)
        return
    assert isinstance(found, LoadedTokenizer), str(found)
    assert without_settings(found.backend.to_str()) == without_settings(wanted.backend_tokenizer.to_str())
    assert set(found.inputs) == set(wanted.model_input_names)
    assert found.tokens.get("pad_token") == wanted.pad_token
    assert found.pad_id == wanted.pad_token_id
    assert (found.padding_side, found.truncation_side) == (wanted.padding_side, wanted.truncation_side)
    assert found.max_length in (wanted.model_max_length, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_tokenizer(families: Mapping[str, Any], write: Callable[..., Path], family: str):
    check(write(family, **families[family]))
    check(write(family, families[family]["document"], {"model_max_length": 512}))
    check(write(family, families[family]["document"]))


LSTRIP = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
# Rarely met by chance: what is done to the config, and the files beside it.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a token in two roles, with other options": (
        "bert", {"cls_token": {"__type": "AddedToken", "content": "<new>", **LSTRIP}, "sep_token": "<new>"}, {},
    ),
    "a string takes the options of the token listed": (
        "xlm-roberta",
        {
            "added_tokens_decoder": {"70": {"content": "<mask>", **options()}},
            "part": ("added_tokens", lambda tokens: [token | {"rstrip": True} for token in tokens]),
        },
        {},
    ),
    "a token of added_tokens.json in a role": (
        "xlm-roberta", {"added_tokens_decoder": "absent", "mask_token": "<late>"}, {"added_tokens": {"<late>": 900}},
    ),
    "a token of added_tokens.json in a plain role": (
        "bert", {"added_tokens_decoder": "absent", "pad_token": "<late>"}, {"added_tokens": {"<late>": 900}},
    ),
    "a token of added_tokens.json that nothing names": (
        "albert", {"added_tokens_decoder": "absent"}, {"added_tokens": {"Late": 900}},
    ),
    "tokens of special_tokens_map.json beside the config's": (
        "bert",
        {"added_tokens_decoder": "absent", "additional_special_tokens": ["<1>", "<2>"]},
        {"special_tokens_map": {"additional_special_tokens": ["<2>", {"content": "<3>", **LSTRIP}, "<1>"]}},
    ),
    "no space before the text": ("deberta-v2", {"add_prefix_space": False}, {}),
    "no post-processor": ("modernbert", {"part": ("post_processor", lambda _: None)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_rare_case(families: Mapping[str, Any], write: Callable[..., Path], case: str):
    family, changed, beside = CASES[case]
    document, config = copy.deepcopy(families[family]["document"]), families[family]["config"] | changed
    if "part" in config:
        part, changing = config.pop("part")
        document[part] = changing(document[part])
    check(write(family, document, {key: value for key, value in config.items() if value != "absent"}, **beside))


@given(family=st.sampled_from(FAMILIES), how=changes())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_tokenizer(families: Mapping[str, Any], write: Callable[..., Path], family: str, how: Mapping[str, Any]):
    arguments = change(families[family], how)
    if how["class"] == "NobodysTokenizer":
        arguments["config"] = {"tokenizer_class": "NobodysTokenizer", "model_max_length": 8}
    check(write(family, **arguments))
