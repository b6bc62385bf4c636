"""`torchless.pipeline`: what it opens, and what it says of what it cannot open."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

import torchless
from torchless.bundle import Bundle
from torchless.errors import BundleError, CheckpointError, InputError, InputTypeError, TorchlessWarning
from torchless.pipelines import factory
from torchless.pipelines.factory import open_bundle, pipeline
from torchless.pipelines.tasks import TASKS, Task, find_task


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in this file may reach a network."""

    def fetch(*arguments: Any) -> Path:
        raise AssertionError(f"asked the hub for {arguments}")

    monkeypatch.setattr("torchless.hub.fetch", fetch)


@pytest.mark.parametrize("task", [None, "text-classification", "sentiment-analysis"])
@pytest.mark.parametrize("form", [str, Path])
def test_a_bundle(sample_bundle: Path, task: str | None, form: type) -> None:
    with pipeline(task, form(sample_bundle)) as pipe:
        assert isinstance(pipe, torchless.TextClassificationPipeline)
        assert pipe("a fine film")[0]["label"] == "POSITIVE"


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_a_directory_that_may_not_be_looked_into() -> None:
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path's, its parents are anybody's
        os.chmod(folder, 0o755)
        locked = Path(folder, "locked")
        locked.mkdir(mode=0o600)
        user = os.geteuid()
        try:
            if user == 0:  # who may do anything
                os.seteuid(65534)
            with pytest.raises(BundleError, match=r"torchless\.json: cannot be read: Permission denied"):
                pipeline(model=locked)
            with pytest.raises(BundleError, match="no such directory"):
                Bundle.open(locked / "bundle")
        finally:
            os.seteuid(user)


def test_the_public_name_is_this_function() -> None:
    assert torchless.pipeline is pipeline


def test_the_arguments_reach_the_pipeline(sample_bundle: Path) -> None:
    pipe = pipeline(model=sample_bundle, variant="fp32", top_k=2, function_to_apply="none", device=-1, max_length=4,
                    truncation=True)  # fmt: skip
    [scores] = pipe("a fine film that is too long")
    assert [answer["label"] for answer in scores] == ["POSITIVE", "NEGATIVE"]
    assert scores[0]["score"] > 1  # a logit
    assert pipe.variant == "fp32"
    assert pipe.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("model", [None, ""])
def test_no_model(model: str | None) -> None:
    with pytest.raises(InputError, match="no model given; pass model= a bundle made by `torchless export`"):
        pipeline("text-classification", model)


@pytest.mark.parametrize("model", [3, b"bundle", object(), ["bundle"]])
def test_a_model_of_a_wrong_type(model: Any) -> None:
    with pytest.raises(InputTypeError, match=f"model is {type(model).__name__}, wanted the path of a bundle"):
        pipeline(model=model)


@pytest.mark.parametrize("model", [None, "missing/bundle/here"])
def test_an_unknown_task_is_told_first(model: str | None) -> None:
    with pytest.raises(InputError, match="the task 'ner' is unknown, wanted one of text-classification"):
        pipeline("ner", model)


