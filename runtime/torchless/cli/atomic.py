"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from torchless.errors import InputError

__all__ = ["destination", "reported", "sync_folder", "whole_file"]


@contextlib.contextmanager
def whole_file(target: str) -> Iterator[BinaryIO]:
    """Open a file that appears at `target` whole or not at all; a context manager.

    It is written beside `target`, synced and renamed when the `with` statement is left normally, and removed when an
    exception leaves it; `target` is then as it was. A symbolic link stays, and the file it leads to is replaced. The
    new file has the permission bits of the old one, or those that the umask gives.

    Raises:
        InputError: `target` is there and no regular file, or the new file cannot be created, written or renamed.
    """
    with reported(target):
        path, mode = destination(target)
        folder, name = os.path.split(path)
        # 50 characters are at most 200 bytes, which leaves room for the rest within the 255 that file systems allow.
        # The process id alone would not make the name new: in containers it is often the same in every run.
        partial = os.path.join(folder, f".{name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        stream = open(partial, "xb")  # noqa: SIM115 - closed below, before it is renamed
    try:
        with reported(target):
            if mode is not None:
                os.chmod(partial, mode)
        yield stream
        with reported(target):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            os.replace(partial, path)
            sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):  # what it could not write is to be thrown away anyway
            stream.close()
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def destination(target: str) -> tuple[str, int | None]:
    """Return the path of the file to replace, with links followed, and its permission bits, if there is one.

    Raises:
        OSError: `target` is there and no regular file, or is write-protected.
        ValueError: there is a NUL in it.
    """
    if not os.path.basename(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path = os.path.realpath(target)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # renaming over a device would destroy it, and root may
        raise OSError(errno.EINVAL, "not a regular file")
    if not os.access(path, os.W_OK):  # renaming would replace a write-protected file without asking
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path, stat.S_IMODE(mode)


def sync_folder(folder: str) -> None:
    """Make a rename in `folder` last, where a directory can be opened for that; the files are complete either way."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def reported(target: str) -> Iterator[None]:
    """Turn the system's refusal to write `target` into an InputError."""
    try:
        yield
    except (BrokenPipeError, InputError):
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); mend that, or give another --output") from None
