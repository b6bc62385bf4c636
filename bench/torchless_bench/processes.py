"""A contender's process as the benchmark sees it: requests, answers, time limits, and an end in every case."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torchless.errors import one_line

_WORKER = Path(__file__).resolve().with_name("worker.py")
_GRACE = 3.0  # seconds that a process has to end by itself

# Variables that set the size of a thread pool in some library.
_THREAD_POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class ContenderError(Exception):
    """A contender's process ended, did not answer in time, or answered with an error; `str` is one line."""


class WorkerProcess:
    """One running `worker.py`; a context manager, at whose end nothing that the worker started or wrote is left."""

    def __init__(self, python: str | None, threads: int) -> None:
        """Start `worker.py` in the interpreter `python` (None: this one).

        Raises:
            ContenderError: there is no such interpreter, or it cannot be started.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        # A process that is killed does not clear up: what it puts into its temporary directory is cleared up here.
        self._scratch = tempfile.TemporaryDirectory(prefix="torchless-bench-", ignore_cleanup_errors=True)
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, str(_WORKER), self._scratch.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(os.environ, threads, self._scratch.name, ours=python is None),
                start_new_session=True,  # Ctrl-C is the benchmark's to answer, and one signal then reaches all of them
            )
        except OSError as error:
            self._errors.close()
            self._scratch.cleanup()
            raise ContenderError(f"{python or sys.executable} cannot be started: {error.strerror}") from None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id, which is its group's too."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Send one request and return the answer, waiting at most `limit` seconds for it.

        Raises:
            ContenderError: no answer, or the answer is an error. The process is of no use after that.
        """
        try:
            self._send(request)
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise ContenderError(f"no answer to {request['op']!r} within {limit:g} s; see --time-limit") from None
        except OSError:  # the pipe is broken
            raise ContenderError(self._obituary()) from None
        if not line:
            raise ContenderError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(one_line(str(answer["error"]), 300))
        return answer

    def close(self) -> None:
        """End the process, by force where it does not end by itself."""
        with contextlib.suppress(OSError):  # it may be dead already
            self._send({"op": "stop"})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()
        self._scratch.cleanup()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, of a dead one
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._reader.join(_GRACE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.kill()  # interrupted: nobody waits for a call to come to its end
        self.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        stream = self._process.stdin
        if stream is None or stream.closed:
            raise BrokenPipeError
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put(b"")  # its end is an answer too, or nobody would hear of it before the time limit

    def _obituary(self) -> str:
        """Say how the process ended, with the last line that it wrote on standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        status = self._process.returncode
        how = "stopped answering" if status is None else f"exited with status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-status).name}"
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return f"its process {how}" + (f": {one_line(lines[-1], 200)}" if lines else "")


def _environment(outer: Mapping[str, str], threads: int, scratch: str, *, ours: bool) -> dict[str, str]:
    """Return a worker's environment: as many threads for every library, no network, no module of ours by chance."""
    environment = {**outer, **dict.fromkeys(_THREAD_POOLS, str(threads))}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONSAFEPATH": "1",  # the modules beside worker.py are none that an engine means by a name
    }
    if not ours:
        environment.pop("PYTHONPATH", None)  # what it adds was meant for this interpreter
    return environment
