"""The schema of `torchless.json`: what a bundle says of itself, as frozen dataclasses.

`Manifest.from_json` is a list of invariants: each `_Reader` call names one field, the type it must
have and the values it may take. Unknown keys are ignored within a major version of the format.
`Manifest.to_json` writes the same schema, so the exporter has no second description of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torchless import strict_json
from torchless.errors import BundleError, BundleVersionError

FORMAT = "1.0"
MANIFEST_NAME = "torchless.json"

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
PRECISIONS = ("fp32", "int8", "fp16")
GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SIZE = 1 << 40


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle: its name (the bundle is flat), size in bytes and SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """What `tokenizer.json` does not say by itself.

    Attributes:
        max_length: tokens, special ones included, at which `truncation=True` cuts; None: nowhere.
        position_limit: tokens that the model's position table holds; None: it has no such table.
        padding_side: "right" or "left".
        pad_id: the id in padded places; None: the tokenizer has no pad token.
        pad_type_id: the token type id in padded places.
        inputs: the arrays that the tokenizer gives. Token types that a graph takes beside them are zeros, as in
            transformers where `model_input_names` leaves them out.
        truncation_side: the side on which an over-long text loses tokens, "right" or "left".
    """

    max_length: int | None
    position_limit: int | None
    padding_side: str
    pad_id: int | None
    pad_type_id: int
    inputs: tuple[str, ...]
    truncation_side: str = "right"


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The graph's one output: `logits` (batch, labels) or `last_hidden_state` (batch, sequence, hidden)."""

    name: str
    dtype: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One graph of the bundle.

    Attributes:
        files: the ONNX file, then its external data if it has any.
        isa: CPU features, of which one must be there for the variant to be chosen unasked; empty: any CPU.
        session: what the session must be opened with (`disabled_optimizers`), and whether CUDA may record it
            (`cuda_graphs`).
        parity: what the gate measured at export, as written by `torchless_export.parity`; None: never checked.
        quantization: what was done to make it of fewer bits; None: nothing.
        tuning: which forms of the graph were timed, where and how fast they were; None: none were.
    """

    files: tuple[str, ...]
    precision: str
    device: str
    isa: tuple[str, ...]
    converter: str
    opset: int
    inputs: Mapping[str, str]
    output: OutputSpec
    session: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        """The ONNX Runtime graph optimizers that must stay off for this graph."""
        return tuple(self.session.get("disabled_optimizers", ()))

    @property
    def cuda_graphs(self) -> bool:
        """Whether all its nodes can be recorded as a CUDA graph: none asks the GPU for a shape."""
        return self.session.get("cuda_graphs") is True


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of `torchless.json`.

    Attributes:
        task: a name in `torchless.pipelines.tasks`.
        architecture: the config's `model_type`.
        labels: of the model's outputs, in their order; empty for a task without.
        problem_type: one of `PROBLEM_TYPES`; None for a task without labels.
        tokenizer, files, variants: see there.
        provenance: what the bundle was made from, when and with what.
        format: the version of this schema.
    """

    task: str
    architecture: str
    labels: tuple[str, ...]
    problem_type: str | None
    tokenizer: TokenizerSpec
    files: tuple[FileEntry, ...]
    variants: Mapping[str, Variant]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format: str = FORMAT

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Read a manifest from the bytes of the file named by `where`.

        Raises:
            BundleVersionError: a newer major version of the format.
            BundleError: not strict JSON, or a field is missing, of a wrong type or out of range.
        """
        try:
            document = strict_json.loads(data)
        except strict_json.JSONError as error:
            raise BundleError(f"{where}: not a manifest: {error}; export the bundle again") from None
        return _read_manifest(_Reader(where, "", document))

    def to_json(self) -> str:
        """Write the manifest as indented JSON with a final newline."""
        document = _plain(self)
        head = {"format": document.pop("format")}
        return json.dumps(head | document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def entry(self, path: str) -> FileEntry:
        """Return the entry of the file `path`, which the manifest must list.

        Raises:
            BundleError: it lists no such file.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise BundleError(f"{MANIFEST_NAME}: lists no file {path}; export the bundle again")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        # Only these may be absent; every other None is a statement (no limit, no pad token).
        return {k: v for k, v in plain.items() if v is not None or k not in ("parity", "quantization", "tuning")}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _read_manifest(reader: _Reader) -> Manifest:
    version = reader.string("format", pattern=_VERSION)
    if int(version.split(".")[0]) > int(FORMAT.split(".")[0]):
        raise BundleVersionError(
            f"{reader.where}: format {version}, this torchless reads up to {FORMAT.split('.')[0]}.x; upgrade torchless"
        )
    if int(version.split(".")[0]) < 1:
        raise reader.fail("format", version, "1.0 or later")
    files = tuple(_read_file(item) for item in reader.objects("files"))
    names: set[str] = set()
    for entry in files:
        if entry.path in names or entry.path == MANIFEST_NAME:
            raise reader.fail("files", entry.path, "each file once, the manifest itself not among them")
        names.add(entry.path)
    labels = reader.strings("labels")
    if len(set(labels)) != len(labels):
        raise reader.fail("labels", labels, "no label twice")
    variants = {name: _read_variant(item) for name, item in reader.mapping("variants")}
    if not variants:
        raise reader.fail("variants", {}, "at least one")
    for name, variant in variants.items():
        for path in variant.files:
            if path not in names:
                raise reader.fail(f"variants.{name}.files", path, "a name listed in `files`")
    tokenizer = _read_tokenizer(reader.object("tokenizer"))
    for name, variant in variants.items():
        if not set(variant.inputs) <= {*tokenizer.inputs, "token_type_ids"}:
            raise reader.fail(f"variants.{name}.inputs", list(variant.inputs), f"some of {', '.join(tokenizer.inputs)}")
    typed = reader.has("problem_type")
    return Manifest(
        task=reader.string("task"),
        architecture=reader.string("architecture"),
        labels=labels,
        problem_type=reader.string("problem_type", choices=PROBLEM_TYPES) if labels or typed else None,
        tokenizer=tokenizer,
        files=files,
        variants=variants,
        provenance=reader.object("provenance").value if reader.has("provenance") else {},
        format=version,
    )


