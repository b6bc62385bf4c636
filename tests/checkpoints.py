"""Tiny random checkpoints of any family, with tokenizers made here: what `save_pretrained` writes, in kilobytes.

As a program, `python tests/checkpoints.py FOLDER NAME...` saves those of `contract_cases.py` that are named into
FOLDER/NAME, with the transformers of its interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The sample, whose graph needs no PyTorch; and any checkpoint, of weights that transformers draws.
CAN_WRITE_GRAPHS = all(importlib.util.find_spec(name) for name in ("torchless_export", "onnx", "safetensors"))
CAN_EXPORT = CAN_WRITE_GRAPHS and all(importlib.util.find_spec(name) for name in ("optimum", "transformers", "torch"))

# Small, and still a bit of everything that encoders do.
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    "albert": _COMMON | {"embedding_size": 16, "num_hidden_groups": 1},
    # As in microsoft/deberta-v3: positions are relative alone, and no text is too long.
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "position_buckets": 16,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
}
# Their positions count from the pad token's id, which is 1 there.
_COUNT_FROM_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")
_WITH_TYPES = ("bert", "electra", "albert", "deberta-v2")
_WORDS = (
    "the a an and or not is was it this that film movie book plot actor good bad great dull love hate never ever "
    "fine funny sad long short i you he she we they of in on at to for with as by from but so very too waiting life"
)
# What the trained tokenizers learn from: enough for merges and pieces in more than one script.
_CORPUS = (
    *(f"{a} {b} {c}" for a, b, c in zip(_WORDS.split(), _WORDS.split()[7:], _WORDS.split()[13:], strict=False)),
    "The plot is sad, but the actor is funny! I love this book; I hate that movie.",
    "Ein schöner, trauriger Film – größer als das Leben. L'été dernier, j'ai adoré ce film.",
    "Фильм был очень хороший, но слишком длинный. 映画はとても面白かった。 这部电影很好看。",
    "영화가 정말 재미있었다 👍🏽 👩‍👩‍👧 فيلم جميل جدا सुंदर फ़िल्म",
)


@dataclass(frozen=True)
class Recipe:
    """One checkpoint.

    Attributes:
        family: the config's `model_type`.
        tokenizer: a key of `TOKENIZERS`.
        labels, problem_type, dtype: of the model; `dtype` is how its weights are stored.
        seed: of the weights.
        options: passed to the tokenizer's constructor.
        config: overrides the model's config.
        edits: keys to set in the files that were written: {"tokenizer_config.json": {"pad_token": "[PAD]"}}.
    """

    family: str = "distilbert"
    tokenizer: str = "wordpiece"
    labels: int = 2
    problem_type: str | None = None
    dtype: str = "float32"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def save(recipe: Recipe, folder: Path) -> None:
    """Write the checkpoint into `folder`."""
    import torch
    import transformers

    fast = TOKENIZERS[recipe.tokenizer](recipe.family, dict(recipe.options))
    fast.save_pretrained(folder)
    given = {"vocab_size": len(fast), "pad_token_id": fast.pad_token_id, "num_labels": recipe.labels}
    given |= _SIZES.get(recipe.family, _COMMON) | {"problem_type": recipe.problem_type} | recipe.config
    torch.manual_seed(recipe.seed)
    model = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(recipe.family, **given)
    )
    with torch.no_grad():
        for parameter in model.parameters():  # random heads start near zero, where every label is a tie
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.to(getattr(torch, recipe.dtype)).save_pretrained(folder)
    for name, changes in recipe.edits.items():
        document = json.loads((folder / name).read_bytes()) | changes
        (folder / name).write_text(json.dumps(document), encoding="utf-8")


def _finish(family: str, backend: Any, named: dict[str, str], options: dict[str, Any]) -> Any:
    import transformers

    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if family not in _WITH_TYPES:
        inputs.remove("token_type_ids")
    given = {"model_max_length": 62, "model_input_names": inputs, **named} | options
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def _word_piece(normalize: bool) -> Callable[[str, dict[str, Any]], Any]:
    """As BERT's: words, then pieces of them; normalized to lower case without accents, or not at all."""

    def build(family: str, options: dict[str, Any]) -> Any:
        import tokenizers
        from tokenizers import models, normalizers, pre_tokenizers, processors

        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        if family in _COUNT_FROM_PAD:
            special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
        letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,!?'")
        vocabulary = dict.fromkeys([*special, "[MASK]", *_WORDS.split(), *letters, *(f"##{c}" for c in letters)])
        ids = {token: i for i, token in enumerate(vocabulary)}
        backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        if normalize:
            backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
        named = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
        return _finish(family, backend, named, options)

    return build


