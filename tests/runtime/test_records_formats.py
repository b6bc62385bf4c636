"""Each format that `torchless run` takes: where its texts are, and every way in which a line can be wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from read_records import Written, failure, read, texts
from torchless import lines, records
from torchless.records import Record


class TestText:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("one\ntwo\n", ["one", "two"]),
            ("one\ntwo", ["one", "two"]),
            ("one\r\ntwo\r\n", ["one", "two"]),
            ("\n", [""]),
            ("one\n\ntwo\n\n", ["one", "", "two", ""]),
            ("\r\n \r\n", ["", " "]),
            ("a\u2028b\x0bc\x85d\x0ce\rf\x1cg\n", ["a\u2028b\x0bc\x85d\x0ce\rf\x1cg"]),
            ("a\r\r\n", ["a\r"]),
            ("a\r", ["a\r"]),
            ('"quoted", and\ttabbed\n', ['"quoted", and\ttabbed']),
            ("\ufeffone\n\ufefftwo\n", ["one", "\ufefftwo"]),
        ],
    )
    def test_every_line_is_a_text(self, written: Written, content: str, expected: list[str]) -> None:
        assert texts(written("a.txt", content)) == expected
        assert texts(written("a.txt.gz", content)) == expected
        assert texts("-", stdin=io.BytesIO(content.encode())) == expected

    def test_records_have_their_line_and_nothing_else(self, written: Written) -> None:
        assert read(written("a.txt", "a\n\nb\n")) == [
            Record("a", None, {}, 1),
            Record("", None, {}, 2),
            Record("b", None, {}, 3),
        ]

    def test_column_1_is_the_line(self, written: Written) -> None:
        assert texts(written("a.txt", "text,b\n"), column="1") == ["text,b"]

    @pytest.mark.parametrize(
        "options",
        [{"column": "2"}, {"column": "text"}, {"pair_column": "1"}, {"columns": ["1"]}, {"columns": ["label"]}],
    )
    def test_there_are_no_other_columns(self, written: Written, options: dict[str, Any]) -> None:
        assert "no column" in str(failure(written("a.txt", "a\n"), **options))
        assert "no column" in str(failure("-", stdin=io.BytesIO(b"a\n"), **options))


class TestJsonLines:
    def test_objects_and_strings(self, written: Written) -> None:
        content = '{"text": "a", "id": 1}\n\n"b"\n  \t\r\n{"id": 2, "text": "c"}\r\n"d\\u2028"'
        assert read(written("a.jsonl", content)) == [
            Record("a", None, {}, 1),
            Record("b", None, {}, 3),
            Record("c", None, {}, 5),
            Record("d\u2028", None, {}, 6),
        ]

    def test_only_line_feeds_break_lines(self, written: Written) -> None:
        assert texts(written("a.jsonl", '{"text": "a\u2028b\x85c"}\n')) == ["a\u2028b\x85c"]

    def test_nested_values_are_kept_in_extra_columns(self, written: Written) -> None:
        path = written("a.jsonl", '{"text": "a", "m": {"k": [1, null, 2.5]}, "n": null, "z": true}\n')
        (record,) = read(path, columns=["z", "m", "n"])
        assert list(record.columns.items()) == [("z", True), ("m", {"k": [1, None, 2.5]}), ("n", None)]

    def test_pair_and_named_columns(self, written: Written) -> None:
        path = written("a.jsonl", '{"premise": "a", "hypothesis": "b", "text": "c", "1": "d"}\n')
        assert read(path, column="premise", pair_column="hypothesis") == [Record("a", "b", {}, 1)]
        assert texts(path, column="1") == ["d"]  # a field's name, not a position

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ('{"inputs": "a", "sentence": "b", "text": "c"}', "c"),
            ('{"inputs": "a", "sentence": "b"}', "b"),
            ('{"label": "x", "inputs": "a"}', "a"),
        ],
    )
    def test_default_names_in_order(self, written: Written, content: str, expected: str) -> None:
        assert texts(written("a.jsonl", content)) == [expected]

    def test_the_first_object_decides_the_default(self, written: Written) -> None:
        error = failure(written("a.jsonl", '"s"\n{"sentence": "a"}\n{"text": "b"}\n'))
        assert "line 3: no field 'sentence'; found 'text'" in str(error)
        assert error.index == 2

    @pytest.mark.parametrize(
        ("line", "options", "expected"),
        [
            ('{"review": "a"}', {}, "no column text, sentence, inputs; found 'review'; say which"),
            ("{}", {}, "found none"),
            ('{"text": 5}', {}, "field 'text' is 5; wanted a string"),
            ('{"text": null}', {}, "field 'text' is None; wanted a string"),
            ('{"text": ["a"]}', {}, "field 'text' is ['a']; wanted a string"),
            ('{"text": "a"}', {"column": "body"}, "no field 'body'; found 'text'"),
            ('{"text": "a"}', {"pair_column": "b"}, "no field 'b'"),
            ('{"text": "a", "b": 1}', {"pair_column": "b"}, "field 'b' is 1"),
            ('{"text": "a"}', {"columns": ["id"]}, "no field 'id'"),
            ('"a"', {"column": "text"}, "wanted an object"),
            ('"a"', {"columns": ["id"]}, "wanted an object"),
            ('["a"]', {}, "found ['a']; wanted an object"),
            ("5", {}, "found 5; wanted an object"),
            ("null", {}, "wanted an object"),
            ("[", {}, "not JSON (Expecting value at character"),
            ('{"text": "a"} x', {}, "not JSON (Extra data at character 15)"),
            ('{"text": "a\tb"}', {}, "not JSON (Invalid control character"),
            ("text", {}, "not JSON"),
            ("9" * 5000, {}, "not JSON (Exceeds the limit"),
            ("[" * 200_000, {}, "nested too deeply"),
            ('{"text":' * 200_000, {}, "nested too deeply"),
        ],
    )
    def test_errors_name_the_line(self, written: Written, line: str, options: dict[str, Any], expected: str) -> None:
        good = json.dumps(dict.fromkeys(["text", "body", "b", "id"], "good"))
        error = failure(written("a.jsonl", line), **options)
        assert expected in str(error)
        assert "line 1: " in str(error)
        assert error.index == 0
        if "say which" not in expected and "none" not in expected:
            error = failure(written("a.jsonl", f"{good}\n\n{line}\n{good}\n"), **options)
            assert expected in str(error)
            assert "line 3: " in str(error)
            assert error.index == 1

    def test_a_long_value_is_shortened(self, written: Written) -> None:
        assert len(str(failure(written("a.jsonl", json.dumps({"text": ["a" * 10_000] * 100}))))) < 600

    def test_a_value_just_not_too_deep_is_shown(self, written: Written) -> None:
        for depth in range(900, 1000, 5):
            failure(written("a.jsonl", "[" * depth + "]" * depth))


class TestTables:
    @pytest.mark.parametrize(
        ("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ","), ("a.tsv.gz", "\t")]
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize(
        ("rows", "options", "expected"),
        [
            (["text|n", "a|1", "b|2"], {}, ["a", "b"]),
            (["n|text", "1|a", "2|b"], {}, ["a", "b"]),
            (["inputs|sentence|text", "a|b|c"], {}, ["c"]),
            (["inputs|sentence", "a|b"], {}, ["b"]),
            (["n|inputs", "a|b"], {}, ["b"]),
            (["Text|n", "a|1"], {}, ["Text", "a"]),
            (["a|1", "b|2"], {}, ["a", "b"]),
            (["a", "b"], {}, ["a", "b"]),
            (["", "a|1", "", "", "b|2", ""], {}, ["a", "b"]),
            (["", "n|text", "", "1|b", ""], {}, ["b"]),
            (["a|1", "b|2"], {"column": "2"}, ["1", "2"]),
            (["text|n", "b|2"], {"column": "2"}, ["2"]),
            (["review|n", "b|2"], {"column": "review"}, ["b"]),
            (["review|text", "b|2"], {"column": "review"}, ["b"]),
            (["review|n", "b|2"], {"column": "1", "columns": ["n"]}, ["b"]),
            (["review|n", "b|2"], {"column": "1", "columns": ["2"]}, ["review", "b"]),
            (["text|text|n", "a|b|c"], {"column": "n"}, ["c"]),
            (["text|text|n", "a|b|c"], {"column": "2"}, ["b"]),
            (["a|1|", "b|2|"], {}, ["a", "b"]),
            (["text|n", "b|2||"], {}, ["b"]),
            (["text|n|m", "b|2"], {}, ["b"]),
            (["text|n", "|2"], {}, [""]),
            ([" | ", "a|b"], {}, [" ", "a"]),
        ],
    )
    def test_where_the_text_is(
        self,
        written: Written,
        name: str,
        separator: str,
        end: str,
        rows: list[str],
        options: dict[str, Any],
        expected: list[str],
    ) -> None:
        content = end.join(rows).replace("|", separator)
        assert texts(written(name, content), **options) == expected
        assert texts(written(name, content + end), **options) == expected

    @pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
    @pytest.mark.parametrize(
        ("rows", "options", "line", "index", "expected"),
        [
            (["a|1"], {"column": "text"}, 1, 0, "no column 'text'; found 'a', '1'"),
            (["a|1"], {"column": ""}, 1, 0, "no column ''; found 'a', '1'"),
            (["text|n"], {"column": "review"}, 1, 0, "no column 'review'; found 'text', 'n'"),
            (["text|n"], {"pair_column": "m"}, 1, 0, "no column 'm'; found 'text', 'n'"),
            (["text|n"], {"columns": ["n", "m"]}, 1, 0, "no column 'm'; found 'text', 'n'"),
            (["review|n", "a|1"], {"columns": ["n"]}, 1, 0, "no column text, sentence, inputs; found 'review', 'n'"),
            (["text|n|text", "a|1|b"], {}, 1, 0, "column 'text' found 2 times"),
            (["text|n|n", "a|1|b"], {"columns": ["n"]}, 1, 0, "column 'n' found 2 times"),
            (["text|n", "", "a|1", "b"], {"columns": ["n"]}, 4, 1, "cells found: 1; wanted 2"),
            (["text|n", "b"], {"pair_column": "n"}, 2, 0, "cells found: 1; wanted 2"),
            (["a|1", "b"], {"column": "2"}, 2, 1, "cells found: 1; wanted 2"),
            (["a|1", "b|1"], {"column": "3"}, 1, 0, "cells found: 2; wanted 3"),
            (["a|1"], {"column": "999999999"}, 1, 0, "cells found: 2; wanted 999999999"),
            (["a|1"], {"column": "9" * 5000}, 1, 0, "no column '999"),
            (["text|n", "a|1", "a|b|1"], {}, 3, 1, "cells found: 3; wanted 2 as in the first"),
            (["a|1", "a|b|1"], {}, 2, 1, "cells found: 3; wanted 2 as in the first"),
        ],
    )
    def test_errors_name_the_line(
        self,
        written: Written,
        name: str,
        separator: str,
        rows: list[str],
        options: dict[str, Any],
        line: int,
        index: int,
        expected: str,
    ) -> None:
        error = failure(written(name, "\n".join(rows).replace("|", separator)), **options)
        assert f"line {line}: {expected}" in str(error)
        assert error.index == index

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
    @pytest.mark.parametrize("options", [{"column": "0"}, {"pair_column": "00"}, {"columns": ["1", "0"]}])
    def test_columns_are_counted_from_1(self, written: Written, name: str, options: dict[str, Any]) -> None:
        assert "counted from 1" in str(failure(written(name, "a\n"), **options))

    def test_pair_and_extra_columns(self, written: Written) -> None:
        path = written("a.csv", "id,text,other,label\n1,a,b,x\n2,c,d,y\n")
        assert read(path, pair_column="other", columns=["label", "1"]) == [
            Record("a", "b", {"label": "x", "1": "1"}, 2),
            Record("c", "d", {"label": "y", "1": "2"}, 3),
        ]
        assert list(read(path, columns=["label", "1"])[0].columns) == ["label", "1"]

    def test_only_a_header(self, written: Written) -> None:
        assert "no record" in str(failure(written("a.csv", "text,label\n")))
        assert "no record" in str(failure(written("a.tsv", "text\tlabel\n")))

    def test_sst2_is_headerless(self) -> None:
        path = Path(__file__).parents[3] / "shared/data/sst2/dev.tsv"
        if not path.exists():
            pytest.skip("the shared data are not here")
        found = read(str(path), columns=["2"])
        assert len(found) == 872
        assert found[0] == Record("one long string of cliches", None, {"2": "0"}, 1)
        assert {record.columns["2"] for record in found} == {"0", "1"}
        assert [record.line for record in found] == list(range(1, 873))


class TestTsv:
    def test_quotes_are_plain(self, written: Written) -> None:
        content = '"half open\t0\na "quoted" word\t1\n""\t2\n'
        assert texts(written("a.tsv", content)) == ['"half open', 'a "quoted" word', '""']

    def test_only_line_feeds_break_lines(self, written: Written) -> None:
        assert texts(written("a.tsv", "a\rb\u2028c\x0b\x85\td\n")) == ["a\rb\u2028c\x0b\x85"]


class TestCsv:
    def test_rfc_4180(self, written: Written) -> None:
        content = 'text,n\n"a, ""b""\nc\r\nd",1\n"",2\n"e",3\n a "f" \u2028 ,4\n'
        found = read(written("a.csv", content), columns=["n"])
        assert [(record.text, record.columns["n"], record.line) for record in found] == [
            ('a, "b"\nc\r\nd', "1", 2),
            ("", "2", 5),
            ("e", "3", 6),
            (' a "f" \u2028 ', "4", 7),
        ]

    def test_blank_lines_within_quotes_stay(self, written: Written) -> None:
        assert texts(written("a.csv", 'text\n"a\n\nb"\n\n""\n')) == ["a\n\nb", ""]

    def test_a_quoted_header_after_a_byte_order_mark(self, written: Written) -> None:
        assert texts(written("a.csv", '\ufeff"text","n"\na,1\n')) == ["a"]

    @pytest.mark.parametrize(
        ("content", "line", "expected"),
        [
            ('text,n\na,1\n"b\nc,2\n', 3, "unexpected end of data"),
            ('text,n\na,1\n"b"c,2\n', 3, "expected after"),
            ("text,n\na,1\nb\rc,2\n", 3, "new-line character"),
        ],
    )
    def test_broken_quoting(self, written: Written, content: str, line: int, expected: str) -> None:
        error = failure(written("a.csv", content))
        assert f"line {line}: broken csv" in str(error)
        assert expected in str(error)
        assert error.index == 1

    def test_a_cell_over_131072_characters_is_read(self, written: Written) -> None:
        csv.field_size_limit(131072)
        assert texts(written("a.csv", "x" * 200_000)) == ["x" * 200_000]

    def test_a_cell_over_the_limit(self, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(records, "MAX_CELL", 100)
        assert texts(written("a.csv", "x" * 100)) == ["x" * 100]
        error = failure(written("a.csv", 'text\na\n"' + "x\n" * 100))
        assert "line 3: broken csv (field larger than field limit (100))" in str(error)
        assert error.index == 1

    def test_a_row_over_the_limit(self, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "MAX_LINE", 100)
        assert len(texts(written("a.csv", "text,n\n" + 'abc,"d\ne"\n' * 100))) == 100
        error = failure(written("a.csv", "text\na\n" + 'b,"\n",' * 100))
        assert "line 3: a row of over 100 characters" in str(error)
        assert error.index == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "n": "1"}\n'),
        ("a.csv", "text,n\na\nb,1\n"),
        ("a.tsv", "text\tn\na\nb\t1\n"),
    ],
)
def test_a_record_may_lack_a_column_where_gaps_are_asked_for(written: Written, name: str, content: str) -> None:
    path = written(name, content)
    assert [r.columns for r in read(path, columns=["n"], gaps=True)] == [{}, {"n": "1"}]
    failure(path, columns=["n"])
