"""What all pipelines share: one bundle, one tokenizer, one session, and how texts flow through them."""

from __future__ import annotations

import abc
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from torchless.batching import pad, plan_batches
from torchless.bundle import Bundle
from torchless.devices import parse_device
from torchless.errors import BundleError, InferenceError, InputError, InputTypeError, ProviderError
from torchless.forking import watch
from torchless.manifest import TokenizerSpec
from torchless.pipelines.inputs import TokenizerArguments, check_count, read_text, read_texts, read_tokenizer_arguments
from torchless.pipelines.streams import as_long_as, open_stream
from torchless.pipelines.tasks import find_task
from torchless.pipelines.variants import choose_variant
from torchless.probe import probe
from torchless.session import Session, choose_device
from torchless.tokenization import Encoding, TextInput, Tokenizer

logger = logging.getLogger("torchless")

Arrays = dict[str, NDArray[np.int64]]

# Texts tokenized and sorted together: enough to fill batches of like length, few enough that their
# encodings stay small beside the model.
WINDOW = 4096

# Texts in one batch of a stream, where no size was asked for.
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


class Pipeline(abc.ABC):
    """Texts in, answers out; see the subclasses.

    One pipeline may be called from many threads at once: they share its session. It can be pickled: what loads it opens
    the same bundle with the same arguments again.

    In a process that was forked, as multiprocessing's "fork" does, a pipeline opens a session of its own at the first
    call. The inherited one has lost its threads and is left alone, never run and never destroyed, since either would
    wait for them for ever. On CUDA a forked process cannot go on at all: start it by "spawn" or "forkserver". Whoever
    calls `os.fork` by hand must not do so while another thread is inside a pipeline, and should end the child with
    `os._exit`, as multiprocessing does: `sys.exit` runs ONNX Runtime's own clean-up, which waits for those threads too
    where its telemetry was not switched off before it was loaded (torchless does).

    Attributes:
        task: the task's name.
        bundle: the directory that was opened.
        variant: the graph in use, a key of the manifest's variants.
        provider: ONNX Runtime's execution provider, asked of the session.
        labels: the labels in the order of the model's outputs; empty for a model without.
        max_length: the tokens at which `truncation=True` cuts; None: nowhere.
    """

    task: ClassVar[str]

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Any = "auto",
        variant: str | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        profile: str = "latency",
        tokenizer_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the bundle's tokenizer and one of its graphs; `torchless.pipeline` is the usual way here.

        Raises:
            BundleError: a file is not what the manifest says, or two of them do not fit each other.
            ProviderError: the device does not work here.
            InputError: an argument is none that exists.
        """
        manifest = bundle.manifest
        chosen = choose_device(parse_device(device))
        self._options: dict[str, Any] = {
            "device": device,
            "variant": variant,
            "batch_size": batch_size,
            "threads": threads,
            "profile": profile,
            "tokenizer_arguments": dict(tokenizer_arguments or {}),
        }
        self._source = bundle
        self.bundle: Path = bundle.path
        self.labels: tuple[str, ...] = manifest.labels
        self.max_length: int | None = manifest.tokenizer.max_length
        self.variant = choose_variant(manifest.variants, chosen, variant)
        graph = manifest.variants[self.variant]
        task = find_task(self.task)
        if (graph.output.name, graph.output.axes) != (task.output, task.axes):
            raise BundleError(
                f"{bundle.path}: variant {self.variant} gives {graph.output.name} {list(graph.output.axes)}, "
                f"{task.name} needs {task.output} {list(task.axes)}; export the bundle again"
            )
        self._batch_size = check_count("batch_size", batch_size)
        if not bundle.trusted:
            probe(bundle, self.variant, chosen)
        self._tokenizer = Tokenizer(
            bundle.read("tokenizer.json"), manifest.tokenizer, str(bundle.path / "tokenizer.json")
        )
        # The defaults that were given for every call; checked now, so that a mistake shows at once.
        self._tokenizer_arguments = dict(tokenizer_arguments or {})
        read_tokenizer_arguments(self._tokenizer, self._tokenizer_arguments)
        self._device = chosen
        self._opening = threading.Lock()
        watch(self)
        self._session: Session | None = self._open_session()
        self.provider = self._session.provider
        self._graph_inputs = self._session.inputs
        types = "token_type_ids" in self._graph_inputs
        self._tokenizer.check_fits(bundle.config(), str(bundle.path), types=types, thorough=not bundle.verified)
        logger.debug(
            "%s: variant %s on %s, %d threads", bundle.path, self.variant, self.provider, self._session.threads
        )

    @property
    def tokenizer_spec(self) -> TokenizerSpec:
        """What the manifest says of the tokenizer: lengths, padding, inputs."""
        return self._tokenizer.spec

    def preprocess(self, texts: TextInput | Sequence[TextInput], **tokenizer_arguments: Any) -> Arrays:
        """Tokenize one text or several, (text, text_pair) tuples or dicts of them, into the graph's inputs.

        Returns `input_ids`, `attention_mask` and, for models that have them, `token_type_ids`, each
        (batch, sequence) int64, padded to the longest row.

        Raises:
            InputError, InputTypeError: as `Tokenizer.encode`; or a text beyond the model's position table.
        """
        arguments = self._arguments(tokenizer_arguments)
        encodings = self._encode(read_texts(texts), arguments)
        return self._collate(encodings, arguments)

    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph on what `preprocess` gives; returns its output float32.

        Raises:
            InferenceError: ONNX Runtime failed, or the pipeline is closed.
            BundleError, ProviderError: in a forked process, where the session is opened anew.
        """
        session = self._session
        if session is None:
            raise self._closed()
        if session.inherited:
            session = self._open_own()
        return session.run(inputs)

    @abc.abstractmethod
    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Answer one input, a list or an iterator of them; see the subclasses."""

    def warmup(self, rows: int = 1, tokens: int = 16) -> Self:
        """Run once on `rows` texts of about `tokens` tokens, so that the first real call pays for nothing."""
        text = " ".join(["a"] * max(1, tokens - 2))
        self.forward(self.preprocess([text] * rows, truncation=True))
        return self

    def close(self) -> None:
        """Give up the session and its memory. A closed pipeline can be asked for its attributes only."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.bundle)!r} {self.variant} on {self.provider}>"

    def after_fork(self) -> None:
        """Take a lock that no thread of the parent holds."""
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._session is None:
            raise self._closed()
        return _reopen, (type(self), self._source, self._options)

    def _closed(self) -> InferenceError:
        return InferenceError(f"{self.bundle}: this pipeline is closed; open another with torchless.pipeline")

    def _open_session(self) -> Session:
        graph = self._source.manifest.variants[self.variant]
        with self._source.model(self.variant) as model:
            return Session(
                model,
                device=self._device,
                inputs=graph.inputs,
                output=graph.output,
                threads=self._options["threads"],
                profile=self._options["profile"],
                disabled_optimizers=graph.disabled_optimizers,
            )

    def _open_own(self) -> Session:
        """Open this process's own session in place of the one it was forked with; once, however many threads ask."""
        with self._opening:
            session = self._session
            if session is None:
                raise self._closed()
            if session.inherited:
                if self._device.kind == "cuda":
                    raise ProviderError(
                        f"{self._device}: CUDA does not work in a process forked from one that used it; start "
                        "workers with multiprocessing's 'spawn' or 'forkserver'"
                    )
                self._session = session = self._open_session()
            return session

    # How texts flow. Subclasses turn batches of the output into answers.

    def _respond(
        self,
        inputs: Any,
        finish: Finish,
        arguments: TokenizerArguments,
        batch_size: int | None,
        window: int | None = None,
        text_pair: str | None = None,
    ) -> Any:
        """Answer one input (a string, a dict), a list or tuple of them (a list), or a stream of them (an iterator).

        `text_pair` is the second text of every input that has none of its own.

        Raises:
            InputTypeError: something else.
        """
        if isinstance(inputs, str | dict):
            [answer] = self._answers([read_text(inputs, None, text_pair)], finish, arguments, batch_size)
            return answer
        if isinstance(inputs, list | tuple):
            texts = [read_text(item, i, text_pair) for i, item in enumerate(inputs)]
            return self._answers(texts, finish, arguments, batch_size)
        stream = open_stream(inputs)
        if stream is None:
            raise InputTypeError(
                f"the input is {type(inputs).__name__}, wanted a string, a dict, a list or an iterator of them"
            )
        answers = self._stream(stream, finish, arguments, batch_size, window or batch_size, text_pair)
        return as_long_as(answers, inputs)

    def _stream(
        self,
        inputs: Iterable[Any],
        finish: Finish,
        arguments: TokenizerArguments,
        batch_size: int | None,
        window: int | None,
        text_pair: str | None,
    ) -> Iterator[Any]:
        count = 0
        for batch in self._batches_of(inputs, window and self._whole_batches(window, batch_size)):
            texts = [read_text(item, count + i, text_pair) for i, item in enumerate(batch)]
            yield from self._answers(texts, finish, arguments, batch_size, count)
            count += len(batch)

    def _answers(
        self,
        texts: Sequence[TextInput],
        finish: Finish,
        arguments: TokenizerArguments,
        batch_size: int | None,
        first: int = 0,
    ) -> list[Any]:
        """Return the answers in the order of `texts`, the first of which was the caller's text number `first`."""
        answers: list[Any] = [None] * len(texts)
        for batch in self._outputs(texts, arguments, batch_size, first):
            for position, answer in zip(batch.positions, finish(batch), strict=True):
                answers[position] = answer
        return answers

    def _outputs(
        self, texts: Sequence[TextInput], arguments: TokenizerArguments, batch_size: int | None, first: int
    ) -> Iterator[Batch]:
        """Yield the outputs batch by batch, each position of `texts` once, in no set order."""
        step = self._whole_batches(WINDOW, batch_size)
        for start in range(0, len(texts), step):
            window = texts[start : start + step]
            encodings = self._encode(window, arguments, first + start)
            lengths = [len(encoding) for encoding in encodings]
            for batch in self._plan(lengths, batch_size):
                inputs = self._collate([encodings[i] for i in batch], arguments)
                yield Batch([start + i for i in batch], [lengths[i] for i in batch], self.forward(inputs))

    def _plan(self, lengths: list[int], batch_size: int | None) -> list[list[int]]:
        spec = self._tokenizer.spec
        if spec.pad_id is None and batch_size is None:
            batch_size = 1  # nothing to pad with
        return plan_batches(lengths, batch_size=batch_size, keep_order=spec.padding_side == "left")

    def _batches_of(self, stream: Iterable[Any], rows: int | None) -> Iterator[list[Any]]:
        """Cut a stream into lists of at most `rows` items, reading no further than the list it yields."""
        spec = self._tokenizer.spec
        alone = spec.padding_side == "left" or spec.pad_id is None
        rows = rows or (1 if alone else _STREAM_ROWS)
        iterator = iter(stream)
        while batch := list(itertools.islice(iterator, rows)):
            yield batch

    def _whole_batches(self, rows: int, batch_size: int | None) -> int:
        """Return how many rows to sort among themselves: `rows`, or a little less where the order is kept.

        Where it is, so are the batches: no window may end within one.
        """
        if batch_size and self._tokenizer.spec.padding_side == "left":
            return max(rows // batch_size, 1) * batch_size
        return rows

    def _arguments(self, given: Mapping[str, Any]) -> TokenizerArguments:
        return read_tokenizer_arguments(self._tokenizer, {**self._tokenizer_arguments, **given})

    def _encode(
        self, texts: Sequence[TextInput], arguments: TokenizerArguments, first: int = 0, *, offsets: bool = False
    ) -> list[Encoding]:
        try:
            encodings = self._tokenizer.encode(
                texts,
                truncation=arguments.truncation,
                special_tokens=arguments.special_tokens,
                offsets=offsets,
                on_truncation=_shifted(arguments.on_truncation, first),
            )
        except InputError as error:
            if first and error.index is not None:
                message = str(error).replace(f"text {error.index}", f"text {error.index + first}", 1)
                raise type(error)(message, error.index + first) from error
            raise
        limit = self._tokenizer.spec.position_limit
        if limit is not None:
            for index, encoding in enumerate(encodings, first):
                if len(encoding) > limit:
                    raise InputError(
                        f"text {index} has {len(encoding)} tokens, the model's position table holds {limit}; "
                        "pass truncation=True to cut it",
                        index,
                    )
        return encodings

    def _collate(self, encodings: Sequence[Encoding], arguments: TokenizerArguments) -> Arrays:
        """Return the graph's inputs (batch, sequence) int64 for these encodings."""
        spec = self._tokenizer.spec
        ids = [encoding.ids for encoding in encodings]
        length = arguments.padded(max(map(len, ids), default=0))
        if spec.position_limit is not None and length > spec.position_limit:
            raise InputError(f"padding to {length} tokens, the model's position table holds {spec.position_limit}")
        if spec.pad_id is None and any(len(row) != length for row in ids):
            raise InputError(f"{self.bundle}: its tokenizer has no pad token; use batch_size=1, without padding")
        typed = "token_type_ids" in spec.inputs if arguments.type_ids is None else arguments.type_ids
        # What the graph does not take is not made.
        rows = {
            "input_ids": lambda: pad(ids, spec.pad_id or 0, side=spec.padding_side, length=length),
            "attention_mask": lambda: pad([[1] * len(row) for row in ids], 0, side=spec.padding_side, length=length),
            "token_type_ids": lambda: pad(
                [encoding.type_ids if typed else [0] * len(encoding) for encoding in encodings],
                spec.pad_type_id,
                side=spec.padding_side,
                length=length,
            ),
        }
        return {name: rows[name]() for name in self._graph_inputs}


def _reopen(kind: type[Pipeline], bundle: Bundle, options: Mapping[str, Any]) -> Pipeline:
    return kind(bundle, **options)


def _shifted(report: Callable[[int], None] | None, first: int) -> Callable[[int], None] | None:
    return report if report is None or first == 0 else lambda position: report(first + position)
