"""`torchless.pipelines.opening`: what is begun early is the same, and is ended whatever happens."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torchless
from torchless.bundle import Bundle
from torchless.errors import BundleError, InputError, ProviderError, TorchlessError
from torchless.pipelines import opening
from torchless.pipelines.opening import Opening

HEAVY = ("numpy", "onnxruntime", "tokenizers")


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("only Linux lists a process's open files")
    gc.collect()  # an error's frames refer to the thread that holds it
    return sorted(str(path.resolve()) for path in folder.iterdir() if "model" in str(path.resolve()))


def test_the_model_is_hashed_before_anything_heavy_is_imported() -> None:
    code = f"import sys, torchless.pipelines.factory; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_cpu_pipeline_never_asks_is_not_imported(sample_bundle: Path) -> None:
    code = (
        f"import sys, torchless; torchless.pipeline(model={str(sample_bundle)!r}, device='cpu')('a')\n"
        "print([name for name in ('importlib.metadata', 'concurrent.futures.thread') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_device_and_variant_are_chosen_at_once(sample_bundle: Path) -> None:
    begun = Opening(Bundle.open(sample_bundle), device="auto", variant="fp32")
    assert begun.device.kind == "cpu"
    assert begun.variant == "fp32"
    assert begun.session().provider == "CPUExecutionProvider"
    assert begun.session() is begun.session()


def test_another_variant_than_expected(sample_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "likely_variant", lambda *_: "int8")
    before = open_files()
    with torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu") as pipe:
        found = pipe(["fine", "dull"])
    assert pipe.variant == "fp32"
    monkeypatch.undo()
    with torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu") as pipe:
        assert pipe(["fine", "dull"]) == found
    assert open_files() == before


def break_model(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-9] ^= 1
    (bundle / "model.onnx").write_bytes(data)


def break_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("damage", "arguments", "error", "says"),
    [
        (break_model, {}, BundleError, "sha256"),
        (break_tokenizer, {}, BundleError, "tokenizer.json: 2 bytes"),
        (None, {"batch_size": 0}, InputError, "batch_size"),
        (None, {"top_k": 0}, InputError, "top_k"),
        (None, {"function_to_apply": "x"}, InputError, "x"),
        (None, {"threads": 0}, InputError, "threads"),
        (None, {"profile": "fast"}, InputError, "profile"),
        (None, {"truncation": "no"}, InputError, "truncation"),
        (None, {"device": "cuda:7"}, ProviderError, "."),
        (None, {"variant": "fp64"}, InputError, "fp64"),
    ],
)
def test_nothing_is_left_of_what_failed(
    bundle_copy: Path,
    damage: Callable[[Path], None] | None,
    arguments: dict[str, Any],
    error: type[TorchlessError],
    says: str,
) -> None:
    if damage is not None:
        damage(bundle_copy)
    before = open_files()
    with pytest.raises(error, match=says):
        torchless.pipeline(model=bundle_copy, **({"variant": "fp32", "device": "cpu"} | arguments))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("torchless")]
    assert open_files() == before


def test_a_file_renamed_meanwhile_changes_nothing(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = threading.Event()
    choose = opening.choose_variant

    def swap(*given: Any) -> str:
        os.replace(bundle_copy / "other.onnx", bundle_copy / "model.onnx")
        hashed.set()
        return choose(*given)

    (bundle_copy / "other.onnx").write_bytes(b"no model at all")
    bundle = Bundle.open(bundle_copy)
    early = opening._Early(bundle, "fp32")
    early._model.wait()
    monkeypatch.setattr(opening, "_Early", lambda *_: early)
    monkeypatch.setattr(opening, "choose_variant", swap)
    assert Opening(bundle, device="cpu", variant="fp32").session().output_width == 2
    assert hashed.is_set()
