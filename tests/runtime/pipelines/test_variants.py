"""`torchless.pipelines.variants`: which graph runs where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import torchless
from torchless.devices import Device
from torchless.errors import InputError, ProviderError, TorchlessWarning
from torchless.manifest import OutputSpec, Variant
from torchless.pipelines import variants as module
from torchless.pipelines.variants import choose_variant


class TestChooseVariant:
    @staticmethod
    def variant(device: str, *isa: str) -> Variant:
        output = OutputSpec("logits", "float32", ("batch", "labels"))
        return Variant(("model.onnx",), "fp32", device, isa, "graph", 18, {"input_ids": "int64"}, output)

    @pytest.fixture
    def variants(self) -> dict[str, Variant]:
        return {
            "fp32": self.variant("any"),
            "int8": self.variant("cpu", "avx512_vnni", "avx2"),
            "fp16": self.variant("cuda"),
        }

    @pytest.fixture
    def has(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        return lambda *names: monkeypatch.setattr(module, "features", lambda: frozenset(names))

    @pytest.mark.parametrize(
        ("kind", "features", "without", "wanted"),
        [
            ("cpu", ["avx2"], [], "int8"),
            ("cpu", ["avx512_vnni", "avx2"], [], "int8"),
            ("cpu", ["avx_vnni"], [], "fp32"),
            ("cpu", ["arm64"], [], "fp32"),
            ("cpu", [], [], "fp32"),
            ("cpu", ["avx2"], ["int8"], "fp32"),
            ("cpu", ["avx2"], ["fp32"], "int8"),
            ("cuda", ["avx2"], [], "fp16"),
            ("cuda", ["avx2"], ["fp16"], "fp32"),
        ],
    )
    def test_unnamed(
        self,
        variants: dict[str, Variant],
        has: Callable[..., None],
        kind: str,
        features: list[str],
        without: list[str],
        wanted: str,
    ) -> None:
        has(*features)
        left = {name: variant for name, variant in variants.items() if name not in without}
        assert choose_variant(left, Device(kind), None) == wanted

    def test_int8_for_any_processor_needs_no_feature(self, has: Callable[..., None]) -> None:
        has()
        assert choose_variant({"int8": self.variant("cpu")}, Device("cpu"), None) == "int8"

    @pytest.mark.parametrize(("kind", "only"), [("cpu", "fp16"), ("cpu", "int8"), ("cuda", "int8")])
    def test_none_suits(self, variants: dict[str, Variant], has: Callable[..., None], kind: str, only: str) -> None:
        has()
        with pytest.raises(ProviderError, match=rf"none of the bundle's variants \({only}\) suits {kind}"):
            choose_variant({only: variants[only]}, Device(kind), None)

    def test_named(self, variants: dict[str, Variant], has: Callable[..., None]) -> None:
        has("avx2")
        assert choose_variant(variants, Device("cpu"), "fp32") == "fp32"
        assert choose_variant(variants, Device("cpu"), "int8") == "int8"
        assert choose_variant(variants, Device("cuda"), "fp32") == "fp32"

    @pytest.mark.parametrize(("features", "says"), [(["arm64"], "arm64"), ([], "none that is known")])
    def test_named_on_a_processor_that_it_does_not_suit(
        self, variants: dict[str, Variant], has: Callable[..., None], features: list[str], says: str
    ) -> None:
        has(*features)
        with pytest.warns(TorchlessWarning, match=f"'int8' suits avx512_vnni, avx2; this processor has {says}"):
            assert choose_variant(variants, Device("cpu"), "int8") == "int8"

    @pytest.mark.parametrize(("kind", "name"), [("cuda", "int8"), ("cpu", "fp16")])
    def test_named_for_another_device(self, variants: dict[str, Variant], kind: str, name: str) -> None:
        with pytest.raises(ProviderError, match=f"'{name}' is for {variants[name].device}, not for {kind}"):
            choose_variant(variants, Device(kind), name)

    def test_unknown_name_lists_the_known(self, variants: dict[str, Variant]) -> None:
        with pytest.raises(InputError, match="'int4' is not in the bundle, which has fp32, int8, fp16"):
            choose_variant(variants, Device("cpu"), "int4")

    def test_the_processor_decides_which_graph_of_the_sample_runs(
        self, sample_bundle: Path, has: Callable[..., None]
    ) -> None:
        for features, wanted in ((["avx2", "avx512_vnni", "avx_vnni"], "int8"), ([], "fp32")):
            has(*features)
            assert torchless.pipeline(model=sample_bundle, device="cpu").variant == wanted