def _read_file(reader: _Reader) -> FileEntry:
    return FileEntry(
        path=reader.string("path", pattern=_FILE_NAME),
        size=reader.integer("size", 0, _MAX_SIZE),
        sha256=reader.string("sha256", pattern=_SHA256),
    )


def _read_tokenizer(reader: _Reader) -> TokenizerSpec:
    inputs = reader.strings("inputs", choices=GRAPH_INPUTS)
    if "input_ids" not in inputs or len(set(inputs)) != len(inputs):
        raise reader.fail("inputs", inputs, "input_ids and no name twice")
    return TokenizerSpec(
        max_length=reader.integer("max_length", 1, 1 << 31, optional=True),
        position_limit=reader.integer("position_limit", 1, 1 << 31, optional=True),
        padding_side=reader.string("padding_side", choices=("right", "left")),
        pad_id=reader.integer("pad_id", 0, 1 << 31, optional=True),
        pad_type_id=reader.integer("pad_type_id", 0, 1 << 31),
        inputs=inputs,
        truncation_side=(
            reader.string("truncation_side", choices=("right", "left")) if reader.has("truncation_side") else "right"
        ),
    )


def _read_variant(reader: _Reader) -> Variant:
    output = reader.object("output")
    session = reader.object("session") if reader.has("session") else None
    disabled = session.strings("disabled_optimizers") if session and session.has("disabled_optimizers") else ()
    files = reader.strings("files")
    if not files:
        raise reader.fail("files", files, "at least the ONNX file")
    inputs = dict(reader.object("inputs").value)
    if not inputs:
        raise reader.fail("inputs", inputs, "at least input_ids")
    for name, dtype in inputs.items():
        if "input_ids" not in inputs or name not in GRAPH_INPUTS or dtype != "int64":
            raise reader.fail("inputs", inputs, f"input_ids among {', '.join(GRAPH_INPUTS)}, each int64")
    return Variant(
        files=files,
        precision=reader.string("precision", choices=PRECISIONS),
        device=reader.string("device", choices=("cpu", "cuda", "any")),
        isa=reader.strings("isa"),
        converter=reader.string("converter"),
        opset=reader.integer("opset", 1, 1000),
        inputs=inputs,
        output=OutputSpec(
            name=output.string("name", choices=("logits", "last_hidden_state")),
            dtype=output.string("dtype", choices=("float32",)),
            axes=output.strings("axes"),
        ),
        session={
            **({"disabled_optimizers": list(disabled)} if disabled else {}),
            **({"cuda_graphs": True} if session and session.flag("cuda_graphs") else {}),
        },
        parity=reader.object("parity").value if reader.has("parity") else None,
        quantization=reader.object("quantization").value if reader.has("quantization") else None,
        tuning=reader.object("tuning").value if reader.has("tuning") else None,
    )


