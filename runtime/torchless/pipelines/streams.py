"""Inputs that are read as their answers are asked for: iterators, generators and datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any


class DatasetAnswers(Iterator[Any]):
    """The answers to a dataset in its order, each made when it is asked for; `len()` is the dataset's."""

    def __init__(self, answers: Iterator[Any], dataset: Sized) -> None:
        self._answers = answers
        self._dataset = dataset

    def __next__(self) -> Any:
        return next(self._answers)

    def __len__(self) -> int:
        return len(self._dataset)


def open_stream(inputs: Any) -> Iterable[Any] | None:
    """Return what gives the items of a stream in order, having read nothing; None: `inputs` is no stream.

    A stream is anything iterable but a list or tuple (those are answered as a whole), a mapping or bytes; or a
    dataset as PyTorch has them, with `__len__` and `__getitem__` alone (such as transformers' `KeyDataset`).
    """
    if isinstance(inputs, str | bytes | bytearray | memoryview | list | tuple | Mapping):
        return None
    if isinstance(inputs, Iterable):
        return inputs
    if hasattr(type(inputs), "__getitem__") and hasattr(type(inputs), "__len__"):
        # Counted, as PyTorch's DataLoader does: not every dataset raises IndexError at its end.
        return (inputs[i] for i in range(len(inputs)))
    return None


def as_long_as(answers: Iterator[Any], inputs: Any) -> Iterator[Any]:
    """Return `answers`, with a length where `inputs` has one."""
    return DatasetAnswers(answers, inputs) if isinstance(inputs, Sized) else answers
