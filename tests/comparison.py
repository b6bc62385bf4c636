"""How the answers of two pipelines are compared: torchless's and transformers' own, of one checkpoint."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from torchless.errors import InputError

try:
    TRANSFORMERS = tuple(int(part) for part in importlib.metadata.version("transformers").split(".")[:2])
except importlib.metadata.PackageNotFoundError:
    TRANSFORMERS = (0, 0)

# What a score may differ by, and how near to each other two labels are tied.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Two:
    """One checkpoint, opened by transformers and, exported, by torchless."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]

    def agree(self, inputs: Any, **arguments: Any) -> None:
        """Call both, each on a fresh `inputs()` where that is a function, and compare the answers.

        The same nesting and types; the same labels, but for a tie; the same scores within the tolerance.
        """
        mine, yours = (plain(pipe(fresh(inputs), **arguments)) for pipe in (self.ours, self.theirs))
        assert form(mine) == form(yours)
        single = isinstance(inputs, str | dict)
        ours, theirs = _by_text(mine, single), _by_text(yours, single)
        for i, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
            if [answer["label"] for answer in mine] != [answer["label"] for answer in yours]:
                everything = plain(self.theirs(fresh(inputs), **arguments | {"top_k": None}))
                scores = {answer["label"]: answer["score"] for answer in _by_text(everything, single)[i]}
                for a, b in zip(mine, yours, strict=True):
                    assert scores[a["label"]] == close(scores[b["label"]])
            assert [answer["score"] for answer in mine] == close([answer["score"] for answer in yours])

    def refuse(self, inputs: Any, **arguments: Any) -> None:
        """Call both; each must fail, ours with an InputError that is a ValueError, TypeError or KeyError as theirs."""
        with pytest.raises(Exception) as theirs:
            plain(self.theirs(fresh(inputs), **arguments))
        with pytest.raises(InputError) as ours:
            plain(self.ours(fresh(inputs), **arguments))
        for kind in (ValueError, TypeError, KeyError):
            assert isinstance(ours.value, kind) or not isinstance(theirs.value, kind)


def fresh(inputs: Any) -> Any:
    """Return `inputs`, or what it makes: an iterator can be read once only."""
    return inputs() if callable(inputs) else inputs


def plain(answer: Any) -> Any:
    """Return an answer with its iterator read."""
    return answer if isinstance(answer, dict | list) else list(answer)


def form(answer: Any) -> Any:
    """Return an answer's lists, and of its dicts the keys in order and the types of their values."""
    if isinstance(answer, list):
        return [form(item) for item in answer]
    assert type(answer) is dict
    return tuple((key, type(value)) for key, value in answer.items())


def close(value: Any) -> Any:
    """Return what a score near enough to `value` is equal to; raw logits may be large."""
    return pytest.approx(value, abs=TOLERANCE, rel=TOLERANCE)


def _by_text(answer: Any, single: bool) -> list[list[dict[str, Any]]]:
    return [_flat(answer)] if single else [_flat(item) for item in answer]


def _flat(answer: Any) -> list[dict[str, Any]]:
    return [answer] if isinstance(answer, dict) else [leaf for item in answer for leaf in _flat(item)]
