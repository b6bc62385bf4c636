"""`torchless.binding`: bound runs give what plain runs give, on the CPU, whose memory takes a device's place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_sessions import CPU, batch, open_variant
from torchless.binding import BoundRunner, Slot, checked_arrays
from torchless.session import Session


@pytest.fixture(scope="module")
def opened(sample_bundle: Path) -> Session:
    return open_variant(sample_bundle, threads=1)


@pytest.fixture(scope="module")
def runner(opened: Session) -> BoundRunner:
    return BoundRunner(ort, opened._session, "logits", CPU)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 40), length=st.integers(1, 60), seed=st.integers(0, 99))
def test_answers_are_those_of_a_plain_run(
    opened: Session, runner: BoundRunner, rows: int, length: int, seed: int
) -> None:
    inputs = batch(rows, length, seed)
    np.testing.assert_array_equal(runner(inputs), opened.run(inputs))


def test_arrays_that_are_no_block_of_memory(opened: Session, runner: BoundRunner) -> None:
    whole = batch(8, 30)
    part = {name: array[::2, ::-1] for name, array in whole.items()}
    np.testing.assert_array_equal(runner(part), opened.run(part))


def test_an_answer_stays_when_its_memory_is_used_again(runner: BoundRunner) -> None:
    first = runner(batch(3, 9, seed=1))
    before = first.copy()
    runner(batch(3, 9, seed=2))
    np.testing.assert_array_equal(first, before)


def test_many_threads_do_not_mix_their_texts(opened: Session) -> None:
    runner = BoundRunner(ort, opened._session, "logits", CPU)
    batches = [batch(1 + i % 5, 4 + i % 11, seed=i) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(runner, batches))
    for got, inputs in zip(found, batches, strict=True):
        np.testing.assert_array_equal(got, opened.run(inputs))
    assert 1 <= sum(map(len, runner._free.values())) <= 4


def test_memory_is_kept_for_the_next_run_unless_it_is_much(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = BoundRunner(ort, opened._session, "logits", CPU)
    monkeypatch.setattr("torchless.binding._KEPT", 2048)
    runner(batch(2, 10))
    [[slot]] = runner._free.values()
    runner(batch(1, 30))
    assert [list(free) for free in runner._free.values()] == [[slot]]
    runner(batch(40, 60))
    assert list(runner._free) == [1024]


def test_a_failing_run_leaves_the_next_alone(opened: Session) -> None:
    runner = BoundRunner(ort, opened._session, "logits", CPU)
    good, bad = batch(2, 5), batch(2, 5)
    bad["input_ids"][0, 0] = 10**6  # no row of the embeddings
    want = runner(good)
    with pytest.raises(Exception, match=r"out of data bounds|indices element"):
        runner(bad)
    np.testing.assert_array_equal(runner(good), want)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention_mask": None}, r"the inputs are \['input_ids'\], wanted \['attention_mask', 'input_ids'\]"),
        ({"other": np.ones((2, 3), np.int64)}, r"the inputs are \['attention_mask', 'input_ids', 'other'\]"),
        ({"input_ids": np.ones((2, 3), np.int32)}, r"input_ids is int32 \(2, 3\), wanted int64 of two axes"),
        (
            {"input_ids": np.ones((2, 4), np.int64)},
            r"attention_mask is int64 \(2, 3\), wanted int64 of two axes, the same",
        ),
        ({"input_ids": np.ones(6, np.int64)}, r"input_ids is int64 \(6,\)"),
    ],
)
def test_inputs_that_are_not_the_sessions(runner: BoundRunner, change: dict[str, Any], says: str) -> None:
    given_inputs = {name: array for name, array in (batch(2, 3) | change).items() if array is not None}
    with pytest.raises(ValueError, match=says):
        runner(given_inputs)
    with pytest.raises(ValueError, match=says):
        checked_arrays(("input_ids", "attention_mask"), given_inputs)


@given(st.integers(1, 3), st.tuples(st.integers(1, 300), st.integers(1, 600)))
def test_a_slot_holds_its_inputs_side_by_side(count: int, shape: tuple[int, int]) -> None:
    size = Slot.size(count, shape)
    assert size & (size - 1) == 0
    assert size >= count * shape[0] * shape[1]
    # A quarter full at least, but for the smallest.
    assert size <= 1024 or size < 4 * count * (shape[0] * shape[1] + 32)


def test_views_do_not_overlap_and_begin_where_cuda_wants_them(opened: Session) -> None:
    slot = Slot(ort, opened._session, CPU, 1024)
    views = slot.views(("a", "b", "c"), (7, 11))
    for value, view in enumerate(views.values(), 1):
        view[...] = value
    assert [view.sum() for view in views.values()] == [77, 154, 231]
    starts = [view.__array_interface__["data"][0] for view in views.values()]
    assert {(start - starts[0]) % 256 for start in starts} == {0}
