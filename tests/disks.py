"""Small file systems for tests of disks that are full, and of quotas that are used up. Only root may mount them."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# What a file system `with_quota` takes.
QUOTA = 24 << 20
_IMAGE = Path(__file__).parent / "assets" / "quota.img.xz"


@contextmanager
def small(place: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes at `place`, which is made; or skip the test."""
    with _mounted(place, "-t", "tmpfs", "-o", f"size={size}", "none"):
        yield place


@contextmanager
def with_quota(place: Path) -> Iterator[Path]:
    """Mount a file system of 48 MiB at `place`, which is made, that takes `QUOTA` bytes from whoever writes, root too.

    Of the kinds that have quotas it is btrfs, since that keeps them in itself and needs no tool to set them:

        truncate -s 48M quota.img; mkfs.btrfs --mixed -m single -d single -R quota quota.img
        mount -o loop quota.img place; btrfs qgroup limit 24M place; umount place; xz -9e quota.img
    """
    image = place.with_suffix(".img")
    image.write_bytes(lzma.decompress(_IMAGE.read_bytes()))
    with _mounted(place, "-t", "btrfs", "-o", "loop", str(image)):
        yield place


@contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[None]:
    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    place.mkdir()
    done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        pytest.skip(f"only root may mount a file system, and only of a kind that the kernel has: {said}")
    try:
        yield
    finally:
        # Lazily: what a test that failed still holds open keeps it there, and nothing longer than that.
        subprocess.run(["umount", "--lazy", str(place)], check=True)
