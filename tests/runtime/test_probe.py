"""`torchless.probe`: what nobody vouches for is opened by another process first. Deadly graphs: tests/attacks."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import torchless
from torchless import hub, probe
from torchless.bundle import Bundle
from torchless.devices import Device
from torchless.errors import BundleError, InferenceError, ProviderError
from torchless.probe import __main__ as child

CPU = Device("cpu")
posix = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache in which nothing is noted yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "torchless" / "probed"


@pytest.fixture
def stranger(sample_bundle: Path) -> Bundle:
    """The sample bundle as it would come from the hub."""
    return Bundle.open(sample_bundle, trusted=False)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may be started."""
    monkeypatch.setattr(probe.subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))


@pytest.mark.usefixtures("alone")
def test_a_bundle_on_the_disk_costs_nothing(sample_bundle: Path) -> None:
    torchless.pipeline(model=sample_bundle, device="cpu")


def test_a_bundle_from_elsewhere_is_tried_once(stranger: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe.probe(stranger, "fp32", CPU)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(probe.subprocess, "run", lambda *a, **k: pytest.fail("it was tried again"))
        probe.probe(stranger, "fp32", CPU)
    probe.probe(stranger, "int8", CPU)
    assert len(list(cache.iterdir())) == 2


def test_it_is_tried_again_with_another_library(stranger: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe.probe(stranger, "fp32", CPU)
    monkeypatch.setattr("tokenizers.__version__", "99.0")
    probe.probe(stranger, "fp32", CPU)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("trust", [False, True])
def test_what_the_hub_gives_is_tried_unless_trusted(
    sample_bundle: Path, monkeypatch: pytest.MonkeyPatch, trust: bool
) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(hub, "fetch", lambda *arguments: sample_bundle)
    monkeypatch.setattr("torchless.probe.probe", lambda *arguments: tried.append(arguments))
    torchless.pipeline(model="somebody/something", device="cpu", variant="fp32", trust=trust)
    assert [variant for _, variant, _ in tried] == ([] if trust else ["fp32"])


def test_a_pickled_one_is_tried_again_where_it_is_loaded(stranger: Bundle) -> None:
    assert not pickle.loads(pickle.dumps(stranger)).trusted


def test_a_cache_that_cannot_be_written_is_no_error(
    stranger: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    probe.probe(stranger, "fp32", CPU)


def test_a_cache_that_cannot_be_is_no_error(stranger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/" + "x" * 5000)
    probe.probe(stranger, "fp32", CPU)


def test_whatever_this_process_imports_from(stranger: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no string there is let lie by Python; and "" is the working directory, which may be gone."""
    monkeypatch.setattr(sys, "path", [tmp_path, "", *sys.path])
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    if os.name == "posix":
        (tmp_path / "gone").rmdir()
    probe.probe(stranger, "fp32", CPU)


def test_without_a_home_nothing_is_noted(stranger: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    probe.probe(stranger, "fp32", CPU)


def test_the_pipelines_own_errors_come_through(stranger: Bundle, cache: Path) -> None:
    with pytest.raises(torchless.InputError, match="variant 'fp64' is not in the bundle"):
        probe._try(stranger, "fp64", CPU, 60, 4 << 30)
    assert not cache.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space")
def test_too_little_memory_is_an_error(stranger: Bundle) -> None:
    with pytest.raises((BundleError, ProviderError)):
        probe._try(stranger, "fp32", CPU, 60, 60 << 20)


@pytest.mark.parametrize(("executable", "frozen"), [("", False), (sys.executable, True)])
def test_where_no_interpreter_can_be_started(
    stranger: Bundle, monkeypatch: pytest.MonkeyPatch, executable: str, frozen: bool
) -> None:
    """A frozen program's executable is the program itself."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    with pytest.raises(BundleError, match="cannot be tried in a process of its own here; pass trust=True"):
        probe.probe(stranger, "fp32", CPU)


@posix
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("#!/bin/sh\nexit 3\n", "with exit status 3"),
        ("#!/bin/sh\necho nonsense; exit 1\n", "with exit status 1"),
        ('#!/bin/sh\necho \'{"error": "BaseException", "message": 1}\'; exit 1\n', "with exit status 1"),
        ('#!/bin/sh\necho \'{"error": "warnings", "message": 1}\'; exit 1\n', "with exit status 1"),
        ('#!/bin/sh\necho \'{"error": "BundleError", "message": "no good"}\'; exit 1\n', "^no good$"),
        ("#!/bin/sh\nkill -9 $$\n", "with SIGKILL"),
        ("#!/bin/sh\nkill -40 $$\n", "with signal 40"),
        ("#!/bin/sh\nexec sleep 30\n", "took over 1 s"),
        ("#!/nowhere\n", "No such file or directory; pass trust=True"),
    ],
)
def test_however_it_ends(
    stranger: Bundle, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    path = tmp_path / "interpreter"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    with pytest.raises(BundleError, match=says) as caught:
        probe.probe(stranger, "fp32", CPU)
    assert len(str(caught.value).splitlines()) == 1
    assert not cache.exists()


def test_a_module_in_the_working_directory_is_not_imported(
    stranger: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    probe.probe(stranger, "fp32", CPU)


def test_a_directory_without_a_manifest_is_tried(sample_bundle: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "layout"
    shutil.copytree(sample_bundle, folder)
    (folder / "torchless.json").unlink()
    with pytest.warns(torchless.TorchlessWarning, match="unverified"):
        pipe = torchless.pipeline(model=folder, device="cpu", variant="fp32")
    assert pipe("a fine film")[0]["label"] == "POSITIVE"
    assert not cache.exists()  # nothing pins its bytes


# The child process, in this one.


def asked(bundle: Path, **changes: Any) -> dict[str, Any]:
    return {"model": str(bundle), "variant": "fp32", "device": "cpu", "memory": 4 << 30} | changes


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """The limits that were set, none of which holds for this process; by default there are none."""
    resource = pytest.importorskip("resource")
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: found.update({what: limit}))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    return found


@pytest.mark.usefixtures("alone")
def test_the_child_opens_it_and_answers_texts(sample_bundle: Path, limits: dict[int, tuple[int, int]]) -> None:
    import resource

    child.main(asked(sample_bundle))
    assert limits == {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_AS: (4 << 30, resource.RLIM_INFINITY)}


def test_a_limit_that_is_there_already_is_kept(
    sample_bundle: Path, limits: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda what: (1 << 30, 1 << 30))
    child._limit(4 << 30)
    assert limits[resource.RLIMIT_AS] == (1 << 30, 1 << 30)
    limits.clear()
    child._limit(None)  # CUDA
    assert resource.RLIMIT_AS not in limits


def test_without_limits_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    child._limit(1)


@pytest.mark.usefixtures("limits")
def test_a_model_that_cannot_answer_is_refused(sample_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise InferenceError("row 0 of the model's output is not finite")

    monkeypatch.setattr("torchless.pipelines.text_classification.check_finite", fail)
    with pytest.raises(BundleError, match="a plain text cannot be answered: row 0"):
        child.main(asked(sample_bundle))


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (None, None),
        (ProviderError("no GPU"), {"error": "ProviderError", "message": "no GPU"}),
        (MemoryError(), {"error": "BundleError", "message": "its model needs more memory than a model of its size "
                                                            "should"}),
    ],
)  # fmt: skip
def test_what_the_child_says(
    sample_bundle: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None, said: dict[str, str] | None
) -> None:
    def main(request: dict[str, Any]) -> None:
        if raised is not None:
            raise raised

    written: list[bytes] = []
    monkeypatch.setattr(child, "main", main)
    monkeypatch.setattr(child.os, "dup", lambda descriptor: 99)
    monkeypatch.setattr(child.os, "dup2", lambda *descriptors: None)
    monkeypatch.setattr(child.os, "write", lambda descriptor, data: written.append(data))
    monkeypatch.setattr(sys, "argv", ["probe", json.dumps(asked(sample_bundle))])
    assert child._run() == (raised is not None)
    assert [json.loads(line) for line in written] == ([] if said is None else [said])
