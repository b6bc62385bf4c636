"""The hub's cache: snapshots are links into a folder of blobs, and must work; other links must not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from attempts import check_refused
from hostile import seal

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def as_snapshot(folder: Path, root: Path) -> Path:
    """Lay the files of `folder` out as huggingface_hub does; returns the snapshot."""
    blobs, snapshot = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_a_snapshot_of_links_works(request: Any, open_it: Any, tmp_path: Path, kind: str) -> None:
    outcome = open_it(as_snapshot(request.getfixturevalue(kind), tmp_path / "hub"))
    assert outcome.error is None, outcome


@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_a_cache_that_is_itself_behind_a_link_works(request: Any, open_it: Any, tmp_path: Path, kind: str) -> None:
    """As where a home directory lies on another disk."""
    snapshot = as_snapshot(request.getfixturevalue(kind), tmp_path / "disk" / "hub")
    (tmp_path / "home").symlink_to(tmp_path / "disk", target_is_directory=True)
    outcome = open_it(tmp_path / "home" / snapshot.relative_to(tmp_path / "disk"))
    assert outcome.error is None, outcome


@pytest.mark.parametrize("where", ["another repository", "outside"])
def test_a_snapshot_whose_links_lead_elsewhere(layout: Path, open_it: Any, tmp_path: Path, where: str) -> None:
    snapshot = as_snapshot(layout, tmp_path / "hub")
    secret = tmp_path / ("secret" if where == "outside" else "hub/models--other--private/blobs/1")
    secret.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(snapshot / "config.json", secret)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(secret)
    check_refused(open_it(snapshot), says="a link that leads out of the directory")


def test_a_bundle_in_a_cache_whose_blob_was_changed(bundle: Path, open_it: Any, tmp_path: Path) -> None:
    snapshot = as_snapshot(seal(bundle), tmp_path / "hub")
    blob = (snapshot / "model.onnx").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    check_refused(open_it(snapshot), says=r"model\.onnx: sha256")


def test_a_link_in_a_circle(layout: Path, open_it: Any) -> None:
    (layout / "config.json").unlink()
    (layout / "config.json").symlink_to("config.json")
    check_refused(open_it(layout))


def test_a_pipe_is_not_waited_on(layout: Path, open_it: Any) -> None:
    (layout / "tokenizer.json").unlink()
    os.mkfifo(layout / "tokenizer.json")
    check_refused(open_it(layout), says="tokenizer.json: ")
