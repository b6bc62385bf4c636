"""Tries a bundle of unknown origin in a process of its own, before this one opens it.

ONNX Runtime and the tokenizers library are native code: a file made to harm can end the process that reads it, or
keep it busy for ever, and no `except` helps. So what nobody vouches for is first opened, and asked a few texts, by a
child process with a limit on time and memory; a crash there is an error message here.

It is no sandbox: the child may do whatever the user may, and a graph that behaves on those texts may still misbehave
on others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchless import __version__, errors
from torchless.bundle import Bundle
from torchless.devices import Device
from torchless.errors import BundleError, TorchlessError

logger = logging.getLogger("torchless")

# A start takes half a second, and a disk gives 64 MiB in one: what takes longer is a loop.
SECONDS = 60.0
_BYTES_A_SECOND = 64 << 20
# Address space, of which ONNX Runtime and its libraries reserve far more than they touch. A graph is held several
# times while it is optimized.
_MEMORY = 4 << 30
_COPIES = 8


def probe(bundle: Bundle, variant: str, device: Device) -> None:
    """Open `variant` of `bundle` and run a few texts through it, in a child process; return if that went well.

    A bundle with a manifest that passed is noted by its hashes in the user's cache, and not tried again.

    Raises:
        BundleError: the process crashed, ran into its limits, or could not be started; or as the pipeline.
        TorchlessError: what opening the pipeline raises there, as it would here.
    """
    note = _note(bundle, variant, device) if bundle.verified else None
    if note is not None and os.path.isfile(note):
        return
    size = sum(_size(bundle.folder / name) for name in _model_files(bundle, variant))
    _try(bundle, variant, device, SECONDS + size / _BYTES_A_SECOND, _MEMORY + _COPIES * size)
    if note is not None:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
        except OSError:  # tried again the next time
            logger.debug("%s: cannot be written", note, exc_info=True)


def _try(bundle: Bundle, variant: str, device: Device, seconds: float, memory: int) -> None:
    if getattr(sys, "frozen", False) or not sys.executable:
        # There is no interpreter to start, and the program itself must not be started in its place.
        raise BundleError(
            f"{bundle.path}: cannot be tried in a process of its own here; pass trust=True if you know where it is from"
        )
    request = {"model": str(bundle.folder), "variant": variant, "device": str(device), "memory": memory}
    # -P: a module that lies in the working directory is not to be imported unless it would be here.
    command = [sys.executable, "-P", "-W", "ignore", "-m", "torchless.probe", json.dumps(request)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_import_paths())}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"{bundle.path}: opening variant {variant} and one short answer took over {seconds:.0f} s in a process of "
            f"its own; {_STRANGE}"
        ) from None
    except OSError as error:
        raise BundleError(
            f"{bundle.path}: cannot be tried in a process of its own: {error.strerror or error}; pass trust=True if "
            "you know where it is from"
        ) from None
    if done.returncode == 0:
        return
    kind, message = _answer(done.stdout)
    if kind is not None:
        raise kind(message)
    raise BundleError(
        f"{bundle.path}: variant {variant} ended the process that tried it, with {_cause(done.returncode)}; {_STRANGE}"
    )


def _import_paths() -> Iterator[str]:
    """Yield where this process imports from, for one that may start elsewhere."""
    for path in sys.path:
        # Others than strings are let lie there, and not looked at; "" is the working directory, if there still is one.
        if isinstance(path, str):
            with contextlib.suppress(OSError):
                yield path or os.getcwd()


_STRANGE = "it is broken or made to harm: fetch it again from a place you trust, or export the checkpoint yourself"


def _answer(output: bytes) -> tuple[type[TorchlessError] | None, str]:
    """Read what the child says on its last line: an error of torchless, or nothing where it had no time for that."""
    try:
        said: Any = json.loads(output.splitlines()[-1])
        kind = getattr(errors, said["error"])
        return kind if issubclass(kind, TorchlessError) else None, str(said["message"])
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return None, ""


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _model_files(bundle: Bundle, variant: str) -> list[str]:
    names = list(bundle.manifest.variants[variant].files)
    if not bundle.verified:  # whose external data nobody lists
        folder = (bundle.folder / names[0]).parent
        names += [str((folder / name).relative_to(bundle.folder)) for name in os.listdir(folder) if "data" in name]
    return names


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the child says what is wrong with it
        return 0


def _note(bundle: Bundle, variant: str, device: Device) -> Path | None:
    """Return the file whose presence says that a bundle of these hashes passed, with what runs it here."""
    from torchless.session import runtime_version  # not in the child, which limits itself before it loads these
    from torchless.tokenization import tokenizers_version

    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        cache = Path(root) if root else Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    # What passed here may crash what runs it next year.
    versions = (__version__, runtime_version(), tokenizers_version())
    digest = hashlib.sha256("\0".join((bundle.manifest.to_json(), variant, device.kind, *versions)).encode())
    return cache / "torchless" / "probed" / digest.hexdigest()