def _trained(model: str, normalize: bool) -> Callable[[str, dict[str, Any]], Any]:
    """As RoBERTa's ("bpe", on bytes) or XLM-RoBERTa's ("unigram"), trained on a few sentences."""

    def build(family: str, options: dict[str, Any]) -> Any:
        import tokenizers
        from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers

        special = ["<s>", "<pad>", "</s>", "<unk>"]
        # It takes the space before it, as in both of them.
        mask = AddedToken("<mask>", lstrip=True, special=True)
        trainer: Any
        if model == "bpe":
            backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            trainer = trainers.BpeTrainer(
                vocab_size=420,
                special_tokens=[*special, mask],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
            normal = [normalizers.NFC()]
        else:
            backend = tokenizers.Tokenizer(models.Unigram())
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer = trainers.UnigramTrainer(
                vocab_size=200, special_tokens=[*special, mask], unk_token="<unk>", show_progress=False
            )
            normal = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        if normalize:
            backend.normalizer = normalizers.Sequence(normal)
        backend.train_from_iterator(_CORPUS, trainer)
        start, end = (("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>")))
        if model == "bpe" and not normalize:
            backend.post_processor = processors.RobertaProcessing(end, start, trim_offsets=True, add_prefix_space=False)
        else:
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>",
                pair="<s> $A </s> $B:1 </s>:1" if family in _WITH_TYPES else "<s> $A </s> </s> $B </s>",
                special_tokens=[start, end],
            )
        named = {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": mask,
        }
        return _finish(family, backend, named, options)

    return build


# The tokenizer classes of the families, as transformers 5 makes them from a vocabulary, and whose vocabulary they get.
_NATIVE = {
    "bert": ("BertTokenizer", "wordpiece"),
    "distilbert": ("DistilBertTokenizer", "wordpiece"),
    "electra": ("ElectraTokenizer", "wordpiece"),
    "mpnet": ("MPNetTokenizer", "wordpiece"),
    "roberta": ("RobertaTokenizer", "bpe-raw"),
    "xlm-roberta": ("XLMRobertaTokenizer", "unigram"),
    "albert": ("AlbertTokenizer", "unigram"),
    "deberta-v2": ("DebertaV2Tokenizer", "unigram"),
}


def _native(family: str, options: dict[str, Any]) -> Any:
    import transformers

    name, source = _NATIVE[family]
    like = TOKENIZERS[source](family, {})
    model = json.loads(like.backend_tokenizer.to_str())["model"]
    vocabulary = model["vocab"] if isinstance(model["vocab"], dict) else [tuple(piece) for piece in model["vocab"]]
    merges = {"merges": [tuple(pair) for pair in model["merges"]]} if "merges" in model else {}
    named = {key: str(token) for key, token in like.special_tokens_map.items() if key != "mask_token"}
    return getattr(transformers, name)(vocab=vocabulary, **merges, **named, model_max_length=62, **options)


TOKENIZERS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "wordpiece": _word_piece(normalize=True),
    "wordpiece-raw": _word_piece(normalize=False),
    "bpe": _trained("bpe", normalize=True),
    "bpe-raw": _trained("bpe", normalize=False),
    "unigram": _trained("unigram", normalize=True),
    "unigram-raw": _trained("unigram", normalize=False),
    "native": _native,
}


if __name__ == "__main__":
    from contract_cases import CASES

    for case in sys.argv[2:]:
        save(CASES[case], Path(sys.argv[1]) / case)
