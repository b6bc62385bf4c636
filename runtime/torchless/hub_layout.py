"""Directories in the hub's ONNX layout: run as they are, marked unverified.

    config.json, tokenizer.json, tokenizer_config.json
    onnx/model.onnx, onnx/model_quantized.onnx, onnx/model_fp16.onnx   (or beside config.json)

Nobody measured how far these graphs agree with their checkpoint, and nothing pins their bytes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torchless import strict_json
from torchless.bundle import Bundle
from torchless.errors import BundleError, warn_once
from torchless.limits import max_length, position_limit
from torchless.manifest import GRAPH_INPUTS, PROBLEM_TYPES, FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant
from torchless.pipelines.tasks import TASKS, Task, find_task, infer_task
from torchless.tokenizer_risks import find_risk

# Variant to the names its file goes by; the first one found is taken.
_NAMES = {
    "fp32": ("onnx/model.onnx", "model.onnx"),
    "int8": ("onnx/model_quantized.onnx", "model_quantized.onnx", "onnx/model_int8.onnx", "model_int8.onnx"),
    "fp16": ("onnx/model_fp16.onnx", "model_fp16.onnx"),
}
_DEVICES = {"fp32": "any", "int8": "cpu", "fp16": "cuda"}
# Weights of unknown making may saturate on processors without these; see torchless_export.saturation.
_SAFE_FOR_INT8 = ("avx512_vnni", "avx_vnni", "arm64")
_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def find_variants(files: Iterable[str]) -> dict[str, str]:
    """Return the ONNX files among `files` (relative, with slashes) that torchless knows: variant to file."""
    present = set(files)
    found = {}
    for variant, names in _NAMES.items():
        for name in names:
            if name in present:
                found[variant] = name
                break
    return found


def wanted_files(files: Iterable[str], variant: str | None) -> list[str]:
    """Return which of a repository's `files` a pipeline needs; all variants unless one is named."""
    present = list(files)
    models = [name for key, name in find_variants(present).items() if variant in (None, key)]
    data = [name for name in present for model in models if name.startswith((f"{model}_data", f"{model}.data"))]
    return [name for name in present if name in _JSON] + models + data


def files_below(folder: Path) -> Iterator[str]:
    """Yield the files of a directory and of its `onnx/`, relative, with slashes."""
    for prefix in ("", "onnx/"):
        try:
            yield from (prefix + entry.name for entry in os.scandir(folder / prefix) if entry.is_file())
        except OSError:
            continue


def open_unverified(folder: Path, *, trust: bool = False) -> Bundle:
    """Describe the directory `folder` from its config, as a bundle that is not verified; warns so, once.

    Raises:
        BundleError: a file is missing or broken; a link leads out of the directory; or the tokenizer holds a custom
            regular expression, or another part that could run without end, and `trust` is not set.
    """
    files = list(files_below(folder))
    variants = find_variants(files)
    for name in wanted_files(files, None):
        _check_inside(folder, name)
    config = _read_object(folder, "config.json", required=True)
    tokenizer_config = _read_object(folder, "tokenizer_config.json")
    tokenizer = _read_object(folder, "tokenizer.json", required=True)
    if not trust and (risk := find_risk(tokenizer)) is not None:
        raise BundleError(f"{folder / 'tokenizer.json'}: {risk}; pass trust=True if you know where it comes from")
    task = _task(config)
    labels = read_labels(config, str(folder / "config.json"), BundleError) if "labels" in task.axes else ()
    limit = position_limit(config)
    output = OutputSpec(task.output, "float32", task.axes)
    manifest = Manifest(
        task=task.name,
        architecture=str(config.get("model_type", "")),
        labels=labels,
        problem_type=problem_type(config, len(labels), str(folder / "config.json"), BundleError) if labels else None,
        tokenizer=read_tokenizer_spec(tokenizer, tokenizer_config, config, limit),
        files=tuple(FileEntry(name, 0, "") for name in _JSON if (folder / name).is_file()),
        variants={
            key: Variant(
                files=(name,),
                precision=key,
                device=_DEVICES[key],
                isa=_SAFE_FOR_INT8 if key == "int8" else (),
                converter="unknown",
                opset=0,
                inputs={},
                output=output,
            )
            for key, name in variants.items()
        },
    )
    warn_once(f"{folder}: not a torchless bundle: its graphs were never compared with a checkpoint (unverified)")
    opener = functools.partial(open_unverified, trust=trust)
    return Bundle(folder, manifest, verified=False, trusted=trust, opener=opener)


