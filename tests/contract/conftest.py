"""Fixtures of the contract tests: checkpoints opened by transformers and, exported, by torchless.

transformers 5 and optimum cannot be installed together. So what is made here can be kept: with TORCHLESS_TEST_CONTRACT
the checkpoints and their bundles lie in that directory, and an environment with transformers 5 finds them there.
TORCHLESS_TEST_TRANSFORMERS5 names that environment's interpreter, which saves the checkpoints that come from it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import checkpoints
import torchless
from checkpoints import CAN_EXPORT
from comparison import TRANSFORMERS, Two
from contract_cases import BY_TRANSFORMERS_5, CASES

_KEPT = "TORCHLESS_TEST_CONTRACT"
_INTERPRETER = "TORCHLESS_TEST_TRANSFORMERS5"
# Few texts judge these exports: what they answer is what the tests are about.
_CALIBRATION = ("a good film", "bad", "the plot is sad, but the actor is funny!")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what the answers were compared with."""
    found = []
    for name in ("transformers", "tokenizers", "torch"):
        if importlib.util.find_spec(name):
            found.append(f"{name} {importlib.metadata.version(name)}")
    beside = " in one environment with " + ", ".join(found[1:]) if found[1:] else ""
    against = found[0] + beside if importlib.util.find_spec("transformers") else "nothing: transformers is not here"
    terminalreporter.write_line(f"contract: compared with {against}")


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `kept(name, make)`: the path of that name, made once by `make(path)`, for every environment."""
    given = os.environ.get(_KEPT)
    root = Path(given).resolve() if given else tmp_path_factory.mktemp("contract")

    def find(name: str, make: Callable[[Path], object] | None) -> Path:
        path = root / name
        if not path.exists():
            if make is None and given:
                pytest.fail(f"{path}: missing; run these tests first where it can be made, with {_KEPT}={given}")
            if make is None:
                pytest.skip(f"nothing here can make {name}; make it elsewhere and name the directory in {_KEPT}")
            # Made whole or not at all: an interrupted run leaves nothing that looks finished.
            part = path.with_name(f".{path.name}.{os.getpid()}")
            part.parent.mkdir(parents=True, exist_ok=True)
            make(part)
            part.rename(path)
        return path

    return find


@pytest.fixture(scope="session")
def by_transformers_5(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return a function that gives a directory with the checkpoints that transformers 5 saves, made once."""

    @functools.cache
    def make() -> Path:
        python = os.environ.get(_INTERPRETER) if TRANSFORMERS < (5, 0) else sys.executable
        if not python:
            pytest.skip(f"name an interpreter that has transformers 5 in {_INTERPRETER}")
        folder = tmp_path_factory.mktemp("transformers5")
        command = [python, checkpoints.__file__, str(folder), *BY_TRANSFORMERS_5]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint_of(
    kept: Callable[..., Path], by_transformers_5: Callable[[], Path], sample_checkpoint: Path
) -> Callable[[str], Path]:
    """Return a function from a case's name to its checkpoint; "sample" is the one that ships with the repository."""

    def make(name: str) -> Callable[[Path], object]:
        if name in BY_TRANSFORMERS_5:
            return lambda path: shutil.copytree(by_transformers_5() / name, path)
        return lambda path: checkpoints.save(CASES[name], path)

    def find(name: str) -> Path:
        if name == "sample":
            return sample_checkpoint
        # Made where bundles are, for all environments: random weights may differ between versions.
        return kept(f"checkpoints/{name}", make(name) if CAN_EXPORT else None)

    return find


@pytest.fixture(scope="session")
def bundle_of(
    kept: Callable[..., Path], checkpoint_of: Callable[[str], Path], sample_bundle: Path
) -> Callable[..., Path]:
    """Return a function from a case's name, and a task, to a bundle of its checkpoint that has the variant fp32."""

    def make(name: str, task: str | None) -> Callable[[Path], object] | None:
        if not CAN_EXPORT:
            return None
        from torchless_export import export

        return lambda path: export(checkpoint_of(name), path, variants=("fp32",), task=task, calibration=_CALIBRATION)

    def find(name: str, task: str | None = None) -> Path:
        if name == "sample" and task is None:
            return sample_bundle
        return kept(f"bundles/{name}{f'-{task}' if task else ''}", make(name, task))

    return find


@pytest.fixture(scope="session")
def open_two(checkpoint_of: Callable[[str], Path], bundle_of: Callable[..., Path]) -> Iterator[Callable[..., Two]]:
    """Yield a function that opens a case in both, in float32 and with the same arguments."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    # Two pools of spinning threads in one process slow each other down; models this small need none.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def opened(name: str, **arguments: Any) -> Two:
        bundle, checkpoint = bundle_of(name), str(checkpoint_of(name))
        # Said in words: transformers 5 computes in the type that the weights are stored in.
        theirs = transformers.pipeline(
            "text-classification", checkpoint, device="cpu", dtype=torch.float32, **arguments
        )
        ours = torchless.pipeline(model=bundle, variant="fp32", device="cpu", threads=1, **arguments)
        return Two(ours, theirs)

    yield opened
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sample(open_two: Callable[..., Two]) -> Two:
    """The sample checkpoint, opened in both."""
    return open_two("sample")
