"""`torchless run` on disks that are full, and under quotas that are used up: what is done is kept, and gone on with."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import disks

WINDOW = 4096
LINES = 2 * WINDOW + 100
PAGE = 4096
JOURNAL = ".out.jsonl.journal"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchless", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "texts.txt"
    path.write_text("".join(f"film {i}\n" for i in range(LINES)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uninterrupted(sample_bundle: Path, source: Path) -> bytes:
    target = source.parent / "out.jsonl"
    result = run(sample_bundle, "--input", source, "--output", target)
    assert result.returncode == 0, result.stderr
    return target.read_bytes()


@pytest.fixture(params=["full", "quota"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, int, int]]:
    """A file system, the bytes that it takes, and the number of the error that it gives then."""
    if request.param == "full":
        with disks.small(tmp_path / "disk", 4 << 20) as place:
            yield place, 4 << 20, errno.ENOSPC
    else:
        with disks.with_quota(tmp_path / "disk") as place:
            yield place, disks.QUOTA, errno.EDQUOT


def pages(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes."""
    return -(-size // PAGE) * PAGE


@pytest.mark.parametrize(
    ("left", "least", "most"),
    [
        pytest.param(lambda first, whole: 16 * PAGE, 0, 0, id="next to nothing"),
        pytest.param(lambda first, whole: pages(first), 0, 0, id="no journal"),
        pytest.param(lambda first, whole: pages(first) + 40 * PAGE, WINDOW, WINDOW, id="a part"),
        pytest.param(lambda first, whole: pages(whole), 2 * WINDOW, 2 * WINDOW, id="all but the end"),
    ],
)
def test_what_is_done_is_kept_and_gone_on_with(
    sample_bundle: Path,
    source: Path,
    uninterrupted: bytes,
    disk: tuple[Path, int, int],
    left: Callable[[int, int], int],
    least: int,
    most: int,
) -> None:
    place, size, number = disk
    target = place / "out.jsonl"
    target.write_text("old\n", encoding="utf-8")
    first = sum(len(line) for line in uninterrupted.splitlines(keepends=True)[:WINDOW])
    (place / "filler").write_bytes(bytes(size - PAGE - left(first, len(uninterrupted))))
    arguments = [sample_bundle, "--input", source, "--output", target]
    stopped = run(*arguments)
    assert stopped.returncode == 1
    said = stopped.stderr.splitlines()
    assert said[0] == (
        f"error: {target}: cannot be written ({os.strerror(number)}); mend that, or give another --output"
    )
    assert target.read_text(encoding="utf-8") == "old\n"
    count = 0
    if len(said) > 1:
        count = json.loads((place / JOURNAL).read_bytes())["records"]
        assert said[1:] == [f"{count} texts are done and kept; the same command with --resume goes on"]
    else:
        assert sorted(os.listdir(place)) == ["filler", "out.jsonl"]
    if number == errno.EDQUOT:  # btrfs counts its own tables too, and what is not yet on the disk by more than its size
        least = min(least, WINDOW)
    assert least <= count <= most
    assert count % WINDOW == 0
    (place / "filler").unlink()
    resumed = run(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (f"going on after {count} texts" in resumed.stderr) == bool(count)
    assert target.read_bytes() == uninterrupted
    assert os.listdir(place) == ["out.jsonl"]
