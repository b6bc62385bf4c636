"""The original: the checkpoint under PyTorch in float32, with transformers' own tokenizer.

The only importer of torch and transformers.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.errors import CheckpointError, one_line
from torchless_export.checkpoint import Checkpoint

Arrays = dict[str, NDArray[np.int64]]
TextInput = str | tuple[str, str]

AVAILABLE = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None

_AUTO_MODELS = {"text-classification": "AutoModelForSequenceClassification", "feature-extraction": "AutoModel"}


class PyTorchReference:
    """The checkpoint's model and tokenizer, loaded as transformers loads them.

    Attributes:
        model: the `PreTrainedModel`, in float32 and evaluation mode.
        tokenizer: the `PreTrainedTokenizerFast`.
    """

    name = "pytorch"

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the model from its safetensors files, never running code that comes with it.

        Raises:
            CheckpointError: an unknown architecture, weights that lack a tensor or hold one of another shape
                than the config asks for, a tokenizer that transformers cannot load.
        """
        self._checkpoint = checkpoint
        transformers = importlib.import_module("transformers")
        with quiet():
            self.tokenizer = self._load_tokenizer(transformers)
            self._check_vocabulary()
            self.model = self._load_model(transformers)

    def save_tokenizer(self, folder: Path) -> dict[str, Any]:
        """Write the resolved `tokenizer.json` into `folder`, and beside it what Hugging Face tools look for.

        Returns:
            tokenizer_config.json as transformers saves it, with what its class adds.

        Raises:
            OSError: the disk is full, and the like.
        """
        (folder / "tokenizer.json").write_text(self.tokenizer_json(), encoding="utf-8", newline="\n")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer") as scratch:
            with system_errors():
                self.tokenizer.save_pretrained(scratch)
            for name in ("tokenizer_config.json", "special_tokens_map.json"):
                if (Path(scratch) / name).is_file():
                    shutil.copyfile(Path(scratch) / name, folder / name)
        saved: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
        return saved

    def tokenizer_json(self) -> str:
        """Return `tokenizer.json` with all that `tokenizer_config.json` asks for resolved into it.

        transformers' classes rewrite the normalizer (`do_lower_case`, `strip_accents`), the
        pre-tokenizer (`add_prefix_space`), the special tokens' template and the added tokens when they
        load; the backend then holds the sum. Padding and truncation are no part of it.
        """
        document = json.loads(self.tokenizer.backend_tokenizer.to_str())
        document["padding"] = document["truncation"] = None
        return json.dumps(document, ensure_ascii=False)

    def encode(self, texts: Sequence[TextInput], max_length: int | None) -> Arrays:
        """Tokenize texts with transformers, cut to `max_length` tokens and padded: arrays (batch, sequence) int64.

        The mask is asked for: without one (`model_input_names`) a model would attend to the padding, and its answer
        to a text would depend on the batch.
        """
        cut = {"truncation": True, "max_length": max_length} if max_length is not None else {}
        batch: list[Any] = list(texts)
        with quiet():
            encoded = self.tokenizer(
                batch, padding=len(batch) > 1, return_attention_mask=True, return_tensors="np", **cut
            )
        return {name: np.asarray(array, dtype=np.int64) for name, array in encoded.items()}

    def forward(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run the model on (batch, sequence) int64 inputs.

        Returns logits (batch, labels) float32, or the last hidden state (batch, sequence, hidden) float32.

        Raises:
            CheckpointError: the original itself fails on them, as where its tokenizer gives token types that it has no
                row for.
        """
        torch = importlib.import_module("torch")
        try:
            with torch.inference_mode():
                output = self.model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        except MemoryError:
            raise
        except Exception as error:  # transformers raises whatever its parts do
            highest = ", ".join(f"{name} up to {array.max(initial=0)}" for name, array in inputs.items())
            raise CheckpointError(
                f"{self._checkpoint.path}: the original fails on texts that judge, with {highest}: "
                f"{type(error).__name__}: {one_line(str(error), 200)}; correct config.json or the tokenizer's files, "
                "or judge on texts that it can answer (--calibration)"
            ) from error
        result: NDArray[np.float32] = output[self._checkpoint.task.output].float().numpy()
        return result

    def _load_tokenizer(self, transformers: Any) -> Any:
        path, config = self._checkpoint.path, self._checkpoint.tokenizer_config
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        # Two things that transformers 5 writes and 4.57 cannot read: its name for a tokenizer without a class of its
        # own, and the special tokens beyond the named ones as a list.
        if isinstance(extra := config.get("extra_special_tokens"), list):
            options |= {"extra_special_tokens": {}, "additional_special_tokens": extra}
        generic = config.get("tokenizer_class") == "TokenizersBackend"
        loader = transformers.PreTrainedTokenizerFast if generic else transformers.AutoTokenizer
        try:
            tokenizer = loader.from_pretrained(path, **options)
        except BaseException as error:  # a panic of the Rust tokenizer is a BaseException
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = one_line(str(error) or type(error).__name__, 300)
            raise CheckpointError(f"{path}: transformers cannot load its tokenizer: {reason}") from error
        if not tokenizer.is_fast:
            raise CheckpointError(
                f"{path}: {type(tokenizer).__name__} is a slow tokenizer; only fast ones (tokenizer.json) run here"
            )
        return tokenizer

    def _check_vocabulary(self) -> None:
        size = self._checkpoint.config.get("vocab_size")
        token, largest = max(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        if isinstance(size, int) and largest >= size:
            raise CheckpointError(
                f"{self._checkpoint.path}: its tokenizer gives the id {largest} ({token!r}), config.json's vocab_size "
                f"is {size}; use the tokenizer that the model was trained with, or resize the model's embeddings to it"
            )

    def _load_model(self, transformers: Any) -> Any:
        path = self._checkpoint.path
        kind = self._checkpoint.architecture
        if kind not in transformers.CONFIG_MAPPING:
            raise CheckpointError(
                f"{path / 'config.json'}: the architecture {kind!r} is unknown to transformers "
                f"{transformers.__version__}; code that comes with a checkpoint is never run"
            )
        try:
            model, loading = getattr(transformers, _AUTO_MODELS[self._checkpoint.task.name]).from_pretrained(
                path,
                dtype="float32",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are listed, and refused by name below
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises whatever its parts do
            reason = one_line(str(error) or type(error).__name__, 400)
            raise CheckpointError(f"{path}: transformers cannot load it: {reason}") from error
        self._check_loaded(model, loading)
        return model.eval()

    def _check_loaded(self, model: Any, loading: dict[str, Any]) -> None:
        path, labels = self._checkpoint.path, len(self._checkpoint.labels)
        # Names, or in some versions (name, shape found, shape wanted).
        mismatched = sorted(key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"])
        if mismatched:
            name = mismatched[0]
            found, wanted = list(self._checkpoint.tensors.get(name, ())), list(model.state_dict()[name].shape)
            head = wanted[:1] == [labels] != found[:1]
            raise CheckpointError(
                f"{path}: the tensor {name} is {found}, the config ({labels} labels) wants {wanted}; "
                + ("correct config.json: its id2label must fit the head" if head else "config.json is another model's")
            )
        # A pooler that was never saved is made anew, at random; the last hidden state comes before it.
        unused = ("pooler.",) if self._checkpoint.task.output == "last_hidden_state" else ()
        if missing := sorted(key for key in loading["missing_keys"] if not key.startswith(unused)):
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CheckpointError(
                f"{path}: its weights lack {', '.join(missing[:3])}{more}, which {self._checkpoint.task.name} needs; "
                "export a checkpoint that was fine-tuned for the task"
            )


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise as `OSError` what libraries written in Rust raise as a bare exception: "... (os error 28)"."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, OSError) or code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress, advice and tracer warnings off the terminal; the gate checks what matters."""
    loggers = [logging.getLogger(name) for name in ("transformers", "optimum", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            bars.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
