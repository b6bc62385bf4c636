"""What an export tells people and programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from torchless_export.parity import Parity
from torchless_export.report import ExportReport, VariantReport

GOOD = Parity(
    reference="pytorch",
    texts=800,
    source="texts.tsv",
    ids_equal=True,
    differences={"max_logit": 1.9e-6, "max_probability": 2e-7, "mean_probability": 1e-8},
    agreement=1.0,
    agreement_low95=0.9963,
    tolerance={"logits": 1e-4, "agreement": 1.0},
    batch_drift={"texts": 128, "max_probability": 0.0, "mean_probability": 0.0},
)
BAD = replace(
    GOOD, agreement=0.98, ids_equal=False, failures=("agreement 0.9800 on 800 texts, less than 0.99", "and the ids")
)


def report(**parities: Parity) -> ExportReport:
    variants = {name: VariantReport(12_345_678, parity) for name, parity in parities.items()}
    return ExportReport(
        checkpoint="org/name",
        bundle=Path("bundle") if all(p.passed for p in parities.values()) else None,
        task="text-classification",
        architecture="bert",
        converter="optimum",
        variants=variants,
        seconds={"read": 0.1},
    )


def test_a_passed_report_is_a_table():
    shown = str(report(fp32=GOOD, int8=replace(GOOD, agreement=0.995))).splitlines()
    assert " ".join(shown[0].split()) == "variant MB ids max |logit| max |prob| mean |prob| agreement at least verdict"
    assert shown[1].split() == ["fp32", "12.3", "equal", "1.9e-06", "2e-07", "1e-08", "1.0000", "0.9963", "passed"]
    assert shown[2].split()[-3] == "0.9950"
    assert len({len(line) for line in shown[:3]}) == 1
    assert shown[3] == "against pytorch on 800 texts (texts.tsv)"
    assert not any("unproven" in line for line in shown)


def test_a_failed_variant_shows_each_reason():
    failed = report(fp32=GOOD, int8=BAD)
    assert not failed.passed
    assert report(fp32=GOOD).passed
    shown = str(failed).splitlines()
    assert shown[2].split()[2] == "DIFFER"
    assert shown[2].split()[-1] == "FAILED"
    assert shown[-2:] == ["int8: agreement 0.9800 on 800 texts, less than 0.99", "int8: and the ids"]


@pytest.mark.parametrize(("texts", "unproven"), [(499, True), (500, False)])
def test_few_texts_are_said_to_prove_nothing(texts: int, unproven: bool):
    assert (
        f"unproven: {texts} texts judged, 500 are needed" in str(report(fp32=replace(GOOD, texts=texts)))
    ) is unproven


def test_the_json_holds_everything():
    document = json.loads(report(fp32=GOOD, int8=BAD).to_json())
    assert document["passed"] is False
    assert document["bundle"] is None
    assert document["variants"]["int8"]["parity"]["failures"] == list(BAD.failures)
    assert document["variants"]["fp32"]["parity"]["tolerance"] == {"logits": 1e-4, "agreement": 1.0}
    assert json.loads(report(fp32=GOOD).to_json())["bundle"] == "bundle"
