"""A directory appears whole or not at all.

The files are written into a directory beside the target, synced, and put in its place by one rename;
where a bundle is replaced on Linux, by one exchange (`renameat2`, RENAME_EXCHANGE), so that at every
moment the target is the old bundle or the new one. What a killed export left behind is removed by the
next one to the same target: a lock on the directory, which dies with its process, tells it from one
still at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
# How a rename fails where another export was quicker, and how often to look again.
_MEANWHILE = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)
_TRIES = 10


class DirectoryWriter:
    """Use as a context manager: fill `folder`, then `commit`. Leaving it uncommitted removes everything.

    Attributes:
        target: where the directory will stand.
        folder: where its files are written meanwhile.
    """

    def __init__(self, target: str | os.PathLike[str], *, force: bool = False) -> None:
        """Check that `target` may be written; nothing is made yet.

        Raises:
            BundleError: it exists and `force` is not set, or it is not a bundle and so is never replaced.
        """
        self.target = Path(os.path.abspath(target))
        self.force = force
        self.folder = self._new_name()
        self._old = self.target.parent / f".{self.target.name}.torchless-old"
        self._lock = contextlib.ExitStack()
        self._made: list[Path] = []
        self._check_target()

    def __enter__(self) -> Self:
        try:
            self._make_parents()
            self._remove_litter()
            self._check_target()  # an old bundle may have been put back
            self._make_folder()
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError):
                raise self.refusal(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def commit(self) -> None:
        """Sync the files and put the directory in its place.

        Raises:
            BundleError: the target came to exist meanwhile, or cannot be written.
        """
        try:
            for path in self.folder.iterdir():
                _sync(path)
            _sync(self.folder)
            self._place()
            _sync(self.target.parent)
        except OSError as error:
            raise self.refusal(error) from error

    def refusal(self, error: OSError) -> BundleError:
        """Return the one line for a failure of the file system under the target."""
        return BundleError(
            f"{self.target}: cannot be written: {error.strerror or error}; free space or choose another place, "
            "nothing was changed"
        )

    def _check_target(self) -> None:
        target = self.target
        if not os.path.lexists(target):
            return
        if not target.is_dir() or target.is_symlink():
            raise BundleError(f"{target}: exists and is not a directory; choose another place")
        try:
            empty = not any(target.iterdir())
        except OSError as error:
            raise self.refusal(error) from error
        if empty:
            return
        if not (target / MANIFEST_NAME).is_file():
            raise BundleError(
                f"{target}: exists, is not empty and not a bundle, so it is never replaced; choose another place"
            )
        if not self.force:
            raise BundleError(f"{target}: exists; pass --force to replace it, or choose another place")

    def _place(self) -> None:
        for tries_left in reversed(range(_TRIES)):
            self._check_target()
            try:
                self._rename()
                return
            except OSError as error:
                # Since it was looked at, another export may have put its own there, or taken it away to replace it.
                if error.errno not in _MEANWHILE or not self.folder.is_dir() or not tries_left:
                    raise

    def _rename(self) -> None:
        if not os.path.lexists(self.target):
            if not _renameat2(self.folder, self.target, _RENAME_NOREPLACE):
                os.rename(self.folder, self.target)
        elif _renameat2(self.folder, self.target, _RENAME_EXCHANGE):
            shutil.rmtree(self.folder, ignore_errors=True)  # it holds the old bundle now
        else:
            self._replace_by_two_renames()

    def _replace_by_two_renames(self) -> None:
        """Between the two the target is missing; if the process dies there, the next export puts the old one back."""
        shutil.rmtree(self._old, ignore_errors=True)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(BlockingIOError):
                stack.enter_context(_locked(self.target))
            try:
                os.rename(self.target, self._old)
                os.rename(self.folder, self.target)
            except BaseException:
                if not os.path.lexists(self.target):
                    os.rename(self._old, self.target)
                raise
        shutil.rmtree(self._old, ignore_errors=True)

    def _new_name(self) -> Path:
        return self.target.parent / f".{self.target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"

    def _make_parents(self) -> None:
        missing = [p for p in (self.target.parent, *self.target.parent.parents) if not os.path.lexists(p)]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made.insert(0, parent)

    def _make_folder(self) -> None:
        while True:
            self.folder.mkdir()
            with contextlib.suppress(BlockingIOError):
                self._lock.enter_context(_locked(self.folder))
                if self.folder.is_dir():
                    return
            # Another export, starting, saw it before it was locked, took it for abandoned, and removes it.
            self._lock.close()
            self.folder = self._new_name()

    def _remove_litter(self) -> None:
        if self._old.is_dir():
            with contextlib.suppress(BlockingIOError), _locked(self._old):
                if os.path.lexists(self.target):
                    shutil.rmtree(self._old, ignore_errors=True)
                else:
                    os.rename(self._old, self.target)
        partial = re.compile(re.escape(f".{self.target.name}.") + r"\d+-[0-9a-f]{8}\.partial")
        for entry in self.target.parent.iterdir():
            if partial.fullmatch(entry.name):
                # Without locks nothing tells a dead export from one at work, and the directory stays.
                with contextlib.suppress(BlockingIOError), _locked(entry) as locked:
                    if locked:
                        shutil.rmtree(entry, ignore_errors=True)

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        for parent in self._made:
            with contextlib.suppress(OSError):  # not empty: the bundle stands there, or somebody else's files
                parent.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a directory, which ends with the process at the latest; yields whether it could be locked.

    Windows has no such lock, and some network file systems lock no directories.

    Raises:
        BlockingIOError: another export holds it.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename with a flag of Linux's renameat2(2); False where the system or the file system has it not."""
    if sys.platform != "linux":
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _sync(path: Path) -> None:
    """Force a file or directory to the disk; systems that cannot open a directory are left to themselves."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
