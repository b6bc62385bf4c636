"""`torchless_bench.machine`: facts, or None."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchless_bench.machine import describe_machine, load_average, source_commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that holds a package, which `torchless` is made to be."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    package = tmp_path / "runtime" / "torchless"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    monkeypatch.setattr("torchless.__file__", str(package / "__init__.py"))
    return package


def test_machine():
    found = describe_machine()
    assert found["usable_cpus"] >= 1
    if sys.platform == "linux":
        assert found["cpus"] >= found["usable_cpus"]
        assert found["memory_bytes"] > 1 << 28
        assert found["system"].startswith("Linux ")
        assert load_average() >= 0


def test_commit(checkout):
    assert source_commit() == {"commit": git(checkout, "rev-parse", "HEAD"), "changed": False}
    (checkout / "__init__.py").write_text("x = 1\n")
    assert source_commit()["changed"]


def test_a_package_within_another_checkout_has_no_commit(checkout, monkeypatch):
    installed = checkout / "site-packages" / "torchless"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    monkeypatch.setattr("torchless.__file__", str(installed / "__init__.py"))
    assert source_commit() is None


def test_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr("torchless.__file__", str(tmp_path / "__init__.py"))
    assert source_commit() is None


def test_no_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert source_commit() is None
