"""The engines, each in a process as the benchmark runs it: all of them say the same of one model."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import torchless
from torchless_bench import prepare
from torchless_bench.contenders import CONTENDERS, ENGINES
from torchless_bench.processes import ContenderError, WorkerProcess

IDS = [[2, 43, 1924, 15, 214, 3], [2, 5933, 846, 43, 863, 3]]
TEXTS = ["A stirring, funny and finally transporting film.", "I hate this so much!", "a dull film"]
# Compiling takes minutes, and gives what the row without it gives.
EXACT = [row for row in CONTENDERS if row.exact and not row.own_python and not row.options.get("compile")]


class Engine:
    """An engine in its worker."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker

    def first(self, kind: str, **arguments: Any) -> Any:
        """Return what the first call of this kind gives."""
        request = {"op": "prepare", "kind": kind, "arguments": arguments, "warmup": 0.0}
        return self.worker.ask(request, 120)["result"]


def loaded(worker: WorkerProcess, engine: str, options: dict[str, Any], needs: tuple[str, ...] = ()) -> Engine:
    request = {"op": "load", "engine": str(ENGINES / engine), "needs": needs, "options": options, "threads": 1,
               "installs": []}  # fmt: skip
    answer = worker.ask(request, 120)
    if "skip" in answer:
        pytest.skip(answer["skip"])
    assert answer["versions"]["python"] == sys.version.split()[0]
    assert len(answer["versions"]) > 1
    return Engine(worker)


@pytest.fixture(scope="module")
def folders(sample_bundle: Path, sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample in the form of each role; without optimum the bundle stands for its export, under the same names."""
    peers = tmp_path_factory.mktemp("peers")
    (peers / "checkpoint").symlink_to(sample_checkpoint)
    for step in prepare.STEPS:
        if step.role in ("optimum", "ctranslate2") and all(map(prepare._is_here, step.needs)):
            (peers / step.role).mkdir()
            step.make(sample_checkpoint, peers / step.role)
    if not (peers / "optimum").exists():
        (peers / "optimum").symlink_to(sample_bundle)
    return {"bundle": sample_bundle} | {role: peers / role for role in ("checkpoint", "optimum", "ctranslate2")}


@pytest.fixture(params=EXACT, ids=lambda row: row.name, scope="module")
def exact(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Engine]:
    """Each contender that computes in float32, on the sample."""
    row = request.param
    model = folders[row.role]
    with WorkerProcess(None, 1) as worker:
        yield loaded(worker, row.engine, {**row.options, "model": str(model)}, row.needs)


@pytest.fixture(scope="module")
def classify(sample_bundle: Path) -> Iterator[Any]:
    with torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu") as pipeline:
        yield pipeline


def test_the_same_logits(exact, classify):
    ids = np.array(IDS)
    wanted = classify.forward({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert np.abs(np.array(exact.first("forward", ids=IDS)) - wanted).max() < 1e-4


def test_the_same_labels_in_the_texts_order(exact, classify):
    wanted = [answer["label"] for answer in classify(TEXTS)]
    assert len(set(wanted)) == 2
    for size in (1, 2, 32):
        assert exact.first("answer", texts=TEXTS, batch_size=size) == wanted
    assert exact.first("answer", texts=TEXTS[1:2], batch_size=1) == wanted[1:2]


def test_over_long_texts_of_a_list_are_cut(exact):
    assert len(exact.first("answer", texts=["word " * 600, "a film"], batch_size=2)) == 2


@pytest.mark.parametrize(
    ("engine", "options"), [("bundle.py", {"device": "cpu"}), ("bare_script.py", {"file": "model.onnx"})]
)
def test_what_is_beside_the_graph(sample_bundle, monkeypatch, engine, options):
    specification = importlib.util.spec_from_file_location("engine", ENGINES / engine)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    own = module.Engine({**options, "model": str(sample_bundle)}, 1)
    whole = own.answer(TEXTS[:1], 1)
    wanted = whole()
    # A clock that moves on by one at each look: at start and end, and around the tokenizer and the graph.
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    for tokenizer, seconds in ((True, 4), (False, 3)):
        call = own.beside(TEXTS[0], tokenizer)
        assert [call(), call()] == [seconds, seconds]
    assert whole() == wanted


def test_parts_are_taken_as_often_as_there_is_time(sample_bundle):
    with WorkerProcess(None, 1) as worker:
        own = loaded(worker, "bundle.py", {"device": "cpu", "model": str(sample_bundle)})
        own.first("beside", text="a film", tokenizer=True)
        for seconds, calls, count in ((60, 20, 20), (0, 20, 1)):
            samples = worker.ask({"op": "turn", "seconds": seconds, "calls": calls, "measure": "part"}, 60)["samples"]
            assert len(samples) == count
            assert all(sample > 0 for sample in samples)


class TestBundle:
    def test_variant_that_is_not_there(self, sample_bundle):
        with WorkerProcess(None, 1) as worker:
            options = {"model": str(sample_bundle), "variant": "fp16", "device": "cpu"}
            request = {
                "op": "load",
                "engine": str(ENGINES / "bundle.py"),
                "needs": (),
                "options": options,
                "threads": 1,
                "installs": [],
            }
            assert worker.ask(request, 120) == {"skip": "the bundle has no variant fp16, only fp32, int8"}

    def test_int8_is_int8(self, sample_bundle, classify):
        with WorkerProcess(None, 1) as worker:
            options = {"model": str(sample_bundle), "variant": "int8", "device": "cpu"}
            found = np.array(loaded(worker, "bundle.py", options).first("forward", ids=IDS))
        ids = np.array(IDS)
        apart = np.abs(found - classify.forward({"input_ids": ids, "attention_mask": np.ones_like(ids)})).max()
        assert 1e-4 < apart < 0.5


class TestExportCommands:
    """With commands that are quick; the real ones are in the table."""

    def engine(self, worker: WorkerProcess, *commands: list[str]) -> Engine:
        return loaded(worker, "export_commands.py", {"model": "MODEL", "commands": commands})

    def test_commands_share_a_directory_that_is_new_each_time(self, tmp_path):
        write = ["-c", "import sys; open(sys.argv[2] + '/x', 'x').write(sys.argv[1])", "{model}", "{output}"]
        copy = ["-c", f"import sys; open({str(tmp_path / 'y')!r}, 'a').write(open(sys.argv[1]).read())", "{output}/x"]
        with WorkerProcess(None, 1) as worker:
            engine = self.engine(worker, write, copy)
            assert engine.first("export") is None
            turn = {"op": "turn", "seconds": 0.001, "calls": 1, "measure": "time"}
            assert worker.ask(turn, 60)["samples"][0] > 0.01
        assert (tmp_path / "y").read_text() == "MODELMODEL"

    def test_command_that_fails(self):
        with WorkerProcess(None, 1) as worker:
            engine = self.engine(worker, ["-c", "import sys; sys.exit('first line\\nno such model')"])
            with pytest.raises(ContenderError, match=r"RuntimeError: -c .* ended with status 1: no such model"):
                engine.first("export")

    def test_commands_read_nothing_of_the_protocol(self):
        with WorkerProcess(None, 1) as worker:
            engine = self.engine(worker, ["-c", "import sys; assert not sys.stdin.read()"])
            assert engine.first("export") is None
