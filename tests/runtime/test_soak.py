"""`tests/soak.py`, in short: threads, memory, forks and ends. By hand it runs for minutes: `make soak`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import soak
from untraced import UNTRACED

linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux")


@linux
def test_used_hard(sample_bundle: Path) -> None:
    """64 threads get the answers of one; 6,000 texts leave memory where it was; a fork answers; an open stream ends."""
    command = [sys.executable, soak.__file__, str(sample_bundle), "--seconds", "4", "--texts", "6000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=UNTRACED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.search(r"64 threads, 4 s: \d{2,} answers, 0 wrong", done.stdout)
    [sizes] = re.findall(r"6000 texts: ([\d, ]+) MiB resident", done.stdout)
    seen = [int(size) for size in sizes.split(", ")]
    assert max(seen[2:]) - seen[1] < 40, seen
    assert "ends with a stream left open" in done.stdout


def test_a_wrong_answer_is_seen() -> None:
    """The comparison can fail."""
    calls = iter(range(10**9))

    def drifting(text: object, **arguments: object) -> list:
        score = 0.5 + 1e-5 * next(calls)
        return [{"label": "A", "score": score}] if not isinstance(text, list) else [[{"label": "A", "score": score}]]

    _, wrong = soak.hammer(lambda text, **arguments: drifting(text, **arguments), threads=1, seconds=5)
    assert wrong
