"""`torchless.cuda_graphs`: shapes, and runs through the same calls on the CPU, which records nothing but answers."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_system import posix
from open_sessions import CPU, LOGITS, batch, open_variant
from torchless import cuda_graphs
from torchless.cuda_graphs import LENGTHS, MOST_TOKENS, ROWS, GraphRunner, bucket
from torchless.manifest import OutputSpec
from torchless.session import Session


@given(st.integers(1, 40), st.integers(1, 600), st.none() | st.integers(8, 600))
def test_a_bucket_holds_its_batch_and_little_more(rows: int, length: int, longest: int | None) -> None:
    shape = bucket(rows, length, longest)
    if shape is None:
        smallest = (min((r for r in ROWS if r >= rows), default=10**6), length)
        too_long = length > (min(longest, LENGTHS[-1]) if longest is not None else LENGTHS[-1])
        assert too_long or smallest[0] * smallest[1] > MOST_TOKENS / 2
        return
    assert shape[0] >= rows
    assert shape[1] >= length
    assert shape[0] * shape[1] <= MOST_TOKENS
    assert shape[0] < 2 * rows
    assert shape[1] < 2 * length or shape[1] == LENGTHS[0]
    assert longest is None or shape[1] <= longest
    # Filling it up changes nothing more.
    assert bucket(*shape, longest) == shape


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ((1, 16, None), (1, 16)),
        ((1, 17, None), (1, 24)),
        ((3, 20, 512), (4, 24)),
        ((1, 450, 500), (1, 500)),
        ((1, 501, 500), None),
        ((1, 513, None), None),
        ((33, 8, None), None),
        ((32, 32, None), (32, 32)),
        ((32, 33, None), None),
        ((0, 5, None), None),
        ((1, 0, None), (1, 8)),
        ((1, 4, 6), (1, 6)),
    ],
)
def test_buckets(batch: tuple[int, int, int | None], shape: tuple[int, int] | None) -> None:
    assert bucket(*batch) == shape


def test_there_are_few_buckets() -> None:
    found = {bucket(rows, length, 512) for rows in range(1, 40) for length in range(1, 520)} - {None}
    assert 30 < len(found) < 60


class Watched:
    """A session, and the options of each of its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.graphs: list[str] = []
        self.threads: set[int] = set()
        self.at_once = 0
        self.most_at_once = 0
        self.fails: Callable[[str], bool] = lambda graph: False
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        graph = options.get_run_config_entry("gpu_graph_id")
        with self._lock:
            self.graphs.append(graph)
            self.threads.add(threading.get_ident())
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.fails(graph):
                raise RuntimeError("CUDA failure 900: operation\nnot permitted when stream is capturing")
            time.sleep(0.001)
            self._session.run_with_iobinding(binding, options)
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture(scope="module")
def sessions(sample_bundle: Path, features_bundle: Path) -> dict[str, Session]:
    return {
        "logits": open_variant(sample_bundle, threads=1),
        "last_hidden_state": open_variant(features_bundle, threads=1),
    }


OUTPUTS = {
    "logits": LOGITS,
    "last_hidden_state": OutputSpec("last_hidden_state", "float32", ("batch", "sequence", "hidden")),
}


@pytest.fixture(params=OUTPUTS)
def opened(request: pytest.FixtureRequest, sessions: dict[str, Session]) -> tuple[Session, Watched, GraphRunner]:
    """The sample's session, as it is, watched, and run through graphs."""
    plain, output = sessions[request.param], OUTPUTS[request.param]
    watched = Watched(plain._session)
    assert plain.output_width is not None
    return plain, watched, GraphRunner(ort, watched, output, plain.output_width, CPU, 62)


def test_from_the_second_batch_of_a_shape_on_it_is_replayed(opened: Any) -> None:
    plain, watched, runner = opened
    for seed, (rows, length) in enumerate([(3, 10), (4, 12), (3, 9), (1, 62), (4, 16), (1, 60), (2, 3)]):
        inputs = batch(rows, length, seed)
        found, want = runner(inputs), plain.run(inputs)
        assert found.shape == want.shape
        tokens = inputs["attention_mask"] > 0 if found.ndim == 3 else slice(None)
        np.testing.assert_allclose(found[tokens], want[tokens], rtol=0, atol=2e-6)
    # The first of each shape runs as it is; recording is a run of its own.
    assert watched.graphs == ["-1", "1", "1", "1", "-1", "1", "2", "2", "-1"]
    assert runner.captured == ("4x16", "1x62")


