"""A directory appears whole or not at all.

The files are written into a directory beside the target, synced, and put in its place by one rename;
where a bundle is replaced on Linux, by one exchange (`renameat2`, RENAME_EXCHANGE), so that at every
moment the target is the old bundle or the new one. What a killed export left behind is removed by the
next one to the same target: a lock, which dies with its process, tells it from one still at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_LOCK = ".lock"


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
        self.folder = self.target.parent / f".{self.target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
        self._lock: IO[bytes] | None = None
        self._check_target()

    def __enter__(self) -> Self:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove_litter()
            self.folder.mkdir()
            self._lock = _lock(self.folder / _LOCK)
        except OSError as error:
            self._remove()
            raise self.refusal(error) from error
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
            (self.folder / _LOCK).unlink(missing_ok=True)
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
        self._check_target()
        if not os.path.lexists(self.target):
            if not _renameat2(self.folder, self.target, _RENAME_NOREPLACE):
                os.rename(self.folder, self.target)
        elif _renameat2(self.folder, self.target, _RENAME_EXCHANGE):
            shutil.rmtree(self.folder, ignore_errors=True)  # it holds the old bundle now
        else:
            # Two renames: between them the target is missing, and `_remove_litter` of the next export mends it.
            old = self.target.parent / f".{self.target.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(self.target, old)
            os.rename(self.folder, self.target)
            shutil.rmtree(old, ignore_errors=True)

    def _remove_litter(self) -> None:
        old = self.target.parent / f".{self.target.name}.old"
        if old.is_dir():
            if os.path.lexists(self.target):
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(old, self.target)
        prefix = f".{self.target.name}."
        for entry in self.target.parent.iterdir():
            name = entry.name
            if not (name.startswith(prefix) and name.endswith(".partial")) or entry.is_symlink() or not entry.is_dir():
                continue
            if _is_abandoned(entry / _LOCK):
                shutil.rmtree(entry, ignore_errors=True)

    def _remove(self) -> None:
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _lock(path: Path) -> IO[bytes]:
    file = path.open("wb")
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _is_abandoned(lock: Path) -> bool:
    """Tell whether the process that held `lock` is gone. A directory without its lock file is left alone
    for as long as it could be an export between two steps, an hour.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            import time

            return time.time() - lock.parent.stat().st_mtime > 3600
        return False
    except OSError:
        return False


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
