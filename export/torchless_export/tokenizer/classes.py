"""transformers' tokenizer classes as data: what a class gives a checkpoint that does not say it itself.

Sources: the `__init__` signatures of `models/*/tokenization_*_fast.py` in transformers 4.57.6 and of
`models/*/tokenization_*.py` in 5.23.0; which class a `model_type` stands for: `models/auto/tokenization_auto.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# In transformers' own order, which decides the ids of those that a vocabulary lacks.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_IDS_MASK = ("input_ids", "attention_mask")
_IDS_TYPES_MASK = ("input_ids", "token_type_ids", "attention_mask")
_Options = Mapping[str, Mapping[str, bool]]


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """One class of transformers, without the "Fast" at the end of its name.

    Attributes:
        name: as `tokenizer_config.json` names it.
        tokens: special tokens where the config names none; by attribute ("pad_token").
        extra: further special tokens where the config names none.
        inputs4, inputs5: `model_input_names` in transformers 4 and 5.
        options4, options5: which tokens transformers 4 and 5 turn from plain strings into `AddedToken`s, and with
            which options.
    """

    name: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    inputs4: tuple[str, ...] = _IDS_TYPES_MASK
    inputs5: tuple[str, ...] = _IDS_TYPES_MASK
    options4: _Options = field(default_factory=dict)
    options5: _Options = field(default_factory=dict)


def _tokens(**contents: str) -> Mapping[str, str]:
    return {f"{name}_token": content for name, content in contents.items()}


_BERT = _tokens(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_ROBERTA = _tokens(bos="<s>", eos="</s>", unk="<unk>", sep="</s>", pad="<pad>", cls="<s>", mask="<mask>")
_DEBERTA = _tokens(bos="[CLS]", eos="[SEP]", unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_ALBERT = _tokens(bos="[CLS]", eos="[SEP]", unk="<unk>", sep="[SEP]", pad="<pad>", cls="[CLS]", mask="[MASK]")
_MPNET = _tokens(bos="<s>", eos="</s>", unk="[UNK]", sep="</s>", pad="<pad>", cls="<s>", mask="<mask>")
_MPNET_OPTIONS = {name: {"lstrip": name == "mask_token", "rstrip": False} for name in NAMED_TOKENS}
_MASK_TAKES_SPACE: _Options = {"mask_token": {"lstrip": True, "rstrip": False}}
_RAW_MASK_TAKES_SPACE: _Options = {"mask_token": {"lstrip": True, "rstrip": False, "normalized": False}}
_CAMEMBERT_MASK: _Options = {"mask_token": {"lstrip": True, "special": True}}

# What has no class of its own: transformers 4's PreTrainedTokenizerFast, 5's TokenizersBackend.
GENERIC = TokenizerClass("PreTrainedTokenizerFast", inputs5=_IDS_MASK)

CLASSES: Mapping[str, TokenizerClass] = {
    row.name: row
    for row in (
        TokenizerClass("BertTokenizer", _BERT),
        TokenizerClass("ElectraTokenizer", _BERT),
        TokenizerClass("DistilBertTokenizer", _BERT, inputs4=_IDS_MASK, inputs5=_IDS_MASK),
        TokenizerClass(
            "MPNetTokenizer",
            _MPNET,
            inputs4=_IDS_MASK,
            inputs5=_IDS_MASK,
            options4=_MPNET_OPTIONS,
            options5=_MPNET_OPTIONS,
        ),
        TokenizerClass(
            "RobertaTokenizer", _ROBERTA, inputs4=_IDS_MASK, inputs5=_IDS_MASK, options4=_RAW_MASK_TAKES_SPACE
        ),
        TokenizerClass(
            "XLMRobertaTokenizer", _ROBERTA, inputs4=_IDS_MASK, inputs5=_IDS_MASK, options4=_MASK_TAKES_SPACE
        ),
        TokenizerClass(
            "CamembertTokenizer",
            _ROBERTA,
            extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
            inputs4=_IDS_MASK,
            inputs5=_IDS_MASK,
            options4=_CAMEMBERT_MASK,
            options5=_CAMEMBERT_MASK,
        ),
        TokenizerClass("AlbertTokenizer", _ALBERT, inputs5=_IDS_MASK, options4=_RAW_MASK_TAKES_SPACE),
        TokenizerClass("DebertaTokenizer", _DEBERTA),
        TokenizerClass("DebertaV2Tokenizer", _DEBERTA),
        GENERIC,
    )
}

# model_type to the class of a checkpoint that names none, in transformers 4 and 5. Where the second is the generic
# one, transformers 5 takes it whatever the checkpoint names.
MODEL_TYPES: Mapping[str, tuple[str, str]] = {
    "albert": ("AlbertTokenizer", "AlbertTokenizer"),
    "bert": ("BertTokenizer", "BertTokenizer"),
    "camembert": ("CamembertTokenizer", "CamembertTokenizer"),
    "deberta": ("DebertaTokenizer", "DebertaTokenizer"),
    "deberta-v2": ("DebertaV2Tokenizer", "DebertaV2Tokenizer"),
    "distilbert": ("DistilBertTokenizer", "BertTokenizer"),
    "electra": ("ElectraTokenizer", "BertTokenizer"),
    "modernbert": (GENERIC.name, GENERIC.name),
    "mpnet": ("MPNetTokenizer", "MPNetTokenizer"),
    "roberta": ("RobertaTokenizer", "RobertaTokenizer"),
    "xlm-roberta": ("XLMRobertaTokenizer", "XLMRobertaTokenizer"),
}

_GENERIC_NAMES_4 = frozenset({"PreTrainedTokenizer", "PreTrainedTokenizerFast"})
_GENERIC_NAMES_5 = _GENERIC_NAMES_4 | {"TokenizersBackend", "TokenizersBackendFast"}


def class_in_4(name: str | None, model_type: str) -> TokenizerClass | None:
    """Return the class that transformers 4 takes for a checkpoint that names `name`; None: it knows no such class."""
    if name is None:
        name = MODEL_TYPES.get(model_type, ("", ""))[0]
    return GENERIC if name in _GENERIC_NAMES_4 else CLASSES.get(name.removesuffix("Fast"))


def class_in_5(name: str | None, model_type: str) -> TokenizerClass | None:
    """Return the class that transformers 5 takes for a checkpoint that names `name`; an unknown name is generic to it.

    None where nothing is named and the `model_type` is unknown here.
    """
    registered = MODEL_TYPES.get(model_type, (None, None))[1]
    if name is None:
        return CLASSES[registered] if registered is not None else None
    if registered == GENERIC.name or name in _GENERIC_NAMES_5:
        return GENERIC
    return CLASSES.get(name.removesuffix("Fast"), GENERIC)
