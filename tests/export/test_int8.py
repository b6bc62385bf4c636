"""`torchless_export.int8`: what is said where the variant is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("safetensors", reason="exporting needs the extra `export`")

from torchless_export.int8 import advice
from torchless_export.parity import Parity
from torchless_export.report import ExportReport, VariantReport


def report(agreement: float, *failures: str) -> ExportReport:
    parity = Parity(
        reference="numpy", texts=1000, source="texts.tsv", ids_equal=True, differences={}, agreement=agreement,
        agreement_low95=0.9, tolerance={"agreement": 0.99}, batch_drift={"texts": 16}, failures=failures,
    )  # fmt: skip
    made = {"recipe": {"name": "smoothed"}, "search": {"tried": [{"agreement": 0.9}, {"agreement": 0.9}, {}]}}
    return ExportReport(
        "toy", None, "text-classification", "bert", "graph", {"int8": VariantReport(1, parity, made)}, {}
    )


def test_what_would_be_taken_where_the_agreement_was_too_low():
    assert advice(report(0.98765, "agreement 0.9877 on 1000 texts, less than 0.99")) == (
        " with the best of 2 recipes (smoothed); --min-agreement 0.987 would take it, --variant fp32 keeps every answer"
    )


@pytest.mark.parametrize("agreement", [0.995, 0.98])
@pytest.mark.parametrize(
    "failure", ["token ids differ from the reference tokenizer's on 1 texts", "a logit is not finite"]
)
def test_no_lower_agreement_mends_what_else_is_wrong(agreement: float, failure: str):
    failures = [failure] if agreement > 0.99 else [failure, "agreement 0.9800 on 1000 texts, less than 0.99"]
    assert advice(report(agreement, *failures)) == ""
