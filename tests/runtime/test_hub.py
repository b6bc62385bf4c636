"""`torchless.hub`: models fetched from a hub, a local fake of it; each client is a process of its own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from torchless.hub import is_repository

# Opens each of its arguments, which are those of `torchless.pipeline`; prints what came of them.
CLIENT = """
import json, sys, warnings
import torchless

outcomes = []
for arguments in map(json.loads, sys.argv[1:]):
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", torchless.TorchlessWarning)
        try:
            pipe = torchless.pipeline(device="cpu", **arguments)
        except torchless.TorchlessError as error:
            outcome = {"error": type(error).__name__, "message": str(error)}
        else:
            outcome = {"path": str(pipe.bundle), "variant": pipe.variant, "label": pipe("a fine film")[0]["label"]}
    ours = [str(w.message) for w in given if issubclass(w.category, torchless.TorchlessWarning)]
    outcomes.append(outcome | {"warnings": ours})
print(json.dumps(outcomes))
"""


@pytest.fixture
def onnx_files(sample_bundle: Path) -> dict[str, bytes]:
    """A repository as the hub has it: a checkpoint, and ONNX files that someone added."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return {name: (sample_bundle / name).read_bytes() for name in names} | {
        ".gitattributes": b"*.onnx filter=lfs",
        "README.md": b"# A model",
        "model.safetensors": b"weights",
        "onnx/model.onnx": (sample_bundle / "model.onnx").read_bytes(),
        "onnx/model_quantized.onnx": (sample_bundle / "model_int8.onnx").read_bytes(),
        "onnx/model_q4.onnx": b"of no use here",
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def open_all(hub: Any, home: Path, *calls: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
    return hub.python(CLIENT, *calls, home=home, **environment)


def fetched(hub: Any) -> set[str]:
    """Return the files whose bytes were asked for so far."""
    return {
        request.split("/", 5)[5] for request in hub.requests if request.startswith("GET") and "/resolve/" in request
    }


def test_onnx_files(fake_hub: Any, home: Path, onnx_files: dict[str, bytes]) -> None:
    commit = fake_hub.add("org/model", onnx_files, revisions=("main", "v1", "refs/pr/7"))
    calls = [{"model": "org/model", "variant": "fp32", "revision": at} for at in (None, "v1", "refs/pr/7", commit)]
    outcomes = open_all(fake_hub, home, *calls)
    for outcome in outcomes:
        assert outcome["label"] == "POSITIVE"
        assert Path(outcome["path"]).name == commit  # what was fetched stays named
        assert Path(outcome["path"]).is_relative_to(home)
    [[warning], *others] = [outcome["warnings"] for outcome in outcomes]
    assert "unverified" in warning
    assert others == [[]] * 3
    wanted = {name for name in onnx_files if name.endswith(".json")} | {"onnx/model.onnx"}
    assert fetched(fake_hub) == wanted
    # A variant more is one file more.
    [outcome] = open_all(fake_hub, home, {"model": "org/model", "variant": "int8"})
    assert outcome["variant"] == "int8"
    assert fetched(fake_hub) == wanted | {"onnx/model_quantized.onnx"}


def test_a_bundle_is_verified(fake_hub: Any, home: Path, sample_bundle: Path) -> None:
    commit = fake_hub.add("bundle", sample_bundle)
    files = {p.name: p.read_bytes() for p in sample_bundle.iterdir()}
    damaged = bytearray(files["model.onnx"])
    damaged[-1] ^= 1
    fake_hub.add("org/damaged", files | {"model.onnx": bytes(damaged)})
    good, bad = open_all(fake_hub, home, *({"model": name, "variant": "fp32"} for name in ("bundle", "org/damaged")))
    assert good["label"] == "POSITIVE"
    assert good["warnings"] == []
    assert Path(good["path"]).name == commit
    assert bad["error"] == "BundleError"
    assert "model.onnx: sha256" in bad["message"]


def test_a_branch_that_moved(fake_hub: Any, home: Path, onnx_files: dict[str, bytes]) -> None:
    for readme in (b"old", b"new"):
        commit = fake_hub.add("org/model", onnx_files | {"README.md": readme})
        [online] = open_all(fake_hub, home, {"model": "org/model", "variant": "fp32"})
        assert Path(online["path"]).name == commit
    [offline] = open_all(fake_hub, home, {"model": "org/model", "variant": "fp32"}, HF_HUB_OFFLINE="1")
    assert offline["path"] == online["path"]


def test_a_branch_that_moves_meanwhile(fake_hub: Any, home: Path, onnx_files: dict[str, bytes]) -> None:
    commit = fake_hub.add("org/model", onnx_files)
    fake_hub.after_info = lambda: fake_hub.add("org/model", onnx_files | {"config.json": b"of the next commit"})
    [outcome] = open_all(fake_hub, home, {"model": "org/model", "variant": "fp32"})
    assert Path(outcome["path"]).name == commit  # the list's and the files' alike
    assert outcome["label"] == "POSITIVE"


def test_a_checkpoint_in_the_cache_is_still_never_exported(fake_hub: Any, home: Path) -> None:
    fake_hub.add("org/model", {"config.json": b"{}", "model.safetensors": b""}, revisions=("v1",))
    fetch = """
import json, torchless.hub
print(json.dumps(str(torchless.hub.fetch("org/model", "v1", lambda files: files, ValueError))))
"""
    assert Path(fake_hub.python(fetch, home=home)).is_dir()
    [outcome] = open_all(fake_hub, home, {"model": "org/model", "revision": "v1"}, HF_HUB_OFFLINE="1")
    assert outcome["error"] == "CheckpointError"
    assert outcome["message"].endswith("torchless export org/model model-onnx --revision v1")


def test_what_cannot_be_had_is_one_clear_line(fake_hub: Any, home: Path, onnx_files: dict[str, bytes]) -> None:
    fake_hub.add("org/model", onnx_files)
    fake_hub.add("org/never-exported", {"config.json": b"{}", "model.safetensors": b""},
                 revisions=("main", "it's"))  # fmt: skip
    fake_hub.add("org/gated", onnx_files, gated=True)
    fake_hub.add("org/empty", {"README.md": b""})
    wanted = {
        ("org/none", None): ("BundleError", "org/none: no such directory here and no such repository on the hub"),
        ("none", None): ("BundleError", "none: no such directory here and no such repository on the hub"),
        ("org/model", "v9"): ("BundleError", "org/model@v9: the repository has no such revision"),
        ("org/gated", None): ("BundleError", "org/gated: this repository is gated: accept its terms on its page"),
        ("org/never-exported", None): ("CheckpointError", "a checkpoint that was never exported"),
        ("org/never-exported", "it's"): ("CheckpointError", "a checkpoint that was never exported"),
        ("org/empty", None): ("CheckpointError", "a checkpoint that was never exported"),
    }
    outcomes = open_all(fake_hub, home, *({"model": model, "revision": revision} for model, revision in wanted))
    messages = {}
    for asked, (error, says), outcome in zip(wanted, wanted.values(), outcomes, strict=True):
        assert outcome["error"] == error
        assert says in outcome["message"]
        assert len(outcome["message"].splitlines()) == 1
        messages[asked] = outcome["message"]
    for revision, flags in ((None, []), ("it's", ["--revision", "it's"])):
        command = messages["org/never-exported", revision].partition("; run: ")[2]
        assert shlex.split(command) == ["torchless", "export", "org/never-exported", "never-exported-onnx", *flags]
    assert not fetched(fake_hub)


def test_a_variant_that_the_repository_lacks_is_not_searched_for(
    fake_hub: Any, home: Path, onnx_files: dict[str, bytes]
) -> None:
    fake_hub.add("org/model", onnx_files)
    [outcome] = open_all(fake_hub, home, {"model": "org/model", "variant": "fp16"})
    assert outcome["error"] == "InputError"
    assert outcome["message"] == "variant 'fp16' is not in org/model, which has fp32, int8"
    assert not fetched(fake_hub)


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "unreachable"]
)
def test_without_the_hub(
    fake_hub: Any, home: Path, onnx_files: dict[str, bytes], sample_bundle: Path, environment: dict[str, str]
) -> None:
    commit = fake_hub.add("org/model", onnx_files, revisions=("main", "v1"))
    fake_hub.add("bundle", sample_bundle)
    calls = [
        {"model": "org/model", "variant": "fp32"},
        {"model": "org/model", "variant": "fp32", "revision": "v1"},
        {"model": "bundle", "variant": "fp32"},
    ]
    online = open_all(fake_hub, home, *calls)
    count = len(fake_hub.requests)
    missing = [{"model": "org/none"}, {"model": "org/model", "revision": "v2"}]
    pinned = {"model": "org/model", "variant": "fp32", "revision": commit}
    *offline, none, other = open_all(fake_hub, home, *calls, pinned, *missing, **environment)
    assert [outcome["path"] for outcome in offline[:3]] == [outcome["path"] for outcome in online]
    assert [outcome["label"] for outcome in offline] == ["POSITIVE"] * 4
    assert offline[3]["path"] == online[0]["path"]
    assert len(fake_hub.requests) == count
    for outcome, name in ((none, "org/none"), (other, "org/model@v2")):
        assert outcome["error"] == "BundleError"
        assert outcome["message"] == (
            f"{name}: no such directory here, and the hub cannot be reached; nothing of it is in the local cache"
        )


@pytest.mark.parametrize("name", ["gpt2", "org/name", "org/name-1.0_x", "0", "a.b/c"])
def test_names_that_could_be_on_the_hub(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "a/", "./a", "../a", "a/b/c", "a b", "a..b", "a--b", "~/a", "a\n", "C:\\a", "-a", "a" * 97]
)
def test_names_that_could_not(name: str) -> None:
    assert not is_repository(name)
