"""What runs in a contender's own process: it loads one engine, and calls it when told to.

    python worker.py TEMPORARY_DIRECTORY

Run by its path, by any Python from 3.9, with the standard library and what the engine imports: a contender's
interpreter need not have torchless. It takes one JSON object a line on standard input and answers each with one line:

| request                                                               | answer                                  |
|-----------------------------------------------------------------------|-----------------------------------------|
| `{"op": "load", "engine", "needs", "options", "installs", "threads"}` | `{"versions", "seconds"}` or `{"skip"}` |
| `{"op": "prepare", "kind", "arguments", "warmup"}`                    | `{"result", "idle"}` or `{"unable"}`    |
| `{"op": "turn", "seconds", "calls", "measure"}`                       | `{"samples", "idle", "cpu"}`, `{"unable"}` |
| `{"op": "stop"}`                                                      | none: the process ends                  |

and any of them with `{"error": "one line"}`, after which the engine is not to be trusted; "unable" says in one line
why it cannot do this one kind of work. Where standard input ends unasked, the benchmark is no more; the process
then removes its temporary directory and kills its group and itself, so that nothing is left. What the engine prints
goes to standard error.

`engine` is the path of a file described in `engines/__init__.py`, `kind` the method of it that gives what is measured,
or one of `OWN_KINDS`, for which the worker makes the call. `samples` are the seconds of each call where `measure` is
"time" or "loop" (several threads then call at once), and what the calls returned where it is "value" (of one call) or
"part" (of as many as are timed).
`idle` is the share of one CPU that the process takes when it has nothing to do: other contenders would feel it. `cpu`
is how many CPU seconds there were during the turn, how many were busy, and how many of these this process took; null
where the system does not tell.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

# An answer is asked of the process only once its threads sleep, or after so long.
_SETTLE_STEP, _SETTLE_LIMIT, _SETTLED = 0.02, 1.0, 0.05
_SHOWN = 32  # rows of a result that are sent back to be compared

_HERE = os.path.dirname(os.path.abspath(__file__))


class Worker:
    """One engine and what is measured of it now."""

    def __init__(self) -> None:
        self._module: Any = None
        self._engine: Any = None
        self._loaded: dict[str, Any] = {}
        self._installs: list[str] = []
        self._call: Callable[[], Any] = _nothing_prepared
        self._last = 0.0
        self._threads = 1

    def load(
        self, engine: str, needs: list[str], options: dict[str, Any], threads: int, installs: list[str]
    ) -> dict[str, Any]:
        """Import the engine's file and open the model, unless something that it needs is not here."""
        missing = [name for name in needs if not _is_here(name)]
        if missing:
            return {"skip": f"{', '.join(missing)} not installed in {sys.executable}"}
        self._loaded, self._installs = {"engine": engine, "options": options, "threads": threads}, installs
        start = time.perf_counter()
        module = self._module = _import_file(engine)
        problem = module.problem(options) if hasattr(module, "problem") else None
        if problem is not None:
            return {"skip": problem}
        self._engine = module.Engine(options, threads)
        seconds = time.perf_counter() - start
        return {"versions": {"python": sys.version.split()[0]} | _versions(module.DISTRIBUTIONS), "seconds": seconds}

    def prepare(self, kind: str, arguments: dict[str, Any], warmup: float) -> dict[str, Any]:
        """Build the call to be measured and repeat it for `warmup` seconds, at least once."""
        self._threads = 1
        if kind in OWN_KINDS:
            self._call = OWN_KINDS[kind](self, **arguments)
        else:
            self._call = getattr(self._engine, kind)(**arguments)
        if kind in _MEASURED_ONCE:
            return {"result": None, "idle": _settle()}
        start = time.perf_counter()
        result = self._call()
        self._last = time.perf_counter() - start
        while time.perf_counter() - start < warmup:
            begin = time.perf_counter()
            self._call()
            self._last = time.perf_counter() - begin
        return {"result": _plain(result), "idle": _settle()}

    def turn(self, seconds: float, calls: int, measure: str) -> dict[str, Any]:
        """Measure for `seconds`, at least one and at most `calls` calls."""
        before = _cpu_seconds()
        samples = _MEASURES[measure](self, seconds, calls)
        after = _cpu_seconds()
        cpu = [after[i] - before[i] for i in range(3)] if before and after else None
        return {"samples": samples, "idle": _settle(), "cpu": cpu}

    def _value(self, seconds: float, calls: int) -> list[float]:
        del seconds, calls  # it is what it is
        return [float(self._call())]

    def _timed(self, seconds: float, calls: int) -> list[float]:
        if self._last < seconds / 4:
            # The others' turns have emptied the caches: where calls are short, the first is not like the rest.
            self._call()
        samples = _repeated(self._call, time.perf_counter() + seconds, calls)
        self._last = samples[-1]
        return samples

    def _parts(self, seconds: float, calls: int) -> list[float]:
        self._call()  # as in `_timed`
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while not samples or (time.perf_counter() < end and len(samples) < calls):
            samples.append(float(self._call()))
        return samples

    def _looped(self, seconds: float, calls: int) -> list[float]:
        """Call from as many threads as the workload has, each at once again when it has its answer."""
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            end = time.perf_counter() + seconds
            each = max(1, calls // self._threads)
            running = [pool.submit(_repeated, self._call, end, each) for _ in range(self._threads)]
        try:
            return [sample for one in running for sample in one.result()]
        except Exception as error:
            raise NotImplementedError(f"called from {self._threads} threads at once: {_told(error)}") from error

    def _loop(self, texts: list[str], threads: int) -> Callable[[], Any]:
        call: Callable[[], Any] = self._engine.answer(texts, 1)
        self._threads = threads
        return call

    def _fresh(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        return lambda: self._in_fresh_process(texts, batch_size)[0]

    def _memory(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        return lambda: self._in_fresh_process(texts, batch_size)[1]

    def _in_fresh_process(self, texts: list[str], batch_size: int) -> tuple[float, int]:
        """Return the seconds until `fresh.py` said its first label, and the bytes that were then resident."""
        request = json.dumps({**self._loaded, "texts": texts, "batch_size": batch_size})
        told = []
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            given.write(request.encode() + b"\n")
            given.seek(0)
            start = time.perf_counter()
            command = [sys.executable, os.path.join(_HERE, "fresh.py")]
            with subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors) as process:
                for line in process.stdout or ():
                    told.append((time.perf_counter() - start, line))
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip() or "it said nothing"
        if process.returncode or len(told) != 2:
            raise NotImplementedError(f"a fresh process failed: {said.splitlines()[-1]}")
        return told[0][0], int(told[1][1])

    def _size(self) -> Callable[[], float]:
        options = self._loaded["options"]
        find = getattr(self._module, "files", _footprint().files_opened)
        return lambda: float(sum(os.stat(file).st_size for file in find(options)))

    def _installed(self) -> Callable[[], float]:
        find = _footprint().sizes_installed
        return lambda: float(sum(find(self._installs).values()))


OWN_KINDS: dict[str, Callable[..., Callable[[], Any]]] = {
    "loop": Worker._loop,
    "first": Worker._fresh,
    "memory": Worker._memory,
    "size": Worker._size,
    "installed": Worker._installed,
}
"""Kinds of work for which an engine needs no method of its own, or only `answer`."""

_MEASURED_ONCE = ("memory", "size", "installed")  # a call before the first turn would say nothing

_MEASURES = {"time": Worker._timed, "loop": Worker._looped, "part": Worker._parts, "value": Worker._value}


def main() -> None:
    """Answer requests until there are no more."""
    # Engines print; the benchmark must not read that as an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    worker = Worker()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "load": worker.load,
        "prepare": worker.prepare,
        "turn": worker.turn,
    }
    while True:
        request = json.loads(requests.get())
        if request["op"] == "stop":
            return
        operation = operations[request.pop("op")]
        try:
            answer = operation(**request)
        except NotImplementedError as error:
            answer = {"unable": " ".join(str(error).split())[:400]}
        except Exception as error:  # whatever an engine raises is told, and costs this contender alone
            answer = {"error": _told(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(requests: queue.SimpleQueue[bytes]) -> None:
    """Queue the lines of standard input; at its end, clear up and end this process, even in the midst of a call."""
    rest = b""
    while data := os.read(0, 1 << 16):  # not sys.stdin, whose lock would be held when the interpreter shuts down
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            requests.put(line)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # it leads its group: in that are its own children
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package is
        return False


def _import_file(path: str) -> Any:
    name = "torchless_bench_" + os.path.basename(path).partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of onnxruntime and onnxruntime-gpu one is there
    return found


def _repeated(call: Callable[[], Any], end: float, calls: int) -> list[float]:
    """Return the seconds of each call, until the clock says `end`: at least one, at most `calls`."""
    samples: list[float] = []
    clock = time.perf_counter
    while True:
        start = clock()
        call()
        now = clock()
        samples.append(now - start)
        if now >= end or len(samples) >= calls:
            return samples


def _footprint() -> Any:
    return _import_file(os.path.join(_HERE, "footprint.py"))


def _told(error: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def _settle() -> float:
    """Wait until the process takes no CPU time, so that the next contender has the machine; returns the share it takes.

    ONNX Runtime's threads spin for a while after a run, and so do OpenMP's.
    """
    end = time.perf_counter() + _SETTLE_LIMIT
    while True:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(_SETTLE_STEP)
        share = (time.process_time() - used) / (time.perf_counter() - start)
        if share < _SETTLED or time.perf_counter() > end:
            return share


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Return CPU seconds so far: those that the machine had, those it was busy, those of this process and its children.

    From the first line of `/proc/stat` (Linux, proc_stat(5)): ticks in user, nice, system, idle, iowait, irq, softirq
    and steal. Summed as whole numbers and without the two that are idle (iowait can fall), so that no later value is
    below an earlier one. None on other systems.
    """
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, idle, iowait, *others = (int(word) for word in file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    busy, second = user + nice + system + sum(others), os.sysconf("SC_CLK_TCK")
    return (busy + idle + iowait) / second, busy / second, sum(os.times()[:4])


def _plain(value: Any) -> Any:
    """Return the first rows of a result as JSON can hold them; None for what it cannot."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:_SHOWN]]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, type(None))) else None


def _nothing_prepared() -> Any:
    raise RuntimeError("a turn was asked for before anything was prepared")


if __name__ == "__main__":
    main()
