"""The output of a run that can be gone on with: it grows beside its target and takes its name when complete.

| beside `answers.jsonl`       | what                                                                          |
|------------------------------|-------------------------------------------------------------------------------|
| `.answers.jsonl.partial`     | the results so far; locked (`flock`) as long as a run writes them             |
| `.answers.jsonl.journal`     | JSON: how many records are done, their digest, the bytes of their results,    |
|                              | and every setting that shapes an answer or the file                           |
| `.answers.jsonl.journal.new` | the next journal, until it is renamed                                         |

A journal speaks only of bytes that are on the disk: the partial file is synced before the journal is written, the
journal before it is renamed over the last one. So whatever kills the process or the machine, and whenever, the
journal counts whole windows of records that are there, and what the partial file holds beyond them is cut off. That
is done once a second at most; what was answered since is lost to SIGKILL and to a power cut, to nothing else.

| found by `--resume`                   | then                                                             |
|---------------------------------------|------------------------------------------------------------------|
| no journal, or no partial file        | from the beginning: nothing is known to be done, or it is gone   |
| a journal that cannot be read         | an error: what it counts may have taken hours                    |
| another setting, another input        | an error that names it                                           |
| a partial file shorter than it says   | an error: somebody changed it                                    |
| a partial file longer than it says    | its end is cut off                                               |
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torchless.cli.atomic import destination, reported, sync_folder
from torchless.cli.journal import ANEW, Journal, canonical
from torchless.errors import InputError
from torchless.records import Record, RecordReader

# Windows has no flock, so two runs to one output are not kept apart there, and neither renames nor removes open files.
_POSIX = os.name == "posix"
if _POSIX:
    import fcntl

__all__ = ["ResumableFile", "discard"]

_BLOCK = 4096  # records read again at a time

# Seconds between two journals, and how much longer than making one these must be: a disk that
# takes its time to sync costs a twentieth of the run at most.
_INTERVAL, _COSTS = 1.0, 20

# Of flock, where another run has the lock; any other error means that this file system has no locks.
_LOCKED = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)

_BUSY = "another run is writing it; wait for that, or give another --output"

# Nothing is written through a link laid in the way.
_OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class _Point:
    """What is done, in one object, so that no signal comes between its parts."""

    records: int
    size: int
    cut: int
    digest: Any


class ResumableFile:
    """The file that a run writes its results to; a context manager.

    Left normally, the file takes the place of its target and nothing stays beside it. Left by an exception, what is
    done stays for `--resume`, and the exception gets a note that says so; where nothing is done, nothing stays.

    Attributes:
        discarded: how many records an earlier run had done that were thrown away to start anew.
    """

    def __init__(self, target: str, settings: Mapping[str, str | None], *, resume: bool = False) -> None:
        """Say what is to be written; nothing is opened yet.

        Args:
            target: the file that is there at the end.
            settings: everything that shapes an answer or the file; an earlier run is gone on with only under the same.
            resume: go on with an earlier run; else what it left is thrown away.
        """
        self.discarded = 0
        self._target = target
        self._settings = dict(settings)
        self._resume = resume
        self._descriptor = -1
        self._path = self._partial = self._journal_path = ""
        self._journal: Journal | None = None  # what is on the disk
        self._at = _Point(0, 0, 0, hashlib.sha256())
        self._trusted = False  # the input is known to be that of the records done
        self._next_save = 0.0

    @property
    def records(self) -> int:
        """The records done, of the earlier run and of this one."""
        return self._at.records

    @property
    def cut(self) -> int:
        """How many of their texts were cut."""
        return self._at.cut

    def __enter__(self) -> Self:
        """Open the file, and where an earlier run is gone on with, check that it can be.

        Raises:
            InputError: the file cannot be written, another run is writing it, or the earlier run cannot be gone on
                with; what that one left stays as it is.
        """
        with reported(self._target):
            self._path, mode = destination(self._target)
            self._partial, self._journal_path = _paths(self._path)
            if not self._resume or not all(map(os.path.lexists, (self._partial, self._journal_path))):
                self.discarded = discard(self._target)
            self._descriptor, existed = _open_locked(self._target, self._partial)
            try:
                journal = Journal.read(self._journal_path) if self._resume and existed else None
                if journal is None:
                    os.ftruncate(self._descriptor, 0)
                else:
                    self._take_up(journal)
                if mode is not None:
                    os.chmod(self._partial, mode)
            except BaseException:
                if not existed:
                    self._descriptor = _remove(self._descriptor, self._partial)
                self._close()
                raise
        self._trusted = self._journal is None
        return self

    def _take_up(self, journal: Journal) -> None:
        if difference := journal.difference(self._settings):
            raise InputError(f"{self._target}: {journal.records} texts {difference}; give the same, or {ANEW}")
        size = os.fstat(self._descriptor).st_size
        if size < journal.size:
            raise InputError(
                f"{self._partial}: {size} bytes, its journal says {journal.size}: it was changed; "
                f"bring it back, or {ANEW}"
            )
        os.ftruncate(self._descriptor, journal.size)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._journal = journal
        self._at = _Point(journal.records, journal.size, journal.cut, None)

    def skip(self, reader: RecordReader, tick: Callable[[], object] = lambda: None) -> None:
        """Read the records done once more, and check that they are those of the earlier run.

        Args:
            reader: the input, of which nothing was read yet.
            tick: called now and then, since this may take a while.

        Raises:
            InputError: the input has other records there, or fewer, or cannot be read.
        """
        if self._trusted or self._journal is None:
            return
        digest, left = hashlib.sha256(), self._at.records
        while left:
            rows = reader.take(min(left, _BLOCK))
            if not rows:
                found = f"has {self._at.records - left} records"
                raise InputError(f"{reader.name}: {found}, {self._at.records} were done; bring them back, or {ANEW}")
            try:
                digest.update(canonical(rows))
            except RecursionError:  # of no record that was written
                break
            left -= len(rows)
            tick()
        if digest.hexdigest() != self._journal.sha256:
            raise InputError(
                f"{reader.name}: its first {self._at.records} records are not those that were done; "
                f"bring them back, or {ANEW}"
            )
        self._at = _Point(self._at.records, self._at.size, self._at.cut, digest)
        self._trusted = True

    def write(self, data: bytes | memoryview) -> int:
        """Write a part of `data`, as a raw stream does; returns how many bytes of it."""
        return os.write(self._descriptor, data)

    def mark(self, rows: Sequence[Record], cut: int) -> None:
        """Count `rows` as done: the results of all of them are written.

        The digest is SHA-256 over the JSON of `[text, text_pair, columns...]` of each record, so that it tells what
        was asked for and not how the input spells it.

        Args:
            rows: the records after those done before.
            cut: how many of their texts were cut.
        """
        digest = self._at.digest.copy()
        digest.update(canonical(rows))
        size = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        self._at = _Point(self._at.records + len(rows), size, self._at.cut + cut, digest)

    def save(self) -> None:
        """Write down what is marked, if it is time; to be called before more is done.

        Raises:
            InputError: the journal cannot be written.
        """
        start = time.monotonic()
        if self._at.records and start >= self._next_save:
            with reported(self._target):
                self._save()
            end = time.monotonic()
            self._next_save = end + max(_INTERVAL, _COSTS * (end - start))

    def _save(self) -> None:
        at = self._at
        journal = Journal(at.records, at.size, at.cut, at.digest.hexdigest(), self._settings)
        os.fsync(self._descriptor)
        journal.write(self._journal_path)
        sync_folder(os.path.dirname(self._path))
        self._journal = journal

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the file in the place of its target, or keep what is done for `--resume`.

        Raises:
            InputError: the file cannot be finished; what is done stays.
        """
        try:
            if error is None:
                with reported(self._target):
                    self._finish()
            else:
                self._keep(error)
        except BaseException as failure:
            if error is None:
                self._keep(failure)
            raise
        finally:
            self._close()

    def _finish(self) -> None:
        os.fsync(self._descriptor)
        if not _POSIX:  # elsewhere the lock must outlast the name
            self._close()
        os.replace(self._partial, self._path)
        sync_folder(os.path.dirname(self._path))
        _unlink(self._journal_path)

    def _keep(self, error: BaseException) -> None:
        """Leave what is done for `--resume`, with a note to `error` that says so; nothing, where nothing is done."""
        if not self._is_there():  # renamed already: what failed came after it
            with contextlib.suppress(OSError):
                _unlink(self._journal_path)
            return
        if self._trusted and self._at.records > (self._journal.records if self._journal else 0):
            # What was just written may be too much for the disk: then the last journal counts.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._at.size)
                self._save()
        if self._journal is None:
            with contextlib.suppress(OSError):  # the error on its way says more
                _unlink(self._journal_path)  # there where a signal came right after the first one was written
                self._descriptor = _remove(self._descriptor, self._partial)
        elif self._trusted or not isinstance(error, Exception):
            error.add_note(f"{self._journal.records} texts are done and kept; the same command with --resume goes on")

    def _is_there(self) -> bool:
        """Tell whether the partial file still has its name."""
        try:
            return self._descriptor < 0 or os.path.samestat(os.fstat(self._descriptor), os.lstat(self._partial))
        except OSError:
            return False

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def discard(target: str) -> int:
    """Remove what an earlier run to `target` left to go on with; returns how many records it had done.

    Raises:
        InputError: another run is writing it, or it cannot be removed.
    """
    with reported(target):
        path, _ = destination(target)
        partial, journal_path = _paths(path)
        if not os.path.lexists(partial) and not os.path.lexists(journal_path):
            return 0
        descriptor, _ = _open_locked(target, partial)
        try:
            done = _records(journal_path)
            # The journal first, and for good: after a power cut none may lie beside the partial file of another run.
            _unlink(journal_path)
            _unlink(f"{journal_path}.new")
            sync_folder(os.path.dirname(path))
            descriptor = _remove(descriptor, partial)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
    return done


