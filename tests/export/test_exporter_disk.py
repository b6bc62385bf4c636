"""An export to a disk that is full, or within a limit on files, leaves the old bundle."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import disks
from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers

from exports import TEXTS, digests, fast_export
from torchless_export import export


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many KiB."""
    with disks.small(tmp_path / "disk", request.param << 10) as place:
        yield place


def _put_old_bundle(place: Path) -> Path:
    target = place / "bundle"
    target.mkdir(parents=True)
    (target / MANIFEST_NAME).write_text("the old bundle")
    return target


@pytest.mark.parametrize("small_disk", [8, 24, 60, 140, 200], indirect=True)
def test_a_full_disk_leaves_the_old_bundle(tiny: Path, small_disk: Path):
    target = _put_old_bundle(small_disk)
    before = digests(target)
    with pytest.raises(BundleError, match="cannot be written: No space left on device; free space") as caught:
        export(tiny, target, calibration=TEXTS, min_agreement=0, force=True)
    assert str(caught.value).startswith(str(target))
    assert digests(target) == before
    assert os.listdir(small_disk) == ["bundle"]


@pytest.mark.parametrize("limit", [100, 4000, 20_000, 80_000])
def test_a_file_size_limit_leaves_the_old_bundle(tiny: Path, tmp_path: Path, limit: int):
    target = _put_old_bundle(tmp_path)
    before = digests(target)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(BundleError, match=f"cannot be written: {os.strerror(errno.EFBIG)}"):
            export(tiny, target, calibration=TEXTS, min_agreement=0, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(target) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_disk_that_is_full_for_the_tokenizer_is_told_as_such(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = transformers.PreTrainedTokenizerBase.save_pretrained

    def fail(self: Any, folder: Any, *arguments: Any, **options: Any) -> Any:
        if "tokenizer" in Path(folder).name:
            raise Exception("No space left on device (os error 28)")  # as the tokenizers library does
        return save(self, folder, *arguments, **options)

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail)
    with pytest.raises(BundleError, match="bundle: cannot be written: No space left on device; free space"):
        fast_export(tiny, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []
