"""The child process of `torchless.probe`: opens one bundle, asks it a few texts, and says what went wrong."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from torchless.errors import BundleError, TorchlessError

# Short and long, of several scripts, with what normalizers and patterns look for.
_TEXTS = (
    "",
    "a",
    "A stirring, funny and finally transporting film; I can't say more.  (See http://example.org/?a=1&b=2.)",
    "Ein schöner Film – größer als das Leben. Фильм был хорош. 映画はとても面白かった。 영화 👍🏽 سُبْحَانَ ﷺ\t\n ﬁ ①",
    "a" * 300,
    "one two three four five six seven eight " * 20,
)


def main(request: dict[str, Any]) -> None:
    """Open what `request` names as a trusted bundle, so that it is not probed again, and run the texts.

    Raises:
        TorchlessError: as the pipeline; what the texts meet is a BundleError.
    """
    _limit(request["memory"] if request["device"] == "cpu" else None)
    from torchless.pipelines.factory import pipeline

    pipe = pipeline(model=request["model"], variant=request["variant"], device=request["device"], threads=1, trust=True)
    try:
        for text in _TEXTS:
            pipe(text, truncation=True)
        pipe(list(_TEXTS), truncation=True)
    except TorchlessError as error:
        raise BundleError(f"{request['model']}: a plain text cannot be answered: {error}") from None


def _limit(memory: int | None) -> None:
    """Bound what this process may take, where the system can; CUDA reserves address space by the terabyte."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _run() -> int:
    # What native code prints must not be taken for the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        main(json.loads(sys.argv[1]))
    except TorchlessError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        said = {"error": "BundleError", "message": "its model needs more memory than a model of its size should"}
    else:
        return 0
    os.write(answer, json.dumps(said).encode() + b"\n")
    return 1


if __name__ == "__main__":
    status = _run()
    # Not sys.exit: what a hostile graph left behind has no say in how this ends.
    os._exit(status)