def _open_locked(target: str, partial: str) -> tuple[int, bool]:
    """Open and lock the partial file; returns its descriptor, and whether it was there before."""
    for _ in range(100):
        try:
            descriptor, existed = os.open(partial, _OPEN), True
        except FileNotFoundError:
            try:
                descriptor, existed = os.open(partial, _OPEN | os.O_CREAT | os.O_EXCL, 0o666), False
            except FileExistsError:
                continue
        except OSError as error:
            if error.errno == errno.ELOOP:  # said of the name that it is about
                raise OSError(errno.ELOOP, f"{partial} is a link") from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, f"{partial} is not a regular file")
            _lock(descriptor, target)
            # A run that ended in between has renamed or removed what was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(partial)):
                    return descriptor, existed
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise InputError(f"{target}: {_BUSY}")


def _remove(descriptor: int, partial: str) -> int:
    """Remove the partial file that is open; returns its descriptor, or -1 where it had to be closed for that."""
    if not _POSIX:
        os.close(descriptor)
        descriptor = -1
    os.unlink(partial)
    return descriptor


def _lock(descriptor: int, target: str) -> None:
    if not _POSIX:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            raise InputError(f"{target}: {_BUSY}") from None


def _paths(path: str) -> tuple[str, str]:
    """Return where the partial file and the journal of the file at `path` lie."""
    folder, name = os.path.split(path)
    if len(name) > 50:  # characters, at most 200 of the 255 bytes that file systems allow
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:9]}"
    return os.path.join(folder, f".{name}.partial"), os.path.join(folder, f".{name}.journal")


def _records(journal_path: str) -> int:
    try:
        journal = Journal.read(journal_path)
    except InputError:  # broken: what it counts is not known, and it goes all the same
        return 0
    return journal.records if journal else 0


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
