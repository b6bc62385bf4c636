"""The resolved tokenizer.json gives the ids of transformers, of the version installed, and so does the bundle."""

from __future__ import annotations

import base64
import copy
import json
import re
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchless.errors import CheckpointError, TorchlessWarning
from torchless.hub_layout import read_tokenizer_spec
from torchless.tokenization import Tokenizer
from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import quiet
from torchless_export.tokenizer import ResolvedTokenizer, TokenizersReference, resolve

transformers = pytest.importorskip("transformers")
VERSION = int(transformers.__version__.split(".")[0])
SHARED = Path(__file__).parents[4] / "shared"

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
WORDS = (
    "film", "Film", "CAFÉ", "cafe\u0301", "hello", "中", "Ａ", "ﬁ", ".", "'s", "1", "[MASK]", "<mask>", "<new>", "<e>",
    "[cls]", "</s>", "q", "▁",
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from([*WORDS, " ", "  ", "\t", "\n"]), max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
INPUTS = st.lists(st.one_of(TEXTS, st.tuples(TEXTS, TEXTS)), min_size=1, max_size=4)


def resolved(folder: Path) -> ResolvedTokenizer:
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
    with quiet():
        return transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, texts: Sequence[Any], max_length: int | None) -> dict[str, Any]:
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    with quiet():
        return dict(tokenizer(list(texts), padding=len(texts) > 1, return_tensors="np", **cut))


def batches(texts: Sequence[Any], pads: bool) -> list[Sequence[Any]]:
    return [*([text] for text in texts), *([texts] if pads and len(texts) > 1 else [])]


def assert_same(wanted: Any, reference: TokenizersReference, texts: Sequence[Any], pads: bool = True) -> None:
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
    path = folder / "tokenizer_config.json"
    return path.exists() and found.files["tokenizer_config.json"] == path.read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_tokenizer(families: Families, write: Write, family: str):
    folder = write(
        family, **families[family], special_tokens_map={"mask_token": "[MASK]"} if family == "bert" else None
    )
    found = assert_resolved(folder, write, ODDITIES)
    departs = family in ("deberta", "deberta-v2")  # what transformers 5 builds is another tokenizer
    assert bool(found.notes) == departs
    # ALBERT's gives a model token_type_ids in 4 and none in 5, which only the generic class can be told.
    assert is_copied(found, folder) == (not departs and family != "albert")
    if VERSION == 4 or not departs:
        assert_as_in_transformers(folder, ODDITIES)
    wanted = json.dumps(families[family]["document"], sort_keys=True)
    assert json.dumps(json.loads(found.tokenizer_json), sort_keys=True) == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", [None, {}, {"model_max_length": 12}])
def test_a_tokenizer_config_that_says_nothing(families: Families, write: Write, family: str, config: Any):
    folder = write(family, families[family]["document"], config)
    found = assert_resolved(folder, write, ODDITIES)
    if family == "modernbert":  # the generic class has no special tokens of its own
        assert json.loads(found.files["special_tokens_map.json"]) == {}
        assert found.config["pad_token"] is None
        return
    special = json.loads(found.files["special_tokens_map.json"])
    assert special["pad_token"] == found.config["pad_token"] == families[family]["config"]["pad_token"]
    if VERSION == 4:
        assert_as_in_transformers(folder, ODDITIES)


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


# What 5 makes of these and 4 leaves to tokenizer.json: kept, with a warning that names the part.
DEPARTURES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("deberta-v2", {}, "the normalizer, and"),
    ("deberta-v2", {"split_by_punct": True}, "the normalizer, the pre_tokenizer, and"),
    ("deberta", {}, "the post_processor, and"),
    ("albert", {"do_lower_case": False}, "the normalizer, and"),
    ("albert", {"keep_accents": True}, "the normalizer, and"),
    ("xlm-roberta", {"add_prefix_space": False}, r'pretokenizers\.1\.prepend_scheme from "always" to "never", and'),
    ("camembert", {"add_prefix_space": False}, r'pretokenizers\.1\.prepend_scheme from "always" to "never", and'),
    ("bert", {"cls_token": "the"}, "the post_processor, and"),
    ("bert", {"unk_token": "the"}, r'model\.unk_token from "\[UNK\]" to "the", and'),
    ("mpnet", {"tokenize_chinese_chars": False}, r"normalizer\.handle_chinese_chars from true to false, and"),
    ("roberta", {"sep_token": "<unk>"}, "the post_processor, and"),
)


