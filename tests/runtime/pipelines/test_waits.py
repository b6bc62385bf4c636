"""`torchless.pipelines.waits`: what is waited for is what is slow, and nothing stays open behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from torchless.pipelines.waits import Waits


def slow(items: int, seconds: float, closed: list[str]) -> Iterator[int]:
    try:
        for item in range(items):
            time.sleep(seconds)
            yield item
    finally:
        closed.append("closed")


@pytest.mark.parametrize(("tokenizer", "device", "limit"), [(0.02, 0.001, "tokenizer"), (0.001, 0.02, "device")])
def test_the_slower_is_the_limit(tokenizer: float, device: float, limit: str) -> None:
    waits = Waits()
    assert waits.limit is None
    found = [
        (outer, inner)
        for outer in waits.watch("tokenizer", slow(2, tokenizer, []))
        for inner in waits.watch("device", slow(2, device, []))
    ]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert waits.limit == limit
    assert waits.seconds[limit] >= 0.04


def test_what_the_caller_does_in_between_does_not_count() -> None:
    waits = Waits()
    for _ in waits.watch("device", iter([1, 2])):
        time.sleep(0.05)
    assert waits.seconds["device"] < 0.04


def test_whoever_stops_early_closes_what_is_behind() -> None:
    closed: list[str] = []
    watched = Waits().watch("device", slow(5, 0, closed))
    next(watched)
    assert closed == []
    watched.close()
    assert closed == ["closed"]


def test_an_error_is_passed_on_and_its_wait_counts() -> None:
    def failing() -> Iterator[int]:
        time.sleep(0.01)
        raise ValueError("no")
        yield 1

    waits = Waits()
    with pytest.raises(ValueError, match="no"):
        list(waits.watch("device", failing()))
    assert waits.seconds["device"] >= 0.01
