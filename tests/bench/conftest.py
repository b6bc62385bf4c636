"""Fixtures for the benchmark's tests: engines written on the spot, and plans that use them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchless_bench.contenders import Contender

# An engine in a few lines: `forward` gives what the test writes as its body, called with `self` and `ids`.
_ENGINE = """
import os, signal, subprocess, sys, threading, time

DISTRIBUTIONS = ("numpy", "no-such-distribution")

class Engine:
    def __init__(self, options, threads):
        self.options, self.threads, self.calls = options, threads, 0
{load}

    def forward(self, ids):
        def call():
            self.calls += 1
{forward}
        return call

    def answer(self, texts, batch_size):
        call = self.forward(texts)
        return lambda: ["label" for _ in call() or texts]

    def other(self):
        return lambda: 123
"""


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an engine and returns its path: `make_engine("return 1", load="...")`."""
    count = 0

    def make(forward: str = "return [[1.0, 2.0]]", load: str = "pass") -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"engine{count}.py"
        bodies = {
            "load": textwrap.indent(textwrap.dedent(load), " " * 8),
            "forward": textwrap.indent(textwrap.dedent(forward), " " * 12),
        }
        path.write_text(_ENGINE.format(**bodies), encoding="utf-8")
        return path

    return make


@pytest.fixture
def make_contender(make_engine: Callable[..., Path]) -> Callable[..., Contender]:
    """Return a function that makes a contender on such an engine: `make_contender("name", "return 1", needs=(...))`."""

    def make(name: str, forward: str = "return [[1.0, 2.0]]", *, load: str = "pass", **fields: Any) -> Contender:
        given = {"needs": (), "kinds": ("forward", "installed"), "role": "bundle", **fields}
        return Contender(name, "a contender of the tests", "tests", str(make_engine(forward, load)), **given)

    return make
