"""What the contract tests ask: texts in every form, calls, and hypothesis strategies of both."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TEXTS = ["a good film", "bad", "the plot is sad, but the actor is funny!", "never", "i love this book", "so dull"]
PAIR = {"text": "a good film", "text_pair": "is it good?"}
LONG = "the plot is dull and sad and long " * 80
LONG_PAIR = {"text": LONG[:700], "text_pair": LONG[:300]}

FORMS: dict[str, Any] = {
    "string": "a good film",
    "empty string": "",
    "list": TEXTS,
    "list of one": ["bad"],
    "dict": PAIR,
    "dict of text alone": {"text": "bad"},
    "dict without a pair": {"text": "bad", "text_pair": None},
    "dict with an empty pair": {"text": "bad", "text_pair": ""},
    "list of dicts": [PAIR, {"text": "bad"}, {"text": "never", "text_pair": "so dull, so dull"}],
    "mixed list": ["bad", PAIR],
    "old pair": [[["a good film", "is it good?"]]],
    "old pairs": [[["a good film", "is it good?"]], [["bad", "never"]], [["bad", ""]]],
    "generator": lambda: (text for text in TEXTS),
    "generator of dicts": lambda: (item for item in [PAIR, {"text": "bad"}]),
}

# Every kind of white space and what has no width; what the special tokens are called; accents and letters that
# normalizers take apart, scripts without spaces, emoji of several characters.
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2002\u2009\u200b\u200d\u2028\u2029\u202f\u205f\u3000\ufeff"
_SPECIAL = ("[SEP]", "[CLS]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", " <mask>", "<unk>", "<pad>", "##ing", "▁", "Ġ")
_ODD = (
    *("é", "e\u0301", "q\u0323\u0307", "각", "\u1100\u1161\u11a8", "ﬁ", "İ", "ß", "Ⅷ", "ﷺ", "映画", "映画は"),
    *("👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "\x00", "\ufffd"),
)
_pieces = st.one_of(
    st.text(max_size=12), *(st.sampled_from(sorted(choices)) for choices in (_SPACES, _SPECIAL, _ODD, TEXTS))
)
texts = st.one_of(
    st.lists(_pieces, max_size=8).map("".join),
    st.builds(
        lambda part, times: part * times, st.lists(_pieces, min_size=1, max_size=4).map("".join), st.integers(20, 200)
    ),
)
# As LONG_PAIR: of a pair, the tokenizers library computes every combination of the pieces that it cuts off.
_shorter = texts.map(lambda text: text[:40])
items = st.one_of(
    texts,
    st.builds(dict, text=texts),
    st.builds(dict, text=_shorter, text_pair=st.one_of(st.just(""), _shorter)),
)
inputs = st.one_of(items, st.lists(items, min_size=1, max_size=7))
calls = st.fixed_dictionaries(
    {"batch_size": st.sampled_from([None, 1, 2, 7])},
    optional={
        "top_k": st.sampled_from([1, 2, None, 99]),
        "function_to_apply": st.sampled_from(["softmax", "sigmoid", "none"]),
        "max_length": st.integers(5, 62),
    },
)
# A lone surrogate somewhere in a text: Python's str takes it, UTF-8 does not.
broken_texts = st.builds(
    lambda before, surrogate, after: before + surrogate + after,
    st.text(max_size=5),
    st.characters(categories=["Cs"]),
    st.text(max_size=5),
)
