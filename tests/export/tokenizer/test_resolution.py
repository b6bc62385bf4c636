"""The resolved tokenizer.json gives the ids of transformers, of the version installed, and so does the bundle."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchless_export.checkpoint import open_checkpoint
from torchless_export.tokenizer import TokenizersReference

pytest.importorskip("transformers")

from resolved_tokenizers import (
    BERT_LIKE,
    FAMILIES,
    ODDITIES,
    SHARED,
    VERSION,
    Families,
    Write,
    assert_as_in_transformers,
    assert_resolved,
    is_copied,
    resolved,
)

WORDS = (
    "film", "Film", "CAFÉ", "cafe\u0301", "hello", "中", "Ａ", "ﬁ", ".", "'s", "1", "[MASK]", "<mask>", "<new>", "<e>",
    "[cls]", "</s>", "q", "▁",
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from([*WORDS, " ", "  ", "\t", "\n"]), max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
INPUTS = st.lists(st.one_of(TEXTS, st.tuples(TEXTS, TEXTS)), min_size=1, max_size=4)


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


def test_no_post_processor(families: Families, write: Write):
    folder = write(
        "modernbert", families["modernbert"]["document"] | {"post_processor": None}, families["modernbert"]["config"]
    )
    texts = [text for text in ODDITIES if text not in ("", " ")]  # these have no tokens now, and nothing takes them
    found = assert_resolved(folder, write, texts)
    assert is_copied(found, folder)
    assert_as_in_transformers(folder, texts)


def test_a_class_of_another_name(families: Families, write: Write):
    document = families["modernbert"]["document"]
    config = {"tokenizer_class": "NobodysTokenizer", "model_max_length": 9, "pad_token": "[PAD]"}
    folder = write("bert", document, config)
    found = assert_resolved(folder, write, ODDITIES)
    assert json.loads(found.tokenizer_json) == document
    if VERSION == 5:
        assert_as_in_transformers(folder, ODDITIES)


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