@pytest.mark.parametrize(("family", "config", "part"), DEPARTURES)
def test_where_transformers_5_departs_tokenizer_json_is_kept(
    families: Families, write: Write, family: str, config: dict[str, Any], part: str
):
    document = families[family]["document"]
    folder = write(family, document, families[family]["config"] | config)
    with pytest.warns(TorchlessWarning, match=rf"tokenizer\.json: kept as it is, .* 4 does; 5 would change .*{part}"):
        found = resolve(open_checkpoint(folder))
    kept = json.loads(found.tokenizer_json)
    for key in ("normalizer", "pre_tokenizer", "post_processor", "model"):
        assert kept[key] == document[key]
    assert json.loads(found.files["tokenizer_config.json"])["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert_resolved(folder, write, ODDITIES)
    if VERSION == 4:
        assert_as_in_transformers(folder, ODDITIES)
    else:  # and it does depart
        with pytest.raises(AssertionError, match="input_ids of"):
            assert_as_in_transformers(folder, ODDITIES)


def test_a_normalizer_of_its_own_is_kept(families: Families, write: Write):
    document = copy.deepcopy(families["bert"]["document"])
    document["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}
    folder = write("bert", document, families["bert"]["config"])
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.tokenizer_json)["normalizer"] == document["normalizer"]
    assert "5 would change the normalizer, the pre_tokenizer, and" not in found.notes[0]
    assert "5 would change the normalizer, and give other ids for" in found.notes[0]


def test_what_is_written_keeps_the_space_before_the_text(families: Families, write: Write):
    folder = write(
        "deberta", families["deberta"]["document"], families["deberta"]["config"] | {"add_prefix_space": True}
    )
    found = assert_resolved(folder, write, ODDITIES)
    assert found.notes
    assert json.loads(found.tokenizer_json)["pre_tokenizer"]["add_prefix_space"] is True


def test_a_flag_that_no_id_depends_on_contradicts_nothing(families: Families, write: Write):
    document, config = (
        copy.deepcopy(families["deberta-v2"]["document"]),
        copy.deepcopy(families["deberta-v2"]["config"]),
    )
    document["added_tokens"].append({"id": 200, "content": "<e>", **OPTIONS, "special": False})
    config["added_tokens_decoder"]["200"] = {"content": "<e>", **OPTIONS, "special": False}
    config["additional_special_tokens"] = ["<e>"]  # special in 4, not in 5
    folder = write("deberta-v2", document, config)
    assert "5 would change the normalizer, and give" in assert_resolved(folder, write, ODDITIES).notes[0]


def test_no_post_processor(families: Families, write: Write):
    folder = write(
        "modernbert", families["modernbert"]["document"] | {"post_processor": None}, families["modernbert"]["config"]
    )
    found = assert_resolved(folder, write, ODDITIES)
    assert is_copied(found, folder)
    assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize(("stored", "given"), [(True, None), (True, False), (False, True)])
def test_files_that_contradict_each_other_are_refused(
    families: Families, write: Write, stored: bool, given: bool | None
):
    document, config = copy.deepcopy(families["modernbert"]["document"]), dict(families["modernbert"]["config"])
    document["pre_tokenizer"]["add_prefix_space"] = stored
    if given is not None:
        config["add_prefix_space"] = given
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer_config\.json: contradicts tokenizer\.json: transformers 4 changes "
        rf"pre_tokenizer\.add_prefix_space from {str(stored).lower()} to {str(bool(given)).lower()} by it, "
        r"and 5 does not do the same; "
        r"make the two files agree; or torchless\[optimum\]",
    ):
        resolve(open_checkpoint(write("modernbert", document, config)))
    agreeing = write("modernbert", document, config | {"add_prefix_space": stored})
    assert_resolved(agreeing, write, ODDITIES)
    assert_as_in_transformers(agreeing, ODDITIES)


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


