"""Tiny tokenizers of every family, built in code, and checkpoints around them."""

from __future__ import annotations

import copy
import functools
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

_WORDS = [
    "the", "a", "and", "film", "movie", "good", "bad", "café", "cafe", "naïve", "Hello", "hello", "WORLD", "world", "'",
    "s", "x", "y",
]  # fmt: skip
_LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [*"ABCHW0123456789.,!?'é中文fi"]


@pytest.fixture(scope="session")
def families() -> Mapping[str, dict[str, Any]]:
    """Each family as it is published, by model_type: {"document": tokenizer.json, "config": tokenizer_config.json}."""
    return {name: {"document": _document(name), "config": _config(name)} for name in _BUILDERS}


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a checkpoint without a model worth the name, and returns its directory."""

    def write(
        model_type: str,
        document: Mapping[str, Any] | str,
        config: Mapping[str, Any] | None = None,
        special_tokens_map: Mapping[str, Any] | None = None,
        added_tokens: Mapping[str, int] | None = None,
        model_config: Mapping[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        files = {
            "tokenizer.json": document,
            "config.json": {"model_type": model_type, **(model_config or {})},
            "tokenizer_config.json": config,
            "special_tokens_map.json": special_tokens_map,
            "added_tokens.json": added_tokens,
        }
        for name, content in files.items():
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                (folder / name).write_text(text, encoding="utf-8")
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        return folder

    return write


def _document(family: str) -> dict[str, Any]:
    backend: tokenizers.Tokenizer = _BUILDERS[family]()
    return json.loads(backend.to_str())


def _config(family: str) -> dict[str, Any]:
    """What save_pretrained of transformers 4 writes, in short."""
    document = _document(family)
    decoder = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in document["added_tokens"]
    }
    return {"added_tokens_decoder": decoder, "model_max_length": 16, **copy.deepcopy(_CONFIGS[family])}


def _finish(backend: tokenizers.Tokenizer, mask: str, *others: str, **options: Any) -> tokenizers.Tokenizer:
    backend.add_special_tokens([*others, AddedToken(mask, special=True, normalized=False, **options)])
    return backend


def _template(backend: tokenizers.Tokenizer, first: str, last: str, separators: int = 1, pair_type: int = 1) -> None:
    between = " ".join([f"{last}:0"] * separators)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {between} $B:{pair_type} {last}:{pair_type}",
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys((first, last))],
    )


def _word_piece(pad: str, first: str, last: str, mask: str, **mask_options: Any) -> tokenizers.Tokenizer:
    # RoBERTa-like models count positions from the pad token's id, which is 1 there.
    vocabulary = dict.fromkeys([first, pad, last, "[UNK]", mask, *_WORDS, *_LETTERS, *(f"##{c}" for c in _LETTERS)])
    ids = {token: index for index, token in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _template(backend, first, last, 1 if first == "[CLS]" else 2)
    return _finish(backend, mask, first, pad, last, "[UNK]", **mask_options)


def _byte_level(special: tuple[str, ...], mask: str, **mask_options: Any) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "a"), ("Ġ", "hello"), ("Ġ", "f"), ("i", "l")]
    vocabulary = dict.fromkeys([*special, *alphabet, *(a + b for a, b in merges), mask])
    backend = tokenizers.Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(vocabulary)},
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _finish(backend, mask, *special, **mask_options)


def _unigram(special: tuple[str, ...], mask: str, unknown: str) -> tokenizers.Tokenizer:
    pieces = dict.fromkeys([*special, "▁", *(f"▁{word}" for word in _WORDS), *_LETTERS, *_WORDS, mask])
    scores = [(piece, 0.0 if piece in (*special, mask) else -1.0 - i / 7) for i, piece in enumerate(pieces)]
    backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=special.index(unknown), byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    return backend


@functools.cache
def _charsmap() -> normalizers.Normalizer:
    """A SentencePiece character map that turns a few signs into others, as nmt_nfkc does many."""
    texts = {"Ａ": "A", "ﬁ": "fi", "\t": " ", "\u3000": " ", "…": "..."}
    values, replacements = {}, b""
    for sign, text in texts.items():
        values[sign.encode()] = len(replacements)
        replacements += text.encode() + b"\0"
    # A double-array trie (darts-clone): the children of a node stand at its offset, xor their byte.
    units = [0] * 256
    nodes = {b"": 0}
    for key in sorted({whole[:length] for whole in values for length in range(len(whole))}, key=len):
        base = len(units)
        units += [0] * 256
        at = nodes[key]
        units[at] |= (at ^ base) << 10
        for byte in sorted({longer[len(key)] for longer in values if longer.startswith(key) and longer != key}):
            child = key + bytes([byte])
            nodes[child] = base ^ byte
            units[base ^ byte] |= byte
    for key, value in values.items():
        base, at = len(units), nodes[key]
        units += [0] * 256
        units[at] |= (at ^ base) << 10 | 1 << 8
        units[base] = value | 1 << 31
    trie = struct.pack(f"<{len(units)}I", *units)
    return normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + replacements)


def _bert() -> tokenizers.Tokenizer:
    return _word_piece("[PAD]", "[CLS]", "[SEP]", "[MASK]")


def _mpnet() -> tokenizers.Tokenizer:
    backend = _word_piece("<pad>", "<s>", "</s>", "<mask>", lstrip=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return backend


def _roberta() -> tokenizers.Tokenizer:
    backend = _byte_level(("<s>", "<pad>", "</s>", "<unk>"), "<mask>", lstrip=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return backend


def _deberta() -> tokenizers.Tokenizer:
    backend = _byte_level(("[PAD]", "[CLS]", "[SEP]", "[UNK]"), "[MASK]", lstrip=True)
    _template(backend, "[CLS]", "[SEP]")
    return backend


def _modernbert() -> tokenizers.Tokenizer:
    backend = _byte_level(("[UNK]", "[CLS]", "[SEP]", "[PAD]"), "[MASK]", lstrip=True)
    backend.normalizer = normalizers.NFC()
    _template(backend, "[CLS]", "[SEP]", pair_type=0)
    return backend


def _xlm_roberta() -> tokenizers.Tokenizer:
    backend = _unigram(("<s>", "<pad>", "</s>", "<unk>"), "<mask>", "<unk>")
    backend.normalizer = _charsmap()
    _template(backend, "<s>", "</s>", 2, pair_type=0)
    return _finish(backend, "<mask>", "<s>", "<pad>", "</s>", "<unk>", lstrip=True)


def _camembert() -> tokenizers.Tokenizer:
    special = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    backend = _unigram(special, "<mask>", "<unk>")
    backend.normalizer = _charsmap()
    _template(backend, "<s>", "</s>", 2, pair_type=0)
    return _finish(backend, "<mask>", *special, lstrip=True)


def _albert() -> tokenizers.Tokenizer:
    special = ("<pad>", "<unk>", "[CLS]", "[SEP]")
    backend = _unigram(special, "[MASK]", "<unk>")
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD()]
    steps += [normalizers.StripAccents(), normalizers.Lowercase(), _charsmap()]
    backend.normalizer = normalizers.Sequence(steps)
    _template(backend, "[CLS]", "[SEP]")
    return _finish(backend, "[MASK]", *special, lstrip=True)


def _deberta_v2() -> tokenizers.Tokenizer:
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    backend = _unigram(special, "[MASK]", "[UNK]")
    steps = [normalizers.Strip(), _charsmap(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always")])
    _template(backend, "[CLS]", "[SEP]")
    return _finish(backend, "[MASK]", *special)


_BUILDERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "albert": _albert,
    "bert": _bert,
    "camembert": _camembert,
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "distilbert": _bert,
    "electra": _bert,
    "modernbert": _modernbert,
    "mpnet": _mpnet,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
}
_BERT = {
    "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]",
}  # fmt: skip
_ROBERTA = {
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>",
    "sep_token": "</s>", "unk_token": "<unk>",
}  # fmt: skip
_BASIC = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_CONFIGS: dict[str, dict[str, Any]] = {
    "albert": _BERT | {
        "tokenizer_class": "AlbertTokenizer", "bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "<pad>",
        "unk_token": "<unk>", "do_lower_case": True, "keep_accents": False, "remove_space": True,
    },
    "bert": _BERT | _BASIC | {"tokenizer_class": "BertTokenizer"},
    "camembert": _ROBERTA | {
        "tokenizer_class": "CamembertTokenizer",
        "additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"],
    },
    "deberta": _BERT | {
        "tokenizer_class": "DebertaTokenizer", "bos_token": "[CLS]", "eos_token": "[SEP]", "add_prefix_space": False,
    },
    "deberta-v2": _BERT | {
        "tokenizer_class": "DebertaV2Tokenizer", "bos_token": "[CLS]", "eos_token": "[SEP]", "do_lower_case": False,
        "split_by_punct": False, "sp_model_kwargs": {}, "vocab_type": "spm",
    },
    "distilbert": _BERT | _BASIC | {"tokenizer_class": "DistilBertTokenizer"},
    "electra": _BERT | _BASIC | {"tokenizer_class": "ElectraTokenizer"},
    "modernbert": _BERT | {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"],
    },
    "mpnet": _ROBERTA | _BASIC | {"tokenizer_class": "MPNetTokenizer", "unk_token": "[UNK]"},
    "roberta": _ROBERTA | {
        "tokenizer_class": "RobertaTokenizer", "add_prefix_space": False, "trim_offsets": True, "errors": "replace",
    },
    "xlm-roberta": _ROBERTA | {"tokenizer_class": "XLMRobertaTokenizer"},
}  # fmt: skip
