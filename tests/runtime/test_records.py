"""Every input that `torchless run` takes, and every way in which one can be wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import itertools
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchless import lines, records
from torchless.errors import InputError
from torchless.records import Record, format_of, open_records

Written = Callable[[str, bytes | str], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a file and return its path; a name that ends in .gz is compressed."""

    def write(name: str, content: bytes | str) -> str:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
        return str(path)

    return write


def read(path: str, **options: Any) -> list[Record]:
    with open_records(path, **options) as reader:
        return list(reader)


def texts(path: str, **options: Any) -> list[str]:
    return [record.text for record in read(path, **options)]


def failure(path: str, **options: Any) -> InputError:
    """Return the error of reading `path`, once it is known to be one line that names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = caught.value.args[0]
    assert "\n" not in message
    assert message.startswith("standard input" if path == "-" else path)
    return caught.value


def stdin_of(content: bytes) -> BinaryIO:
    return io.BytesIO(content)


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
        assert texts("-", stdin=stdin_of(content.encode())) == expected

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
        assert "no column" in str(failure("-", stdin=stdin_of(b"a\n"), **options))


class TestStandardInput:
    def test_is_not_read_on_opening(self) -> None:
        class Unread(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                raise AssertionError

        open_records("-", stdin=Unread())

    def test_stays_open(self) -> None:
        stdin = stdin_of(b"a\n")
        assert texts("-", stdin=stdin) == ["a"]
        assert not stdin.closed

    def test_stays_open_after_an_error(self) -> None:
        stdin = stdin_of(b"\xff\n")
        failure("-", stdin=stdin)
        assert not stdin.closed

    def test_is_read_from_sys_stdin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode()), encoding="latin-1"))
        assert texts("-") == ["é"]

    def test_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        assert "is closed" in str(failure("-"))

    def test_gives_a_record_as_soon_as_its_line_is_there(self) -> None:
        readable, writable = os.pipe()
        with open(readable, "rb") as stdin, open(writable, "wb", buffering=0) as writer:
            reader = iter(open_records("-", stdin=stdin))  # does not wait for a line
            writer.write(b"first\n")
            assert next(reader).text == "first"
            writer.write(b"second\n")
            assert next(reader).text == "second"

    def test_empty(self) -> None:
        assert "no record" in str(failure("-", stdin=stdin_of(b"")))

    def test_compressed_is_named(self) -> None:
        assert "gzip -dc" in str(failure("-", stdin=stdin_of(gzip.compress(b"a\n"))))

    def test_progress(self) -> None:
        reader = open_records("-", stdin=stdin_of(b"abc\nde\n"))
        assert reader.total_bytes is None
        assert reader.bytes_read == 0
        assert next(iter(reader)).text == "abc"
        assert reader.bytes_read == 4


class TestExtensions:
    @pytest.mark.parametrize("name", ["a.JSONL", "a.Csv", "a.TSV.GZ", "a.Txt.Gz", "a.b.txt", "a.csv.txt"])
    def test_are_known_in_any_case(self, written: Written, name: str) -> None:
        content = '"x"\n' if "json" in name.lower() else "x\n"
        assert texts(written(name, content)) == ["x"]

    def test_format_of(self) -> None:
        names = ["-", "a.TXT", "b.jsonl.gz", "c.csv", "d/e.Tsv.GZ"]
        assert [format_of(name) for name in names] == ["txt", "txt", "jsonl", "csv", "tsv"]
        with pytest.raises(InputError, match=r"a\.json: extension '\.json'; wanted \.txt, \.jsonl, \.csv or \.tsv"):
            format_of("a.json")

    @pytest.mark.parametrize("name", ["a.json", "a", "a.gz", "a.txt.bz2", ".csv", "a.csv.gz.gz", "a.txt~"])
    def test_unknown(self, written: Written, name: str) -> None:
        message = str(failure(written(name, "x\n")))
        assert all(known in message for known in (".txt", ".jsonl", ".csv", ".tsv", ".gz"))


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


class TestEncoding:
    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz"])
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
    def test_utf_16_and_32(self, written: Written, name: str, encoding: str) -> None:
        error = failure(written(name, '"text"\n"é"\n'.encode(encoding)))
        assert "line 1: " in str(error)
        assert "wanted UTF-8" in str(error)
        assert "iconv -f UTF-16" in str(error)

    def test_utf_16_without_a_nul(self, written: Written) -> None:
        assert "a UTF-16 byte order mark" in str(failure(written("a.txt", b"\xff\xfe" + "中文".encode("utf-16-le"))))
        assert "a UTF-16 byte order mark" in str(failure(written("a.txt", b"\xfe\xff" + "中文".encode("utf-16-be"))))

    @pytest.mark.parametrize(("name", "first"), [("a.txt", "a"), ("a.csv", "a"), ("a.tsv", "a"), ("a.jsonl", '"a"')])
    @pytest.mark.parametrize("bad", [b"ab\xe9 c", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"])
    def test_not_utf_8(self, written: Written, name: str, first: str, bad: bytes) -> None:
        error = failure(written(name, f"{first}\n\n".encode() + bad + b"\nc\n"))
        assert "line 3: byte 0x" in str(error)
        assert "iconv" in str(error)
        assert error.index == (2 if name == "a.txt" else 1)

    def test_the_position_is_told(self, written: Written) -> None:
        assert "byte 0xe9 at position 3" in str(failure(written("a.txt", b"ab\xe9 c")))

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
    def test_a_nul_in_a_later_line(self, written: Written, name: str) -> None:
        error = failure(written(name, b"a\nb\0\n"))
        assert "line 2: a NUL byte" in str(error)
        assert error.index == 1

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz"])
    def test_a_byte_order_mark_is_dropped(self, written: Written, name: str) -> None:
        assert texts(written(name, b'\xef\xbb\xbf"a"\n')) == ["a" if "csv" in name or "json" in name else '"a"']

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
    def test_only_a_byte_order_mark(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, b"\xef\xbb\xbf")))

    def test_compressed_under_a_plain_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(gzip.compress(b"text\na\n"))
        assert "let the name end in .gz" in str(failure(str(path)))


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        assert os.strerror(errno.ENOENT) in str(failure(str(tmp_path / "a.txt")))

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").mkdir()
        assert "cannot be opened" in str(failure(str(tmp_path / "a.csv")))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
    def test_unreadable(self, written: Written) -> None:
        path = written("a.csv", "a\n")
        os.chmod(path, 0)
        assert os.strerror(errno.EACCES) in str(failure(path))

    def test_a_nul_in_the_name(self) -> None:
        with pytest.raises(InputError, match=r"cannot be opened .*null"):
            open_records("a\0.txt")

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz"])
    def test_empty(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, "")))

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
    def test_only_blank_lines(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, "\n\r\n\n")))

    def test_an_empty_gzip_file_of_no_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt.gz").touch()
        assert "no record" in str(failure(str(tmp_path / "a.txt.gz")))

    def test_what_the_first_record_shows_is_raised_on_opening(self, written: Written) -> None:
        for name, content in [("a.csv", "a,b\n"), ("a.jsonl", "x\n"), ("a.txt", "\0"), ("b.txt", "")]:
            with pytest.raises(InputError):
                open_records(written(name, content), column=None if name.endswith("txt") else "review")

    def test_nothing_is_left_open_after_an_error(self, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        file = open(written("a.jsonl", "x"), "rb")  # noqa: SIM115 - what is tested
        monkeypatch.setattr(records, "_open", lambda _path, _stdin: file)
        failure(file.name)
        assert file.closed

    def test_closing(self, written: Written) -> None:
        with open_records(written("a.txt", "a\nb\n")) as reader:
            rows = iter(reader)
            next(rows)
        with pytest.raises(ValueError, match="closed file"):
            next(rows)

    def test_a_second_loop_goes_on(self, written: Written) -> None:
        with open_records(written("a.txt", "a\nb\nc\n")) as reader:
            assert [record.text for record in itertools.islice(reader, 2)] == ["a", "b"]
            assert [record.text for record in reader] == ["c"]

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
    def test_progress(self, written: Written, name: str) -> None:
        path = written(name, os.urandom(200_000).hex().replace("0", "0\n"))
        with open_records(path) as reader:
            assert reader.name == path
            assert reader.total_bytes == os.path.getsize(path)
            seen = [reader.bytes_read for _ in reader]
            assert seen == sorted(seen)
            assert seen[0] < reader.total_bytes / 2
            assert reader.bytes_read == reader.total_bytes

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(b"text\na\n",))
        writer.start()
        with open_records(str(path)) as reader:
            assert reader.total_bytes is None
            assert [record.text for record in reader] == ["a"]
        writer.join()

    def test_a_read_error_midway(self, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        class Failing(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                if self.tell() >= 4:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().readline(size)

        error = failure("-", stdin=Failing(b"a\nb\nc\n"))
        assert f"line 3: cannot be read further ({os.strerror(errno.EIO)})" in str(error)
        assert error.index == 2


class TestTaking:
    def test_by_count(self, written: Written) -> None:
        with open_records(written("a.txt", "".join(f"{i}\n" for i in range(7)))) as reader:
            taken = [[record.text for record in reader.take(3)] for _ in range(4)]
        assert taken == [["0", "1", "2"], ["3", "4", "5"], ["6"], []]

    def test_reads_no_further(self) -> None:
        lines_ = iter([b"a\n", b"b\n"])

        class Pipe(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                return next(lines_)  # StopIteration: read too far

        assert [record.text for record in open_records("-", stdin=Pipe()).take(2)] == ["a", "b"]

    @pytest.mark.parametrize(("multiple", "expected"), [(1, [3, 2, 2, 1]), (2, [4, 2, 2]), (5, [5, 3])])
    def test_fewer_long_ones(
        self, written: Written, monkeypatch: pytest.MonkeyPatch, multiple: int, expected: list[int]
    ) -> None:
        monkeypatch.setattr(records, "MAX_TAKEN", 200)
        # The first was read on opening, so its bytes do not count.
        with open_records(written("a.txt", ("x" * 99 + "\n") * 8)) as reader:
            taken = [len(reader.take(6, multiple=multiple)) for _ in expected]
            assert reader.take(1) == []
        assert taken == expected

    @given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=40), done=st.integers(0, 5), block=st.integers(1, 7))
    def test_the_same_after_any_records_taken_otherwise(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], done: int, block: int
    ) -> None:
        """A run that is gone on with reads what is done in other blocks, and takes the same windows after it."""
        path = tmp_path_factory.mktemp("taken") / "a.csv"
        path.write_text("text\n" + "".join(f'"{size}\n{"x" * size}"\n\n' for size in sizes), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records, "MAX_TAKEN", 60)
            with open_records(str(path)) as reader:
                windows = list(iter(lambda: reader.take(5), []))
            with open_records(str(path)) as reader:
                left = sum(map(len, windows[:done]))
                while left:
                    left -= len(reader.take(min(left, block)))
                assert list(iter(lambda: reader.take(5), [])) == windows[done:]


class TestLimits:
    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz"])
    def test_a_line_over_the_limit(self, written: Written, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(lines, "MAX_LINE", 100)
        long = '"' + "x" * 97 + '"\n'
        assert len(texts(written(name, long * 2))) == 2
        error = failure(written(name, long + "y" + long))
        assert "line 2: over 100 bytes" in str(error)
        assert error.index == 1

    def test_a_bomb_is_not_unpacked_into_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "MAX_LINE", 2**20)
        path = tmp_path / "a.txt.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(64):
                file.write(b" " * 2**20)
        tracemalloc.start()
        failure(str(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 2**20

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
    def test_memory_is_constant(self, written: Written, name: str) -> None:
        path = written(name, f"{json.dumps('x' * 997)}\n" * 5_000)
        tracemalloc.start()
        with open_records(path) as reader:
            assert sum(1 for _ in reader) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


class TestGzip:
    CONTENT = b"".join(b"%064d\n" % (i * 7919**9) for i in range(20_000))

    def test_cut(self, tmp_path: Path) -> None:
        whole = gzip.compress(self.CONTENT)
        path = tmp_path / "a.txt.gz"
        for size in (5, 12, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            error = failure(str(path))
            assert "broken or cut gzip data" in str(error)
            assert (error.index or 0) == int(str(error).split("line ")[1].split(":")[0]) - 1

    def test_an_impossible_block(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt.gz"
        path.write_bytes(gzip.compress(b"")[:10] + b"\x07" * 20)
        assert "broken or cut gzip data" in str(failure(str(path)))

    def test_changed(self, tmp_path: Path) -> None:
        whole = gzip.compress(self.CONTENT)
        path = tmp_path / "a.txt.gz"
        for position in (0, len(whole) // 2, len(whole) - 6):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
            assert "broken or cut gzip data" in str(failure(str(path)))

    def test_not_gzip(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv.gz"
        path.write_bytes(b"text\na\n")
        assert "broken or cut gzip data" in str(failure(str(path)))

    def test_several_members(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt.gz"
        path.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n"))
        assert texts(str(path)) == ["a", "bc", "d"]


# Properties: what is written in a format reads back the same, in order, all of it.

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.lists(
    st.text(CHARACTERS | st.sampled_from(" \",\t\n\r'\\é\u2028\x85\x0b\x0c\x1c\ufeff")), min_size=1, max_size=8
)
LINES = TEXTS.map(lambda found: [text.replace("\n", " ").rstrip("\r") for text in found])
CELLS = LINES.map(lambda found: [text.replace("\t", " ") for text in found])
property_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@property_settings
@given(expected=LINES)
def test_txt_round_trip(written: Written, suffix: str, end: str, expected: list[str]) -> None:
    content = "\ufeff" + "".join(
        text + end for text in expected
    )  # the mark protects one that the first text begins with
    assert texts(written("a.txt" + suffix, content)) == expected


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("ascii_only", [True, False])
@property_settings
@given(expected=TEXTS, bare=st.booleans())
def test_jsonl_round_trip(written: Written, suffix: str, ascii_only: bool, expected: list[str], bare: bool) -> None:
    values = (text if bare else {"n": 1, "text": text} for text in expected)
    content = "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values)
    assert texts(written("a.jsonl" + suffix, content)) == expected


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [True, False])
@property_settings
@given(expected=TEXTS, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), extra=st.booleans())
def test_csv_round_trip(
    written: Written, suffix: str, header: bool, expected: list[str], quoting: int, extra: bool
) -> None:
    file = io.StringIO()
    file.write("\ufeff")
    writer = csv.writer(file, quoting=quoting)  # type: ignore[arg-type]
    rows = ([text, str(n)] if extra else [text] for n, text in enumerate(expected))
    writer.writerows(itertools.chain([["text", "n"] if extra else ["text"]] if header else [], rows))
    if not header and any(name in expected[:1] for name in records.DEFAULT_COLUMNS):
        return
    found = read(written("a.csv" + suffix, file.getvalue()), columns=["2"] if extra else [])
    assert [record.text for record in found] == expected
    assert [record.columns for record in found] == [{"2": str(n)} if extra else {} for n in range(len(expected))]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [True, False])
@property_settings
@given(expected=CELLS)
def test_tsv_round_trip(written: Written, suffix: str, header: bool, expected: list[str]) -> None:
    rows = ["text\tn"] * header + [f"{text}\t{n}" for n, text in enumerate(expected)]
    if not header and any(name in expected[:1] for name in records.DEFAULT_COLUMNS):
        return
    found = read(written("a.tsv" + suffix, "\ufeff" + "\n".join(rows)), columns=["2"])
    assert [record.text for record in found] == expected
    assert [record.columns["2"] for record in found] == [str(n) for n in range(len(expected))]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.csv.gz"])
@property_settings
@given(content=st.binary(max_size=200) | TEXTS.map(lambda found: "".join(found).encode()), raw=st.booleans())
def test_any_bytes_give_records_or_one_input_error(tmp_path: Path, name: str, content: bytes, raw: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content if raw or not name.endswith(".gz") else gzip.compress(content))
    message, found = None, []
    try:
        found = texts(str(path))
    except InputError as error:
        message = error.args[0]
    if message is None:
        assert found
        assert all(isinstance(text, str) for text in found)
    else:
        assert message.startswith(str(path))
        assert "\n" not in message
