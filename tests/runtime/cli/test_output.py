"""What `torchless run` writes, in each format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from torchless.cli import output
from torchless.cli.output import ResultWriter
from torchless.errors import InputError
from torchless.records import Record, open_records
from written_results import NICE, POOR, one_line, record, written


class TestJsonLines:
    def test_one_label(self) -> None:
        found = written([record("a"), record('"é\n\u2028')], [NICE, POOR])
        assert found == (
            '{"text": "a", "label": "POSITIVE", "score": 0.99}\n'
            '{"text": "\\"é\\n\u2028", "label": "NEGATIVE", "score": 0.01}\n'
        )

    def test_top_k(self) -> None:
        found = written([record("a"), record("b")], [[NICE, POOR], [POOR]], top_k=2)
        assert found == (
            '{"text": "a", "scores": [{"label": "POSITIVE", "score": 0.99}, {"label": "NEGATIVE", "score": 0.01}]}\n'
            '{"text": "b", "scores": [{"label": "NEGATIVE", "score": 0.01}]}\n'
        )

    def test_pair_and_columns(self) -> None:
        item = record("a", "b", n={"k": [None, 1.5, "é"]}, id=7, unasked=0)
        assert written([item], [NICE], pair=True, columns=["id", "n"]) == (
            '{"text": "a", "text_pair": "b", "id": 7, "n": {"k": [null, 1.5, "é"]}, '
            '"label": "POSITIVE", "score": 0.99}\n'
        )

    @pytest.mark.parametrize("top_k", [None, 1, 2])
    @given(text=st.text(st.characters()), pair=st.text(), column=st.text() | st.floats(), score=st.floats(0, 1))
    def test_is_what_json_makes_of_it(self, top_k: int | None, text: str, pair: str, column: Any, score: float) -> None:
        name, label = 'a "b"\n', "é\\"
        given_scores = [{"label": label, "score": score}] * (top_k or 1)
        stdout = io.BytesIO()
        with ResultWriter(None, columns=[name], pair=True, top_k=top_k, stdout=stdout) as writer:
            item = record(text, pair, **{name: column})
            writer.write_all([item, item], [given_scores if top_k else given_scores[0]] * 2)
        fields = {"text": text, "text_pair": pair, name: column}
        fields |= {"scores": given_scores} if top_k else given_scores[0]
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        assert stdout.getvalue() == (line * 2).encode("utf-8", "backslashreplace")

    def test_a_lone_surrogate_comes_back(self) -> None:
        found = written([record("a\ud800é", m={"\udfff": "\udc00"})], [NICE], columns=["m"])
        assert '"a\\ud800é"' in found
        assert json.loads(found)["text"] == "a\ud800é"
        assert json.loads(found)["m"] == {"\udfff": "\udc00"}

    @pytest.mark.parametrize("format_name", ["jsonl", "csv"])
    def test_a_column_nested_too_deeply(self, format_name: str) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(InputError, match=r"line 1: .*nested too deeply") as error:
            written([record("a", m=deep)], [NICE], format_name, columns=["m"])
        one_line(error)
        while deep:  # taken apart here, as freeing it at once would recurse
            deep = deep.pop()


class TestTables:
    def test_csv(self) -> None:
        items = [record("a"), record('b, "c"\n'), record(" d\re\ttab"), record("")]
        assert written(items, [NICE, POOR, NICE, POOR], "csv") == (
            'text,label,score\na,POSITIVE,0.99\n"b, ""c""\n",NEGATIVE,0.01\n'
            '" d\re\ttab",POSITIVE,0.99\n,NEGATIVE,0.01\n'
        )

    def test_tsv(self) -> None:
        items = [record('a "b", c'), record("d\te\r\nf\ng\0h")]
        assert written(items, [NICE, POOR], "tsv") == (
            'text\tlabel\tscore\na "b", c\tPOSITIVE\t0.99\nd e  f g h\tNEGATIVE\t0.01\n'
        )

    def test_a_nul_becomes_a_space_in_csv(self) -> None:
        assert "a b" in written([record("a\0b")], [NICE], "csv")

    def test_a_lone_surrogate(self) -> None:
        assert "a\\ud800," in written([record("a\ud800")], [NICE], "csv")

    @pytest.mark.parametrize(("format_name", "separator"), [("csv", ","), ("tsv", "\t")])
    def test_top_k(self, format_name: str, separator: str) -> None:
        items = [record("a", "b", id=1), record("c", "d", id=2), record("e", "f", id=3)]
        found = written(items, [[NICE, POOR], [POOR], []], format_name, top_k=2, pair=True, columns=["id"])
        assert found.replace(separator, "|").splitlines() == [
            "text|text_pair|id|label_1|score_1|label_2|score_2",
            "a|b|1|POSITIVE|0.99|NEGATIVE|0.01",
            "c|d|2|NEGATIVE|0.01||",
            "e|f|3||||",
        ]

    def test_top_1_is_numbered_too(self) -> None:
        assert written([record("a")], [[NICE]], "csv", top_k=1) == "text,label_1,score_1\na,POSITIVE,0.99\n"

    def test_columns_that_are_not_strings_are_json(self) -> None:
        item = record("a", s="1", n=1, x=None, m={"é": ["b", True]})
        assert written([item], [NICE], "tsv", columns=["s", "n", "x", "m"]).splitlines()[1] == (
            'a\t1\t1\tnull\t{"é": ["b", true]}\tPOSITIVE\t0.99'
        )

    def test_names_and_labels_are_quoted_too(self) -> None:
        item = record("a", **{"b,c": "d"})
        found = written([item], [{"label": "e,f", "score": 0.5}], "csv", columns=["b,c"])
        assert found == 'text,"b,c",label,score\na,d,"e,f",0.5\n'

    def test_no_result_at_all(self) -> None:
        assert written([], [], "csv") == "text,label,score\n"
        assert written([], []) == ""


@pytest.mark.parametrize("format_name", output.FORMATS)
@pytest.mark.parametrize("score", [0.1 + 0.2, 1e-17, 1.0, 0.0, 5e-324, 0.9999999403953552])
def test_a_score_reads_back_as_the_same_float(format_name: str, score: float) -> None:
    found = written([record("a")], [{"label": "x", "score": score}], format_name)
    assert repr(score) in found


class TestArguments:
    def test_format(self) -> None:
        with pytest.raises(InputError, match="format 'xml'; wanted one of jsonl, csv, tsv"):
            ResultWriter(None, "xml")

    @pytest.mark.parametrize("name", ["text", "text_pair", "label", "score", "scores"])
    @pytest.mark.parametrize("format_name", output.FORMATS)
    def test_a_column_cannot_take_a_name_of_the_output(self, name: str, format_name: str) -> None:
        with pytest.raises(InputError, match=f"column '{name}' cannot be added") as error:
            ResultWriter(None, format_name, columns=["id", name])
        one_line(error)

    def test_numbered_names_are_taken_with_top_k(self) -> None:
        ResultWriter(None, "csv", columns=["label_1", "score_2"])
        ResultWriter(None, "csv", columns=["label_3", "label_0"], top_k=2)
        for name in ("label_1", "score_2"):
            with pytest.raises(InputError, match=f"column '{name}'"):
                ResultWriter(None, "csv", columns=[name], top_k=2)

    def test_a_column_is_given_once(self) -> None:
        with pytest.raises(InputError, match="column 'id'"):
            ResultWriter(None, columns=["id", "id"])

    def test_more_labels_than_promised(self) -> None:
        with pytest.raises(ValueError, match="3 labels; wanted at most 2"):
            written([record("a")], [[NICE, POOR, POOR]], top_k=2)
        with pytest.raises(ValueError, match="2 labels; wanted at most 1"):
            written([record("a")], [[NICE, POOR]])

    def test_writing_outside_the_with_statement(self, tmp_path: Path) -> None:
        writer = ResultWriter(str(tmp_path / "out"))
        with pytest.raises(ValueError, match="not open"):
            writer.write(record("a"), NICE)
        with writer:
            pass
        with pytest.raises(ValueError, match="not open"):
            writer.write(record("a"), NICE)


# Properties: what is written reads back, by the readers of others and by our own.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \",\t\n\r'\\é\u2028\x85\0\ufeff"))
SCORES = st.floats(0, 1)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, SCORES), max_size=6)
Rows = list[tuple[str, str, float]]
property_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def both(rows: Rows) -> tuple[list[Record], list[dict[str, Any]]]:
    records = [record(text, label, extra=text + label) for text, label, _ in rows]
    return records, [{"label": label, "score": score} for _, label, score in rows]


@property_settings
@given(rows=ROWS)
def test_jsonl_round_trip(rows: Rows) -> None:
    found = written(*both(rows), pair=True, columns=["extra"])
    assert [json.loads(line) for line in found.split("\n")[:-1]] == [
        {"text": text, "text_pair": label, "extra": text + label, "label": label, "score": score}
        for text, label, score in rows
    ]


@property_settings
@given(rows=ROWS)
def test_csv_round_trip(rows: Rows) -> None:
    found = written(*both(rows), "csv", pair=True, columns=["extra"])
    cells = list(csv.reader(io.StringIO(found, newline=""), strict=True))
    assert cells[0] == ["text", "text_pair", "extra", "label", "score"]
    assert [(*row[:-1], float(row[-1])) for row in cells[1:]] == [
        (*(cell.replace("\0", " ") for cell in (text, label, text + label, label)), score)
        for text, label, score in rows
    ]


@property_settings
@given(rows=ROWS)
def test_tsv_round_trip(rows: Rows) -> None:
    found = written(*both(rows), "tsv", pair=True, columns=["extra"])
    clean: Callable[[str], str] = lambda cell: "".join(" " if c in "\t\n\r\0" else c for c in cell)  # noqa: E731
    cells = [line.split("\t") for line in found.split("\n")[:-1]]
    assert cells[0] == ["text", "text_pair", "extra", "label", "score"]
    assert [(*row[:-1], float(row[-1])) for row in cells[1:]] == [
        (*(clean(cell) for cell in (text, label, text + label, label)), score) for text, label, score in rows
    ]


@pytest.mark.parametrize("format_name", output.FORMATS)
@property_settings
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, SCORES), min_size=1, max_size=6))
@example(rows=[("\0\ufeff", "\r", 0.5)])
def test_records_reads_what_was_written(tmp_path: Path, format_name: str, rows: Rows) -> None:
    path = str(tmp_path / f"out.{format_name}")
    with ResultWriter(path, format_name) as writer:
        for item, result in zip(*both(rows), strict=True):
            writer.write(item, result)
    with open_records(path, columns=["label"]) as reader:
        found = [(item.text, item.columns["label"]) for item in reader]
    lost = {"jsonl": "", "csv": "\0", "tsv": "\0\t\r\n"}[format_name]
    spaces = str.maketrans(lost, " " * len(lost))
    assert found == [(text.translate(spaces), label.translate(spaces)) for text, label, _ in rows]
