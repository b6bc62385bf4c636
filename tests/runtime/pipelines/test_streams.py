"""`torchless.pipelines.streams`: what is read as its answers are asked for."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from torchless.pipelines.streams import as_long_as, open_stream


class Dataset:
    """As PyTorch's: no `__iter__`; this one counts from its end too, and never raises IndexError."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        return self.items[i % len(self.items)]


class Column(Sequence[str]):
    """As of `datasets`: a Sequence that reads from disk."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: Any) -> Any:
        return ["a", "b", "c"][i]


def test_a_dataset_without_an_iterator_is_counted() -> None:
    dataset = Dataset(["a", "b", "c"])
    stream = open_stream(dataset)
    assert stream is not None
    assert dataset.read == []
    items = iter(stream)
    assert next(items) == "a"
    assert dataset.read == [0]
    assert list(items) == ["b", "c"]


@pytest.mark.parametrize(
    "inputs",
    [iter("abc"), (c for c in "abc"), Column(), dict.fromkeys("abc").keys(), collections.deque("abc"), map(str, "abc")],
    ids=lambda inputs: type(inputs).__name__,
)
def test_what_can_be_iterated_is_a_stream(inputs: Any) -> None:
    assert list(open_stream(inputs) or ()) == ["a", "b", "c"]


@pytest.mark.parametrize("inputs", [None, 3, "abc", b"abc", bytearray(b"a"), memoryview(b"a"), ["a"], ("a",), {"a": 1}])
def test_no_stream(inputs: Any) -> None:
    assert open_stream(inputs) is None


def test_answers_are_as_long_as_their_dataset() -> None:
    answers = as_long_as(iter([1, 2, 3]), Dataset(["a", "b", "c"]))
    assert isinstance(answers, Iterator)
    assert iter(answers) is answers
    assert next(answers) == 1
    assert len(answers) == 3  # type: ignore[arg-type]
    assert list(answers) == [2, 3]
    assert list(answers) == []


def test_answers_to_an_iterator_have_no_length() -> None:
    with pytest.raises(TypeError):
        len(as_long_as(iter([1]), iter("a")))  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{}, {"window": 4}, {"batch_size": 5}, {"window": 2**70}, {"batch_size": 2**70}])
def test_what_was_read_is_answered_before_the_error_of_its_source(pipe: Any, arguments: dict[str, int]) -> None:
    def source() -> Iterator[str]:
        yield from ("fine", "dull", "a film") * 2
        raise ConnectionError("the source is gone")

    answers = pipe(source(), **arguments)
    for text in ("fine", "dull", "a film") * 2:
        assert next(answers) == pytest.approx(pipe(text)[0], abs=1e-5)
    with pytest.raises(ConnectionError, match="the source is gone"):
        next(answers)
    assert list(answers) == []


def test_an_interrupt_is_not_put_off(pipe: Any) -> None:
    def source() -> Iterator[str]:
        yield "fine"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(pipe(source()))
