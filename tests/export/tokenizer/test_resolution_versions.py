"""Where two versions of transformers make different tokenizers of the same files: which counts, and what is said."""

from __future__ import annotations

import base64
import copy
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from torchless.errors import CheckpointError, TorchlessWarning
from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import quiet
from torchless_export.tokenizer import TokenizersReference, resolve

pytest.importorskip("transformers")

import transformers

from resolved_tokenizers import (
    FAMILIES,
    ODDITIES,
    OPTIONS,
    VERSION,
    Families,
    Write,
    assert_as_in_transformers,
    assert_resolved,
    assert_same,
    auto,
    resolved,
)

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
