"""A bundle on disk: nothing in it is used before it was checked against the manifest.

The invariants, in the order in which they are checked:

1. `torchless.json` is a regular file of at most 16 MiB, strict JSON, and fits the schema (`manifest.py`).
2. Only files named there are opened: plain names in the bundle's own directory, each opened once,
   without waiting on a pipe or a device. A link is followed, as the hub's cache needs: what counts
   is the next two points.
3. Its size is the manifest's, by `fstat` and before anything is read.
4. Its SHA-256 is the manifest's, over what the open descriptor gives.
5. What was hashed is what is used: small files as the bytes that were read, model files as the mapping
   or through the descriptor that was hashed, so that a rename in between changes nothing.
6. `config.json` names the same labels as the manifest.

A file replaced by a rename after that changes nothing for what is open. One overwritten in place is another matter:
weights are read from the mapped file for as long as the session lives, so whoever may write into a bundle's files is
trusted with its answers, and with the process: one that is cut short in place ends it (SIGBUS).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchless import strict_json
from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME, FileEntry, Manifest
from torchless.onnx_file import without_weights

# tokenizer.json of a 250,000-word vocabulary has 17 MiB, config.json a few KiB: these are walls, not sizes.
_SMALL = 16 << 20
_LIMITS = {"tokenizer.json": 64 << 20}
# Of a protobuf message, which a graph is: what makes it larger lies beside it as external data.
_GRAPH = (2 << 30) - 1


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that may be given to ONNX Runtime.

    Attributes:
        model: the path to open; or bytes: the graph without its weights, or all of it where the system cannot reopen a
            descriptor.
        external: the files that its weights lie in, by the name that the graph gives them, each mapped read-only.
        name: the model's file name, for messages.
    """

    model: str | bytes
    external: dict[str, mmap.mmap] = field(default_factory=dict)
    name: str = "model.onnx"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A directory and the manifest that describes it.

    Attributes:
        path: the directory, as it was named.
        folder: the same, absolute: the working directory may change while the bundle is in use.
        manifest: what it holds.
        verified: whether there is a manifest file with hashes; a directory in the hub's ONNX
            layout has none, and `hub_layout.py` describes it from its config.
        trusted: whether its native parts may be opened in this process untried; see `torchless.probe`.
        opener: what opened it and opens it again from its path, where it is pickled; None: `Bundle.open`.
    """

    path: Path
    manifest: Manifest
    verified: bool = True
    trusted: bool = True
    opener: Callable[[Path], Bundle] | None = field(default=None, repr=False, compare=False)
    folder: Path = field(init=False, repr=False, compare=False)
    _config: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(os.path.abspath(self.path)))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, trusted: bool = True) -> Bundle:
        """Read the manifest of the bundle in the directory `path`; nothing else is opened yet.

        Hashes say that the files are those the manifest's writer meant, and not who that was: `trusted=False` has
        a pipeline try the bundle in a process of its own first.

        Raises:
            BundleError: no directory, no manifest, or one that does not keep the schema.
            BundleVersionError: made by a newer torchless.
        """
        folder = Path(path)
        # os.path, not Path: what may not be looked at, or has a name too long, is an error of Path's own.
        if not os.path.isdir(folder):
            raise BundleError(f"{folder}: {'not a directory' if os.path.exists(folder) else 'no such directory'}; "
                              "give a bundle made by `torchless export`")  # fmt: skip
        with _open(folder / MANIFEST_NAME, _SMALL) as descriptor:
            data = _read_all(descriptor)
        opener = None if trusted else functools.partial(cls.open, trusted=False)
        bundle = cls(folder, Manifest.from_json(data, str(folder / MANIFEST_NAME)), trusted=trusted, opener=opener)
        bundle._check_labels()
        return bundle

    def __reduce__(self) -> tuple[Any, ...]:
        # By its path: whoever loads it reads and checks the files as at the first time.
        return self.opener or Bundle.open, (self.folder,)

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file (`config.json`, `tokenizer.json`, ...), checked.

        Raises:
            BundleError: missing, unreadable, too large, or not the file that the manifest describes.
        """
        entry = self.manifest.entry(name) if self.verified else None
        with self._open(name, _LIMITS.get(name, _SMALL)) as descriptor:
            if entry is None:
                return _read_all(descriptor)
            self._check_size(entry, descriptor)
            data = _read_all(descriptor)
        self._check_digest(entry, hashlib.sha256(data).hexdigest())
        return data

    def has(self, name: str) -> bool:
        """Tell whether the manifest lists the file `name`."""
        return any(entry.path == name for entry in self.manifest.files)

    def config(self) -> dict[str, Any]:
        """Return `config.json` as a dict; the file is read once.

        Raises:
            BundleError: as `read`, or it is not a JSON object.
        """
        if self._config:
            return self._config
        try:
            config = strict_json.loads(self.read("config.json"))
        except strict_json.JSONError as error:
            raise BundleError(f"{self.path / 'config.json'}: {error}; export the bundle again") from None
        if not isinstance(config, dict):
            raise BundleError(f"{self.path / 'config.json'}: not a JSON object; export the bundle again")
        self._config.update(config)
        return self._config

    @contextmanager
    def model(self, variant: str) -> Iterator[ModelSource]:
        """Open the files of `variant`, checked, for as long as the `with` lasts.

        ONNX Runtime has read all it needs when the session stands, but for mapped weights, which live on as long as
        the session refers to them.

        Raises:
            BundleError: as `read`.
        """
        names = self.manifest.variants[variant].files
        with ExitStack() as stack:
            limits = {names[0]: _GRAPH}
            descriptors = {name: stack.enter_context(self._open(name, limits.get(name))) for name in names}
            first = names[0]
            if not self.verified:
                # The graph itself says where its external data lies, and only ONNX Runtime reads graphs.
                yield ModelSource(str(self.folder / first), name=first)
                return
            maps = {}
            for name, descriptor in descriptors.items():
                entry = self.manifest.entry(name)
                self._check_size(entry, descriptor)
                data = _map(descriptor)
                self._check_digest(entry, hashlib.sha256(data).hexdigest())
                if isinstance(data, mmap.mmap):  # an empty file cannot be mapped, and no tensor lies in one
                    maps[name] = data
            yield self._source(first, descriptors[first], maps)

    def _source(self, first: str, descriptor: int, maps: dict[str, mmap.mmap]) -> ModelSource:
        """Return how ONNX Runtime gets the checked model `first`: its weights in `maps`, where that can be."""
        if first in maps and sys.byteorder == "little":  # as ONNX's raw data is
            with contextlib.suppress(ValueError):  # no ONNX model: ONNX Runtime will say so
                if (graph := without_weights(maps[first], first)) is not None:
                    return ModelSource(graph, maps, first)
        return ModelSource(_reopenable(descriptor), {name: data for name, data in maps.items() if name != first}, first)

    def _open(self, name: str, limit: int | None) -> AbstractContextManager[int]:
        return _open(self.folder / name, limit, self.path / name)

    def _check_size(self, entry: FileEntry, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size != entry.size:
            raise BundleError(f"{self.path / entry.path}: {size} bytes, the manifest says {entry.size}; {_CHANGED}")

    def _check_digest(self, entry: FileEntry, found: str) -> None:
        if found != entry.sha256:
            raise BundleError(
                f"{self.path / entry.path}: sha256 {found[:12]}…, the manifest says {entry.sha256[:12]}…; {_CHANGED}"
            )

    def _check_labels(self) -> None:
        labels = self.config().get("id2label")
        if not isinstance(labels, dict) or self.manifest.task != "text-classification":
            return
        named = {str(index): label for index, label in enumerate(self.manifest.labels)}
        if labels != named:
            raise BundleError(
                f"{self.path}: config.json's id2label ({len(labels)} labels) is not the manifest's list "
                f"of {len(named)}; export the bundle again"
            )


_CHANGED = "the file was changed or cut short after the export; copy or export the bundle again"


@contextmanager
def _open(path: Path, limit: int | None, shown: Path | None = None) -> Iterator[int]:
    """Open a regular file of at most `limit` bytes; yields its descriptor, closed at the end.

    `shown` is what messages call it, where that is not `path`.
    """
    shown = shown or path
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BundleError(f"{shown}: missing; copy or export the bundle again") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(f"{shown}: cannot be read: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{shown}: not a regular file; copy or export the bundle again")
        if limit is not None and status.st_size > limit:
            raise BundleError(f"{shown}: {status.st_size} bytes, at most {limit} are read; export the bundle again")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    chunks = []
    # The size was checked before: a file that grows meanwhile is not followed.
    while chunk := os.read(descriptor, size):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _map(descriptor: int) -> mmap.mmap | bytes:
    """Return the file, mapped; b"" where it is empty."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if os.fstat(descriptor).st_size else b""


def _reopenable(descriptor: int) -> str | bytes:
    """Return a path that opens the very file that was hashed, or its bytes where there is no such path."""
    path = f"/proc/self/fd/{descriptor}"
    if sys.platform == "linux" and os.path.exists(path):
        return path
    os.lseek(descriptor, 0, os.SEEK_SET)
    return _read_all(descriptor)
