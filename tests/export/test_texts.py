"""The texts that judge: the set that ships with the package, and the user's own."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from torchless.errors import InputError, InputTypeError
from torchless_export.texts import DEFAULT_SOURCE, default_texts, load_texts, over_long


def test_the_default_set_is_large_distinct_and_varied():
    texts = default_texts()
    assert len(set(texts)) == len(texts) >= 700
    assert sum(isinstance(text, tuple) for text in texts) >= 50
    singles = [text for text in texts if isinstance(text, str)]
    assert "" in singles
    assert max(map(len, singles)) > 1000
    alphabets = {"Ѐ-ӿ", "؀-ۿ", "一-鿿", "가-힣", "ऀ-ॿ"}
    for low, high in ((a[0], a[-1]) for a in alphabets):
        assert any(low <= character <= high for text in singles for character in text), (low, high)


def test_the_default_set_proves_an_agreement():
    texts = load_texts(None)
    assert texts.source == DEFAULT_SOURCE
    assert len(texts.judging) > 500
    assert any(isinstance(text, tuple) for text in texts.judging)


@pytest.mark.parametrize("count", [2, 5, 100, 3000])
def test_no_calibrating_text_judges(count: int):
    texts = load_texts([f"text {i}" for i in range(count)])
    assert texts.calibrating
    assert texts.judging
    assert not set(texts.calibrating) & set(texts.judging)
    assert len(texts.judging) <= 1000
    assert len(texts.calibrating) <= 1024
    assert texts == load_texts([f"text {i}" for i in range(count)])


def test_duplicates_are_dropped():
    texts = load_texts(["a", "b", "a", ("a", "b"), ("a", "b"), {"text": "b"}])
    assert sorted(map(str, texts.judging + texts.calibrating)) == ["('a', 'b')", "a", "b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.txt", "one\ntwo\nthree\n"),
        ("texts.tsv", "one\t0\ntwo\t1\nthree\t0\n"),
        ("texts.csv", "label,sentence\n0,one\n1,two\n0,three\n"),
        ("texts.jsonl", "".join(json.dumps({"text": word}) + "\n" for word in ("one", "two", "three"))),
        ("texts.txt.gz", "one\ntwo\nthree\n"),
    ],
)
def test_a_file_is_read_as_run_reads_it(tmp_path: Path, name: str, content: str):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    texts = load_texts(path)
    assert texts.source == name
    assert sorted(map(str, texts.judging + texts.calibrating)) == ["one", "three", "two"]


@pytest.mark.parametrize(("given", "judging"), [(10, 8), (400, 320), (500, 499), (505, 500), (700, 560), (3000, 1000)])
def test_those_that_prove_come_first(given: int, judging: int):
    texts = load_texts([f"text {i}" for i in range(given)])
    assert len(texts.judging) == judging
    assert len(texts.calibrating) >= 1
    assert not set(texts.judging) & set(texts.calibrating)


@pytest.mark.parametrize("given", [[], ["same", "same"]])
def test_too_few_texts_are_refused(given: list[str]):
    with pytest.raises(InputError, match="different texts, at least 2 are needed"):
        load_texts(given)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        load_texts(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("item", [3, None, b"bytes", ("one",), ("one", 2), ("a", "b", "c")])
def test_what_is_no_text_is_refused_by_its_place(item: object):
    with pytest.raises(InputTypeError, match="input 1 is") as caught:
        load_texts(["fine", item])
    assert caught.value.index == 1


@pytest.mark.parametrize("texts", [["a few", ("words", "more")], ["", " "], ["x"]])
def test_over_long_is_long_enough(texts: list):
    for characters in (1, 100, 5000):
        assert len(over_long(texts, characters)) >= characters


LABELS = ("NEGATIVE", "POSITIVE")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.tsv", "good\t1\nbad\t0\nfine\t1\ngood\t0\n"),
        ("texts.csv", "label,sentence\nPOSITIVE,good\nNEGATIVE,bad\n1,fine\n"),
        (
            "texts.jsonl",
            '{"text": "good", "label": 1}\n{"text": "bad", "label": "NEGATIVE"}\n{"text": "fine", "label": 1}\n',
        ),
        ("texts.csv", "text,is it\ngood,1\nbad,0\nfine,1\n"),
    ],
)  # fmt: skip
def test_labels_are_read_where_a_file_says_them(tmp_path: Path, name: str, content: str):
    path = tmp_path / name
    path.write_text(content)
    texts = load_texts(path, LABELS)
    assert texts.labels is not None
    wanted = {"good": 1, "bad": 0, "fine": 1}
    assert dict(zip(texts.judging, texts.labels, strict=True)) == {text: wanted[str(text)] for text in texts.judging}
    assert load_texts(path).labels is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.txt", "good\nbad\nfine\n"),
        ("texts.tsv", "good\tthe rest\nbad\t0\nfine\t1\n"),
        ("texts.tsv", "good\t2\nbad\t0\nfine\t1\n"),
        ("texts.csv", "text\ngood\nbad\nfine\n"),
        ("texts.jsonl", '{"text": "good"}\n{"text": "bad"}\n'),
    ],
)
def test_a_file_without_labels_has_none(tmp_path: Path, name: str, content: str):
    path = tmp_path / name
    path.write_text(content)
    assert load_texts(path, LABELS).labels is None


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("texts.jsonl", ['{"text": "good", "label": 1}', '{"text": "bad", "label": 0}', '{"text": "%s"}']),
        ("texts.csv", ["good,1", "bad,0", "%s"]),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_without_a_label_among_others_is_refused(tmp_path: Path, name: str, rows: list[str], place: int):
    path = tmp_path / name
    head = ["text,label"] if name == "texts.csv" else []
    others = rows[:2]
    path.write_text("\n".join([*head, *others[:place], rows[2] % "fine", *others[place:]]))
    with pytest.raises(InputError, match=rf"^{name}: line {len(head) + place + 1}: no label, which other rows have; "):
        load_texts(path, LABELS)


@pytest.mark.parametrize("value", ["neutral", "2", "-1", ""])
def test_a_column_label_of_other_labels_is_refused(tmp_path: Path, value: str):
    path = tmp_path / "texts.csv"
    path.write_text(f"text,label\ngood,1\nbad,{value}\n")
    with pytest.raises(
        InputError, match=r"texts\.csv: line 3: the label .* is none of the model's 2, wanted 'NEGATIVE'"
    ):
        load_texts(path, LABELS)


def test_only_what_the_original_can_answer_is_kept():
    texts = load_texts([*default_texts()[:300], *(f"text {i}" for i in range(300))])
    labelled = dataclasses.replace(texts, labels=tuple(range(len(texts.judging))))
    chosen = labelled.chosen(lambda text: isinstance(text, str) and "a" in text)
    assert 20 < len(chosen.judging) < len(texts.judging)
    for kept, before in ((chosen.calibrating, texts.calibrating), (chosen.widening, texts.widening)):
        assert kept == tuple(text for text in before if isinstance(text, str) and "a" in text)
        assert 0 < len(kept) < len(before)
    assert [texts.judging[label] for label in chosen.labels or ()] == list(chosen.judging)
    assert texts.chosen(lambda text: True) == texts


@pytest.mark.parametrize("kept", ["judging", "calibrating"])
def test_texts_of_which_the_original_can_answer_none_are_refused(kept: str):
    texts = load_texts(["a", "b", "c"])
    with pytest.raises(InputError, match=r"^texts given by the caller: the tokenizer gives no tokens for these texts"):
        texts.chosen(getattr(texts, kept).__contains__)


def test_more_texts_widen_ranges_than_the_users_and_none_of_them_judges():
    assert load_texts(None).widening == ()
    texts = load_texts([*default_texts()[:300], "another"])
    assert len(texts.widening) >= 30
    assert not set(texts.widening) & set(texts.judging)
