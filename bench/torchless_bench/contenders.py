"""Who is measured, as a table: a row for each way to run a model or to export it.

Rows name the directory that they need by its role, since the same row runs on any model:

| role           | what it holds                                                    | given by |
|----------------|------------------------------------------------------------------|----------|
| `bundle`       | what `torchless export` wrote                                    | BUNDLE   |
| `checkpoint`   | the checkpoint that it was made from                             | `--peers`|
| `optimum`      | optimum's export of that in float32, all defaults                | `--peers`|
| `optimum-int8` | the same after `quantize_dynamic`, QInt8, one scale for a tensor | `--peers`|
| `ctranslate2`  | the checkpoint's encoder as CTranslate2 stores it, and its head  | `--peers`|

`python -m torchless_bench.prepare` makes a directory for `--peers`, in which each has its role as its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROLES = ("bundle", "checkpoint", "optimum", "optimum-int8", "ctranslate2")

ENGINES = Path(__file__).resolve().parent / "engines"

# What the worker does by itself with an engine that can do `answer`, or with none, see `worker.OWN_KINDS`.
_MODEL = ("forward", "answer", "loop", "first", "memory", "size", "installed")
_SCRIPT = (*_MODEL, "beside")  # where tokenizer and graph are not under the hood of another library
# Of a contender beside another of its libraries: what it takes to start, hold and store is the other's to show.
_SPEED = ("forward", "answer")
_EXPORT = ("export", "installed")
_LIMITS = ("rate", "arithmetic")


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
        options: for the engine, beside `model`, the directory. `device` is among them where it is not the CPU.
        installs: what pip is asked for so that it runs: distributions, with extras.
        exact: whether it computes in float32, so that its logits can be compared with others'.
        own_python: whether it says something only in an interpreter named for it by `--python`.
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
    installs: tuple[str, ...] = ()
    exact: bool = False
    own_python: bool = False
    python: str | None = None
    model: Path | None = None

    @property
    def device(self) -> str:
        """The device that it runs on: "cpu", "cuda" or "cuda:N"."""
        return str(self.options.get("device", "cpu"))

    @property
    def precision(self) -> str | None:
        """What it computes most products in: "fp32", "int8", "fp16", "bf16"; None: it is chosen when it loads."""
        last = self.name.partition("@")[0].rpartition("-")[2]
        return "fp32" if self.exact else last if last in ("int8", "fp16", "bf16") else None


_TORCHLESS = ("torchless", "onnxruntime", "tokenizers")
_BARE = ("onnxruntime", "tokenizers", "numpy")
_TRANSFORMERS = ("transformers", "torch")
_OPTIMUM = ("optimum.onnxruntime", "transformers", "torch", "onnxruntime")
_OPENVINO = ("openvino", "tokenizers", "numpy")
_CTRANSLATE2 = ("ctranslate2", "tokenizers", "numpy")

OPTIMUM_EXPORT = ("-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", "{model}",
                  "--task", "text-classification", "{output}")  # fmt: skip
_OPTIMUM_QUANTIZE = ("-m", "optimum.commands.optimum_cli", "onnxruntime", "quantize", "--onnx_model", "{output}",
                     "--avx512_vnni", "--output", "{output}/int8")  # fmt: skip


def _torchless(name: str, what: str, *, kinds: tuple[str, ...] = _SCRIPT, **options: Any) -> Contender:
    package = "torchless[gpu]" if options["device"] == "cuda" else "torchless[cpu]"
    exact = options.get("variant") == "fp32"
    return Contender(
        f"torchless-{name}", what, "torchless", "bundle.py", _TORCHLESS, kinds, "bundle", options, (package,), exact
    )


def _bare(name: str, what: str, role: str, file: str = "model.onnx") -> Contender:
    return Contender(
        f"bare-{name}", f"a bare ONNX Runtime script on {what}", "bare", "bare_script.py", _BARE, _SCRIPT, role,
        {"file": file}, _BARE, exact=name.endswith("fp32"),
    )  # fmt: skip


def _transformers(name: str, what: str, *, kinds: tuple[str, ...] = _MODEL, **options: Any) -> Contender:
    family = name.partition("-")[0]
    return Contender(
        name, what, family, "transformers_pipeline.py", _TRANSFORMERS, kinds, "checkpoint", options,
        ("transformers", "torch"), exact="dtype" not in options, own_python=family != "transformers",
    )  # fmt: skip


def _optimum(name: str, what: str, role: str, **options: Any) -> Contender:
    runtime = "onnxruntime-gpu" if options.get("device") == "cuda" else "onnxruntime"
    return Contender(
        f"optimum-{name}", what, "optimum", "optimum_pipeline.py", _OPTIMUM, _MODEL, role,
        {"file": "model.onnx", **options}, ("optimum-onnx", runtime), exact=name.endswith("fp32"),
    )  # fmt: skip


def _openvino(name: str, what: str, role: str, precision: str, *, kinds: tuple[str, ...] = _MODEL) -> Contender:
    return Contender(
        f"openvino-{name}", what, "openvino", "openvino_script.py", _OPENVINO, kinds, role,
        {"file": "model.onnx", "precision": precision}, _OPENVINO, exact=name.endswith("fp32"),
    )  # fmt: skip


def _ctranslate2(name: str, what: str, compute_type: str, *, kinds: tuple[str, ...] = _MODEL) -> Contender:
    return Contender(
        f"ctranslate2-{name}", what, "ctranslate2", "ctranslate2_script.py", _CTRANSLATE2, kinds, "ctranslate2",
        {"compute_type": compute_type}, _CTRANSLATE2, exact=name.endswith("fp32"),
    )  # fmt: skip


def _limits(name: str, what: str, device: str, variant: str | None) -> Contender:
    kinds = ("arithmetic",) if variant else ("rate",)
    engine = "profiled_graph.py" if variant else "machine_rates.py"
    return Contender(
        name, what, "limits", engine, ("onnxruntime", "numpy"), kinds, "bundle", {"device": device, "variant": variant}
    )


CONTENDERS = (
    _torchless("fp32", "the bundle's fp32 variant", variant="fp32", device="cpu"),
    _torchless("int8", "the bundle's int8 variant", variant="int8", device="cpu"),
    _torchless(
        "throughput-fp32", 'the same with profile="throughput"', kinds=_SPEED, variant="fp32",
        device="cpu", profile="throughput",
    ),
    _torchless(
        "throughput-int8", 'int8 with profile="throughput"', kinds=_SPEED, variant="int8",
        device="cpu", profile="throughput",
    ),
    _torchless("cuda", "the bundle on the first NVIDIA GPU, in the variant that suits it", device="cuda"),
    _bare("fp32", "the bundle's fp32 graph", "bundle"),
    _bare("int8", "the bundle's int8 graph", "bundle", "model_int8.onnx"),
    _bare("optimum-fp32", "optimum's export", "optimum"),
    _bare("optimum-int8", "optimum's export, dynamic int8 (quantize_dynamic, QInt8)", "optimum-int8"),
    _optimum("fp32", "optimum's ORTModel on its export, in transformers' pipeline", "optimum"),
    _optimum("int8", "the same, dynamic int8 (quantize_dynamic, QInt8)", "optimum-int8"),
    _optimum("cuda-fp32", "the same in float32 on the first NVIDIA GPU", "optimum", device="cuda"),
    _transformers("transformers-fp32", "transformers' pipeline and PyTorch's forward pass"),
    _transformers("transformers-bf16", "the same in bfloat16", kinds=_SPEED, dtype="bfloat16"),
    _transformers(
        "transformers-compiled", "the same in float32 through torch.compile", kinds=_SPEED, compile=True
    ),
    _transformers(
        "transformers-cuda-fp16", "the same in float16 on the first NVIDIA GPU", device="cuda", dtype="float16"
    ),
    _transformers("transformers5-fp32", "the same, for the interpreter of another transformers"),
    _openvino("fp32", "OpenVINO on optimum's export, a bare script", "optimum", "f32"),
    _openvino("bf16", "the same, computed in bfloat16", "optimum", "bf16", kinds=_SPEED),
    _openvino("int8", "OpenVINO on optimum's dynamic int8 graph", "optimum-int8", "f32", kinds=_SPEED),
    _ctranslate2("fp32", "the encoder through CTranslate2, its head in NumPy", "float32", kinds=_SPEED),
    _ctranslate2("int8", "the same with int8 weights", "int8"),
    Contender(
        "torchless-export", "`torchless export` to fp32 and int8, compared with the reference", "torchless",
        "export_commands.py", ("torchless_export", "onnx", "safetensors"), _EXPORT, "checkpoint",
        {"commands": [["-m", "torchless", "export", "{model}", "{output}/bundle", "--min-agreement", "0"]]},
        ("torchless[cpu,export]",),
    ),
    Contender(
        "optimum-export", "`optimum-cli export onnx`, then `optimum-cli onnxruntime quantize --avx512_vnni`",
        "optimum", "export_commands.py", _OPTIMUM, _EXPORT, "checkpoint",
        {"commands": [OPTIMUM_EXPORT, _OPTIMUM_QUANTIZE]}, ("optimum-onnx", "onnxruntime"),
    ),
    _limits("limits-cpu", "what the CPUs of this machine can do", "cpu", None),
    _limits("limits-cuda", "what the first NVIDIA GPU can do", "cuda", None),
    _limits("graph-fp32", "what the bundle's fp32 graph computes", "cpu", "fp32"),
    _limits("graph-int8", "what the bundle's int8 graph computes", "cpu", "int8"),
)  # fmt: skip
