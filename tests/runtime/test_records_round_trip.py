"""What is written in a format reads back the same, in order, all of it; and any bytes give records or one error."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from read_records import Written, read, texts
from torchless import records
from torchless.errors import InputError

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
