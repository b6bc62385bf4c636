"""What all pipelines share: one bundle, one tokenizer, one session, and how texts flow through them."""

from __future__ import annotations

import abc
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torchless.batching import split_rows
from torchless.bundle import Bundle
from torchless.errors import BundleError, InferenceError, ProviderError
from torchless.forking import watch
from torchless.manifest import TokenizerSpec
from torchless.parallel import ahead
from torchless.pipelines.collation import Arrays, read_arrays
from torchless.pipelines.flow import Flow
from torchless.pipelines.inputs import TokenizerArguments, check_count, read_texts, read_tokenizer_arguments
from torchless.pipelines.opening import Opening, open_session
from torchless.pipelines.tasks import find_task
from torchless.pipelines.waits import Waits
from torchless.profiles import find_profile
from torchless.session import Session
from torchless.tokenization import TextInput, Tokenizer

logger = logging.getLogger("torchless")


class Pipeline(Flow):
    """Texts in, answers out; see the subclasses.

    One pipeline may be called from many threads at once: they share its session. It can be pickled: what loads it opens
    the same bundle with the same arguments again.

    In a process that was forked, as multiprocessing's "fork" does, a pipeline opens a session of its own at the first
    call. The inherited one has lost its threads and is left alone, never run and never destroyed, since either would
    wait for them for ever. On CUDA a forked process cannot go on at all: start it by "spawn" or "forkserver". Whoever
    calls `os.fork` by hand must not do so while another thread is inside a pipeline, and should end the child with
    `os._exit`, as multiprocessing does: `sys.exit` runs ONNX Runtime's own clean-up, which waits for those threads too
    where its telemetry was not switched off before it was loaded (torchless does).

    A daemon thread that is inside a call when the interpreter ends may abort the process (SIGABRT), up to Python 3.13:
    it is ended within the code of ONNX Runtime or tokenizers. Let such threads finish first.

    Attributes:
        task: the task's name.
        bundle: the directory that was opened.
        variant: the graph in use, a key of the manifest's variants.
        provider: ONNX Runtime's execution provider, asked of the session.
        labels: the labels in the order of the model's outputs; empty for a model without.
        limit: what calls have waited for more, "tokenizer" or "device", where both work at once; None: no call yet.
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
        gpu_mem_limit: int | None = None,
        tokenizer_arguments: Mapping[str, Any] | None = None,
        opening: Opening | None = None,
    ) -> None:
        """Open the bundle's tokenizer and one of its graphs; `torchless.pipeline` is the usual way here.

        `opening` is the graph's, where it was begun already with the same arguments.

        Raises:
            BundleError: a file is not what the manifest says, or two of them do not fit each other.
            ProviderError: the device does not work here.
            InputError: an argument is none that exists.
        """
        manifest = bundle.manifest
        if opening is None:
            opening = Opening(
                bundle, device=device, variant=variant, threads=threads, profile=profile, gpu_mem_limit=gpu_mem_limit
            )
        self._options: dict[str, Any] = {
            "device": device,
            "variant": variant,
            "batch_size": batch_size,
            "threads": threads,
            "profile": profile,
            "gpu_mem_limit": gpu_mem_limit,
            "tokenizer_arguments": dict(tokenizer_arguments or {}),
        }
        self._source = bundle
        self.bundle: Path = bundle.path
        self.labels: tuple[str, ...] = manifest.labels
        self.max_length: int | None = manifest.tokenizer.max_length
        self.variant = opening.variant
        graph = manifest.variants[self.variant]
        task = find_task(self.task)
        if (graph.output.name, graph.output.axes) != (task.output, task.axes):
            raise BundleError(
                f"{bundle.path}: variant {self.variant} gives {graph.output.name} {list(graph.output.axes)}, "
                f"{task.name} needs {task.output} {list(task.axes)}; export the bundle again"
            )
        self._profile = find_profile(profile, opening.device.kind)
        self._waits = Waits()
        self._batch_size = check_count("batch_size", batch_size)
        self._device = opening.device
        self._opening = threading.Lock()
        watch(self)
        try:
            self._tokenizer = Tokenizer(
                bundle.read("tokenizer.json"), manifest.tokenizer, str(bundle.path / "tokenizer.json")
            )
            # The defaults that were given for every call; checked now, so that a mistake shows at once.
            self._tokenizer_arguments = dict(tokenizer_arguments or {})
            read_tokenizer_arguments(self._tokenizer, self._tokenizer_arguments)
        finally:
            opening.wait()
        self._session: Session | None = opening.session()
        self.provider = self._session.provider
        self._graph_inputs = self._session.inputs
        self._workers = self._session.concurrency
        self._axes = graph.output.axes
        self._width = self._session.output_width or len(self.labels)
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
            InputError, InputTypeError: as `Tokenizer.encode`.
        """
        arguments = self._arguments(tokenizer_arguments)
        return self._collate(self._encode(read_texts(texts), arguments), arguments)

    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph on what `preprocess` gives; returns its output float32.

        With `profile="throughput"` a large batch is run in parts, at once.

        Raises:
            InputError, InputTypeError: the inputs are no arrays.
            InferenceError: ONNX Runtime failed, or the pipeline is closed.
            BundleError, ProviderError: in a forked process, where the session is opened anew.
        """
        arrays = read_arrays(inputs)
        session = self._session
        if session is None:
            raise self._closed()
        if session.inherited:
            session = self._open_own()
        ids = arrays.get("input_ids")
        if ids is not None and ids.ndim == 2 and not len(ids):  # which not every graph can run
            sizes = {"batch": 0, "sequence": ids.shape[1]}
            return np.empty([sizes.get(axis, self._width) for axis in self._axes], np.float32)
        if self._profile.shared_by_runs and not self._keeps_order:
            parts = split_rows(arrays, self._profile.most_tokens)
            if len(parts) > 1:
                return np.concatenate(list(ahead(session.run, parts, self._workers)))
        return session.run(arrays)

    @abc.abstractmethod
    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Answer one input, a list or an iterator of them; see the subclasses."""

    def warmup(self, rows: int = 1, tokens: int = 16) -> Self:
        """Run on `rows` texts of about `tokens` tokens, so that the first real call pays for nothing.

        On CUDA, where the profile is "latency", the second run records the shape as a CUDA graph.
        """
        text = " ".join(["a"] * max(1, tokens - 2))
        inputs = self.preprocess([text] * rows, truncation=True, on_truncation=None)
        for _ in range(2 if self._device.kind == "cuda" else 1):
            self.forward(inputs)
        return self

    def close(self) -> None:
        """Give up the session and its memory. A closed pipeline can be asked for its attributes only."""
        with self._opening:  # a session on its way would be put in place afterwards
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

    @property
    def _is_closed(self) -> bool:
        return self._session is None

    def _closed(self) -> InferenceError:
        return InferenceError(f"{self.bundle}: this pipeline is closed; open another with torchless.pipeline")

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
                self._session = session = open_session(
                    self._source,
                    self.variant,
                    device=self._device,
                    threads=self._options["threads"],
                    profile=self._options["profile"],
                    gpu_mem_limit=self._options["gpu_mem_limit"],
                )
            return session

    def _arguments(self, given: Mapping[str, Any]) -> TokenizerArguments:
        return read_tokenizer_arguments(self._tokenizer, {**self._tokenizer_arguments, **given})


def _reopen(kind: type[Pipeline], bundle: Bundle, options: Mapping[str, Any]) -> Pipeline:
    return kind(bundle, **options)
