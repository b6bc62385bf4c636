"""The journal by itself; what becomes of a broken one is in `test_resume_refusals.py`."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_system import posix
from torchless.cli import journal
from torchless.cli.journal import Journal, canonical
from torchless.records import Record

SETTINGS = {"variant": "int8", "--columns": 'é"\\', "--top-k": None}
JOURNAL = Journal(4096, 300_000, 2, "0" * 64, SETTINGS)


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert Journal.read(str(path)) is None
    JOURNAL.write(str(path))
    assert Journal.read(str(path)) == JOURNAL
    assert os.listdir(tmp_path) == ["journal"]


def test_takes_the_place_of_the_last_one_and_of_a_draft(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    JOURNAL.write(str(path))
    (tmp_path / "journal.new").write_text("of a run that was killed")
    later = Journal(8192, 600_000, 2, "1" * 64, SETTINGS)
    later.write(str(path))
    assert Journal.read(str(path)) == later
    assert os.listdir(tmp_path) == ["journal"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_failing_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "journal"
    JOURNAL.write(str(path))

    def fail(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            Journal(1, 1, 0, "", {}).write(str(path))
    assert Journal.read(str(path)) == JOURNAL
    assert os.listdir(tmp_path) == ["journal"]


def test_a_write_may_take_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    JOURNAL.write(str(tmp_path / "journal"))
    assert Journal.read(str(tmp_path / "journal")) == JOURNAL


@posix
def test_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "journal.new").symlink_to("other")
    JOURNAL.write(str(tmp_path / "journal"))
    assert (tmp_path / "other").read_text() == "other"


@posix
def test_writes_through_no_link_laid_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").write_text("other")
    monkeypatch.setattr(os, "unlink", lambda path: Path(path).symlink_to("other"))
    with pytest.raises(FileExistsError):
        JOURNAL.write(str(tmp_path / "journal"))
    assert (tmp_path / "other").read_text() == "other"


def test_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LARGEST", 10)
    JOURNAL.write(str(tmp_path / "journal"))
    with pytest.raises(ValueError, match="a broken journal"):
        Journal.read(str(tmp_path / "journal"))


def test_difference() -> None:
    assert JOURNAL.difference(dict(SETTINGS)) is None
    assert JOURNAL.difference(SETTINGS | {"variant": "fp32", "--top-k": "2"}) == (
        "were done with variant int8 and no --top-k, and this run has variant fp32 and --top-k 2"
    )
    assert JOURNAL.difference({"variant": "int8", "--columns": 'é"\\', "new": ""}) == (
        "were done with no new, and this run has new"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORD = st.builds(
    Record,
    st.text(st.characters()),
    st.none() | st.text(),
    st.fixed_dictionaries({"a": JSON, "1": JSON}) | st.just({}),
    st.integers(1, 9),
)


@settings(deadline=None)
@given(rows=st.lists(RECORD, min_size=2, max_size=6), data=st.data())
def test_the_bytes_of_records_do_not_depend_on_how_they_are_taken(rows: list[Record], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(rows) - 1))
    assert canonical(rows) == canonical(rows[:cut]) + canonical(rows[cut:])


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        ([Record("a", "b", {}, 1)], [Record("a", None, {"x": "b"}, 1)]),
        ([Record("a", None, {}, 1), Record("b", None, {}, 2)], [Record('a", null], ["b', None, {}, 1)]),
        ([Record("a", None, {"x": 1}, 1)], [Record("a", None, {"x": "1"}, 1)]),
        ([Record("a", None, {"x": 1, "y": 2}, 1)], [Record("a", None, {"x": 2, "y": 1}, 1)]),
        ([Record("\ud800", None, {}, 1)], [Record("\\ud800", None, {}, 1)]),
        ([Record("", None, {}, 1)], [Record("", None, {}, 1), Record("", None, {}, 1)]),
    ],
)
def test_other_records_have_other_bytes(rows: list[Record], others: list[Record]) -> None:
    assert canonical(rows) != canonical(others)
