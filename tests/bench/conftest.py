"""Fixtures for the benchmark's tests: engines written on the spot, and plans that use them."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchless_bench.contenders import ROLES, Contender
from torchless_bench.plan import Settings, make_plan
from torchless_bench.report import document
from torchless_bench.rounds import Measured, Outcome, Standing
from torchless_bench.targets import TARGETS

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


@pytest.fixture(scope="module")
def recorded(sample_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A document with everything in it that a document can hold: samples made up, the rest as it comes of a run."""
    peers = tmp_path_factory.mktemp("peers")
    for role in ROLES[1:]:
        (peers / role).mkdir()
        (peers / role / "model.onnx").touch()
    names = ["torchless-fp32", "torchless-int8", "torchless-throughput-int8", "torchless-cuda", "bare-optimum-int8",
             "transformers-fp32", "limits-cpu", "graph-int8", "graph-fp32"]  # fmt: skip
    plan = make_plan(
        [sample_bundle], peers=peers, contenders=names, workloads=["standard", "grid"], settings=Settings(rounds=2)
    )
    plan = dataclasses.replace(plan, targets=TARGETS, left_out={"1x512": "<too> long"})
    outcome = Outcome({name: Standing(versions={"python": "3.11.7"}) for name in names}, {})
    counts = {str(t): {"fp32": 10**6 * t * (t + 9), "weights": 10**6} for t in (16, 64, 128, 256)}
    profile = {"counts": counts, "shares": {"1x16": {"MatMul": 0.8, "Add": 0.2}}}
    for i, comparison in enumerate(plan.comparisons):
        workload = comparison.workload
        for k, name in enumerate(comparison.contenders):
            seconds = (
                {"MB": 1e8}.get(workload.unit.name, 1e-3) * (1 + k / 3) * workload.rows * ((workload.tokens or 20) + i)
            )
            rounds = ((seconds, 1.1 * seconds), (0.9 * seconds,))
            found = Measured((), profile) if workload.rounds == 0 else Measured(rounds, [[0.0, 1.0]], 0.02)
            outcome.measured[workload.name, name] = found
    outcome.unable["loop16", "transformers-fp32"] = "called from 16 threads at once: RuntimeError: busy & gone"
    return document(plan, outcome, ["torchless", "bench", "<bundle>"], {"cpu": 0.1, "cuda": 2.5})


@pytest.fixture
def make_contender(make_engine: Callable[..., Path]) -> Callable[..., Contender]:
    """Return a function that makes a contender on such an engine: `make_contender("name", "return 1", needs=(...))`."""

    def make(name: str, forward: str = "return [[1.0, 2.0]]", *, load: str = "pass", **fields: Any) -> Contender:
        given = {"needs": (), "kinds": ("forward", "installed"), "role": "bundle", **fields}
        return Contender(name, "a contender of the tests", "tests", str(make_engine(forward, load)), **given)

    return make
