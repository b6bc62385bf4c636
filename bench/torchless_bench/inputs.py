"""What the contenders are given: the same token ids and texts to all of them, the same in every run.

Token ids are drawn at random from the model's vocabulary: the time of a forward pass depends on its shape alone.
Texts are made so that their number of tokens is known. The list of sentences, where the user gives none, is made of
common English words in the lengths of SST-2's dev set.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torchless.bundle import Bundle
from torchless.errors import InputError
from torchless.tokenization import Tokenizer
from torchless_bench.workloads import Workload

SENTENCES = 256
"""How many sentences the made-up list holds."""

SQUARE = 1024
"""The side of the matrices whose products are timed. From 512 on the rate of ONNX Runtime's products does not grow."""

# A row of weights this wide times as many columns: 268 MB in float32, more than any cache of this day holds.
_READ_ROWS, _READ_COLUMNS = 4096, 16384
_READ_BYTES = 4 * _READ_ROWS * _READ_COLUMNS

TIMED = ((1, 16), (32, 32))
"""(rows, tokens) at which a graph's operators are timed."""

PROFILED = (16, 64, 128, 256)
"""Tokens at which a graph's arithmetic is counted: three fix a polynomial of second degree, the fourth checks it."""

# Words a sentence, from the shortest to the longest in steps of a tenth of them (SST-2 dev, whole sentences).
_SENTENCE_WORDS = (1, 7, 11, 13, 16, 18, 20, 23, 27, 31, 47)

_COMMON_WORDS = """
the a and of to is in that it with as its this for an film movie you but be on more by about not one has are from all
than like his or so story at have characters if out too what into good up most comedy who there some just much been
even time will can no does funny little way make work only well never life bad best their us new director love would
really other performances enough many something makes had could drama two which both any acting another script feels
long old first cast nothing world watching action humor plot look people
"""
_WORDS = _COMMON_WORDS.split()


class Inputs:
    """Builds the arguments of the engines' methods for one model."""

    def __init__(self, bundle: Bundle, *, texts: Sequence[str] | None = None, seed: int = 0) -> None:
        """Take the vocabulary and the tokenizer from `bundle`; `texts` replace the made-up sentences.

        Raises:
            BundleError: its tokenizer cannot be read.
        """
        spec = bundle.manifest.tokenizer
        self._seed = seed
        # Texts beyond the position table are counted too: contenders are given them, and cut them.
        unlimited = replace(spec, position_limit=None)
        self._tokenizer = Tokenizer(bundle.read("tokenizer.json"), unlimited, str(bundle.path / "tokenizer.json"))
        self._limit = min((n for n in (spec.max_length, spec.position_limit) if n is not None), default=None)
        size = bundle.config().get("vocab_size")
        self._vocabulary = size if isinstance(size, int) else self._tokenizer.largest_id() + 1
        self._pad_id = spec.pad_id
        self.texts = list(texts) if texts is not None else sentences(SENTENCES, seed)

    def arguments(self, workload: Workload) -> dict[str, Any]:
        """Return what the engine's method for this workload takes.

        Raises:
            InputError: the model takes no text so long, or none of that length could be made.
        """
        if self._limit is not None and workload.tokens is not None and workload.tokens > self._limit:
            raise InputError(f"{workload.tokens} tokens, the model takes at most {self._limit}")
        return _ARGUMENTS[workload.kind](self, workload)

    def work(self, workload: Workload) -> float:
        """Return how much one call of this workload does: texts, or of a `rate` operations or bytes."""
        if workload.rate is not None:
            return float(2 * SQUARE**3 if workload.rate != "memory" else _READ_BYTES)
        return len(self.texts) if workload.kind == "answer" and workload.tokens is None else workload.rows

    def lengths(self, workload: Workload) -> list[int]:
        """Return the tokens of each text that one call of this workload answers, as the model takes them."""
        if workload.tokens is not None:
            return [workload.tokens] * workload.rows
        encoded = self._tokenizer.encode(self.texts)
        return [min(len(encoding), self._limit or len(encoding)) for encoding in encoded]

    def _forward(self, workload: Workload) -> dict[str, Any]:
        draw = random.Random(f"{self._seed} {workload.name}")
        # Without the pad token: some families count positions around it.
        words = [i for i in range(self._vocabulary) if i != self._pad_id]
        return {"ids": [draw.choices(words, k=workload.tokens or 1) for _ in range(workload.rows)]}

    def _answer(self, workload: Workload) -> dict[str, Any]:
        texts = self.texts if workload.tokens is None else [self._text(workload.tokens)]
        return {"texts": texts, "batch_size": workload.rows}

    def _beside(self, workload: Workload) -> dict[str, Any]:
        return {"text": self._text(workload.tokens or 16), "tokenizer": workload.name.startswith("beside")}

    def _loop(self, workload: Workload) -> dict[str, Any]:
        return {"texts": [self._text(workload.tokens or 16)], "threads": workload.threads}

    def _rate(self, workload: Workload) -> dict[str, Any]:
        rows, shared, columns = SQUARE, SQUARE, SQUARE
        if workload.rate == "memory":
            rows, shared, columns = 1, _READ_ROWS, _READ_COLUMNS
        return {"what": workload.rate, "rows": rows, "shared": shared, "columns": columns}

    def _arithmetic(self, workload: Workload) -> dict[str, Any]:
        del workload
        return {
            "lengths": [tokens for tokens in PROFILED if self._limit is None or tokens <= self._limit],
            "shapes": [list(shape) for shape in TIMED],
        }

    def _text(self, tokens: int) -> str:
        """Return a text of exactly `tokens` tokens, the special ones included."""
        text = ""
        draw = random.Random(f"{self._seed} {tokens}")
        for _ in range(8 * tokens):
            longer = f"{text} {draw.choice(_WORDS)}".lstrip()
            length = len(self._tokenizer.encode([longer])[0])
            if length <= tokens:
                text = longer
            if length == tokens:
                return text
        raise InputError(f"no text of {tokens} tokens could be made of common English words with this tokenizer")


_ARGUMENTS: dict[str, Callable[[Inputs, Workload], dict[str, Any]]] = {
    "forward": Inputs._forward,
    "answer": Inputs._answer,
    "first": Inputs._answer,
    "memory": Inputs._answer,
    "beside": Inputs._beside,
    "loop": Inputs._loop,
    "rate": Inputs._rate,
    "arithmetic": Inputs._arithmetic,
    "size": lambda _inputs, _workload: {},
    "export": lambda _inputs, _workload: {},
    "installed": lambda _inputs, _workload: {},
}
"""What each kind of workload gives to the method of that name."""

KINDS = tuple(_ARGUMENTS)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return `count` made-up sentences of common words whose numbers of words are spread as in SST-2's dev set."""
    draw = random.Random(f"{seed} sentences")
    steps = len(_SENTENCE_WORDS) - 1
    made = []
    for i in range(count):
        step, rest = divmod((i + 0.5) / count * steps, 1)
        low, high = _SENTENCE_WORDS[int(step)], _SENTENCE_WORDS[int(step) + 1]
        made.append(" ".join(draw.choices(_WORDS, k=round(low + rest * (high - low)))))
    draw.shuffle(made)
    return made