def test_what_was_in_a_graphs_memory_before_does_not_show(opened: Any) -> None:
    plain, _, runner = opened
    small = batch(1, 5, 1)
    for inputs in (batch(4, 16, 2), batch(4, 16, 3), small):
        found = runner(inputs)
    filled = {name: np.pad(array, ((0, 0), (0, 3))) for name, array in small.items()}
    runner(filled)
    want = plain.run(small)
    tokens = small["attention_mask"] > 0 if found.ndim == 3 else slice(None)
    np.testing.assert_allclose(runner(small)[tokens], want[tokens], rtol=0, atol=2e-6)


def test_an_answer_stays_when_the_graph_is_replayed(opened: Any) -> None:
    _, _, runner = opened
    runner(batch(2, 8, 1))
    first = runner(batch(2, 8, 2))
    before = first.copy()
    runner(batch(2, 8, 3))
    np.testing.assert_array_equal(first, before)


def test_large_batches_are_run_as_they_are(opened: Any) -> None:
    plain, watched, runner = opened
    inputs = batch(40, 40)
    for _ in range(3):
        np.testing.assert_array_equal(runner(inputs), plain.run(inputs))
    assert watched.graphs == ["-1"] * 3
    assert runner.captured == ()


def test_the_number_of_graphs_is_bounded(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, watched, runner = opened
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    for _ in range(3):
        for length in (8, 16, 24):
            runner(batch(1, length))
    assert runner.captured == ("1x8", "1x16")
    assert watched.graphs.count("-1") == 2 + 3


def test_no_two_runs_at_once(opened: Any) -> None:
    plain, watched, runner = opened
    batches = [batch(1 + i % 3, 4 + i % 40, seed=i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(runner, batches))
    assert watched.most_at_once == 1
    # ONNX Runtime keeps graphs, and memory, with each thread that runs such a session.
    assert len(watched.threads) == 1
    for got, inputs in zip(found, batches, strict=True):
        tokens = inputs["attention_mask"] > 0 if got.ndim == 3 else slice(None)
        np.testing.assert_allclose(got[tokens], plain.run(inputs)[tokens], rtol=0, atol=2e-6)


def test_the_thread_of_a_session_ends_with_it(opened: Any) -> None:
    plain, watched, _ = opened
    before = set(threading.enumerate())
    runner = GraphRunner(ort, watched, OUTPUTS[plain._session.get_outputs()[0].name], plain.output_width, CPU, 62)
    runner(batch(1, 4))
    (thread,) = set(threading.enumerate()) - before
    del runner
    thread.join(5)
    assert not thread.is_alive()


@posix
def test_interrupted_a_run_ends_before_its_caller_goes_on(opened: Any) -> None:
    plain, watched, runner = opened
    ended: list[bool] = []

    def interrupted(graph: str) -> bool:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        ended.append(True)
        return False

    watched.fails = interrupted
    with pytest.raises(KeyboardInterrupt):
        runner(batch(1, 4))
    assert ended == [True]
    watched.fails = lambda graph: False
    np.testing.assert_allclose(runner(batch(1, 4)), plain.run(batch(1, 4)), rtol=0, atol=2e-6)


def test_what_cannot_be_recorded_still_runs(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    plain, watched, runner = opened
    watched.fails = lambda graph: graph != "-1"
    inputs = batch(1, 8)
    with caplog.at_level(logging.WARNING, "torchless"):
        for _ in range(4):
            np.testing.assert_array_equal(runner(inputs), plain.run(inputs))
    assert watched.graphs == ["-1", "1", "-1", "-1", "-1"]
    [said] = caplog.messages
    assert said.startswith("cpu: no CUDA graphs, 1x8 cannot be recorded: CUDA failure 900: operation not permitted")


def test_what_is_recorded_is_said(
    opened: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, runner = opened
    free = iter([5000, 4000, 4000, 3900])
    monkeypatch.setattr(cuda_graphs, "free_memory", lambda index: next(free))
    with caplog.at_level(logging.INFO, "torchless"):
        for length in (8, 8, 16, 16):
            runner(batch(1, length))
    assert caplog.messages == [
        "cpu: CUDA graphs of 1x8 keep device memory, 1000 bytes of it just now; 4000 are free",
        "cpu: CUDA graphs of 1x8, 1x16 keep device memory, 100 bytes of it just now; 3900 are free",
    ]


def test_inputs_that_are_not_the_sessions(opened: Any) -> None:
    _, _, runner = opened
    with pytest.raises(ValueError, match=r"the inputs are \['input_ids'\]"):
        runner({"input_ids": np.ones((1, 2), np.int64)})