# Tokens that tokenizer.json lacks, in every place where a checkpoint may keep them.
OPTIONS = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
TYPED = {"__type": "AddedToken", **OPTIONS}
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


def test_what_transformers_5_saves(families: Families, write: Write):
    document, config = families["modernbert"]["document"], dict(families["modernbert"]["config"])
    del config["added_tokens_decoder"]
    saved = config | {
        "tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True, "local_files_only": False,
        "extra_special_tokens": ["hello"],
    }  # fmt: skip
    folder = write("modernbert", document, saved)
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.files["special_tokens_map.json"])["additional_special_tokens"] == ["hello"]
    assert not found.notes
    if VERSION == 5:
        assert_as_in_transformers(folder, ODDITIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_version_installed_saves(families: Families, write: Write, family: str, tmp_path: Path):
    original = auto(write(family, **families[family]))
    with quiet():
        original.save_pretrained(tmp_path)
    config, special = tmp_path / "tokenizer_config.json", tmp_path / "special_tokens_map.json"
    folder = write(
        family,
        (tmp_path / "tokenizer.json").read_text(encoding="utf-8"),
        json.loads(config.read_text(encoding="utf-8")),
        json.loads(special.read_text(encoding="utf-8")) if special.exists() else None,
        model_config={"transformers_version": transformers.__version__},
    )
    found = assert_resolved(folder, write, ODDITIES)
    assert set(found.inputs) == set(original.model_input_names)
    assert_same(original, TokenizersReference(open_checkpoint(folder)), ODDITIES)
    assert bool(found.notes) == (VERSION == 4 and family in ("deberta", "deberta-v2"))


def test_many_differences_are_counted(families: Families, write: Write):
    document = copy.deepcopy(families["bert"]["document"])
    for index in range(9):
        document["added_tokens"].append({"id": 300 + index, "content": f"<e{index}>", **OPTIONS})
    (note,) = resolved(write("bert", document, families["bert"]["config"])).notes
    assert (
        "the added_tokens <e0>, the added_tokens <e1>, the added_tokens <e2>, the added_tokens <e3>, 5 more, and"
        in note
    )


def test_the_version_that_saved_it_counts(families: Families, write: Write):
    for version, types in (("4.57.6", True), (None, True), ("5.23.0", False)):
        folder = write("albert", **families["albert"], model_config={"transformers_version": version})
        found = assert_resolved(folder, write, ODDITIES)
        assert ("token_type_ids" in found.inputs) == types
        assert (set(auto(folder).model_input_names) == set(found.inputs)) == ((VERSION == 4) == types)
    document = copy.deepcopy(families["deberta-v2"]["document"])
    document["normalizer"] = None
    folder = write(
        "deberta-v2", document, families["deberta-v2"]["config"], model_config={"transformers_version": "5.0"}
    )
    with pytest.raises(
        CheckpointError, match="transformers 5 changes the normalizer by it, and 4 does not do the same"
    ):
        resolve(open_checkpoint(folder))


def test_what_transformers_5_cannot_load(families: Families, write: Write):
    # A BERT class around a byte-level model: 4 asks only for a normalizer.
    document = families["modernbert"]["document"] | {"normalizer": {"type": "Lowercase"}}
    config = families["modernbert"]["config"] | {"tokenizer_class": "CamembertTokenizer"}
    found = assert_resolved(write("camembert", document, config), write, ODDITIES)
    assert found.notes == ()


def test_a_class_of_another_name(families: Families, write: Write):
    document = families["modernbert"]["document"]
    config = {"tokenizer_class": "NobodysTokenizer", "model_max_length": 9, "pad_token": "[PAD]"}
    folder = write("bert", document, config)
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.tokenizer_json) == document
    if VERSION == 5:
        assert_as_in_transformers(folder, ODDITIES)


REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("bert", {"split_special_tokens": True}, r"split_special_tokens is set, which tokenizer\.json cannot hold"),
    ("bert", {"from_slow": True}, r"from_slow is True, which is not resolved here; torchless\[optimum\]"),
    ("bert", {"init_inputs": ["x"]}, r"init_inputs is \['x'\], which is not resolved here"),
    ("bert", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "fast_tokenizer_files is .*, which is not resolved"),
    ("bert", {"fix_mistral_regex": True}, "fix_mistral_regex is True"),
    ("bert", {"gguf_file": "x.gguf"}, "gguf_file is 'x.gguf'"),
    ("bert", {"tokenizer_class": 3}, "tokenizer_class is 3, wanted a class's name"),
    ("bert", {"tokenizer_class": "NobodysTokenizer"}, r"\w+ is .*, and what NobodysTokenizer makes of it is not known"),
    ("bert", {"tokenizer_class": "Nobodys", "auto_map": {"AutoTokenizer": ["a.B", None]}}, "Nobodys is code that"),
    ("bert", {"padding_side": "up"}, "no version of transformers can load the tokenizer: padding_side is 'up'"),
    ("bert", {"do_lower_case": "yes"}, "no version of transformers can load the tokenizer: "),
    ("bert", {"added_tokens_decoder": {"x": {}}}, "no version of transformers can load the tokenizer: "),
    ("funnel", {"tokenizer_class": None}, "names no tokenizer_class, and none is known here for the model_type 'fun"),
)  # fmt: skip


@pytest.mark.parametrize(("family", "config", "message"), REFUSED)
def test_what_is_not_understood_is_refused(
    families: Families, write: Write, family: str, config: dict[str, Any], message: str
):
    folder = write(family, families["bert"]["document"], families["bert"]["config"] | config)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(open_checkpoint(folder))
    assert "tokenizer_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(families: Families, write: Write):
    folder = write("bert", families["bert"]["document"] | {"model": {"type": "WordPiece", "vocab": 3}}, {})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the tokenizers library [\d.]+ cannot read it"):
        resolve(open_checkpoint(folder))
    folder = write("bert", **families["bert"])
    (folder / "special_tokens_map.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json: not valid JSON"):
        resolve(open_checkpoint(folder))
    (folder / "special_tokens_map.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json: not a JSON object"):
        resolve(open_checkpoint(folder))


