"""A checkpoint on disk, checked before anything heavy is loaded: config, tokenizer, weights' headers.

Only safetensors weights are read. A pickle (`pytorch_model.bin`) runs code when it is opened, and is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchless import hub, strict_json
from torchless.errors import CheckpointError, InputError, TorchlessError
from torchless.hub_layout import problem_type, read_labels
from torchless.manifest import MANIFEST_NAME
from torchless.pipelines.tasks import TASKS, Task, find_task, infer_task

_SMALL = 16 << 20
_TOKENIZER = 64 << 20
# The format's own limit on the header (safetensors, README "Format").
_HEADER = 100_000_000
_SLOW_TOKENIZERS = (
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")
_OTHER_WEIGHTS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index")
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be exported, as far as its files tell.

    Attributes:
        name: what the user called it: a hub id, or the last part of the directory's path.
        path: the local directory.
        revision: the commit, for one from the hub.
        config: `config.json`.
        tokenizer_config: `tokenizer_config.json`, or an empty dict.
        task, labels, problem_type: what the bundle will say; no labels and None for a task without.
        weights: the safetensors files, in the order of their names.
        tensors: every tensor's shape.
    """

    name: str
    path: Path
    revision: str | None
    config: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    task: Task
    labels: tuple[str, ...]
    problem_type: str | None
    weights: tuple[Path, ...]
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        """The config's `model_type`."""
        return str(self.config["model_type"])

    def weights_sha256(self) -> str:
        """Return the SHA-256 of the weights file; of several, that of their digests in hexadecimal, joined."""
        digests = []
        for path in self.weights:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def open_checkpoint(
    source: str | os.PathLike[str], *, task: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Find the checkpoint `source`, a directory or a hub id, and check its files.

    Raises:
        CheckpointError: a file is missing, broken, or of a kind that is not read; each names the file and the way out.
        InputError: an unknown task.
    """
    wanted = find_task(task) if task is not None else None
    name = os.fspath(source)
    folder = Path(name)
    commit = None
    if os.path.isdir(name):  # unlike Path.is_dir, False also for a name that is too long
        label = folder.resolve().name
    elif os.path.exists(name) or not hub.is_repository(name):
        raise CheckpointError(f"{name}: {'not a directory' if os.path.exists(name) else 'no such directory'}; "
                              "give the directory that save_pretrained wrote, or a hub id")  # fmt: skip
    else:
        folder, label = hub.fetch(name, revision, _choose_files(name), CheckpointError), name
        commit = folder.name
    if (folder / MANIFEST_NAME).exists():
        raise CheckpointError(f"{name}: a bundle that was exported already; give the checkpoint it was made from")
    config = _read_config(folder)
    found = _infer_task(folder, config, wanted)
    labels = _read_labels(folder, config) if "labels" in found.axes else ()
    _check_tokenizer(folder)
    weights = _find_weights(folder, name)
    tensors: dict[str, tuple[int, ...]] = {}
    for path in weights:
        tensors |= _read_header(path)
    tokenizer_config = (
        _read_object(folder / "tokenizer_config.json") if _exists(folder / "tokenizer_config.json") else {}
    )
    return Checkpoint(
        name=label,
        path=folder,
        revision=commit,
        config=config,
        tokenizer_config=tokenizer_config,
        task=found,
        labels=labels,
        problem_type=problem_type(dict(config), len(labels), str(folder / "config.json"), CheckpointError)
        if labels
        else None,
        weights=weights,
        tensors=tensors,
    )


def _choose_files(name: str) -> Any:
    def choose(files: list[str]) -> list[str]:
        top = [file for file in files if "/" not in file]
        if not any(file.endswith(".safetensors") for file in top):
            _refuse_other_weights(name, top)
        # An index lists shards; with a single file and shards beside each other the single file is read.
        single = "model.safetensors" in top
        return [
            f
            for f in top
            if f.endswith(".json") or (f == "model.safetensors" if single else f.endswith(".safetensors"))
        ]

    return choose


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not _exists(path):
        raise CheckpointError(
            f"{path}: missing; a checkpoint is the directory that save_pretrained wrote, config.json in it"
        )
    config = _read_object(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise CheckpointError(f"{path}: names no model_type; use the config.json of the checkpoint's own architecture")
    return config


def _infer_task(folder: Path, config: Mapping[str, Any], wanted: Task | None) -> Task:
    given = config.get("architectures")
    found = wanted or (infer_task(given) if given else find_task("text-classification"))
    if found is None:
        architectures = ", ".join(map(str, given)) if isinstance(given, list) else str(given)
        known = ", ".join(task.name for task in TASKS)
        raise CheckpointError(
            f"{folder / 'config.json'}: {architectures} fits none of the tasks {known}; name one with --task"
        )
    return found


def _read_labels(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    path = folder / "config.json"
    labels = read_labels(dict(config), str(path), CheckpointError)
    table = config.get("id2label")
    if table is not None and table.keys() != {str(i) for i in range(len(labels))}:
        raise CheckpointError(f"{path}: id2label has the ids {sorted(table)[:8]}, wanted plain numbers from 0")
    return labels


def _check_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    if _exists(path):
        _read_object(path, _TOKENIZER)
        return
    slow = [name for name in _SLOW_TOKENIZERS if _exists(folder / name)]
    has = f"only {', '.join(slow)} (a slow tokenizer)" if slow else "no tokenizer at all"
    raise CheckpointError(
        f"{path}: missing, the checkpoint has {has}; write it with transformers: "
        "AutoTokenizer.from_pretrained(checkpoint, use_fast=True).save_pretrained(checkpoint)"
    )


def _find_weights(folder: Path, name: str) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if _exists(single):
        return (single,)
    if not _exists(index):
        _refuse_other_weights(name, [entry.name for entry in os.scandir(folder)])
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map; save the checkpoint again")
    names = sorted({str(value) for value in weight_map.values()})
    for shard in names:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {shard!r}, wanted safetensors files beside it")
        if not _exists(folder / shard):
            raise CheckpointError(
                f"{folder / shard}: missing, {index.name} names it; fetch or copy the checkpoint again"
            )
    return tuple(folder / shard for shard in names)


def _refuse_other_weights(name: str, files: list[str]) -> None:
    pickles = [
        file for file in files if file in _PICKLES or (file.startswith("pytorch_model") and file.endswith(".bin"))
    ]
    if pickles:
        raise CheckpointError(
            f"{name}: its weights are a pickle ({pickles[0]}), which can run code when read; convert it with "
            "transformers: AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(converted)"
        )
    other = [file for file in files if file in _OTHER_WEIGHTS]
    also = f" (only {other[0]})" if other else ""
    raise CheckpointError(f"{name}: has no model.safetensors{also}; save the checkpoint with save_pretrained")


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file, having checked that it holds what it says.

    Format: 8 bytes little-endian header size, JSON header, data (github.com/huggingface/safetensors).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(_HEADER, size - 8):
            raise CheckpointError(f"{path}: {size} bytes, not a safetensors file or cut short; fetch or copy it again")
        header_bytes = file.read(length)
    try:
        header = strict_json.loads(header_bytes.rstrip(b" "))
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        ends = [0]
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            count = 1
            for axis in entry["shape"]:
                count *= axis
            if (
                not 0 <= start <= end
                or end - start != count * _DTYPE_BYTES[entry["dtype"]]
                or min(entry["shape"], default=0) < 0
            ):
                raise CheckpointError(
                    f"{path}: tensor {name} has the shape {entry['shape']} but bytes {start} to {end}"
                )
            ends.append(end)
    except (strict_json.JSONError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TorchlessError):
            raise
        raise CheckpointError(f"{path}: its safetensors header is broken ({error}); fetch or copy it again") from None
    if max(ends) != size - 8 - length:
        raise CheckpointError(
            f"{path}: {size} bytes, its header describes {max(ends) + 8 + length}: cut short or damaged; "
            "fetch or copy it again"
        )
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _read_object(path: Path, limit: int = _SMALL) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path}: {size} bytes, at most {limit} are read")
        document = strict_json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except strict_json.JSONError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}; fetch or copy it again") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a JSON object; fetch or copy it again")
    return document


def check_min_agreement(value: float) -> float:
    """Return `value` if it is a share from 0 to 1.

    Raises:
        InputError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"min_agreement is {value!r}, wanted a share from 0 to 1, such as 0.99")
    return float(value)
