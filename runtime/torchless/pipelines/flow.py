"""How texts flow through a tokenizer and a graph, and come out as answers in their order."""

from __future__ import annotations

import abc
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchless.batching import plan_batches
from torchless.errors import InferenceError, InputError, InputTypeError, TorchlessError
from torchless.parallel import ahead
from torchless.pipelines.collation import Arrays, collate
from torchless.pipelines.inputs import TokenizerArguments, read_text
from torchless.pipelines.streams import as_long_as, open_stream
from torchless.pipelines.waits import Waits
from torchless.profiles import Profile
from torchless.tokenization import CutEncoding, Encoding, TextInput, Tokenizer

# Texts tokenized and sorted together: enough to fill batches of like length, few enough that their
# encodings stay small beside the model.
WINDOW = 4096

# Texts in one batch of a stream, where no size was asked for; and the least that a text's repetitions are answered in.
_STREAM_ROWS = 32


class Batch(NamedTuple):
    """What the graph gave for some of the texts.

    Attributes:
        positions: which texts these are.
        lengths: the tokens of each, without padding.
        rows: the output float32, a row a text.
    """

    positions: list[int]
    lengths: list[int]
    rows: NDArray[np.float32]


Finish = Callable[[Batch], Sequence[Any]]
"""Turns a batch of outputs into answers, one a text."""


class Call(NamedTuple):
    """What one call of a pipeline asks for, its arguments checked.

    Attributes:
        finish: makes the answers.
        arguments: how to tokenize.
        batch_size: the most texts in a batch; None: packed by length.
        window: of a stream, the texts read ahead; None: one batch.
        text_pair: the second text of every input that has none of its own.
        keep_errors: whether an error stands in the place of the answers that it prevents, or is raised.
    """

    finish: Finish
    arguments: TokenizerArguments
    batch_size: int | None = None
    window: int | None = None
    text_pair: str | None = None
    keep_errors: bool = False


class _Window(NamedTuple):
    """Texts that are tokenized and sorted together, each distinct one once.

    Attributes:
        texts: the texts.
        places: where each stands in what is answered.
    """

    texts: list[TextInput]
    places: list[list[int]]


class _Encoded(NamedTuple):
    """A window's encodings.

    Attributes:
        encodings, places: of the texts that could be tokenized.
        cut: the places of those that were cut.
        failures: the places of the others, and why.
    """

    encodings: list[Encoding]
    places: list[list[int]]
    cut: list[int]
    failures: list[tuple[list[int], InputError]]


class _Ran(NamedTuple):
    """What became of a batch.

    Attributes:
        texts: those of it that could be run.
        rows: the output float32, a row a text.
        failures: the others, and why.
    """

    texts: list[int]
    rows: NDArray[np.float32]
    failures: list[tuple[int, InferenceError]]


