"""What all pipelines share: one bundle, one tokenizer, one session, and how texts flow through them."""

from __future__ import annotations

import abc
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torchless.batching import pad, plan_batches
from torchless.bundle import Bundle
from torchless.cpu import features
from torchless.devices import Device, parse_device
from torchless.errors import BundleError, InferenceError, InputError, ProviderError, warn_once
from torchless.manifest import TokenizerSpec, Variant
from torchless.pipelines.inputs import TokenizerArguments, read_texts, read_tokenizer_arguments
from torchless.pipelines.tasks import find_task
from torchless.session import Session, choose_device
from torchless.tokenization import Encoding, TextInput, Tokenizer

logger = logging.getLogger("torchless")

Arrays = dict[str, NDArray[np.int64]]

# Texts tokenized and sorted together: enough to fill batches of like length, few enough that their
# encodings stay small beside the model.
WINDOW = 4096

# Texts in one batch of a stream, where no size was asked for.
_STREAM_ROWS = 32


class Pipeline(abc.ABC):
    """Texts in, answers out; see the subclasses.

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
        self.bundle: Path = bundle.path
        self.labels: tuple[str, ...] = manifest.labels
        self.max_length: int | None = manifest.tokenizer.max_length
        self.problem_type = manifest.problem_type
        self.variant = choose_variant(manifest.variants, chosen, variant)
        graph = manifest.variants[self.variant]
        task = find_task(self.task)
        if (graph.output.name, graph.output.axes) != (task.output, task.axes):
            raise BundleError(
                f"{bundle.path}: variant {self.variant} gives {graph.output.name} {list(graph.output.axes)}, "
                f"{task.name} needs {task.output} {list(task.axes)}; export the bundle again"
            )
        self._batch_size = check_count("batch_size", batch_size)
        self._tokenizer = Tokenizer(
            bundle.read("tokenizer.json"), manifest.tokenizer, str(bundle.path / "tokenizer.json")
        )
        # The defaults that were given for every call; checked now, so that a mistake shows at once.
        self._tokenizer_arguments = dict(tokenizer_arguments or {})
        read_tokenizer_arguments(self._tokenizer, self._tokenizer_arguments)
        with bundle.model(self.variant) as source:
            self._session: Session | None = Session(
                source,
                device=chosen,
                inputs=graph.inputs,
                output=graph.output,
                threads=threads,
                profile=profile,
                disabled_optimizers=graph.disabled_optimizers,
            )
        self.provider = self._session.provider
        self._graph_inputs = self._session.inputs
        self._check_vocabulary(bundle)
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
        """
        session = self._session
        if session is None:
            raise InferenceError(f"{self.bundle}: this pipeline is closed; open another with torchless.pipeline")
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

    # How texts flow. Subclasses turn rows of the output into answers.

    def _outputs(
        self, texts: Sequence[TextInput], arguments: TokenizerArguments, batch_size: int | None, first: int = 0
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield (positions in `texts`, output rows) batch by batch, each position once, in no set order.

        `first` is the number of the first text in what the caller gave, for messages.
        """
        step = self._whole_batches(WINDOW, batch_size)
        for start in range(0, len(texts), step):
            window = texts[start : start + step]
            encodings = self._encode(window, arguments, first + start)
            for batch in self._plan([len(encoding) for encoding in encodings], batch_size):
                inputs = self._collate([encodings[i] for i in batch], arguments)
                yield [start + i for i in batch], self.forward(inputs)

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
        # What the graph does not take is not made.
        rows = {
            "input_ids": lambda: pad(ids, spec.pad_id or 0, side=spec.padding_side, length=length),
            "attention_mask": lambda: pad([[1] * len(row) for row in ids], 0, side=spec.padding_side, length=length),
            "token_type_ids": lambda: pad(
                [encoding.type_ids if arguments.type_ids else [0] * len(encoding) for encoding in encodings],
                spec.pad_type_id,
                side=spec.padding_side,
                length=length,
            ),
        }
        return {name: rows[name]() for name in self._graph_inputs}

    def _check_vocabulary(self, bundle: Bundle) -> None:
        config, spec = bundle.config(), self._tokenizer.spec
        largest = max(self._tokenizer.largest_id(thorough=not bundle.verified), spec.pad_id or 0)
        types = {"token_type_ids"} & set(self._graph_inputs)
        for found, key, what in (
            (largest, "vocab_size", "token ids"),
            (spec.pad_type_id if types else 0, "type_vocab_size", "token type ids"),
        ):
            size = config.get(key)
            if isinstance(size, int) and 0 < size <= found:
                raise BundleError(
                    f"{bundle.path}: the tokenizer gives {what} up to {found}, config.json's {key} is {size}; "
                    "they are not of one model: export it again"
                )


def _shifted(report: Callable[[int], None] | None, first: int) -> Callable[[int], None] | None:
    return report if report is None or first == 0 else lambda position: report(first + position)


def check_count(name: str, count: Any) -> int | None:
    """Return the argument `name` if it is a whole number from 1, or None.

    Raises:
        InputError: something else.
    """
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{name} is {count!r}, wanted a whole number from 1, or None to choose by length")
    return count


def choose_variant(variants: Mapping[str, Variant], device: Device, name: str | None) -> str:
    """Return the variant to run on `device`.

    Unnamed: on CUDA fp16, else fp32, never int8; on the CPU int8 where the processor has a feature that
    the variant suits, else fp32.

    Raises:
        InputError: the bundle has no variant of that name.
        ProviderError: the variant named is for another device, or none suits this one.
    """
    if name is not None:
        if name not in variants:
            raise InputError(f"variant {name!r} is not in the bundle, which has {', '.join(variants)}")
        _check_named(name, variants[name], device)
        return name
    order = ("fp16", "fp32") if device.kind == "cuda" else ("int8", "fp32")
    for candidate in order:
        if candidate in variants and _suits(variants[candidate], device):
            return candidate
    raise ProviderError(
        f"none of the bundle's variants ({', '.join(variants)}) suits {device} here; "
        "export fp32 as well, or name one to run it anyway"
    )


def _suits(variant: Variant, device: Device) -> bool:
    if variant.device not in ("any", device.kind):
        return False
    return device.kind == "cuda" or not variant.isa or bool(features() & set(variant.isa))


def _check_named(name: str, variant: Variant, device: Device) -> None:
    if variant.device not in ("any", device.kind):
        raise ProviderError(
            f"variant {name!r} is for {variant.device}, not for {device}; leave the variant out to choose"
        )
    if not _suits(variant, device):
        has = ", ".join(sorted(features())) or "none that is known"
        warn_once(
            f"variant {name!r} suits {', '.join(variant.isa)}; this processor has {has}: answers may differ "
            "from those measured at export"
        )
