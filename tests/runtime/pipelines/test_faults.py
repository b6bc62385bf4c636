"""Pipelines under faults: texts without end, failures, interruptions, closing while others call."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import torchless
from attempts import attempt
from torchless.errors import InferenceError
from torchless.session import Session

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits on memory are read from Linux")
TEXTS = ["a fine film", "dull", "so good it hurts", "never again"] * 10


@pytest.fixture
def pipe(sample_bundle: Path) -> Iterator[Any]:
    with torchless.pipeline(model=sample_bundle, device="cpu", variant="fp32", threads=1) as opened:
        yield opened


def forever(pipe: Any) -> None:
    """Call the pipeline until something stops it; not without end, should nothing."""
    for _ in range(100_000):
        pipe(TEXTS)


@linux
def test_a_text_of_ten_megabytes(sample_bundle: Path) -> None:
    outcome = attempt("long_text", str(sample_bundle), 10_000_000)
    assert (outcome.error, outcome.answer) == (None, "'POSITIVE'")
    assert outcome.resident < 3 << 30  # 2 million tokens, each with its offsets and its word, before it is cut


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals a thread")
def test_interrupted_in_the_middle(pipe: Any) -> None:
    """Ctrl-C ends the call; the next one gives what it should."""
    expected = pipe(TEXTS)
    main = threading.main_thread().ident
    assert main is not None
    for delay in (0.02, 0.1, 0.2):
        timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            forever(pipe)
        timer.join()
        assert pipe(TEXTS) == expected


def test_a_failure_within_one_batch(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as what it is, and the pipeline works afterwards."""
    expected = pipe(TEXTS)
    run, calls = Session.run, itertools.count()

    def fail_once(self: Session, inputs: Any) -> Any:
        if next(calls) == 1:
            raise InferenceError("ONNX Runtime failed on input_ids (1, 1): no reason")
        return run(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", fail_once)
        with pytest.raises(InferenceError, match="no reason"):
            pipe(TEXTS, batch_size=1)
    assert pipe(TEXTS) == expected


def test_closed_while_others_call(sample_bundle: Path) -> None:
    """Each call gets its answer, or is told that the pipeline is closed; none hangs, and nothing crashes."""
    for _ in range(5):
        pipe = torchless.pipeline(model=sample_bundle, device="cpu", variant="fp32", threads=1)
        expected = pipe(TEXTS)
        outcomes: list[Any] = []
        workers = [threading.Thread(target=until_closed, args=(pipe, outcomes), daemon=True) for _ in range(8)]
        for worker in workers:
            worker.start()
        time.sleep(0.1)
        pipe.close()
        for worker in workers:
            worker.join(120)
        assert not any(worker.is_alive() for worker in workers)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(errors) == 8
        assert all(isinstance(error, InferenceError) and "closed" in str(error) for error in errors), errors
        assert all(outcome == expected for outcome in outcomes if not isinstance(outcome, Exception))


def until_closed(pipe: Any, outcomes: list[Any]) -> None:
    """Call the pipeline until it raises; `outcomes` gets what each call gave, and what was raised."""
    try:
        while True:
            outcomes.append(pipe(TEXTS))
    except Exception as error:
        outcomes.append(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_stream_left_open_is_collected(pipe: Any) -> None:
    streams = [pipe(iter(TEXTS)) for _ in range(10)]
    for opened in streams:
        next(opened)
    del streams, opened
    assert len(list(pipe(iter(TEXTS)))) == len(TEXTS)
