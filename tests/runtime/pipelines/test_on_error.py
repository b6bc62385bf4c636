"""`on_error`: what one text or one batch fails by is its own; and what a call under way lives through."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torchless
from torchless.errors import InferenceError, InputError, InputTypeError
from torchless.pipelines.base import Pipeline
from untraced import UNTRACED

TOO_LONG = "dull " * 600
BAD = {"too long": TOO_LONG, "no text": None, "surrogate": "\ud800", "a list": ["a", "b"]}
ITEMS = st.lists(st.sampled_from(["a fine film", "dull", "the plot is older than the jokes", *BAD]), max_size=9)
FORMS = {"list": list, "stream": iter}


@settings(deadline=None, max_examples=40)
@given(names=ITEMS, size=st.none() | st.integers(1, 3), form=st.sampled_from(sorted(FORMS)))
def test_each_error_stands_in_the_place_of_its_answer(
    pipe: Pipeline, names: list[str], size: int | None, form: str
) -> None:
    items = [BAD.get(name, name) for name in names]
    answers = list(pipe(FORMS[form](items), batch_size=size, on_error="return"))
    assert len(answers) == len(items)
    for index, (name, item, answer) in enumerate(zip(names, items, answers, strict=True)):
        if name in BAD:
            assert isinstance(answer, InputError)
            assert answer.index == index
            assert re.search(rf"\b{index}\b", str(answer))
            assert not any(answer is other for other in answers[:index])
        else:
            assert answer == pytest.approx(pipe(item)[0], abs=1e-5)
    if set(names) & set(BAD):
        with pytest.raises(InputError):
            list(pipe(FORMS[form](items), batch_size=size))


def test_one_input(pipe: Pipeline) -> None:
    [error] = pipe(TOO_LONG, on_error="return")
    assert isinstance(error, InputError)
    wrong = pipe({"text": None}, on_error="return")
    assert isinstance(wrong, InputTypeError)
    assert str(wrong).startswith("the input is a dict")
    assert pipe("fine", on_error="return") == pipe("fine")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_one_that_cannot_be_padded_spoils_no_other(pipe: Pipeline, form: str) -> None:
    texts = ["fine", "dull " * 503, "a fine film", "dull " * 503]
    padding = {"padding": True, "pad_to_multiple_of": 100}
    answers = list(pipe(FORMS[form](texts), on_error="return", **padding))
    assert answers[::2] == list(pipe(texts[::2], **padding))
    for index in (1, 3):
        assert isinstance(answers[index], InputError)
        assert answers[index].index == index
        assert str(answers[index]).startswith(f"text {index} has 505 tokens, padded to 600;")
    with pytest.raises(InputError, match=r"^text 1 has 505 tokens") as refused:
        list(pipe(FORMS[form](texts), **padding))
    assert refused.value.index == 1
    with pytest.raises(InputError, match="padding to 600 tokens"):  # which no text can be
        list(pipe(FORMS[form](texts), on_error="return", padding=True, pad_to_multiple_of=600))


@pytest.mark.parametrize("wrong", ["ignore", None, True, ""])
def test_another_word_is_refused(pipe: Pipeline, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"on_error is .*, wanted 'raise' or 'return'"):
        pipe("fine", on_error=wrong)


@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_a_batch_that_the_graph_fails_on(sample_bundle: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    texts = ["fine", "dull film", "one more text", "and the last of them"]
    with torchless.pipeline(model=sample_bundle, variant="fp32", profile=profile, threads=2) as pipe:
        wanted = pipe(texts, batch_size=1)
        run = pipe._session._run

        def fail(inputs: Any) -> Any:
            if inputs["input_ids"].shape[1] == 4:  # the second text
                raise RuntimeError("bad node")
            return run(inputs)

        monkeypatch.setattr(pipe._session, "_run", fail)
        for answers in (
            pipe(texts, batch_size=1, on_error="return"),
            list(pipe(iter(texts), batch_size=1, on_error="return")),
        ):
            assert isinstance(answers[1], InferenceError)
            assert [answers[0], *answers[2:]] == [wanted[0], *wanted[2:]]
        with pytest.raises(InferenceError, match="bad node"):
            pipe(texts, batch_size=1)
        monkeypatch.undo()
        assert pipe(texts, batch_size=1) == wanted


@pytest.mark.parametrize("profile", ["latency", "throughput"])
@pytest.mark.parametrize("on_stream", [False, True])
def test_one_text_that_the_graph_fails_on_fails_alone(
    sample_bundle: Path, monkeypatch: pytest.MonkeyPatch, profile: str, on_stream: bool
) -> None:
    texts = ["fine", "a dull film", "one more text", "terrible", "no", "terrible", "and the last of them"]
    with torchless.pipeline(model=sample_bundle, variant="fp32", profile=profile, threads=2) as pipe:
        wanted = pipe(texts)
        bad = int(pipe.preprocess("terrible")["input_ids"][0, 1])
        run = pipe._session._run
        runs: list[int] = []

        def spoil(inputs: Any) -> Any:
            """Give what an overflow in one text gives where texts share a scale: nothing is a number."""
            runs.append(len(inputs["input_ids"]))
            return run(inputs) * (np.nan if (inputs["input_ids"] == bad).any() else 1)

        monkeypatch.setattr(pipe._session, "_run", spoil)
        answers = list(pipe(iter(texts) if on_stream else texts, on_error="return"))
        for index, (answer, one) in enumerate(zip(answers, wanted, strict=True)):
            if texts[index] == "terrible":
                assert isinstance(answer, InferenceError)
                assert str(answer).startswith(f"text {index}: row 0 of the model's output is not finite")
            else:
                assert answer == pytest.approx(one, abs=1e-5)
        assert answers[3] is not answers[5]
        assert len(runs) <= 7  # in halves: not each text alone
        with pytest.raises(InferenceError, match="not finite"):
            pipe(texts)


def test_where_every_text_fails(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe._session, "_run", lambda inputs: 1 // 0)
    answers = pipe(["fine", "dull", "no"], on_error="return")
    assert [str(answer)[:7] for answer in answers] == ["text 0:", "text 1:", "text 2:"]


def test_features(features_bundle: Path) -> None:
    with torchless.pipeline("feature-extraction", features_bundle, device="cpu") as embed:
        good, error = embed(["fine", TOO_LONG], pooling="mean", on_error="return")
        np.testing.assert_allclose(good, embed("fine", pooling="mean"), atol=1e-6)
        assert isinstance(error, InputError)
        assert isinstance(embed(["fine", None], on_error="return")[1], InputTypeError)


def test_truncation_is_told_beside_errors(pipe: Pipeline) -> None:
    cut: list[int] = []
    answers = pipe(
        ["fine", TOO_LONG, None, TOO_LONG, "\ud800"], truncation=True, on_truncation=cut.append, on_error="return"
    )
    assert cut == [1, 3]
    assert [isinstance(answer, InputError) for answer in answers] == [False, False, True, False, True]


class TestClosing:
    @pytest.mark.parametrize("profile", ["latency", "throughput"])
    @pytest.mark.parametrize("on_error", ["raise", "return"])
    def test_with_calls_under_way(self, sample_bundle: Path, profile: str, on_error: str) -> None:
        pipe = torchless.pipeline(model=sample_bundle, variant="fp32", profile=profile, threads=2)
        texts = [f"fine film {i} " * (1 + i % 30) for i in range(200)]
        wanted = pipe(texts)
        begun = threading.Barrier(5, timeout=60)
        outcomes: list[Any] = []

        def call() -> None:
            begun.wait()
            try:
                while True:
                    outcomes.append(pipe(texts, on_error=on_error))
            except Exception as error:
                outcomes.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        pipe.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(errors) == 4
        assert all(type(error) is InferenceError and "pipeline is closed" in str(error) for error in errors)
        for answers in outcomes:
            if not isinstance(answers, Exception):
                assert answers == wanted

    def test_a_stream_ends_with_the_error(self, sample_bundle: Path) -> None:
        pipe = torchless.pipeline(model=sample_bundle, variant="fp32")
        answers = pipe(iter(["fine"] * 100), batch_size=2)
        next(answers)
        next(answers)
        pipe.close()
        with pytest.raises(InferenceError, match="this pipeline is closed"):
            next(answers)


INTERRUPTED = """
import os, signal, sys, threading
import torchless
pipe = torchless.pipeline(model=sys.argv[1], variant="fp32", profile=sys.argv[2], threads=2)
texts = [f"fine film {i} " * (1 + i % 60) for i in range(20_000)]
wanted = pipe(texts[:50])
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    pipe(texts)
    print("not interrupted")
except KeyboardInterrupt:
    print(pipe(texts[:50]) == wanted, [t.name for t in threading.enumerate() if t.name.startswith("torchless")])
"""
UNFINISHED = """
import atexit, sys
import torchless
pipe = torchless.pipeline(model=sys.argv[1], variant="fp32", profile=sys.argv[2], threads=2)
texts = [f"fine film {i} " * (1 + i % 60) for i in range(300)]
wanted = pipe(texts)
answers = pipe(iter(texts), window=100)
print(next(answers) == wanted[0])
atexit.register(lambda: print(pipe(texts) == wanted and len(list(answers)) == 299))
"""


@pytest.mark.parametrize("profile", ["latency", "throughput"])
@pytest.mark.parametrize(("script", "says"), [(INTERRUPTED, "True []"), (UNFINISHED, "True\nTrue")])
def test_interrupted_and_ending(sample_bundle: Path, script: str, says: str, profile: str) -> None:
    """The pipeline works on after an interrupt; a stream may be left, or read on, as the interpreter ends."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(sample_bundle), profile],
        capture_output=True,
        text=True,
        timeout=120,
        env=UNTRACED,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == (says, "", 0)
