"""`torchless_bench.prepare`: the peers' models, each whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")

from torchless.errors import CheckpointError
from torchless_bench import prepare as module
from torchless_bench.prepare import Step, main, prepare, random_distilbert

CONFIG = {
    "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "dim": 64, "hidden_dim": 96,
    "n_layers": 3, "n_heads": 4, "vocab_size": 8192, "max_position_embeddings": 40, "pad_token_id": 0,
    "initializer_range": 0.02, "id2label": {"0": "A", "1": "B", "2": "C"}, "label2id": {"A": 0, "B": 1, "C": 2},
}  # fmt: skip


@pytest.fixture
def weightless(sample_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint without weights."""
    folder = tmp_path / "weightless"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(sample_checkpoint / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def only(monkeypatch: pytest.MonkeyPatch, *roles: str) -> None:
    monkeypatch.setattr(module, "STEPS", tuple(step for step in module.STEPS if step.role in roles))


class TestRandomWeights:
    def test_are_drawn_as_transformers_draws_them(self):
        weights = random_distilbert(CONFIG)
        for name, array in weights.items():
            assert array.dtype == np.float32
            if name.endswith("embeddings.weight") or (array.ndim == 2):
                assert array.std() == pytest.approx(0.02, rel=0.15), name
                assert abs(array.mean()) < 0.003
            else:
                assert set(np.unique(array)) == {1.0 if name.endswith("norm.weight") or "Norm.weight" in name else 0.0}
        assert not weights["distilbert.embeddings.word_embeddings.weight"][0].any()
        assert np.array_equal(random_distilbert(CONFIG)["classifier.weight"], weights["classifier.weight"])

    def test_are_all_that_transformers_wants(self, weightless, tmp_path, monkeypatch):
        transformers = pytest.importorskip("transformers")
        only(monkeypatch, "checkpoint")
        prepare(weightless, tmp_path / "peers")
        model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "peers" / "checkpoint", output_loading_info=True
        )
        assert not any(loading.values()), loading
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert {name: array.shape for name, array in random_distilbert(CONFIG).items()} == shapes

    def test_of_distilbert_alone(self, weightless, tmp_path):
        (weightless / "config.json").write_text(json.dumps(CONFIG | {"model_type": "bert"}))
        with pytest.raises(CheckpointError, match="random ones can be made of a distilbert alone"):
            prepare(weightless, tmp_path / "peers")


class TestPrepare:
    def test_weights_that_are_there_are_taken(self, sample_checkpoint, tmp_path, monkeypatch):
        only(monkeypatch, "checkpoint")
        prepare(sample_checkpoint, tmp_path / "peers")
        made = tmp_path / "peers" / "checkpoint"
        assert (made / "model.safetensors").read_bytes() == (sample_checkpoint / "model.safetensors").read_bytes()
        assert (made / "tokenizer.json").exists()

    def test_what_is_there_stays(self, sample_checkpoint, tmp_path, monkeypatch):
        only(monkeypatch, "checkpoint")
        (tmp_path / "checkpoint").mkdir()
        said: list[str] = []
        prepare(sample_checkpoint, tmp_path, said.append)
        assert said == ["checkpoint: there already"]
        assert not list((tmp_path / "checkpoint").iterdir())

    def test_missing_library_skips_the_step_and_what_follows_from_it(self, sample_checkpoint, tmp_path, monkeypatch):
        first, after = Step("a", ("no.such.peer",), None, module._checkpoint), Step("b", (), "a", module._checkpoint)
        monkeypatch.setattr(module, "STEPS", (first, after))
        said: list[str] = []
        prepare(sample_checkpoint, tmp_path, said.append)
        assert said == [
            "a: skipped: no.such.peer not installed",
            f"b: skipped: it is made from {tmp_path / 'a'}, which is not there",
        ]

    def test_a_step_that_fails_leaves_nothing(self, sample_checkpoint, tmp_path, monkeypatch):
        def fail(source: Path, folder: Path) -> None:
            (folder / "half").touch()
            raise CheckpointError("no more")

        monkeypatch.setattr(module, "STEPS", (Step("a", (), None, fail),))
        with pytest.raises(CheckpointError, match="no more"):
            prepare(sample_checkpoint, tmp_path / "peers")
        assert not list((tmp_path / "peers").iterdir())

    def test_no_checkpoint(self, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert main([str(tmp_path / "empty"), str(tmp_path / "peers")]) == 1
        assert capsys.readouterr().err == (
            f"error: {tmp_path / 'empty' / 'config.json'}: missing; give a directory that save_pretrained wrote\n"
        )

    def test_unwritable(self, sample_checkpoint, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert main([str(sample_checkpoint), str(tmp_path / "file")]) == 1
        assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: File exists\n"


def test_optimums_export_and_its_int8_form(sample_checkpoint, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("optimum.exporters.onnx")
    module._optimum(sample_checkpoint, tmp_path / "optimum")
    (tmp_path / "int8").mkdir()
    module._optimum_int8(tmp_path / "optimum", tmp_path / "int8")
    ids = np.array([[2, 43, 1924, 3]])
    logits = []
    for folder in (tmp_path / "optimum", tmp_path / "int8"):
        assert (folder / "tokenizer.json").exists()
        assert (folder / "config.json").exists()
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        logits.append(session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    assert logits[0].shape == (1, 2)
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.5
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = [tensors[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    # One scale for a tensor, not one for a column.
    assert {tuple(tensors[f"{tensor.name.removesuffix('_quantized')}_scale"].dims) for tensor in weights} <= {(), (1,)}
