"""What shapes the answers of a run: only under the same settings can it be gone on with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping

import numpy as np

from torchless import __version__, hub_layout
from torchless.cpu import features
from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME
from torchless.pipelines.base import Pipeline
from torchless.session import runtime_version

__all__ = ["settings_of"]


def settings_of(classify: Pipeline, options: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return everything that shapes an answer or the file that it is written to, by the name that a person knows.

    Not among these: the number of threads, which changes no answer.

    Args:
        classify: the pipeline that answers.
        options: those of the command line, as they were given.

    Raises:
        BundleError: a file of the bundle cannot be read any more.
    """
    return {
        "bundle": _digest(classify),
        "variant": classify.variant,
        "provider": classify.provider,
        "processor": " ".join((platform.machine(), *sorted(features()))),  # kernels are chosen by these
        "torchless": __version__,
        "onnxruntime": runtime_version(),
        "tokenizers": importlib.metadata.version("tokenizers"),
        "numpy": np.__version__,
        # A shell can hand over bytes that are no UTF-8.
        **{name: value and value.encode("utf-8", "backslashreplace").decode() for name, value in options.items()},
    }


def _digest(classify: Pipeline) -> str:
    """Return what tells this bundle from others: of its manifest, which pins all files, or else of the files."""
    folder = classify.bundle
    try:
        if (folder / MANIFEST_NAME).is_file():
            names = [MANIFEST_NAME]
        else:
            names = sorted(hub_layout.wanted_files(hub_layout.files_below(folder), classify.variant))
        digest = hashlib.sha256()
        for name in names:
            with open(folder / name, "rb") as file:
                digest.update(f"{name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read any more ({error.strerror})") from None
    return digest.hexdigest()[:16]