def test_a_panic_of_the_library_is_a_difference(
    families: Families, write: Write, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    document = copy.deepcopy(families["deberta-v2"]["document"])
    astray = struct.pack("<II", 4, 0x1FFFFF << 10) + b"x\0"  # a trie of one unit that leads far outside
    document["normalizer"]["normalizers"][1]["precompiled_charsmap"] = base64.b64encode(astray).decode()
    monkeypatch.setattr("torchless_export.tokenizer.resolution.default_texts", lambda: ["film"])
    found = resolved(write("deberta-v2", document, families["deberta-v2"]["config"]))
    assert "panicked" in capfd.readouterr().err
    assert re.search(r"other ids for (\d+) of \1 texts", found.notes[0])


def test_ids_beyond_the_model_s_are_refused(families: Families, write: Write):
    size = tokenizers.Tokenizer.from_str(json.dumps(families["bert"]["document"])).get_vocab_size()
    config = families["bert"]["config"]
    resolve(open_checkpoint(write("bert", families["bert"]["document"], config, model_config={"vocab_size": size})))
    more = write("bert", families["bert"]["document"], config | {"pad_token": "<e>"}, model_config={"vocab_size": size})
    with pytest.raises(CheckpointError, match=rf"gives the id {size} \('<e>'\), config\.json's vocab_size is {size}"):
        resolve(open_checkpoint(more))


@given(
    family=st.sampled_from(FAMILIES),
    lower=st.sampled_from([True, False]),
    keys=st.dictionaries(
        st.sampled_from(
            [
                "do_lower_case",
                "strip_accents",
                "tokenize_chinese_chars",
                "keep_accents",
                "split_by_punct",
                "trim_offsets",
            ]
        ),
        st.booleans(),
        max_size=3,
    ),
    sides=st.dictionaries(
        st.sampled_from(["padding_side", "truncation_side"]), st.sampled_from(["left", "right"]), max_size=2
    ),
    without=st.lists(st.sampled_from(["added_tokens_decoder", "mask_token", "tokenizer_class"]), max_size=2),
    inputs=INPUTS,
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_texts(
    families: Families,
    write: Write,
    family: str,
    lower: bool,
    keys: dict[str, bool],
    sides: dict[str, str],
    without: list[str],
    inputs: list[Any],
):
    document, config = copy.deepcopy(families[family]["document"]), families[family]["config"] | keys | sides
    if family in (*BERT_LIKE, "mpnet"):
        document["normalizer"]["lowercase"] = lower
    for key in without:
        config.pop(key, None)
    folder = write(family, document, config)
    found = assert_resolved(folder, write, inputs)
    if VERSION == 4 or is_copied(found, folder):
        assert_as_in_transformers(folder, inputs)


def test_neither_transformers_nor_torch_is_needed(families: Families, write: Write):
    folder = write("bert", **families["bert"])
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('transformers', 'torch', 'onnx', 'optimum', 'safetensors')))\n"
        "from torchless_export.checkpoint import open_checkpoint\n"
        "from torchless_export.tokenizer import TokenizersReference, resolve\n"
        "checkpoint = open_checkpoint(sys.argv[1])\n"
        "resolve(checkpoint)\n"
        "print(TokenizersReference(checkpoint).encode(['a film'], None)['input_ids'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    wanted = TokenizersReference(open_checkpoint(folder)).encode(["a film"], None)["input_ids"]
    assert json.loads(done.stdout) == wanted.tolist()


def checkpoints() -> list[Any]:
    here = sorted(SHARED.glob("checkpoints/*"))
    sample = Path(__file__).parents[2] / "assets" / "sst2-tiny"
    return [pytest.param(path, id=f"{path.parent.parent.name}-{path.name}") for path in [sample, *here]]


@pytest.mark.parametrize("source", checkpoints())
def test_real_checkpoints(source: Path, write: Write):
    config = json.loads((source / "config.json").read_text())
    folder = write(config["model_type"], (source / "tokenizer.json").read_text(), model_config=config)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
    sentences = (SHARED / "data" / "sst2" / "dev.tsv").read_text().splitlines() if SHARED.exists() else []
    texts = [*(line.split("\t")[0] for line in sentences[:200]), *ODDITIES]
    found = assert_resolved(folder, write, texts)
    assert is_copied(found, folder)
    assert not found.notes
    assert_as_in_transformers(folder, texts)


def test_the_known_ids(write: Write):
    source = SHARED / "checkpoints" / "distilbert-sst2-files"
    if not source.exists():
        pytest.skip("../shared, which holds the published tokenizer, is not here")
    folder = write("distilbert", (source / "tokenizer.json").read_text())
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    told = (SHARED / "README.md").read_text()
    waiting, hate = (
        [int(number) for number in re.split(r",\s*", row)] for row in re.findall(r"\[(101, [\d, \n]+ 102)\]", told)
    )
    texts = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
    found = TokenizersReference(open_checkpoint(folder)).encode(texts, None)
    assert found["input_ids"].tolist() == [waiting, hate + [0] * (len(waiting) - len(hate))]
    assert found["attention_mask"].sum(axis=1).tolist() == [len(waiting), len(hate)]
    backend = tokenizers.Tokenizer.from_str(resolved(folder).tokenizer_json)
    assert [encoding.ids for encoding in backend.encode_batch(texts)] == [waiting, hate]