def read_labels(config: dict[str, Any], where: str, error: type[Exception]) -> tuple[str, ...]:
    """Return `id2label` as a tuple in the order of the ids; without one, LABEL_0, LABEL_1, ... as transformers.

    Raises:
        error: ids that are not 0, 1, 2, ..., a label that is not a string, or one that stands twice.
    """
    table = config.get("id2label")
    if table is None:
        count = config.get("num_labels", 2)
        return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) and 0 < count < 1 << 20 else 2))
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise error(f"{where}: id2label is not a table of strings; write one label for each id")
    try:
        ids = {int(key): label for key, label in table.items()}
    except ValueError:
        raise error(f"{where}: id2label has keys that are not numbers; number the labels from 0") from None
    if sorted(ids) != list(range(len(table))):
        raise error(f"{where}: id2label has the ids {sorted(ids)[:8]}, wanted 0 to {len(table) - 1} without gaps")
    labels = tuple(ids[i] for i in range(len(ids)))
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise error(f"{where}: id2label gives {twice!r} to two ids; labels must differ")
    return labels


def problem_type(config: dict[str, Any], labels: int, where: str, error: type[Exception]) -> str:
    """Return the config's problem type; unset, what transformers' pipeline acts as: one label is a sigmoid's.

    Raises:
        error: one that there is none of, which transformers refuses too.
    """
    given = config.get("problem_type")
    if given in PROBLEM_TYPES:
        return str(given)
    if given is not None:
        raise error(f"{where}: problem_type is {given!r:.80}, wanted one of {', '.join(PROBLEM_TYPES)}, or null")
    return "multi_label_classification" if labels == 1 else "single_label_classification"


def read_tokenizer_spec(
    tokenizer: dict[str, Any], tokenizer_config: dict[str, Any], config: dict[str, Any], limit: int | None
) -> TokenizerSpec:
    """Return what the tokenizer's files say of length and padding.

    What tokenizer_config.json leaves open is as tokenizer.json was last used (`PreTrainedTokenizerFast.__init__`).
    """
    stored = [tokenizer.get(key) for key in ("padding", "truncation")]
    padding, truncation = (use if isinstance(use, dict) else {} for use in stored)
    pad = tokenizer_config.get("pad_token", padding.get("pad_token"))
    name = pad.get("content") if isinstance(pad, dict) else pad
    pad_id = None
    if isinstance(name, str) and name:
        found = (*_ids_of(name, tokenizer), config.get("pad_token_id"))
        pad_id = next((i for i in found if _is_id(i)), None)
    side = tokenizer_config.get("padding_side", str(padding.get("direction")).lower())
    cut = tokenizer_config.get("truncation_side", str(truncation.get("direction")).lower())
    type_id: Any = tokenizer_config.get("pad_token_type_id", padding.get("pad_type_id"))
    given = tokenizer_config.get("model_input_names")
    typed = not isinstance(given, list) or "token_type_ids" in given
    return TokenizerSpec(
        max_length=max_length(tokenizer_config, limit),
        position_limit=limit,
        padding_side=side if side in ("left", "right") else "right",
        pad_id=pad_id,
        pad_type_id=type_id if _is_id(type_id) else 0,
        inputs=GRAPH_INPUTS if typed else ("input_ids", "attention_mask"),
        truncation_side=cut if cut in ("left", "right") else "right",
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 31


def _ids_of(token: str, tokenizer: dict[str, Any]) -> Iterator[Any]:
    """Yield what tokenizer.json says is the id of `token`: as an added token, then in the vocabulary."""
    added, model = tokenizer.get("added_tokens"), tokenizer.get("model")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and entry.get("content") == token:
            yield entry.get("id")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield vocabulary.get(token)


def _task(config: dict[str, Any]) -> Task:
    task = infer_task(config.get("architectures"))
    if task is None and "id2label" in config:
        task = find_task("text-classification")
    if task is None:
        raise BundleError(
            f"config.json: {config.get('architectures') or 'no architecture'} fits none of "
            f"{', '.join(t.name for t in TASKS)}"
        )
    return task


def _read_object(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    path = folder / name
    if not required and not path.is_file():
        return {}
    # Without a manifest the caps on size and the refusal of devices still hold.
    bare = Manifest("", "", (), "", TokenizerSpec(None, None, "right", None, 0, ()), (), {})
    try:
        document = strict_json.loads(Bundle(folder, bare, verified=False).read(name))
    except strict_json.JSONError as error:
        raise BundleError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise BundleError(f"{path}: not a JSON object")
    return document


def _check_inside(folder: Path, name: str) -> None:
    """Refuse a link that leads out of the directory, but for the hub cache's own (snapshots/REV -> blobs)."""
    path = folder / name
    if not os.path.exists(path):
        return
    real, home = path.resolve(), folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(base) for base in allowed):
        raise BundleError(f"{path}: a link that leads out of the directory; copy the file itself there")
