"""Batches hold every text once, within their bounds; padding goes where it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.batching import mask, pad, plan_batches, split_rows

LENGTHS = st.lists(st.integers(0, 40), max_size=60)
SIZES = st.none() | st.integers(1, 9)


@given(LENGTHS, SIZES, st.integers(1, 200), st.booleans())
def test_every_position_stands_in_exactly_one_batch(lengths, batch_size, budget, keep_order):
    batches = plan_batches(lengths, batch_size=batch_size, token_budget=budget, keep_order=keep_order)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, SIZES, st.integers(1, 200))
def test_budget_and_batch_size_are_kept(lengths, batch_size, budget):
    for batch in plan_batches(lengths, batch_size=batch_size, token_budget=budget):
        assert len(batch) <= (batch_size or len(lengths))
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(LENGTHS, SIZES, st.integers(1, 200))
def test_a_batch_ends_only_where_the_next_text_would_not_fit(lengths, batch_size, budget):
    batches = plan_batches(lengths, batch_size=batch_size, token_budget=budget)
    for batch in batches[:-1]:
        full = len(batch) == batch_size
        assert full or (len(batch) + 1) * lengths[batch[0]] > budget


@given(LENGTHS)
def test_sorted_by_length_longest_first_and_stable(lengths):
    order = [position for batch in plan_batches(lengths) for position in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(LENGTHS, SIZES)
def test_keep_order_gives_batches_of_exactly_that_size(lengths, batch_size):
    batches = plan_batches(lengths, batch_size=batch_size, token_budget=1, keep_order=True)
    assert [position for batch in batches for position in batch] == list(range(len(lengths)))
    assert all(len(batch) == (batch_size or 1) for batch in batches[:-1])


def test_the_usual_budget_is_used():
    assert [len(batch) for batch in plan_batches([16] * 100)] == [64, 36]


ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=5)


@given(ROWS, st.integers(-3, 3), st.sampled_from(["right", "left"]), st.none() | st.integers(6, 9))
def test_pad_keeps_the_rows_and_fills_the_rest(rows, fill, side, length):
    array = pad(rows, fill, side=side, length=length)
    assert array.flags.c_contiguous
    width = max(map(len, rows), default=0) if length is None else length
    assert array.shape == (len(rows), width)
    assert array.dtype == np.int64
    for line, row in zip(array.tolist(), rows, strict=True):
        rest = [fill] * (width - len(row))
        assert line == (row + rest if side == "right" else rest + row)


def test_a_row_longer_than_the_length_is_an_error():
    with pytest.raises(ValueError, match="longer than 2"):
        pad([[1, 2, 3]], 0, length=2)


@given(st.lists(st.integers(0, 6), max_size=5), st.sampled_from(["right", "left"]), st.none() | st.integers(6, 9))
def test_mask_is_one_where_pad_puts_a_token(lengths, side, width):
    width = max(lengths, default=0) if width is None else width
    found = mask(lengths, width, side=side)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, pad([[1] * length for length in lengths], 0, side=side, length=width))


@given(st.integers(0, 40), st.integers(0, 9), st.integers(1, 90))
def test_split_rows_keeps_the_rows_and_the_budget(rows, width, budget):
    inputs = {"input_ids": np.arange(rows * width).reshape(rows, width), "attention_mask": np.ones((rows, width))}
    parts = split_rows(inputs, budget)
    for name, array in inputs.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    sizes = [len(part["input_ids"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) * width <= budget or max(sizes) <= 1
    assert len(parts) == max(1, -(-rows // max(1, budget // max(1, width))))


@pytest.mark.parametrize("shapes", [[(9,)], [(9, 9), (9, 8)], [()], []])
def test_what_is_no_batch_is_not_split(shapes):
    inputs = {str(i): np.zeros(shape) for i, shape in enumerate(shapes)}
    assert split_rows(inputs, 1) == [inputs]
