"""The checkpoints that the contract tests compare on, by name; see `checkpoints.Recipe`."""

from __future__ import annotations

from checkpoints import Recipe

_PROBLEMS = {
    "unset": None,
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}

# A covering design: every two choices of different columns stand in one row (tests/contract/test_cases.py).
# Family, tokenizer, labels, problem type, padding side.
TABLE = (
    ("bert", "wordpiece", 1, "regression", "right"),
    ("bert", "wordpiece-raw", 2, "single", "right"),
    ("bert", "bpe", 3, "unset", "right"),
    ("bert", "bpe-raw", 4, "multi", "left"),
    ("bert", "unigram", 7, "single", "right"),
    ("bert", "unigram-raw", 12, "multi", "right"),
    ("distilbert", "wordpiece", 2, "single", "left"),
    ("distilbert", "wordpiece-raw", 3, "multi", "left"),
    ("distilbert", "bpe", 4, "unset", "left"),
    ("distilbert", "bpe-raw", 7, "regression", "right"),
    ("distilbert", "unigram", 12, "multi", "right"),
    ("distilbert", "unigram-raw", 1, "regression", "right"),
    ("roberta", "wordpiece", 3, "single", "right"),
    ("roberta", "wordpiece-raw", 4, "multi", "right"),
    ("roberta", "bpe", 7, "multi", "right"),
    ("roberta", "bpe-raw", 12, "unset", "right"),
    ("roberta", "unigram", 1, "multi", "left"),
    ("roberta", "unigram-raw", 2, "regression", "left"),
    ("xlm-roberta", "wordpiece", 4, "single", "left"),
    ("xlm-roberta", "wordpiece-raw", 7, "regression", "left"),
    ("xlm-roberta", "bpe", 12, "single", "right"),
    ("xlm-roberta", "bpe-raw", 1, "multi", "right"),
    ("xlm-roberta", "unigram", 2, "multi", "left"),
    ("xlm-roberta", "unigram-raw", 3, "unset", "left"),
    ("albert", "wordpiece", 7, "multi", "left"),
    ("albert", "wordpiece-raw", 12, "unset", "right"),
    ("albert", "bpe", 1, "regression", "right"),
    ("albert", "bpe-raw", 2, "single", "left"),
    ("albert", "unigram", 3, "multi", "left"),
    ("albert", "unigram-raw", 4, "single", "right"),
    ("electra", "wordpiece", 12, "multi", "left"),
    ("electra", "wordpiece-raw", 1, "unset", "left"),
    ("electra", "bpe", 2, "single", "right"),
    ("electra", "bpe-raw", 3, "unset", "right"),
    ("electra", "unigram", 4, "regression", "right"),
    ("electra", "unigram-raw", 7, "unset", "left"),
    ("mpnet", "wordpiece", 1, "unset", "right"),
    ("mpnet", "wordpiece-raw", 2, "unset", "left"),
    ("mpnet", "bpe", 3, "unset", "right"),
    ("mpnet", "bpe-raw", 4, "multi", "right"),
    ("mpnet", "unigram", 7, "single", "right"),
    ("mpnet", "unigram-raw", 12, "regression", "left"),
    ("deberta-v2", "wordpiece", 2, "single", "right"),
    ("deberta-v2", "wordpiece-raw", 3, "regression", "left"),
    ("deberta-v2", "bpe", 4, "unset", "left"),
    ("deberta-v2", "bpe-raw", 7, "regression", "left"),
    ("deberta-v2", "unigram", 12, "unset", "right"),
    ("deberta-v2", "unigram-raw", 1, "multi", "left"),
)
COVERING = {
    f"{family}-{tokenizer}-{labels}-{problem}-{side}": Recipe(
        family,
        tokenizer,
        labels=labels,
        problem_type=_PROBLEMS[problem],
        seed=labels,
        # Unsaid is right: what most checkpoints leave to the default.
        options={"padding_side": side} if side == "left" else {},
    )
    for family, tokenizer, labels, problem, side in TABLE
}

# Weights stored in halves: the answers are those of the same numbers in float32.
HALF = {
    f"{dtype}-{family}": Recipe(family, tokenizer, labels=3, dtype=dtype, seed=5)
    for dtype, family, tokenizer in (
        ("float16", "bert", "wordpiece"),
        ("bfloat16", "distilbert", "wordpiece"),
        ("float16", "deberta-v2", "unigram"),
        ("bfloat16", "roberta", "bpe-raw"),
    )
}

# Saved by transformers 5 (see `by_transformers_5` in tests/contract/conftest.py): the tokenizer classes that it builds
# anew, its generic one, and special tokens without a name.
BY_TRANSFORMERS_5 = {
    f"5-{family}": Recipe(family, "native", labels=3, seed=9)
    for family in ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2")
} | {
    "5-generic": Recipe("distilbert", "bpe", labels=3, seed=9, dtype="bfloat16"),
    "5-extra-tokens": Recipe("bert", labels=3, seed=9, options={"extra_special_tokens": ["<extra>", "<more>"]}),
}

SPECIAL = {
    # transformers 5 refuses its config.
    "one-label-single": Recipe("distilbert", labels=1, problem_type="single_label_classification"),
    "named-labels": Recipe(
        "bert", labels=3, seed=3, config={"id2label": {0: "très bien", 1: "差", 2: ""}, "label2id": {}}
    ),
    "no-pad-token": Recipe("bert", options={"pad_token": None}),
    "no-maximum": Recipe("roberta", options={"model_max_length": int(1e30)}),
    "maximum-beyond-the-table": Recipe("bert", options={"model_max_length": 512}),
    "left-truncation": Recipe("bert", labels=3, options={"truncation_side": "left"}),
    "left-padding": Recipe("bert", labels=3, options={"padding_side": "left"}),
    "no-token-types": Recipe("bert", labels=3, options={"model_input_names": ["input_ids", "attention_mask"]}),
    "no-mask": Recipe("bert", labels=3, options={"model_input_names": ["input_ids", "token_type_ids"]}),
    # The tokenizer's class rewrites what tokenizer.json says.
    "class-bert": Recipe(
        "bert", labels=3, edits={"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}
    ),
    "class-roberta": Recipe(
        "roberta",
        "bpe-raw",
        labels=3,
        edits={"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}},
    ),
    # tokenizer.json says how it was last used; its side of padding and its pad token are the tokenizer's.
    "stored-padding": Recipe(
        "bert",
        labels=3,
        edits={
            "tokenizer.json": {
                "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
                "padding": {
                    "strategy": {"Fixed": 20},
                    "direction": "Left",
                    "pad_to_multiple_of": 8,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "[PAD]",
                },
            }
        },
    ),
}

CASES = COVERING | HALF | BY_TRANSFORMERS_5 | SPECIAL
