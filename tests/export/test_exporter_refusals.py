"""What cannot be exported is refused in one line, and its code is never run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchless.errors import CheckpointError, InputError, ParityError

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from exports import TEXTS, fast_export
from json_files import change_json
from torchless_export import export


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["fp64"]}, "variant 'fp64' is unknown, wanted some of fp32, int8"),
        ({"variants": []}, "no variant asked for"),
        ({"converter": "magic"}, "converter is 'magic', wanted one of"),
        ({"min_agreement": 2}, "min_agreement is 2, wanted a share"),
        ({"task": "summarization"}, "the task 'summarization' is unknown"),
        ({"calibration": ["one"]}, "different texts, at least 2"),
        ({"calibration": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_wrong_arguments_are_refused(tiny: Path, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        export(tiny, tmp_path / "place" / "bundle", **options)
    assert os.listdir(tmp_path) == []


def _base_model(checkpoint: Path) -> None:
    transformers.AutoModel.from_pretrained(checkpoint).save_pretrained(checkpoint)
    change_json(checkpoint / "config.json", architectures=["DistilBertForSequenceClassification"])


def _nan_weights(checkpoint: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    model.save_pretrained(checkpoint)


UNFIT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "three labels on a head of two": (
        lambda c: change_json(c / "config.json", id2label={"0": "A", "1": "B", "2": "C"}),
        r"the tensor classifier\.bias is \[2\], the config \(3 labels\) wants \[3\]; .* id2label must fit the head",
    ),
    "a base model": (_base_model, r"its weights lack classifier\.bias, classifier\.weight.* fine-tuned for the task"),
    "another hidden size": (
        lambda c: change_json(c / "config.json", dim=64),
        r"tensor classifier\.weight is \[2, 32\], the config .* wants \[2, 64\]; config"
    ),
    "an architecture nobody knows": (
        lambda c: change_json(c / "config.json", model_type="perceptron-9000"),
        r"config\.json: optimum cannot export the architecture 'perceptron-9000' for text-classification",
    ),
    "an architecture that optimum does not know": (
        lambda c: change_json(c / "config.json", model_type="fnet", architectures=["FNetForSequenceClassification"]),
        r"config\.json: optimum cannot export the architecture 'fnet'",
    ),
    "a config of the wrong types": (
        lambda c: change_json(c / "config.json", n_heads="four"), r"transformers cannot load it"
    ),
    "a tokenizer of no known kind": (
        lambda c: change_json(c / "tokenizer.json", model={"type": "Magic"}), r"transformers cannot load its tokenizer"
    ),
    "a tokenizer larger than the model": (
        lambda c: change_json(c / "config.json", vocab_size=9), r"its tokenizer gives the id 135 .*vocab_size is 9"
    ),
    "weights that are not finite": (_nan_weights, r"the tensor classifier\.weight holds nan at \[0, 0\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_refused_in_one_line(changed: Path, tmp_path: Path, case: str):
    damage, message = UNFIT[case]
    damage(changed)
    with pytest.raises((CheckpointError, ParityError), match=message) as caught:
        export(changed, tmp_path / "place" / "bundle", calibration=TEXTS)
    assert len(str(caught.value).splitlines()) == 1
    assert "partial" not in str(caught.value)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_code_that_comes_with_a_checkpoint_is_never_run(changed: Path, tmp_path: Path):
    (changed / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    change_json(
        changed / "config.json", model_type="mine", auto_map={"AutoModelForSequenceClassification": "modeling.Model"}
    )
    with pytest.raises(CheckpointError):
        fast_export(changed, tmp_path / "bundle")
    change_json(changed / "config.json", model_type="distilbert")
    change_json(changed / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Model", "modeling.Model"]})
    fast_export(changed, tmp_path / "bundle")
    assert not (tmp_path / "ran").exists()
