"""Who is measured, as a table: a row for each way to run a model or to export it.

Rows name the directory that they need by its role, since the same row runs on any model:

| role           | what it holds                                                    | given by |
|----------------|------------------------------------------------------------------|----------|
| `bundle`       | what `torchless export` wrote                                    | BUNDLE   |
| `checkpoint`   | the checkpoint that it was made from                             | `--peers`|
| `optimum`      | optimum's export of that in float32, all defaults                | `--peers`|
| `optimum-int8` | the same after `quantize_dynamic`, QInt8, one scale for a tensor | `--peers`|

`python -m torchless_bench.prepare` makes a directory for `--peers`, in which each has its role as its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("bundle", "checkpoint", "optimum", "optimum-int8")

ENGINES = Path(__file__).resolve().parent / "engines"

_MODEL = ("forward", "answer")
_EXPORT = ("export", "installed")


@dataclass(frozen=True, slots=True)
class Contender:
    """One row.

    Attributes:
        name: unique; what `--contenders` takes.
        what: one line for people.
        family: what `--python` may name instead of each contender of it.
        engine: the file in `engines/`, or any path, that runs it.
        needs: the modules that its interpreter must be able to import.
        kinds: of the workloads that it can do.
        role: of the directory that it needs, see the module.
        options: for the engine, beside `model`, the directory.
        exact: whether it computes in float32, so that its logits can be compared with others'.
        own_python: the kinds that say something only in an interpreter named for it by `--python`.
        python: the interpreter; None: the one that runs this.
        model: the directory; None: not known yet.
    """

    name: str
    what: str
    family: str
    engine: str
    needs: tuple[str, ...]
    kinds: tuple[str, ...]
    role: str
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False
    own_python: tuple[str, ...] = ()
    python: str | None = None
    model: Path | None = None


_TORCHLESS = ("torchless", "onnxruntime", "tokenizers")
_BARE = ("onnxruntime", "tokenizers", "numpy")
_TRANSFORMERS = ("transformers", "torch")
_OPTIMUM = ("optimum.onnxruntime", "transformers", "torch", "onnxruntime")

OPTIMUM_EXPORT = ("-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", "{model}",
                  "--task", "text-classification", "{output}")  # fmt: skip
_OPTIMUM_QUANTIZE = ("-m", "optimum.commands.optimum_cli", "onnxruntime", "quantize", "--onnx_model", "{output}",
                     "--avx512_vnni", "--output", "{output}/int8")  # fmt: skip

CONTENDERS = (
    Contender(
        "torchless-fp32", "the bundle's fp32 variant", "torchless", "bundle.py", _TORCHLESS, _MODEL, "bundle",
        {"variant": "fp32", "device": "cpu"}, exact=True,
    ),
    Contender(
        "torchless-int8", "the bundle's int8 variant", "torchless", "bundle.py", _TORCHLESS, _MODEL, "bundle",
        {"variant": "int8", "device": "cpu"},
    ),
    Contender(
        "torchless-cuda", "the bundle on the first NVIDIA GPU, in the variant that suits it", "torchless", "bundle.py",
        _TORCHLESS, _MODEL, "bundle", {"device": "cuda"},
    ),
    Contender(
        "bare-fp32", "a bare ONNX Runtime script on the bundle's fp32 graph", "bare", "bare_script.py", _BARE, _MODEL,
        "bundle", {"file": "model.onnx"}, exact=True,
    ),
    Contender(
        "bare-int8", "a bare ONNX Runtime script on the bundle's int8 graph", "bare", "bare_script.py", _BARE, _MODEL,
        "bundle", {"file": "model_int8.onnx"},
    ),
    Contender(
        "bare-optimum-fp32", "a bare ONNX Runtime script on optimum's export", "bare", "bare_script.py", _BARE,
        _MODEL, "optimum", {"file": "model.onnx"}, exact=True,
    ),
    Contender(
        "bare-optimum-int8", "a bare ONNX Runtime script on optimum's export, dynamic int8 (quantize_dynamic, QInt8)",
        "bare", "bare_script.py", _BARE, _MODEL, "optimum-int8", {"file": "model.onnx"},
    ),
    Contender(
        "optimum-fp32", "optimum's ORTModel on its export, in transformers' pipeline", "optimum",
        "optimum_pipeline.py", _OPTIMUM, _MODEL, "optimum", {"file": "model.onnx"}, exact=True,
    ),
    Contender(
        "optimum-int8", "the same, dynamic int8 (quantize_dynamic, QInt8)", "optimum",
        "optimum_pipeline.py", _OPTIMUM, _MODEL, "optimum-int8", {"file": "model.onnx"},
    ),
    Contender(
        "transformers-fp32", "transformers' pipeline and PyTorch's forward pass", "transformers",
        "transformers_pipeline.py", _TRANSFORMERS, _MODEL, "checkpoint", exact=True,
    ),
    Contender(
        "transformers5-fp32", "the same, for the interpreter of another transformers", "transformers5",
        "transformers_pipeline.py", _TRANSFORMERS, _MODEL, "checkpoint", exact=True, own_python=_MODEL,
    ),
    Contender(
        "torchless-export", "`torchless export` to fp32 and int8, compared with the reference", "torchless",
        "export_commands.py", ("torchless_export", "onnx", "safetensors"), _EXPORT, "checkpoint",
        {"commands": [["-m", "torchless", "export", "{model}", "{output}/bundle", "--min-agreement", "0"]]},
        own_python=("installed",),
    ),
    Contender(
        "optimum-export", "`optimum-cli export onnx`, then `optimum-cli onnxruntime quantize --avx512_vnni`",
        "optimum", "export_commands.py", _OPTIMUM, _EXPORT, "checkpoint",
        {"commands": [OPTIMUM_EXPORT, _OPTIMUM_QUANTIZE]},
        own_python=("installed",),
    ),
)  # fmt: skip