def test_a_bundle_for_another_task(sample_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Task("fill-mask", "nowhere", "Nothing", "logits", ("batch", "labels"), "")
    monkeypatch.setattr(factory, "find_task", lambda name: find_task(name, [*TASKS, other]))
    with pytest.raises(InputError, match="a bundle for text-classification, not for fill-mask; leave the task out"):
        pipeline("fill-mask", sample_bundle)


class TestArgumentsOfTransformers:
    def test_remote_code_is_refused(self, sample_bundle: Path) -> None:
        with pytest.raises(InputError, match="trust_remote_code=True is refused"):
            pipeline(model=sample_bundle, trust_remote_code=True)
        pipeline(model=sample_bundle, trust_remote_code=False)

    @pytest.mark.parametrize("name", sorted(factory._OF_TRANSFORMERS))
    def test_what_has_no_meaning_here_is_ignored_with_one_warning(self, name: str) -> None:
        given: dict[str, Any] = {name: object()}
        with (
            pytest.raises(InputError, match="no model given"),
            pytest.warns(TorchlessWarning, match=f"the argument '{name}' has no meaning here and is ignored") as seen,
        ):
            pipeline(**given)
        assert len(seen) == 1
        with pytest.raises(InputError, match="no model given"):  # a second warning would be an error
            pipeline(**given)

    def test_several(self, sample_bundle: Path) -> None:
        with pytest.warns(TorchlessWarning) as seen:
            pipe = pipeline(model=sample_bundle, framework="pt", dtype="auto", truncation=True)
        assert len(seen) == 2
        assert pipe("dull " * 600)[0]["label"] == "NEGATIVE"

    def test_an_unknown_argument(self, sample_bundle: Path) -> None:
        with pytest.raises(InputTypeError, match="unknown argument 'framwork', wanted one of"):
            pipeline(model=sample_bundle, framwork="pt")


class TestWhatIsNoBundle:
    @pytest.mark.parametrize("model", ["no/such/directory", "./missing", "a\0b", "x" * 500, "a" * 300 + "/b"])
    def test_nothing_there(self, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BundleError, match="give a bundle made by `torchless export`") as caught:
            pipeline(model=model)
        assert len(str(caught.value).splitlines()) == 1

    def test_a_file(self, sample_bundle: Path) -> None:
        with pytest.raises(BundleError, match=r"model\.onnx: not a directory; give a bundle"):
            pipeline(model=sample_bundle / "model.onnx")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"holds no torchless\.json and no ONNX model"):
            pipeline(model=tmp_path)

    @pytest.mark.parametrize("name", ["plain", "with space", "it's; $(rm)", "über"])
    @pytest.mark.parametrize("end", ["", "/"])
    def test_a_checkpoint_that_was_never_exported(
        self, sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
    ) -> None:
        shutil.copytree(sample_checkpoint, tmp_path / name)
        monkeypatch.chdir(tmp_path)
        for given in (f"{tmp_path}/{name}{end}", f"./{name}{end}"):
            with pytest.raises(CheckpointError, match="a checkpoint that was never exported") as caught:
                pipeline(model=given)
            command = str(caught.value).partition("; run: ")[2]
            assert shlex.split(command) == ["torchless", "export", given, f"{name}-onnx"]

    @pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
    def test_what_makes_a_checkpoint(self, tmp_path: Path, weights: str) -> None:
        (tmp_path / weights).touch()
        with pytest.raises(CheckpointError, match="torchless export"):
            pipeline(model=tmp_path)

    def test_a_broken_manifest_is_no_reason_to_trust_the_rest(self, bundle_copy: Path) -> None:
        (bundle_copy / "torchless.json").write_text("{}", encoding="utf-8")
        with pytest.raises(BundleError, match="format is missing"):
            pipeline(model=bundle_copy)

    @pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")
    def test_a_link_to_a_bundle_is_the_bundle(self, sample_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(sample_bundle, target_is_directory=True)
        assert open_bundle(tmp_path / "link").verified


def test_a_path_that_could_be_a_hub_id_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def fetch(name: str, revision: str | None, choose: Any, error: type[Exception]) -> Path:
        asked.append((name, revision, error, choose(["torchless.json", "model.onnx", "README.md", "onnx/model.onnx"])))
        raise error("not today")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchless.hub.fetch", fetch)
    for name in ("bundle", "org/bundle"):
        with pytest.raises(BundleError, match="not today"):
            pipeline(model=name, revision="v1")
        assert asked.pop() == (name, "v1", BundleError, ["torchless.json", "model.onnx", "README.md"])
    (tmp_path / "bundle").mkdir()  # a directory of that name comes first
    with pytest.raises(BundleError, match="holds no"):
        pipeline(model="bundle")
    assert not asked


def test_a_newer_bundle_says_so(bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "torchless.json").read_bytes()) | {"format": "9.0"}
    (bundle_copy / "torchless.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(torchless.BundleVersionError):
        pipeline(model=bundle_copy)
