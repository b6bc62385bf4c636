"""A contender's engine in a process that has done nothing else: `worker.py` starts it, and takes the time.

    python fresh.py, and on standard input {"engine", "options", "threads", "texts", "batch_size"}

Opens the model, answers the texts once, writes a line with the first label, then a line with the bytes that are
resident. It imports next to nothing, since what it imports is measured.
"""

import json
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType


def main() -> None:
    """Do it, as the module's docstring says."""
    # Engines print; the worker must not read that as an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    loader = SourceFileLoader("torchless_bench_engine", request["engine"])
    module = ModuleType(loader.name)
    module.__file__ = request["engine"]
    loader.exec_module(module)
    engine = module.Engine(request["options"], request["threads"])
    labels = engine.answer(request["texts"], request["batch_size"])()
    answers.write(f"{json.dumps(labels[0])}\n")
    answers.flush()
    answers.write(f"{resident_bytes()}\n")
    answers.flush()


def resident_bytes() -> int:
    """Return the resident set of this process (proc_pid_statm(5)), from psutil where there is no /proc.

    Raises:
        NotImplementedError: neither is here.
    """
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import psutil
    except ImportError:
        raise NotImplementedError("memory is measured on Linux, or where psutil is installed") from None
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
