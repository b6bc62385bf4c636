"""`torchless.hub_layout`: directories with ONNX files that nobody measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import torchless
from hub_layouts import UNVERIFIED
from json_files import change_json
from torchless.errors import BundleError, CheckpointError, InputError, TorchlessWarning
from torchless.hub_layout import (
    find_variants,
    open_unverified,
    problem_type,
    read_labels,
    wanted_files,
)
from torchless.pipelines import variants

links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")


@pytest.fixture
def refused(layout: Path) -> Callable[..., str]:
    """Return a function that opens the layout, which must fail with a BundleError; it gives the message."""

    def refusal(**options: Any) -> str:
        with pytest.raises(BundleError) as caught:
            torchless.pipeline(model=layout, **options)
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)

    return refusal


class TestOpen:
    def test_it_answers_as_the_bundle_does(
        self, layout: Path, sample_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = ["a fine film", "dull", {"text": "great", "text_pair": "fun"}]
        for features, name in (({"avx512_vnni", "avx2"}, "int8"), ({"avx2"}, "fp32"), (set(), "fp32")):
            monkeypatch.setattr(variants, "features", lambda has=features: frozenset(has))
            monkeypatch.setattr("torchless.errors._given", set())
            with pytest.warns(TorchlessWarning, match=UNVERIFIED):
                pipe = torchless.pipeline(model=layout, device="cpu")
            assert pipe.variant == name
            same = torchless.pipeline(model=sample_bundle, variant=name, device="cpu")
            assert pipe(texts, top_k=None) == same(texts, top_k=None)
            assert pipe.labels == same.labels
            assert pipe.max_length == same.max_length == 512

    def test_it_is_marked_unverified_and_says_so_once(self, layout: Path) -> None:
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            bundle = open_unverified(layout)
        assert not bundle.verified
        assert bundle.manifest.architecture == "distilbert"
        assert {key: v.files for key, v in bundle.manifest.variants.items()} == {
            "fp32": ("onnx/model.onnx",),
            "int8": ("onnx/model_quantized.onnx",),
        }
        assert not open_unverified(layout).verified  # a second warning would be an error

    def test_onnx_files_beside_the_config(self, layout: Path) -> None:
        for name in ("model.onnx", "model_quantized.onnx"):
            (layout / "onnx" / name).rename(layout / name)
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            assert torchless.pipeline(model=layout, variant="fp32")("a fine film")[0]["label"] == "POSITIVE"

    def test_a_variant_that_is_not_there(self, layout: Path) -> None:
        with (
            pytest.warns(TorchlessWarning, match=UNVERIFIED),
            pytest.raises(InputError, match="'fp16' is not in the bundle, which has fp32, int8"),
        ):
            torchless.pipeline(model=layout, variant="fp16")

    def test_without_tokenizer_config(self, layout: Path) -> None:
        (layout / "tokenizer_config.json").unlink()
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            pipe = torchless.pipeline(model=layout, variant="fp32")
        assert pipe.max_length == 512  # the position table's
        assert pipe.tokenizer_spec.pad_id is None
        assert len(pipe(["a fine film", "dull"])) == 2

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_file_that_must_be_there(self, layout: Path, refused: Any, name: str) -> None:
        (layout / name).unlink()
        assert f"{name}: missing" in refused()

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"{", "line 1, column 2"),
            (b"[]", "not a JSON object"),
            (b"\xff{}", "byte 0 is not UTF-8"),
            (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
            (b'{"a": NaN}', "NaN is not JSON"),
            (b"[" * 100_000, "nested"),
        ],
    )
    def test_broken_json(self, layout: Path, refused: Any, name: str, data: bytes, says: str) -> None:
        (layout / name).write_bytes(data)
        message = refused()
        assert name in message
        assert says in message

    def test_a_broken_graph(self, layout: Path, refused: Any) -> None:
        (layout / "onnx" / "model.onnx").write_bytes(b"no graph")
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            assert "ONNX Runtime cannot load it" in refused(variant="fp32")

    @pytest.mark.parametrize("architectures", [None, ["BertForMaskedLM"], "BertForMaskedLM", 3, {}])
    def test_another_task(self, layout: Path, refused: Any, architectures: Any) -> None:
        change_json(layout / "config.json", architectures=architectures, id2label=None, label2id=None)
        assert "fits none of text-classification" in refused()

    def test_without_onnx_it_is_a_checkpoint(self, layout: Path) -> None:
        shutil.rmtree(layout / "onnx")
        (layout / "model.safetensors").touch()
        with pytest.raises(CheckpointError, match="never exported"):
            torchless.pipeline(model=layout)


class TestLinks:
    @links
    @pytest.mark.parametrize(
        "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx", "onnx/model.onnx_data"]
    )
    def test_out_of_the_directory(self, layout: Path, refused: Any, tmp_path: Path, name: str) -> None:
        outside = tmp_path / "outside"
        file = layout / name
        outside.write_bytes(file.read_bytes() if file.exists() else b"")
        file.unlink(missing_ok=True)
        file.symlink_to(outside)
        assert f"{name}: a link that leads out of the directory" in refused()

    @links
    def test_of_the_folder_onnx(self, layout: Path, refused: Any, tmp_path: Path) -> None:
        (layout / "onnx").rename(tmp_path / "onnx")
        (layout / "onnx").symlink_to(tmp_path / "onnx", target_is_directory=True)
        assert "a link that leads out of the directory" in refused()

    @links
    @pytest.mark.parametrize("parent", ["snapshots", "elsewhere"])
    def test_only_those_of_the_hub_cache_lead_to_blobs(self, layout: Path, tmp_path: Path, parent: str) -> None:
        snapshot, blobs = tmp_path / "models--a--b" / parent / ("0" * 40), tmp_path / "models--a--b" / "blobs"
        blobs.mkdir(parents=True)
        for number, file in enumerate(sorted(path for path in layout.rglob("*") if path.is_file())):
            link = snapshot / file.relative_to(layout)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, blobs / str(number))
            link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
        if parent == "snapshots":
            with pytest.warns(TorchlessWarning, match=UNVERIFIED):
                assert torchless.pipeline(model=snapshot, variant="fp32")("a fine film")[0]["label"] == "POSITIVE"
        else:
            with pytest.raises(BundleError, match="a link that leads out of the directory"):
                torchless.pipeline(model=snapshot)

    @links
    def test_within_the_directory(self, layout: Path) -> None:
        (layout / "onnx" / "model.onnx").rename(layout / "real.onnx")
        (layout / "onnx" / "model.onnx").symlink_to(layout / "real.onnx")
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            torchless.pipeline(model=layout, variant="fp32")


class TestPatterns:
    EVIL = "(a+)+$"

    @pytest.mark.parametrize(
        "part",
        [
            {"normalizer": {"type": "Replace", "pattern": {"Regex": EVIL}, "content": ""}},
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": EVIL}, "content": ""}],
                }
            },
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Split", "pattern": {"Regex": EVIL}, "behavior": "Isolated", "invert": False}
                    ],
                }
            },
        ],
    )
    def test_a_custom_one_needs_trust(self, layout: Path, refused: Any, part: dict[str, Any]) -> None:
        change_json(layout / "tokenizer.json", **part)
        message = refused()
        assert f"holds the regular expression {self.EVIL!r}" in message
        assert "pass trust=True" in message
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            assert torchless.pipeline(model=layout, variant="fp32", trust=True)("fine")

    @pytest.mark.parametrize("pattern", [{"Regex": r"\s+"}, {"Regex": " {2,}"}, {"String": EVIL}])
    def test_transformers_own_and_plain_strings_do_not(self, layout: Path, pattern: dict[str, str]) -> None:
        change_json(layout / "tokenizer.json", normalizer={"type": "Replace", "pattern": pattern, "content": " "})
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            torchless.pipeline(model=layout, variant="fp32")


class TestLabels:
    @pytest.mark.parametrize(
        ("config", "wanted"),
        [
            ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes")),
            ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
            ({"id2label": {str(i): f"l{i}" for i in range(12)}}, tuple(f"l{i}" for i in range(12))),
            ({}, ("LABEL_0", "LABEL_1")),
            ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
            ({"num_labels": -3}, ("LABEL_0", "LABEL_1")),
            ({"num_labels": 1 << 40}, ("LABEL_0", "LABEL_1")),
        ],
    )
    def test_in_the_order_of_the_ids(self, config: dict[str, Any], wanted: tuple[str, ...]) -> None:
        assert read_labels(config, "config.json", BundleError) == wanted

    @pytest.mark.parametrize(
        ("table", "says"),
        [
            ([], "not a table of strings"),
            ({}, "not a table of strings"),
            ("no", "not a table of strings"),
            ({"0": 1}, "not a table of strings"),
            ({"0": "no", "one": "yes"}, "keys that are not numbers"),
            ({"0": "no", "2": "yes"}, r"the ids \[0, 2\], wanted 0 to 1 without gaps"),
            ({"1": "no", "2": "yes"}, r"the ids \[1, 2\]"),
            ({"-1": "no", "0": "yes"}, r"the ids \[-1, 0\]"),
            ({"0": "no", "00": "yes"}, r"the ids \[0\]"),
            ({"0": "yes", "1": "yes"}, "gives 'yes' to two ids"),
        ],
    )
    @pytest.mark.parametrize("error", [BundleError, CheckpointError])
    def test_broken(self, layout: Path, table: Any, says: str, error: type[Exception]) -> None:
        with pytest.raises(error, match=rf"config\.json: id2label .*{says}"):
            read_labels({"id2label": table}, "config.json", error)
        change_json(layout / "config.json", id2label=table)
        with pytest.raises(BundleError, match=says):
            torchless.pipeline(model=layout)

    def test_more_than_the_graph_gives(self, layout: Path, refused: Any) -> None:
        change_json(layout / "config.json", id2label={"0": "a", "1": "b", "2": "c"})
        with pytest.warns(TorchlessWarning, match=UNVERIFIED):
            assert "the graph gives 2 scores, the manifest names 3 labels" in refused(variant="fp32")

    @pytest.mark.parametrize(
        ("config", "labels", "wanted"),
        [
            ({}, 2, "single_label_classification"),
            ({}, 1, "multi_label_classification"),  # a sigmoid, as transformers' pipeline has it
            ({"problem_type": None}, 5, "single_label_classification"),
            ({"problem_type": "regression"}, 5, "regression"),
            ({"problem_type": "multi_label_classification"}, 2, "multi_label_classification"),
        ],
    )
    def test_problem_type(self, config: dict[str, Any], labels: int, wanted: str) -> None:
        assert problem_type(config, labels, "config.json", BundleError) == wanted

    @pytest.mark.parametrize("given", ["unheard of", 1, ["regression"], "x" * 1000])
    def test_a_problem_type_that_is_none(self, given: Any, layout: Path) -> None:
        change_json(layout / "config.json", problem_type=given)
        with pytest.raises(
            BundleError, match=r"config\.json: problem_type is .{1,90}wanted one of single_label"
        ) as caught:
            open_unverified(layout)
        assert len(str(caught.value)) < 400


class TestFiles:
    FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "onnx/model.onnx",
             "onnx/model.onnx_data", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx", "model.onnx",
             "onnx/model_q4.onnx", "deep/onnx/model.onnx")  # fmt: skip

    def test_variants(self) -> None:
        assert find_variants(self.FILES) == {
            "fp32": "onnx/model.onnx",
            "int8": "onnx/model_quantized.onnx",
            "fp16": "onnx/model_fp16.onnx",
        }
        assert find_variants(["model.onnx", "onnx/model_int8.onnx"]) == {
            "fp32": "model.onnx",
            "int8": "onnx/model_int8.onnx",
        }
        assert find_variants(["pytorch_model.bin", "deep/onnx/model.onnx"]) == {}

    @pytest.mark.parametrize(
        ("variant", "wanted"),
        [
            ("fp32", {"onnx/model.onnx", "onnx/model.onnx_data"}),
            ("int8", {"onnx/model_quantized.onnx"}),
            (
                None,
                {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"},
            ),
        ],
    )
    def test_wanted(self, variant: str | None, wanted: set[str]) -> None:
        assert set(wanted_files(self.FILES, variant)) == {"config.json", "tokenizer.json"} | wanted
