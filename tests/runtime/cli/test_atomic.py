"""That a file is written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from file_system import only, posix
from torchless.cli import atomic
from torchless.cli.output import ResultWriter, whole_file
from torchless.errors import InputError
from torchless.records import open_records
from written_results import LINE, NICE, one_line, record, write_many, write_one


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    return path


class TestWholeFile:
    def test_appears_when_complete(self, tmp_path: Path) -> None:
        target = tmp_path / "out.jsonl"
        with ResultWriter(str(target)) as writer:
            writer.write(record("a"), NICE)
            assert not target.exists()
            (partial,) = only(tmp_path)
            assert partial.startswith(f".out.jsonl.{os.getpid()}-")
            assert partial.endswith(".partial")
        assert only(tmp_path) == ["out.jsonl"]
        assert target.read_text() == LINE

    def test_many_results_are_written_in_one_piece(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pieces: list[int] = []

        class Counting(io.FileIO):
            def write(self, data: Any) -> int:
                pieces.append(len(data))
                return super().write(data)

        monkeypatch.setattr(atomic, "open", lambda path, _mode: Counting(path, "xb"), raising=False)
        with ResultWriter(str(tmp_path / "out")) as writer:
            writer.write_all([record("a")] * 3, [NICE] * 3)
            writer.write_all([], [])
        assert pieces == [3 * len(LINE)]
        assert (tmp_path / "out").read_text() == 3 * LINE

    def test_a_result_for_each_record(self, tmp_path: Path) -> None:
        with ResultWriter(str(tmp_path / "out")) as writer, pytest.raises(ValueError, match="shorter"):
            writer.write_all([record("a")] * 2, [NICE])

    def test_replaces_an_old_file_when_complete(self, old: Path) -> None:
        with ResultWriter(str(old)) as writer:
            writer.write(record("a"), NICE)
            assert old.read_text() == "old\n"
        assert old.read_text() == LINE
        assert only(old.parent) == [old.name]

    def test_may_replace_the_input(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n{"text": "b"}\n')
        with open_records(str(path)) as reader, ResultWriter(str(path)) as writer:
            for item in reader:
                writer.write(item, NICE)
        assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a", "b"]

    def test_is_relative_to_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_one("out.jsonl")
        assert only(tmp_path) == ["out.jsonl"]

    @pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "𝄞" * 63, ".hidden", "a b\n.jsonl", "-"])
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        write_one(tmp_path / name)
        assert only(tmp_path) == [name]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, InputError, RuntimeError, OSError, GeneratorExit])
    @pytest.mark.parametrize("count", [0, 1, 10_000])
    def test_an_exception_leaves_the_old_file(self, old: Path, error: type[BaseException], count: int) -> None:
        raised = error("x")
        with pytest.raises(error) as caught:
            write_many(old, count, raised, format_name="csv")
        assert caught.value is raised
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    def test_an_exception_leaves_no_file_where_there_was_none(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), ResultWriter(str(tmp_path / "out")):
            raise KeyboardInterrupt
        assert only(tmp_path) == []

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
    def test_failing_to_finish_leaves_the_old_file(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise error

        monkeypatch.setattr(os, step, fail)
        with pytest.raises((InputError, KeyboardInterrupt)) as caught:
            write_one(old)
        assert isinstance(caught.value, KeyboardInterrupt) or os.strerror(errno.ENOSPC) in str(caught.value)
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    def test_is_synced_before_it_is_renamed(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            status = os.fstat(descriptor)
            steps.append("sync folder" if stat.S_ISDIR(status.st_mode) else f"sync {status.st_size}")
            fsync(descriptor)

        def replaced(source: str, target: str) -> None:
            steps.append("rename")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        write_one(old)
        assert steps == [f"sync {len(LINE)}", "rename", *["sync folder"] * hasattr(os, "O_DIRECTORY")]

    def test_a_folder_that_cannot_be_synced_is_no_error(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        write_one(old)
        assert old.read_text() == LINE

    def test_a_full_disk(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                if self.tell() + len(data) > 50_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        monkeypatch.setattr(atomic, "open", lambda path, _mode: io.BufferedWriter(Full(path, "xb")), raising=False)
        with pytest.raises(InputError) as error:
            write_many(old, 10_000)
        assert one_line(error).startswith(f"{old}: cannot be written ({os.strerror(errno.ENOSPC)})")
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
    def test_a_real_limit_of_the_system(self, old: Path) -> None:
        script = (
            "import resource, sys\n"
            "from torchless.cli.output import ResultWriter\n"
            "from torchless.records import Record\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "with ResultWriter(sys.argv[1]) as writer:\n"
            "    for _ in range(1000):\n"
            "        writer.write(Record('a', None, {}, 1), {'label': 'x', 'score': 1.0})\n"
        )
        done = subprocess.run([sys.executable, "-c", script, old], capture_output=True, text=True, check=False)
        assert "torchless.errors.InputError" in done.stderr
        assert os.strerror(errno.EFBIG) in done.stderr
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @posix
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_permissions_are_those_of_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            write_one(tmp_path / "out")
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / "out").st_mode) == 0o666 & ~umask

    @posix
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
    def test_permissions_of_an_old_file_stay(self, old: Path, mode: int) -> None:
        old.chmod(mode)
        with ResultWriter(str(old)):
            (partial,) = set(only(old.parent)) - {old.name}
            assert stat.S_IMODE(os.stat(old.parent / partial).st_mode) == mode
        assert stat.S_IMODE(old.stat().st_mode) == mode

    @posix
    def test_a_link_stays_and_its_file_is_replaced(self, old: Path) -> None:
        folder = old.parent / "folder"
        folder.mkdir()
        link = folder / "link"
        link.symlink_to("../out.jsonl")
        with ResultWriter(str(link)):
            assert only(folder) == ["link"]
        assert link.is_symlink()
        assert not old.is_symlink()
        assert old.read_text() == ""
        assert only(folder) == ["link"]

    @posix
    def test_a_link_to_a_file_that_is_not_there_yet(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("new")
        write_one(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "new").read_text() == LINE

    @posix
    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(InputError, match="cannot be written"):
            write_one(tmp_path / "a")
        assert only(tmp_path) == ["a", "b"]

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        for target in (str(tmp_path / "out"), str(tmp_path / "new") + "/", "", str(tmp_path / "out" / ".")):
            with pytest.raises(InputError, match=os.strerror(errno.EISDIR)) as error:
                write_one(target)
            assert one_line(error).startswith(f"{target}: cannot be written")
        assert only(tmp_path) == ["out"]

    def test_no_directory(self, old: Path) -> None:
        with pytest.raises(InputError, match=os.strerror(errno.ENOENT)):
            write_one(old.parent / "missing" / "out")
        with pytest.raises(InputError, match=os.strerror(errno.ENOTDIR) if os.name == "posix" else ""):
            write_one(old / "out")

    def test_a_nul_in_the_name(self) -> None:
        with pytest.raises(InputError, match=r"cannot be written .*null"):
            write_one("a\0b")

    @posix
    def test_nothing_is_written_through_a_link_laid_in_its_way(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(secrets, "token_hex", lambda _size: "0" * 8)
        (old.parent / f".out.jsonl.{os.getpid()}-00000000.partial").symlink_to("other")
        (old.parent / "other").write_text("other\n")
        with pytest.raises(InputError, match=os.strerror(errno.EEXIST)):
            write_one(old)
        assert (old.parent / "other").read_text() == "other\n"
        assert old.read_text() == "old\n"

    def test_a_directory_without_write_permission(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_arguments: object) -> BinaryIO:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(atomic, "open", refuse, raising=False)  # root may write everywhere
        with pytest.raises(InputError, match=os.strerror(errno.EACCES)):
            write_one(old)
        assert old.read_text() == "old\n"

    def test_a_file_without_write_permission(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: not (path == os.path.realpath(old) and mode == os.W_OK))
        with pytest.raises(InputError, match=os.strerror(errno.EACCES)):
            write_one(old)
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_what_is_no_regular_file_is_never_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with pytest.raises(InputError, match="not a regular file"), whole_file(str(path)):
            pass
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert only(tmp_path) == ["pipe"]

    def test_alone(self, old: Path) -> None:
        with whole_file(str(old)) as file:
            file.write(b"new")
        assert old.read_bytes() == b"new"
