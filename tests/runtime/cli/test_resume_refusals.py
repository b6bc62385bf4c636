"""What cannot be gone on with is said in one line, and stays."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from file_system import only, posix
from resumable_runs import RECORDS, SETTINGS, StopError, go, refused, stopped, wanted, write_source
from torchless.cli import output, resume
from torchless.cli.resume import ResumableFile, discard
from torchless.errors import InputError
from torchless.records import Record

pytestmark = pytest.mark.usefixtures("saved_every_window")


class TestRefusing:
    @pytest.fixture
    def left(self, source: Path, folder: Path) -> Iterator[Path]:
        """The output of a run stopped after two windows; nothing of it may be changed."""
        stopped(source, folder / "out.jsonl", 2)
        before = {name: (folder / name).read_bytes() for name in only(folder)}
        yield folder / "out.jsonl"
        assert {name: (folder / name).read_bytes() for name in only(folder)} == before

    def test_another_setting(self, source: Path, left: Path) -> None:
        said = refused(source, left, resume=True, given={"variant": "int8", "--top-k": "2"})
        assert said == (
            f"{left}: 6 texts were done with no --top-k, and this run has --top-k 2; "
            "give the same, or leave out --resume to start anew"
        )
        said = refused(source, left, resume=True, given={"variant": "fp32", "flag": ""})
        assert "were done with variant int8 and no flag, and this run has variant fp32 and flag; give" in said

    @pytest.mark.parametrize("place", [0, 5])
    def test_another_input(self, source: Path, left: Path, place: int) -> None:
        texts = [f"text {i}, é\ud800" for i in range(RECORDS)]
        texts[place] += "!"
        write_source(source, texts)
        assert refused(source, left, resume=True) == (
            f"{source}: its first 6 records are not those that were done; "
            "bring them back, or leave out --resume to start anew"
        )

    def test_another_column(self, source: Path, left: Path) -> None:
        source.write_bytes(source.read_bytes().replace(b'"id": 0', b'"id": "0"'))
        with pytest.raises(InputError, match="its first 6 records are not those") as caught:
            go(source, left, resume=True)
        assert not hasattr(caught.value, "__notes__")  # the same command would not go on

    def test_records_that_moved(self, source: Path, left: Path) -> None:
        lines = source.read_bytes().splitlines(True)
        source.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
        assert "its first 6 records are not those" in refused(source, left, resume=True)

    def test_a_shorter_input(self, source: Path, left: Path) -> None:
        source.write_bytes(b"".join(source.read_bytes().splitlines(True)[:4]))
        assert "has 4 records, 6 were done" in refused(source, left, resume=True)

    def test_a_column_nested_too_deeply(self, source: Path, left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deep(rows: list[Record]) -> bytes:
            raise RecursionError

        monkeypatch.setattr(resume, "canonical", deep)
        assert "its first 6 records are not those" in refused(source, left, resume=True)

    def test_an_input_broken_where_it_was_read(self, source: Path, left: Path) -> None:
        lines = source.read_bytes().splitlines(True)
        source.write_bytes(b"".join([lines[0], b'{"text": 1}\n', *lines[1:]]))
        with pytest.raises(InputError, match="line 2") as caught:
            go(source, left, resume=True)
        assert not hasattr(caught.value, "__notes__")

    @posix
    @pytest.mark.parametrize("resume", [False, True])
    def test_another_run(self, source: Path, left: Path, resume: bool) -> None:
        with contextlib.suppress(StopError), ResumableFile(str(left), SETTINGS, resume=True):
            said = refused(source, left, resume=resume)
            assert said == f"{left}: another run is writing it; wait for that, or give another --output"
            with pytest.raises(InputError, match="another run"):
                discard(str(left))
            raise StopError

    def test_a_shorter_partial_file(self, source: Path, folder: Path) -> None:
        stopped(source, folder / "out.jsonl", 2)
        partial = folder / ".out.jsonl.partial"
        size = partial.stat().st_size
        os.truncate(partial, size - 1)
        said = refused(source, folder / "out.jsonl", resume=True)
        assert said.startswith(f"{partial}: {size - 1} bytes, its journal says {size}")
        assert said.endswith("leave out --resume to start anew")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "a broken journal (line 1"),
            (b"{", "a broken journal (line 1"),
            (b"\xff", "a broken journal (byte 0 is not UTF-8)"),
            (b"[]", "a journal of format None"),
            (b'{"format": 2}', "a journal of format 2, this torchless reads 1"),
            (b'{"format": 1}', "whose fields are not records"),
        ],
    )
    def test_a_broken_journal(self, source: Path, left: Path, content: bytes, says: str) -> None:
        path = left.with_name(".out.jsonl.journal")
        whole = path.read_bytes()
        path.write_bytes(content)
        said = refused(source, left, resume=True)
        assert said.startswith(f"{path}: ")
        assert says in said
        assert said.endswith("leave out --resume to start anew")
        path.write_bytes(whole)

    @pytest.mark.parametrize(
        "change",
        [
            {"records": 0}, {"records": -1}, {"records": 6.0}, {"records": True}, {"size": "1"}, {"cut": -1},
            {"sha256": None}, {"settings": []}, {"settings": {"a": 1}}, {"more": 1},
        ],
    )  # fmt: skip
    def test_a_journal_of_other_fields(self, source: Path, left: Path, change: dict[str, Any]) -> None:
        path = left.with_name(".out.jsonl.journal")
        whole = path.read_bytes()
        path.write_text(json.dumps(json.loads(whole) | change))
        assert "whose fields are not" in refused(source, left, resume=True)
        path.write_bytes(whole)

    def test_a_journal_that_cannot_be_read(self, source: Path, folder: Path) -> None:
        (folder / ".out.jsonl.partial").touch()
        (folder / ".out.jsonl.journal").mkdir()
        assert "cannot be read" in refused(source, folder / "out.jsonl", resume=True)

    @posix
    def test_nothing_is_written_through_a_link_laid_in_the_way(self, source: Path, folder: Path) -> None:
        (folder / "other").write_text("other\n")
        (folder / ".out.jsonl.partial").symlink_to("other")
        for resume_ in (False, True):
            assert ".out.jsonl.partial is a link" in refused(source, folder / "out.jsonl", resume=resume_)
        assert (folder / "other").read_text() == "other\n"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_laid_in_the_way(self, source: Path, folder: Path) -> None:
        os.mkfifo(folder / ".out.jsonl.partial")
        assert ".out.jsonl.partial is not a regular file" in refused(source, folder / "out.jsonl")

    def test_a_directory(self, source: Path, folder: Path) -> None:
        assert os.strerror(errno.EISDIR) in refused(source, folder)
        with pytest.raises(InputError, match=os.strerror(errno.EISDIR)):
            discard(str(folder))

    def test_no_directory(self, source: Path, folder: Path) -> None:
        target = folder / "missing" / "out.jsonl"
        assert refused(source, target).startswith(f"{target}: cannot be written ({os.strerror(errno.ENOENT)})")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), windows=st.integers(1, 3), format_name=st.sampled_from(output.FORMATS))
def test_any_partial_file_and_any_journal(
    source: Path, tmp_path: Path, data: st.DataObject, windows: int, format_name: str
) -> None:
    """A longer partial file is cut off, a shorter one refused; a changed journal is refused or changes nothing."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "any"
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        expected = wanted(source, folder, format_name)
        target, partial = folder / "out.jsonl", folder / ".out.jsonl.partial"
        stopped(source, target, windows, torn=data.draw(st.binary(max_size=20)), format_name=format_name)
        size = json.loads((folder / ".out.jsonl.journal").read_text())["size"]
        kept = data.draw(st.integers(0, partial.stat().st_size))
        os.truncate(partial, kept)
        if data.draw(st.booleans()):
            path = folder / ".out.jsonl.journal"
            text = bytearray(path.read_bytes())
            place = data.draw(st.integers(0, len(text) - 1))
            text[place] = data.draw(st.integers(0, 255))
            path.write_bytes(text[: data.draw(st.integers(0, len(text)))])
        try:
            go(source, target, resume=True, format_name=format_name)
        except InputError:
            assert not target.exists()
            go(source, target, format_name=format_name)
        else:
            assert kept >= size
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]
