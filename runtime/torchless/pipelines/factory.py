"""`torchless.pipeline`: from a name to an open pipeline."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchless.bundle import Bundle
from torchless.errors import BundleError, CheckpointError, InputError, InputTypeError, warn_once
from torchless.manifest import MANIFEST_NAME
from torchless.pipelines.inputs import DEFAULT_TOP_K
from torchless.pipelines.opening import Opening
from torchless.pipelines.tasks import find_task

if TYPE_CHECKING:
    from torchless.pipelines.base import Pipeline

# Arguments of transformers' pipeline (4.57.6 and 5.23.0) that say how PyTorch should do it.
_OF_TRANSFORMERS = frozenset(
    {
        "binary_output",
        "config",
        "device_map",
        "dtype",
        "feature_extractor",
        "framework",
        "image_processor",
        "model_kwargs",
        "num_workers",
        "pipeline_class",
        "processor",
        "token",
        "tokenizer",
        "torch_dtype",
        "use_auth_token",
        "use_fast",
        "video_processor",
    }
)


def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | None = None,
    *,
    device: Any = "auto",
    variant: str | None = None,
    batch_size: int | None = None,
    top_k: int | None = DEFAULT_TOP_K,
    function_to_apply: str | None = None,
    threads: int | None = None,
    profile: str = "latency",
    gpu_mem_limit: int | None = None,
    revision: str | None = None,
    trust: bool = False,
    **arguments: Any,
) -> Pipeline:
    """Open a bundle and return the pipeline of its task.

    Args:
        task: "text-classification", "sentiment-analysis" or "feature-extraction"; None: the bundle's own.
        model: a bundle, a directory in the hub's ONNX layout, or a hub id whose files include ONNX ones.
        device: "auto", "cpu", "cuda", "cuda:1", or transformers' -1, 0, 1, ...
        variant: "fp32", "int8", ...; None: the fastest that suits the device.
        batch_size: the most texts in a batch; None: packed by length.
        top_k: of text classification, the labels for each text; None: all.
        function_to_apply: of text classification, "softmax", "sigmoid" or "none"; None: what the model's problem
            type wants.
        threads: of a CPU session; None: the CPUs that this process may use.
        profile: "latency": all threads work on one batch, so that one text is answered soonest; "throughput": each
            works on a batch of its own, so that a list is.
        gpu_mem_limit: on CUDA, the most bytes of device memory that ONNX Runtime's arena may take; None: no limit. A
            batch that does not fit is run in parts.
        revision: branch, tag or commit, for a hub id.
        trust: you know where the model comes from. Without it what comes from the hub, or is no bundle, is tried in
            a process of its own first (`torchless.probe`), and of a directory that is no bundle the tokenizer may not
            hold what a stranger could make run without end (`torchless.tokenizer_risks`).
        arguments: `truncation`, `max_length`, ... for every call, and of feature extraction `return_tensors` and
            `tokenize_kwargs`; arguments of transformers' pipeline that have no meaning here are ignored with a warning.

    Raises:
        InputError: no model given, an unknown task or argument, or a task that is not the bundle's.
        CheckpointError: the model was never exported; the line is the command that does it.
        BundleError, ProviderError: see `Pipeline`.
    """
    if arguments.pop("trust_remote_code", False):
        raise InputError("trust_remote_code=True is refused: no code from a model's files is ever run here")
    for name in sorted(arguments.keys() & _OF_TRANSFORMERS):
        del arguments[name]
        warn_once(f"the argument {name!r} has no meaning here and is ignored")
    wanted = find_task(task) if task is not None else None
    if model is None or model == "":
        raise InputError("no model given; pass model= a bundle made by `torchless export`")
    if not isinstance(model, str | os.PathLike):
        raise InputTypeError(f"model is {type(model).__name__}, wanted the path of a bundle or a hub id")
    bundle = open_bundle(model, revision=revision, variant=variant, trust=trust)
    found = find_task(bundle.manifest.task)
    if wanted is not None and wanted is not found:
        raise InputError(
            f"{bundle.path}: a bundle for {found.name}, not for {wanted.name}; leave the task out, or export the "
            f"checkpoint with --task {wanted.name}"
        )
    # What only some tasks know goes to the pipeline where it was given.
    special: dict[str, Any] = {}
    for name in ("return_all_scores", "return_tensors", "tokenize_kwargs"):
        if name in arguments:
            special[name] = arguments.pop(name)
    if top_k is not DEFAULT_TOP_K:
        special["top_k"] = top_k
    if function_to_apply is not None:
        special["function_to_apply"] = function_to_apply
    # Before the pipeline's module is imported, which takes as long as a model of 70 MB does.
    opening = Opening(
        bundle, device=device, variant=variant, threads=threads, profile=profile, gpu_mem_limit=gpu_mem_limit
    )
    try:
        return found.load()(
            bundle,
            device=device,
            variant=variant,
            batch_size=batch_size,
            threads=threads,
            profile=profile,
            gpu_mem_limit=gpu_mem_limit,
            tokenizer_arguments=arguments,
            opening=opening,
            **special,
        )
    finally:
        opening.wait()  # which nobody did where an argument was wrong


def open_bundle(
    model: str | os.PathLike[str], *, revision: str | None = None, variant: str | None = None, trust: bool = False
) -> Bundle:
    """Find what `model` names: a bundle, a directory in the hub's ONNX layout, or a hub id.

    Raises:
        CheckpointError: a checkpoint that was never exported; the line is the command that does it.
        BundleError: nothing of that name, or it is broken.
    """
    name = os.fspath(model)
    # os.path, not Path: a name too long or with a NUL byte is one that does not exist.
    if os.path.isdir(name):
        return _open_directory(Path(name), name, trust=trust)
    from torchless import hub, hub_layout

    exists = os.path.exists(name)
    if exists or not hub.is_repository(name):
        raise BundleError(f"{name}: {'not a directory' if exists else 'no such directory'}; "
                          "give a bundle made by `torchless export`")  # fmt: skip

    def choose(files: list[str]) -> list[str]:
        if MANIFEST_NAME in files:
            return [file for file in files if "/" not in file]
        found = hub_layout.find_variants(files)
        if not found:
            raise CheckpointError(_never_exported(name, revision))
        if variant is not None and variant not in found:
            raise InputError(f"variant {variant!r} is not in {name}, which has {', '.join(found)}")
        return hub_layout.wanted_files(files, variant)

    return _open_directory(hub.fetch(name, revision, choose, BundleError), name, trust=trust, local=False)


def _open_directory(folder: Path, name: str, *, trust: bool, local: bool = True) -> Bundle:
    try:
        described = (folder / MANIFEST_NAME).exists()
    except OSError:  # opening it says why it may not even be looked at
        described = True
    if described:
        # Anybody can write a manifest. Who put this one on the local disk may well do more than that.
        return Bundle.open(folder, trusted=trust or local)
    from torchless import hub_layout

    files = list(hub_layout.files_below(folder))
    if hub_layout.find_variants(files):
        return hub_layout.open_unverified(folder, trust=trust)
    if any(file.endswith((".safetensors", ".safetensors.index.json", "pytorch_model.bin")) for file in files):
        raise CheckpointError(_never_exported(name, None))
    raise BundleError(f"{name}: holds no {MANIFEST_NAME} and no ONNX model; give a bundle made by `torchless export`")


def _never_exported(name: str, revision: str | None) -> str:
    target = (name.rstrip("/").split("/")[-1] or "model") + "-onnx"
    flag = f" --revision {shlex.quote(revision)}" if revision else ""
    command = f"torchless export {shlex.quote(name)} {shlex.quote(target)}{flag}"
    return f"{name}: a checkpoint that was never exported; run: {command}"