class _Reader:
    """One JSON object and the way to it, so that every complaint names its field."""

    def __init__(self, where: str, path: str, value: Any) -> None:
        self.where = where
        self.path = path
        if not isinstance(value, dict):
            raise BundleError(f"{where}: {path or 'the document'} is {_kind(value)}, wanted an object; {_AGAIN}")
        self.value: dict[str, Any] = value

    def fail(self, key: str, found: Any, wanted: str) -> BundleError:
        path = f"{self.path}.{key}" if self.path else key
        shown = json.dumps(found, default=str)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        return BundleError(f"{self.where}: {path} is {shown}, wanted {wanted}; {_AGAIN}")

    def has(self, key: str) -> bool:
        return self.value.get(key) is not None

    def _get(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        if key not in self.value:
            path = f"{self.path}.{key}" if self.path else key
            raise BundleError(f"{self.where}: {path} is missing, wanted {wanted}; {_AGAIN}")
        value = self.value[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(key, value, wanted)
        return value

    def string(self, key: str, *, choices: tuple[str, ...] = (), pattern: re.Pattern[str] | None = None) -> str:
        value: str = self._get(key, str, "a string")
        if choices and value not in choices:
            raise self.fail(key, value, "one of " + ", ".join(choices))
        if pattern and not pattern.fullmatch(value):
            raise self.fail(
                key, value, "a plain file name" if pattern is _FILE_NAME else f"a match of {pattern.pattern}"
            )
        return value

    def integer(self, key: str, low: int, high: int, *, optional: bool = False) -> Any:
        wanted = f"an integer from {low} to {high}"
        if optional and self.value.get(key) is None:
            return None
        value: int = self._get(key, int, wanted)
        if not low <= value <= high:
            raise self.fail(key, value, wanted)
        return value

    def flag(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            raise self.fail(key, value, "true or false")
        return value

    def strings(self, key: str, *, choices: tuple[str, ...] = ()) -> tuple[str, ...]:
        values = self._get(key, list, "a list of strings")
        for value in values:
            if not isinstance(value, str):
                raise self.fail(key, values, "a list of strings")
            if choices and value not in choices:
                raise self.fail(key, value, "one of " + ", ".join(choices))
        return tuple(values)

    def object(self, key: str) -> _Reader:
        return _Reader(self.where, f"{self.path}.{key}".lstrip("."), self._get(key, dict, "an object"))

    def objects(self, key: str) -> list[_Reader]:
        values = self._get(key, list, "a list of objects")
        return [_Reader(self.where, f"{self.path}.{key}[{i}]".lstrip("."), v) for i, v in enumerate(values)]

    def mapping(self, key: str) -> list[tuple[str, _Reader]]:
        return [
            (k, _Reader(self.where, f"{self.path}.{key}.{k}".lstrip("."), v)) for k, v in self.object(key).value.items()
        ]


_AGAIN = "export the bundle again"


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