class Flow(abc.ABC):
    """Takes inputs in any form to answers; a subclass says how a batch is run and what is made of its output."""

    _tokenizer: Tokenizer
    _graph_inputs: tuple[str, ...]
    _profile: Profile
    _waits: Waits
    # How many batches are run at once.
    _workers: int

    @abc.abstractmethod
    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph on one batch."""

    @property
    @abc.abstractmethod
    def _is_closed(self) -> bool: ...

    @property
    def limit(self) -> str | None:
        """What calls have waited for more: "tokenizer" or "device"; None: there were none yet."""
        return self._waits.limit

    def _respond(self, inputs: Any, call: Call) -> Any:
        """Answer one input (a string, a dict), a list or tuple of them (a list), or a stream of them (an iterator).

        Raises:
            InputTypeError: something else.
        """
        if isinstance(inputs, str | dict):
            return self._answer(inputs, call)
        if isinstance(inputs, list | tuple):
            return self._answers(inputs, call)
        stream = open_stream(inputs)
        if stream is None:
            raise InputTypeError(
                f"the input is {type(inputs).__name__}, wanted a string, a dict, a list or an iterator of them"
            )
        return as_long_as(self._stream(stream, call), inputs)

    def _answer(self, item: Any, call: Call) -> Any:
        """Return the answer to the one input there is, without what keeps many of them under way.

        In a program that waits for one text at a time, each function on the way is read from memory anew: the graph's
        weights have been through the processor's cache since the last call.
        """
        if call.keep_errors:
            return self._answers([item], call, None)[0]
        text = read_text(item, None, call.text_pair)
        start = time.perf_counter()
        encodings = self._encode([text], call.arguments)
        inputs = self._collate(encodings, call.arguments)
        tokenized = time.perf_counter()
        rows = self.forward(inputs)
        self._waits.add("tokenizer", tokenized - start)
        self._waits.add("device", time.perf_counter() - tokenized)
        return call.finish(Batch([0], [len(encodings[0])], rows))[0]

    def _stream(self, inputs: Iterable[Any], call: Call) -> Iterator[Any]:
        count = 0
        window = call.window or call.batch_size
        for items in self._read(inputs, window and self._whole_batches(window, call.batch_size)):
            yield from self._answers(items, call, count)
            count += len(items)

    def _read(self, stream: Iterable[Any], rows: int | None) -> Iterator[list[Any]]:
        """Cut a stream into lists of at most `rows` items, reading no further than the list it yields.

        What was read before the stream fails comes first, and then its error.
        """
        spec = self._tokenizer.spec
        alone = spec.padding_side == "left" or spec.pad_id is None
        rows = rows or (1 if alone else _STREAM_ROWS)
        iterator = iter(stream)
        batch: list[Any] = []
        try:
            for item in iterator:
                batch.append(item)
                if len(batch) == rows:
                    yield batch
                    batch = []
        except Exception:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def _answers(self, items: Sequence[Any], call: Call, first: int | None = 0) -> list[Any]:
        """Return the answers to `items` in their order.

        The caller gave them as numbers `first` and up; None: as the one input there is.
        """
        answers: list[Any] = [None] * len(items)

        def fail(place: int, error: TorchlessError) -> None:
            if not call.keep_errors:
                raise error
            answers[place] = error

        texts: list[TextInput] = []
        places: list[int] = []
        for place, item in enumerate(items):
            try:
                texts.append(read_text(item, None if first is None else first + place, call.text_pair))
            except InputError as error:
                fail(place, error)
            else:
                places.append(place)
        for batch in self._outputs(self._windows(texts, places, call), call, first or 0, fail):
            for position, answer in zip(batch.positions, call.finish(batch), strict=True):
                answers[position] = answer
        return answers

    def _outputs(
        self,
        windows: Sequence[_Window],
        call: Call,
        first: int,
        fail: Callable[[int, TorchlessError], None],
    ) -> Iterator[Batch]:
        """Yield the outputs batch by batch, each place once or in `fail`, in no set order."""
        encode = functools.partial(self._encode_window, call, first)
        encodings = ahead(encode, windows, 1) if len(windows) > 1 else map(encode, windows)
        for encoded in self._waits.watch("tokenizer", encodings):
            for places, error in encoded.failures:
                for place in places:
                    fail(place, _at(first + place, error))
            if call.arguments.on_truncation is not None:
                for place in sorted(encoded.cut):
                    call.arguments.on_truncation(first + place)
            lengths = [len(encoding) for encoding in encoded.encodings]
            batches = self._plan([call.arguments.padded(length) for length in lengths], call.batch_size)
            run = functools.partial(self._run, encoded.encodings, call)
            outputs = ahead(run, batches, self._workers) if self._workers > 1 < len(batches) else map(run, batches)
            for ran in self._waits.watch("device", outputs):
                for text, cause in ran.failures:
                    for place in encoded.places[text]:
                        fail(place, InferenceError(f"text {first + place}: {cause}"))
                if ran.texts:
                    yield from _spread(ran.texts, ran.rows, lengths, encoded.places)

    def _windows(self, texts: list[TextInput], places: list[int], call: Call) -> list[_Window]:
        step = self._whole_batches(self._profile.window or WINDOW, call.batch_size)
        windows = []
        for start in range(0, len(texts), step):
            chosen, where = texts[start : start + step], places[start : start + step]
            if self._keeps_order:  # the answers depend on the batches, so that what is in them is not ours to choose
                windows.append(_Window(chosen, [[place] for place in where]))
                continue
            distinct: dict[TextInput, list[int]] = {}
            for text, place in zip(chosen, where, strict=True):
                distinct.setdefault(text, []).append(place)
            windows.append(_Window(list(distinct), list(distinct.values())))
        return windows

    def _encode_window(self, call: Call, first: int, window: _Window) -> _Encoded:
        found = self._tokenizer.encode_each(
            window.texts,
            truncation=call.arguments.truncation,
            special_tokens=call.arguments.special_tokens,
            indices=[first + where[0] for where in window.places],
        )
        encoded = _Encoded([], [], [], [])
        for given, where in zip(found, window.places, strict=True):
            item = self._check_padded(given, call.arguments, first + where[0])
            if isinstance(item, InputError):
                encoded.failures.append((where, item))
                continue
            encoded.encodings.append(item)
            encoded.places.append(where)
            if isinstance(item, CutEncoding):
                encoded.cut.extend(where)
        return encoded

    def _check_padded(
        self, item: Encoding | InputError, arguments: TokenizerArguments, index: int
    ) -> Encoding | InputError:
        """Return `item`, or why it alone cannot be padded as asked; what suits no text is refused by `collate`."""
        limit = self._tokenizer.spec.position_limit
        if isinstance(item, InputError) or limit is None or arguments.multiple_of == 1:
            return item
        if arguments.padded(1) <= limit < (width := arguments.padded(len(item))):
            return InputError(
                f"text {index} has {len(item)} tokens, padded to {width}; the model's position table holds {limit}; "
                "leave pad_to_multiple_of out, or cut the text with max_length",
                index,
            )
        return item

    def _encode(
        self, texts: Sequence[TextInput], arguments: TokenizerArguments, *, offsets: bool = False
    ) -> list[Encoding]:
        """Tokenize all that the caller gave.

        Raises:
            InputError, InputTypeError: as `Tokenizer.encode`.
        """
        encodings = self._tokenizer.encode(
            texts, truncation=arguments.truncation, special_tokens=arguments.special_tokens, offsets=offsets
        )
        if arguments.on_truncation is not None:
            for index, encoding in enumerate(encodings):
                if isinstance(encoding, CutEncoding):
                    arguments.on_truncation(index)
        return encodings

    def _run(self, encodings: Sequence[Encoding], call: Call, batch: list[int]) -> _Ran:
        inputs = self._collate([encodings[i] for i in batch], call.arguments)
        return self._run_apart(batch, inputs) if call.keep_errors else _Ran(batch, self.forward(inputs), [])

    def _run_apart(self, batch: list[int], inputs: Arrays) -> _Ran:
        """Run a batch, padded as it is; where it fails in two halves, and those again, down to the texts it fails for.

        One text may well spoil the others: in int8 they share a scale.
        """
        try:
            return _Ran(batch, self.forward(inputs), [])
        except InferenceError as error:
            if self._is_closed:
                raise
            if len(batch) == 1:
                return _Ran([], np.empty(0, np.float32), [(batch[0], error)])
        parts = []
        for half in (slice(len(batch) // 2), slice(len(batch) // 2, None)):
            parts.append(self._run_apart(batch[half], {name: array[half] for name, array in inputs.items()}))
        return _Ran(
            [text for part in parts for text in part.texts],
            np.concatenate([part.rows for part in parts if part.texts] or [parts[0].rows]),
            [failure for part in parts for failure in part.failures],
        )

    def _collate(self, encodings: Sequence[Encoding], arguments: TokenizerArguments) -> Arrays:
        return collate(encodings, arguments, self._tokenizer.spec, self._graph_inputs)

    @property
    def _keeps_order(self) -> bool:
        return self._tokenizer.spec.padding_side == "left"

    def _plan(self, lengths: list[int], batch_size: int | None) -> list[list[int]]:
        if self._tokenizer.spec.pad_id is None and batch_size is None:
            batch_size = 1  # nothing to pad with
        budget = self._profile.token_budget(sum(lengths))
        return plan_batches(lengths, batch_size=batch_size, token_budget=budget, keep_order=self._keeps_order)

    def _whole_batches(self, rows: int, batch_size: int | None) -> int:
        """Return how many rows to sort among themselves: `rows`, or a little less where the order is kept.

        Where it is, so are the batches: no window may end within one.
        """
        if batch_size and self._keeps_order:
            return max(rows // batch_size, 1) * batch_size
        return rows


def _at(index: int, error: InputError) -> InputError:
    """Return `error` as that of the same text where it stands again."""
    if index == error.index:
        return error
    again = type(error)(f"text {index}{str(error).removeprefix(f'text {error.index}')}", index)
    again.__cause__ = error.__cause__
    return again


def _spread(
    batch: list[int], rows: NDArray[np.float32], lengths: Sequence[int], places: Sequence[list[int]]
) -> Iterator[Batch]:
    """Yield the rows of `batch`, each at every place of its text, not many more at once than the batch has."""
    where = [(row, place) for row, text in enumerate(batch) for place in places[text]]
    if len(where) == len(batch):
        yield Batch([place for _, place in where], [lengths[text] for text in batch], rows)
        return
    step = max(len(batch), _STREAM_ROWS)
    for start in range(0, len(where), step):
        chosen = where[start : start + step]
        yield Batch(
            [place for _, place in chosen],
            [lengths[batch[row]] for row, _ in chosen],
            rows[[row for row, _ in chosen]],
        )
