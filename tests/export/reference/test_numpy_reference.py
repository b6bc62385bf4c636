"""The NumPy reference against PyTorch: every family, every kind of mask, sizes and options chosen by hypothesis."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torchless.errors import CheckpointError, InputError  # noqa: E402
from torchless_export.checkpoint import open_checkpoint  # noqa: E402
from torchless_export.pytorch_reference import PyTorchReference  # noqa: E402
from torchless_export.reference import NumPyReference, operations  # noqa: E402
from torchless_export.reference.activation_functions import ACTIVATION_FUNCTIONS  # noqa: E402
from torchless_export.reference.numpy_reference import FAMILIES  # noqa: E402

SHARED = Path(__file__).parents[4] / "shared"
MASKS = ("all", "right padding", "left padding", "holes", "one token", "nothing")
# What they begin to count positions from, or None: at the first token, whatever it is.
FIRST_POSITION = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
WITH_TYPES = ("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta", "deberta-v2")
# (buckets, furthest): few enough to compare each distance with the original in test_deberta.py.
BUCKETS = [(-1, -1), (-1, 7), (2, 5), (8, 32), (16, 40), (32, 512)]


@st.composite
def configs(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Return what overrides the family's small config."""
    heads = draw(st.sampled_from([1, 2, 3, 5, 12]))
    hidden = heads * draw(st.sampled_from([2, 4, 6] if family == "modernbert" else [2, 3, 4, 7]))
    if hidden < 8:  # normalized over two or three features, one last digit decides over all that follows
        hidden = heads * 8
    layers, intermediate = draw(st.integers(1, 4)), draw(st.integers(1, 50))
    activation = draw(st.sampled_from(sorted(ACTIVATION_FUNCTIONS)))
    epsilon = draw(st.sampled_from([1e-12, 1e-7, 1e-5]))
    options: dict[str, Any] = {}
    if family == "distilbert":
        return {
            "dim": hidden,
            "n_heads": heads,
            "n_layers": layers,
            "hidden_dim": intermediate,
            "activation": activation,
        }
    if family == "modernbert":
        options = {
            "hidden_activation": activation,
            "norm_eps": epsilon,
            "local_attention": draw(st.integers(0, 12)),
            "classifier_pooling": draw(st.sampled_from(["cls", "mean"])),
            "classifier_activation": draw(st.sampled_from(["gelu", "silu"])),
            "global_rope_theta": draw(st.sampled_from([160000.0, 500.0])),
            "local_rope_theta": draw(st.sampled_from([10000.0, 20.0])),
            "global_attn_every_n_layers": draw(st.integers(1, 4)),
        }
        options |= {f"{part}_bias": draw(st.booleans()) for part in ("norm", "attention", "mlp", "classifier")}
    else:
        options = {"hidden_act": activation, "layer_norm_eps": epsilon}
    if family in ("electra", "albert"):
        options |= {"embedding_size": draw(st.sampled_from([1, 10, hidden]))}
    if family == "albert":
        groups = draw(st.integers(1, layers))
        options |= {"num_hidden_groups": groups, "inner_group_num": draw(st.integers(1, layers // groups))}
    if family == "deberta-v2":
        buckets, furthest = draw(st.sampled_from(BUCKETS))
        options |= {
            "relative_attention": draw(st.booleans()),
            "pos_att_type": draw(st.sampled_from([None, "c2p|p2c", ["p2c", "c2p"], ["c2p"], ["p2c"]])),
            "position_biased_input": draw(st.booleans()),
            "type_vocab_size": draw(st.sampled_from([0, 2])),
            "embedding_size": draw(st.sampled_from([10, hidden])),
            "pooler_hidden_act": draw(st.sampled_from(["gelu", "tanh", "relu"])),
            "pooler_hidden_size": hidden,
            "position_buckets": buckets,
            "max_relative_positions": furthest,
            "share_att_key": draw(st.booleans()),
            "norm_rel_ebd": draw(st.sampled_from(["none", "layer_norm"])),
            "conv_kernel_size": draw(st.sampled_from([0, 1, 3, 5])),
            "conv_groups": draw(st.sampled_from([1, heads])),
            "conv_act": draw(st.sampled_from(["tanh", "gelu", "sigmoid"])),
        }
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        **options,
    }


@st.composite
def some_inputs(draw: st.DrawFn, family: str, types: int) -> dict[str, np.ndarray]:
    """Return (batch, sequence) int64 inputs of at most the small config's 40 positions, masked in every way."""
    longest = 40 - FIRST_POSITION.get(family, 0)
    length = draw(st.sampled_from([1, 2, longest]) | st.integers(1, longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = draw(st.lists(st.sampled_from(MASKS), min_size=1, max_size=4))
    shape = (len(masks), length)
    ids = rng.integers(0, 50, shape)
    mask = np.stack([masked(kind, length, rng) for kind in masks])
    ids[(mask == 0) & (rng.random(shape) < 0.8)] = 1  # most masked tokens are pad tokens, some are not
    inputs = {"input_ids": ids, "attention_mask": mask}
    if draw(st.booleans()) and family in WITH_TYPES and types:
        inputs["token_type_ids"] = rng.integers(0, types, shape)
    if draw(st.integers(0, 4)) == 0:
        del inputs["attention_mask"]
    return inputs


def masked(kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.ones(length, np.int64)
    at = int(rng.integers(0, length))
    if kind == "right padding":
        mask[at + 1 :] = 0
    elif kind == "left padding":
        mask[:at] = 0
    elif kind == "holes":
        mask = rng.integers(0, 2, length)
        mask[at] = 1
    elif kind == "one token":
        mask[:] = 0
        mask[at] = 1
    elif kind == "nothing":
        mask[:] = 0
    return mask


def plain_inputs(seed: int = 0, shape: tuple[int, int] = (3, 30)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones(shape, np.int64)
    mask[1, shape[1] // 2 :] = 0
    mask[2, 1::3] = 0
    return {"input_ids": np.where(mask == 1, rng.integers(2, 50, shape), 1), "attention_mask": mask}


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.nanmax(np.abs(wanted), initial=0.0)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_logits_and_hidden_states_are_those_of_pytorch(
    make_model: Callable[..., Any], family: str, data: st.DataObject
):
    config = data.draw(configs(family), label="config")
    labels, seed = data.draw(st.sampled_from([1, 2, 7, 300]), label="labels"), data.draw(st.integers(0, 99))
    types = config.get("type_vocab_size", {"xlm-roberta": 1}.get(family, 2))
    inputs = data.draw(some_inputs(family, types), label="inputs")
    headed = make_model(family, labels=labels, seed=seed, **config)
    assert_close(headed.found(inputs), headed.wanted(inputs))
    assert_close(headed.found(inputs, "feature-extraction"), headed.wanted(inputs, "feature-extraction"))
    bare = make_model(family, headed=False, seed=seed, **config)
    assert_close(bare.found(inputs, "feature-extraction"), bare.wanted(inputs, "feature-extraction"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_scores_are_far_from_trivial(make_model: Callable[..., Any], family: str):
    # Or the test above would prove little: a token, a mask, a position and the last layer each change the logits.
    made, inputs = make_model(family), plain_inputs()
    logits = made.found(inputs)
    assert logits.std() > 0.05
    other_token = {**inputs, "input_ids": np.where(np.arange(30) == 7, 9, inputs["input_ids"])}
    other_mask = {**inputs, "attention_mask": np.where(np.arange(30) == 7, 0, inputs["attention_mask"])}
    swapped = {name: array[:, [0, 1, 2, 4, 3, *range(5, 30)]] for name, array in inputs.items()}
    for changed in (other_token, other_mask, swapped):
        assert np.abs(made.found(changed) - logits)[0].max() > 1e-4


@pytest.mark.parametrize("family", ["bert", "albert", "mpnet", "deberta-v2", "modernbert"])
def test_24_layers(make_model: Callable[..., Any], family: str):
    deep = {"num_hidden_layers": 24, "hidden_size": 60, "num_attention_heads": 5, "intermediate_size": 120}
    made, inputs = make_model(family, scale=2.0, **deep), plain_inputs()
    for task in ("text-classification", "feature-extraction"):
        assert_close(made.found(inputs, task), made.wanted(inputs, task), 1e-4)


@pytest.mark.parametrize("family", ["distilbert", "bert", "deberta-v2", "modernbert"])
def test_long_sequences_block_by_block(make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, family: str):
    made, inputs = make_model(family), plain_inputs()
    whole = made.found(inputs, "feature-extraction")
    assert_close(whole, made.wanted(inputs, "feature-extraction"))
    monkeypatch.setattr(operations, "_SCORES", 3 * 30 * 7)  # heads * sequence * queries
    assert_close(made.found(inputs, "feature-extraction"), whole, 1e-6)
    monkeypatch.setattr(operations, "_SCORES", 1)
    assert_close(made.found(inputs, "feature-extraction"), whole, 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", ["distilbert", "deberta-v2", "modernbert"])
def test_half_precision_weights_are_widened(make_model: Callable[..., Any], family: str, dtype: str):
    made = make_model(family, dtype=getattr(torch, dtype))
    header = (made.folder / "model.safetensors").read_bytes()[:200]
    assert {"float16": b"F16", "bfloat16": b"BF16"}[dtype] in header
    assert_close(made.found(plain_inputs()), made.wanted(plain_inputs()))


def test_shards(make_model: Callable[..., Any]):
    made = make_model("bert", shards="20KB")
    assert len(list(made.folder.glob("*.safetensors"))) > 2
    assert_close(made.found(plain_inputs()), made.wanted(plain_inputs()))


@pytest.mark.parametrize("family", ["bert", "electra", "albert"])
def test_names_from_tensorflow(make_model: Callable[..., Any], family: str):
    safetensors = pytest.importorskip("safetensors.numpy")
    made = make_model(family)
    tensors = safetensors.load_file(made.folder / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    safetensors.save_file(renamed, made.folder / "model.safetensors", metadata={"format": "pt"})
    found = made.found(plain_inputs())
    assert_close(found, made.wanted(plain_inputs()))
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(made.folder)
    with torch.no_grad():
        again = loaded(**{name: torch.from_numpy(array) for name, array in plain_inputs().items()}).logits.numpy()
    assert_close(found, again)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_defaults_are_those_of_transformers(family: str):
    config = transformers.AutoConfig.for_model(family).to_dict()
    missing = {"global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"}  # in version 5 elsewhere
    optional = {"position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "conv_groups", "conv_act"}
    defaults = FAMILIES[family].encoder.defaults
    assert {key for key in defaults if key not in config} <= missing | optional
    assert {key: config[key] for key in defaults if key in config} == {
        key: value for key, value in defaults.items() if key in config
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_that_a_config_lacks_have_their_defaults(make_model: Callable[..., Any], family: str):
    made = make_model(family)
    path = made.folder / "config.json"
    kept = {"model_type", "id2label", "label2id", "architectures", "pad_token_id", *made.model.config.to_diff_dict()}
    config = {key: value for key, value in json.loads(path.read_text()).items() if key in kept}
    for key, value in FAMILIES[family].encoder.defaults.items():
        if config.get(key) == value:
            del config[key]
    path.write_text(json.dumps(config))
    assert_close(made.found(plain_inputs()), made.wanted(plain_inputs()))


def test_what_overflows_is_as_in_pytorch_and_gives_no_warning(make_model: Callable[..., Any]):
    made = make_model("bert", scale=1e25, hidden_act="relu2", intermediate_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = made.found(plain_inputs(), "feature-extraction")
    assert not np.isfinite(found).all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(made.wanted(plain_inputs(), "feature-extraction")))


def test_padding_does_not_change_logits(make_model: Callable[..., Any]):
    made = make_model("roberta")
    ids = np.full((1, 9), 1)
    ids[0, :5] = [0, 7, 8, 9, 2]
    padded = made.found({"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)})
    assert_close(padded, made.found({"input_ids": ids[:, :5]}), 1e-6)


def test_the_tensors_are_left_as_they_are(make_model: Callable[..., Any]):
    reference = NumPyReference(make_model("deberta-v2").checkpoint())
    inputs = plain_inputs()
    kept = {name: array.copy() for name, array in inputs.items()}
    first = reference.forward(inputs)
    np.testing.assert_array_equal(reference.forward(inputs), first)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"input_ids": [[1, 50]]}, r"input_ids holds 50 at \[0, 1\], wanted 0 to 49"),
        ({"input_ids": [[1, 2], [-1, 3]]}, r"input_ids holds -1 at \[1, 0\], wanted 0 to 49"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, r"token_type_ids holds 2 at \[0, 1\], wanted 0 to 1"),
        ({"input_ids": [[1] * 41]}, r"position_ids holds 40 at \[0, 40\], wanted 0 to 39"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 2]]}, "attention_mask holds 1 to 2, wanted 0 and 1"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, r"attention_mask is \[1, 1\], input_ids \[1, 2\]"),
        ({"input_ids": [1, 2]}, r"input_ids is int64 \[2\], wanted int64 \[batch, sequence\], not empty"),
        ({"input_ids": [[]]}, r"input_ids is float64 \[1, 0\]"),
        ({"input_ids": [[1.0]]}, r"input_ids is float64 \[1, 1\]"),
        ({"attention_mask": [[1]]}, "input_ids: missing, only attention_mask was given"),
        ({"input_ids": [[1]], "pixel_values": [[1]]}, "pixel_values: unknown, a model takes input_ids, attention_mask"),
    ],
)
def test_inputs_that_are_refused(make_model: Callable[..., Any], inputs: Mapping[str, Any], says: str):
    with pytest.raises(InputError, match=says):
        make_model("bert").found({name: np.array(array) for name, array in inputs.items()})


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("bert", "classifier.bias"),
        ("bert", "bert.pooler.dense.weight"),
        ("bert", "bert.encoder.layer.1.attention.output.LayerNorm.weight"),
        ("albert", "albert.encoder.albert_layer_groups.1.albert_layers.1.ffn.bias"),
        ("deberta-v2", "deberta.encoder.layer.0.attention.self.key_proj.bias"),
        ("deberta-v2", "deberta.encoder.rel_embeddings.weight"),
        ("modernbert", "model.final_norm.weight"),
        ("mpnet", "mpnet.encoder.relative_attention_bias.weight"),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(
    make_model: Callable[..., Any], family: str, tensor: str
):
    safetensors = pytest.importorskip("safetensors.numpy")
    made = make_model(family)
    tensors = safetensors.load_file(made.folder / "model.safetensors")
    cut = {**tensors, tensor: np.ascontiguousarray(tensors[tensor][:-1])}
    safetensors.save_file(cut, made.folder / "model.safetensors", metadata={"format": "pt"})
    shape = list(tensors[tensor].shape)
    with pytest.raises(CheckpointError, match=f"the tensor {tensor} is .*, config.json wants ") as caught:
        NumPyReference(made.checkpoint())
    assert f"wants {shape};" in str(caught.value)
    del tensors[tensor]
    safetensors.save_file(tensors, made.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"its weights lack the tensor {tensor};"):
        NumPyReference(made.checkpoint())


def test_a_bare_model_lacks_the_head(make_model: Callable[..., Any]):
    made = make_model("bert", headed=False)
    with pytest.raises(CheckpointError, match=r"its weights lack the tensor classifier\.weight; "):
        NumPyReference(made.checkpoint())


def test_other_tasks_are_refused(make_model: Callable[..., Any]):
    with pytest.raises(CheckpointError, match="the task is fill-mask, the NumPy reference knows text-classification"):
        NumPyReference(make_model("bert").checkpoint("fill-mask"))


@pytest.mark.parametrize("name", ["sst2-minilm", "sst2-tiny"])
def test_real_checkpoints(name: str):
    folder, dev = SHARED / "checkpoints" / name, SHARED / "data" / "sst2" / "dev.tsv"
    if not folder.is_dir() or not dev.is_file():
        pytest.skip(f"no {folder.name} beside the repository")
    checkpoint = open_checkpoint(folder)
    reference, original = NumPyReference(checkpoint), PyTorchReference(checkpoint)
    texts = [line.partition("\t")[0] for line in dev.read_text(encoding="utf-8").splitlines()[:50]]
    for start in range(0, 50, 10):
        inputs = original.encode(texts[start : start + 10], None)
        np.testing.assert_allclose(reference.forward(inputs), original.forward(inputs), rtol=0, atol=1e-5)


def test_it_loads_neither_torch_nor_onnx(sample_checkpoint: Path, tmp_path: Path):
    # In a process of its own; the checkpoint goes along as a copy so that nothing beside it helps.
    shutil.copytree(sample_checkpoint, tmp_path / "checkpoint")
    script = """
import sys
import numpy as np
from torchless_export.checkpoint import open_checkpoint
from torchless_export.reference import NumPyReference
logits = NumPyReference(open_checkpoint("checkpoint")).forward({"input_ids": np.array([[2, 5, 3]])})
assert logits.shape == (1, 2), logits.shape
heavy = ("torch", "transformers", "onnx", "onnxruntime", "optimum", "scipy", "tokenizers")
print(sorted(name for name in heavy if name in sys.modules))
"""
    paths = [path for path in sys.path if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
