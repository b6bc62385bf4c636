"""From a checkpoint to fp32 and int8 graphs: commands, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

DISTRIBUTIONS = ("torchless", "onnx", "onnxruntime", "transformers", "torch", "optimum", "optimum-onnx")


class Engine:
    """Commands of this interpreter: `options["commands"]`, in which {model} and {output} stand for directories."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        del threads  # the commands take those of the environment, which the worker was started with
        self._model: str = options["model"]
        self._commands: list[list[str]] = options["commands"]

    def export(self) -> Callable[[], Any]:
        """Return the commands one after the other, into a directory that is new each time."""

        def call() -> None:
            with tempfile.TemporaryDirectory(prefix="torchless-bench-") as folder:
                for arguments in self._commands:
                    self._run([argument.format(model=self._model, output=folder) for argument in arguments])

        return call

    def _run(self, arguments: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {last}")
