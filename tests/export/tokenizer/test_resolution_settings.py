"""What tokenizer_config.json says beside tokenizer.json: flags, sides, lengths, tokens that only one of them has."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import tokenizers

pytest.importorskip("transformers")

from resolved_tokenizers import (
    BERT_LIKE,
    ODDITIES,
    OPTIONS,
    VERSION,
    Families,
    Write,
    assert_as_in_transformers,
    assert_resolved,
    is_copied,
    resolved,
)


@pytest.mark.parametrize("family", [*BERT_LIKE, "mpnet"])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("given", [True, False, None])
def test_do_lower_case_wins_over_tokenizer_json(
    families: Families, write: Write, family: str, stored: bool, given: bool | None
):
    document, config = copy.deepcopy(families[family]["document"]), dict(families[family]["config"])
    document["normalizer"]["lowercase"] = stored
    config["do_lower_case"] = given
    if given is None:
        del config["do_lower_case"]
    folder = write(family, document, config)
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.tokenizer_json)["normalizer"]["lowercase"] == (given is not False)
    assert not found.notes
    assert is_copied(found, folder)
    assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize(
    ("key", "attribute", "value"),
    [
        ("strip_accents", "strip_accents", False),
        ("strip_accents", "strip_accents", True),
        ("tokenize_chinese_chars", "handle_chinese_chars", False),
    ],
)
@pytest.mark.parametrize("family", BERT_LIKE)
def test_the_normalizer_s_other_keys(
    families: Families, write: Write, family: str, key: str, attribute: str, value: bool
):
    folder = write(family, families[family]["document"], families[family]["config"] | {key: value})
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.tokenizer_json)["normalizer"][attribute] is value
    assert not found.notes
    assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_add_prefix_space_and_trim_offsets_of_roberta(families: Families, write: Write, stored: bool, given: bool):
    document = copy.deepcopy(families["roberta"]["document"])
    document["pre_tokenizer"]["add_prefix_space"] = stored
    document["post_processor"] |= {"add_prefix_space": stored, "trim_offsets": stored}
    config = families["roberta"]["config"] | {"add_prefix_space": given, "trim_offsets": given}
    folder = write("roberta", document, config)
    found = json.loads(assert_resolved(folder, write, ODDITIES).tokenizer_json)
    assert found["pre_tokenizer"]["add_prefix_space"] is given
    assert (found["post_processor"]["add_prefix_space"], found["post_processor"]["trim_offsets"]) == (given, given)
    assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize("key", ["padding_side", "truncation_side"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_sides(families: Families, write: Write, family: str, key: str):
    folder = write(family, families[family]["document"], families[family]["config"] | {key: "left"})
    found = assert_resolved(folder, write, ODDITIES)
    assert found.config[key] == "left"
    assert is_copied(found, folder)
    assert_as_in_transformers(folder, ODDITIES)


STORED = {
    "padding": {
        "strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 7, "pad_type_id": 3,
        "pad_token": "[UNK]",
    },
    "truncation": {"direction": "Left", "max_length": 4, "strategy": "OnlySecond", "stride": 1},
}  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_stored_padding_and_truncation(families: Families, write: Write, family: str):
    document, config = families[family]["document"] | STORED, dict(families[family]["config"])
    del config["pad_token"]
    folder = write(family, document, config)
    found = assert_resolved(folder, write, ODDITIES)
    assert (found.config["padding_side"], found.config["truncation_side"]) == ("left", "left")
    assert found.config["pad_token"] == ("[PAD]" if family == "bert" else "[UNK]")
    assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize("given", [int(1e30), 10, None])
def test_maximum_length(families: Families, write: Write, given: int | None):
    config = dict(families["bert"]["config"])
    del config["model_max_length"]
    folder = write("bert", families["bert"]["document"], config | ({"model_max_length": given} if given else {}))
    found = assert_resolved(folder, write, ODDITIES)
    assert found.config["model_max_length"] == given
    assert (
        resolved(write("bert", families["bert"]["document"], config | {"pad_token_type_id": 3})).config[
            "pad_token_type_id"
        ]
        == 0
    )
    old = resolved(write("bert", families["bert"]["document"], config | {"max_len": 11}))
    assert old.config["model_max_length"] == 11


TYPED = {"__type": "AddedToken", **OPTIONS}
# Tokens that tokenizer.json lacks, in every place where a checkpoint may keep them.
MORE_TOKENS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bert", {"config": {"additional_special_tokens": ["<e>", "[MASK]"]}}),
    ("roberta", {"config": {"additional_special_tokens": ["<e>", TYPED | {"content": "<f>"}]}}),
    ("bert", {"config": {"extra_special_tokens": {"image_token": "<e>"}}}),
    ("bert", {"config": {"pad_token": "<e>"}}),
    ("xlm-roberta", {"config": {"mask_token": TYPED | {"content": "<e>"}}}),
    ("bert", {"decoder": {"200": {"content": "<e>", **OPTIONS, "special": False}}}),
    ("bert", {"legacy": True, "special_tokens_map": {"additional_special_tokens": ["<e>"]}}),
    ("mpnet", {"legacy": True, "special_tokens_map": {"mask_token": {"content": "<e>", "lstrip": True}}}),
    ("albert", {"legacy": True, "added_tokens": {"<e>": 300}}),
)  # fmt: skip


@pytest.mark.parametrize(("family", "more"), MORE_TOKENS)
def test_tokens_that_tokenizer_json_lacks(families: Families, write: Write, family: str, more: dict[str, Any]):
    config = copy.deepcopy(families[family]["config"]) | more.get("config", {})
    config["added_tokens_decoder"] |= more.get("decoder", {})
    if "legacy" in more:
        del config["added_tokens_decoder"]
    beside = {key: more[key] for key in ("special_tokens_map", "added_tokens") if key in more}
    folder = write(family, families[family]["document"], config, **beside)
    texts = [*ODDITIES, "film<e>", "a <e> b<f> c <e>", ("<e>", "x <e>")]
    found = assert_resolved(folder, write, texts)
    assert tokenizers.Tokenizer.from_str(found.tokenizer_json).token_to_id("<e>") is not None
    assert_as_in_transformers(folder, texts)


def test_tokens_that_the_config_lacks_stay(families: Families, write: Write):
    document = copy.deepcopy(families["bert"]["document"])
    document["added_tokens"].append({"id": 300, "content": "<e>", **OPTIONS})
    folder = write("bert", document, families["bert"]["config"])
    texts = [*ODDITIES, "film <e>", "<e>"]
    found = assert_resolved(folder, write, texts)
    assert "5 would change the added_tokens <e>, and give" in found.notes[0]
    if VERSION == 4:
        assert_as_in_transformers(folder, texts)
