"""What a run has to have in common with the one that it goes on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers

import torchless
from torchless.cli.settings import settings_of
from torchless.errors import BundleError, TorchlessWarning


def settings_for(bundle: Path, **options: str | None) -> dict[str, str | None]:
    with torchless.pipeline(model=bundle, variant="fp32") as classify:
        return settings_of(classify, options)


def test_names_what_shapes_an_answer(sample_bundle: Path) -> None:
    found = settings_for(sample_bundle, a="1", b=None, c="\udcff")
    assert len(found.pop("bundle") or "") == 16
    assert (found.pop("processor") or "").split()
    assert found == {
        "variant": "fp32",
        "provider": "CPUExecutionProvider",
        "torchless": torchless.__version__,
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
        "a": "1",
        "b": None,
        "c": "\\udcff",
    }


def test_a_copy_of_the_bundle_is_the_same(sample_bundle: Path, bundle_copy: Path) -> None:
    assert settings_for(sample_bundle) == settings_for(bundle_copy)


def test_another_manifest_is_another_bundle(sample_bundle: Path, bundle_copy: Path) -> None:
    with (bundle_copy / "torchless.json").open("a") as file:
        file.write("\n")
    assert settings_for(sample_bundle)["bundle"] != settings_for(bundle_copy)["bundle"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_without_a_manifest_every_file_that_is_used_counts(bundle_copy: Path, name: str) -> None:
    (bundle_copy / "torchless.json").unlink()
    with pytest.warns(TorchlessWarning, match="not a torchless bundle"):
        classify = torchless.pipeline(model=bundle_copy, variant="fp32", trust=True)
    before = settings_of(classify, {})["bundle"]
    shutil.copyfile(bundle_copy / "model_int8.onnx", bundle_copy / "unused.onnx")
    assert settings_of(classify, {})["bundle"] == before
    with (bundle_copy / name).open("ab") as file:
        file.write(b" ")
    assert settings_of(classify, {})["bundle"] != before


def test_a_bundle_that_can_no_longer_be_read(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torchless.pipeline(model=bundle_copy, variant="fp32") as classify:
        (bundle_copy / "torchless.json").unlink()
        monkeypatch.setattr(Path, "is_file", lambda _path: True)  # it goes between the look and the reading
        with pytest.raises(BundleError, match="cannot be read any more"):
            settings_of(classify, {})
