"""What is cut off, and what stays, is what the tokenizers library takes and leaves."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from torchless.truncation import Truncation, cut

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
SPECIAL = [("[CLS]", 2), ("[SEP]", 3)]
PROCESSORS = {
    "template": processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=SPECIAL
    ),
    "second text first": processors.TemplateProcessing(
        single="$A [CLS]", pair="$B:1 [SEP] $A [SEP]", special_tokens=SPECIAL
    ),
    "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
    "none": None,
}
STRATEGIES = ("longest_first", "only_first", "only_second")


def library(processor: str = "template") -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if PROCESSORS[processor] is not None:
        built.post_processor = PROCESSORS[processor]
    built.add_special_tokens(["[SEP]"])  # so that a text may hold one, which is no special token around it
    return built


def columns(encoding):
    return {
        name: getattr(encoding, name)
        for name in ("ids", "type_ids", "special_tokens_mask", "sequence_ids", "tokens", "offsets")
    }


TEXTS = st.lists(st.sampled_from([*"abcdx", "[SEP]"]), max_size=8).map(" ".join)


@given(
    st.sampled_from(sorted(PROCESSORS)),
    TEXTS,
    st.none() | TEXTS,
    st.integers(1, 12),
    st.sampled_from(STRATEGIES),
    st.sampled_from(["right", "left"]),
    st.booleans(),
)
@example("template", "a b c", None, 2, "only_first", "right", True)  # room for the special tokens alone
@example("template", "a b c", "d", 3, "only_second", "left", True)
def test_what_stays_is_what_the_library_leaves(processor, text, pair, max_length, strategy, side, special_tokens):
    whole = library(processor).encode(text, pair, add_special_tokens=special_tokens)
    if len(whole) <= max_length:
        return
    cutting = library(processor)
    cutting.enable_truncation(max_length, strategy=strategy, direction=side)
    try:
        wanted = cutting.encode(text, pair, add_special_tokens=special_tokens)
    except Exception:
        wanted = None
    if wanted is None or len(wanted) > max_length:  # it refuses, or gives it up
        with pytest.raises(ValueError):
            cut(whole, Truncation(max_length, strategy), side=side)
    else:
        found = cut(whole, Truncation(max_length, strategy), side=side, offsets=True)
        assert columns(found) == columns(wanted)
        assert len(found) == len(wanted) <= max_length


def test_tokens_and_offsets_only_where_they_are_asked_for():
    whole = library().encode("a b c d")
    found = cut(whole, Truncation(4))
    assert found.ids == [2, 4, 5, 3]
    assert found.tokens == found.offsets == []


@pytest.mark.parametrize(
    ("pair", "max_length", "strategy", "complaint"),
    [
        ("d", 2, "longest_first", "less room than for the special tokens"),
        ("d", 4, "only_first", "only the first text may be cut, and nothing would be left of it"),
        ("d", 6, "only_second", "only the second text may be cut, and nothing would be left of it"),
        (None, 3, "only_second", "a second text, which it has not"),
    ],
)
def test_what_cannot_be_cut_so(pair, max_length, strategy, complaint):
    whole = library().encode("a b c", pair)
    with pytest.raises(ValueError, match=complaint):
        cut(whole, Truncation(max_length, strategy))


def test_a_long_pair_is_cut_in_linear_time():
    # The library would keep 8,000 times 8,000 pieces.
    whole = library().encode("a " * 40_000, "b " * 40_000)
    found = cut(whole, Truncation(13))
    assert found.ids == [2, *[4] * 5, 3, *[5] * 5, 3]
