"""Built graphs against transformers, on random checkpoints of every family and many sizes and masks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from built_graphs import SMALL, built, check, largest_length, run, texts
from comparison import TRANSFORMERS
from torchless.cpu import features
from torchless_export import graph
from torchless_export.checkpoint import open_checkpoint
from torchless_export.graph import Form
from torchless_export.graph.activation import ACTIVATIONS
from torchless_export.graph.families import FAMILIES
from torchless_export.quantize import quantize_int8

ort = pytest.importorskip("onnxruntime")


def _masks(family: str) -> list[str]:
    # What a masked token sees where its whole window is masked is another thing in the attention that transformers 5
    # takes unasked (SDPA) than in its eager one and in 4.57, which agree with the graph. Only a classifier that reads
    # such a token, the first one, could tell.
    if family == "modernbert" and TRANSFORMERS >= (5, 0):
        return ["none", "right"]
    return ["none", "right", "left", "holes", "one"]


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    family = draw(st.sampled_from(sorted(FAMILIES)))
    heads = draw(st.sampled_from([1, 2, 3, 5, 7, 12]))
    config: dict[str, Any] = {
        "vocab_size": draw(st.integers(20, 80)),
        # In a norm over fewer numbers the last digit of one can decide the sign of another.
        "hidden_size": heads * draw(st.sampled_from([size for size in (2, 4, 6, 8, 10) if heads * size >= 8])),
        "num_hidden_layers": draw(st.sampled_from([1, 2, 3, 6, 24])),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.sampled_from([1, 16, 33])),
        "max_position_embeddings": draw(st.integers(8, 300)),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu", "gelu_new", "relu", "silu"])),
    }
    if family in ("electra", "albert"):
        config["embedding_size"] = draw(st.sampled_from([config["hidden_size"], 8]))
    if family == "albert":
        config["num_hidden_groups"] = draw(st.integers(1, config["num_hidden_layers"]))
        config["inner_group_num"] = draw(st.sampled_from([1, 1, 2])) if config["num_hidden_layers"] < 6 else 1
    if family == "modernbert":
        config["local_attention"] = draw(st.sampled_from([2, 8, 64]))
        config["classifier_pooling"] = draw(st.sampled_from(["cls", "mean"]))
        for bias in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"):
            config[bias] = draw(st.booleans())
    if FAMILIES[family].embeddings.token_type:
        config["type_vocab_size"] = draw(st.sampled_from([1, 2]))
    return {
        "family": family,
        "config": config,
        "labels": draw(st.sampled_from([1, 2, 3, 300])),
        "bare": draw(st.booleans()),
        "seed": draw(st.integers(0, 9)),
        "batch": draw(st.integers(1, 4)),
        "length": draw(st.floats(0, 1)),
        "mask": draw(st.sampled_from(_masks(family))),
        "form": Form(
            qkv=draw(st.sampled_from(["three", "one"])),
            attention=draw(st.sampled_from(["matmul", "strided", "multi-head"])),
            gelu=draw(st.sampled_from(["gelu", "contrib", "bias", "erf"])),
            norm=draw(st.sampled_from(["layer", "skip"])),
            last_layer=draw(st.sampled_from(["read", "read-twice", "whole"])),
        ),
    }


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_every_form_of_every_family_gives_the_answers_of_transformers(
    case: dict[str, Any], random_model: Callable[..., Any]
) -> None:
    config = case["config"]
    model = random_model(case["family"], labels=case["labels"], bare=case["bare"], seed=case["seed"], **config)
    made = built(model.checkpoint, form=case["form"])
    length = 1 + int(case["length"] * (largest_length(model.checkpoint) - 1))
    inputs = texts(
        case["batch"],
        length,
        case["mask"],
        seed=case["seed"],
        pad=model.checkpoint.config.get("pad_token_id", 0),
        vocab=config["vocab_size"],
        types="token_type_ids" in {i.name for i in made.graph.input},
    )
    layers = config["num_hidden_layers"] * config.get("inner_group_num", 1)
    check(model, inputs, made, tolerance=1e-4 if layers > 12 else 1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_all_optimization_levels_agree_and_the_checker_passes(family: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family, **SMALL)
    for form in {*graph.candidates("cpu"), *graph.candidates("cuda")}:
        if form.attention == "packed":  # of CUDA alone: see test_cuda_forms.py
            continue
        made = built(model.checkpoint, form=form)
        onnx.checker.check_model(made, full_check=True)
        onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
        inputs = texts(3, 7, "right", seed=1, pad=1, vocab=60, types=FAMILIES[family].token_types)
        for level in ort.GraphOptimizationLevel.__members__.values():
            check(model, inputs, made, level=level)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation(activation: str, random_model: Callable[..., Any]) -> None:
    model = random_model("bert", **SMALL, hidden_act=activation)
    inputs = texts(2, 9, "right", seed=2, pad=0, vocab=60, types=True)
    check(model, inputs, built(model.checkpoint))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "mpnet"])
def test_text_of_nothing_but_padding_is_finite(family: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family, **SMALL)
    inputs = texts(2, 5, "none", seed=3, pad=1, vocab=60, types=True)
    inputs["attention_mask"][1] = 0
    for form in graph.candidates("cpu"):
        assert np.isfinite(run(built(model.checkpoint, form=form), inputs)).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_checkpoint_with_a_head_gives_its_encoders_features(family: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family, **SMALL)
    task = replace(model.checkpoint.task, name="feature-extraction")
    inputs = texts(2, 8, "right", seed=4, pad=1, vocab=60, types=FAMILIES[family].token_types)
    made = built(replace(model.checkpoint, task=task))
    assert [o.name for o in made.graph.output] == ["last_hidden_state"]
    model.module = model.module.base_model
    check(model, inputs, made)


def test_the_form_says_how_much_of_the_last_layer_is_built(random_model: Callable[..., Any]) -> None:
    checkpoint = random_model("bert", **SMALL).checkpoint
    products: dict[str, list[str]] = {}
    for last_layer in ("read", "whole"):
        nodes = built(checkpoint, form=replace(graph.default_form("cpu"), last_layer=last_layer)).graph.node
        (cut,) = [i for i, node in enumerate(nodes) if node.name.startswith("first_token")]
        products[last_layer] = [node.input[1] for node in nodes[cut:] if node.op_type == "MatMul"]
    head = ["bert.pooler.dense.weight", "classifier.weight"]
    layer = "bert.encoder.layer.1."
    assert products["whole"] == head
    assert set(products["read"]) > {layer + "intermediate.dense.weight", layer + "output.dense.weight", *head}


@pytest.mark.parametrize(("wide", "local"), [(700.0, 50.0), (1.000001, 1.0000015)])
def test_the_bases_of_rotary_positions_and_their_windows(
    wide: float, local: float, random_model: Callable[..., Any]
) -> None:
    config = SMALL | {"num_hidden_layers": 5, "local_attention": 6, "max_position_embeddings": 80}
    model = random_model("modernbert", **config, global_rope_theta=wide, local_rope_theta=local)
    inputs = texts(2, 80, "right", seed=8, pad=0, vocab=60, types=False)
    made = built(model.checkpoint)
    bases = {t.name for t in made.graph.initializer if t.name.startswith("rotary")}
    assert bases == {f"rotary.{wide!r}.frequencies", f"rotary.{local!r}.frequencies"}
    check(model, inputs, made)


@pytest.mark.parametrize("form", graph.candidates("cpu"), ids=str)
def test_rotary_positions_have_no_last_one(form: Form, random_model: Callable[..., Any]) -> None:
    model = random_model("modernbert", **SMALL, local_attention=6)
    made = built(model.checkpoint, form=form)
    for length in (SMALL["max_position_embeddings"] + 1, 700):
        check(model, texts(2, length, "right", seed=8, pad=0, vocab=60, types=False), made)


@pytest.mark.parametrize("form", graph.candidates("cpu"), ids=str)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("biased", [False, True])
def test_modernberts_biases_and_pooling(
    biased: bool, pooling: str, form: Form, random_model: Callable[..., Any]
) -> None:
    biases = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), biased)
    model = random_model("modernbert", **SMALL, **biases, classifier_pooling=pooling)
    inputs = texts(3, 11, "holes", seed=9, pad=0, vocab=60, types=False)
    check(model, inputs, built(model.checkpoint, form=form))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "mpnet"])
def test_weights_of_half_precision(family: str, dtype: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family, dtype=dtype, **SMALL)
    inputs = texts(2, 9, "right", seed=5, pad=1, vocab=60, types=FAMILIES[family].token_types)
    check(model, inputs, built(model.checkpoint))


def test_shards_and_the_old_names_of_norms(random_model: Callable[..., Any], tmp_path: Path) -> None:
    model = random_model("roberta", **SMALL)
    folder = model.checkpoint.path
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    names = sorted(renamed)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: renamed[name] for name in held}, tmp_path / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    inputs = texts(2, 9, "right", seed=6, pad=1, vocab=60, types=False)
    check(model, inputs, built(open_checkpoint(tmp_path)))


@pytest.mark.parametrize(
    ("family", "given", "wanted"),
    [
        ("bert", {}, True),
        ("bert", {"tokenizer_class": "BertTokenizer"}, True),
        ("bert", {"tokenizer_class": "PreTrainedTokenizerFast"}, True),
        ("bert", {"tokenizer_class": "XLMRobertaTokenizerFast"}, False),
        ("bert", {"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}, False),
        ("deberta-v2", {}, True),
        ("deberta-v2", {"tokenizer_class": "DebertaV2Tokenizer"}, True),
        ("deberta-v2", {"tokenizer_class": "XLMRobertaTokenizer"}, False),
        ("roberta", {}, False),
        ("roberta", {"tokenizer_class": "RobertaTokenizer"}, False),
        ("roberta", {"tokenizer_class": "BertTokenizer"}, True),
        ("distilbert", {"tokenizer_class": "BertTokenizer"}, False),
        ("mpnet", {"tokenizer_class": "BertTokenizer"}, False),
    ],
)
def test_token_types_are_an_input_where_the_tokenizer_gives_them(
    family: str, given: dict[str, Any], wanted: bool, random_model: Callable[..., Any]
) -> None:
    config = SMALL | ({"type_vocab_size": 2} if FAMILIES[family].embeddings.token_type else {})
    model = random_model(family, **config)
    made = built(replace(model.checkpoint, tokenizer_config=given))
    assert ("token_type_ids" in {i.name for i in made.graph.input}) == wanted
    check(model, texts(2, 9, "right", seed=7, pad=1, vocab=60, types=True), made)


@pytest.mark.parametrize("family", ["deberta-v2", "distilbert"])
def test_products_are_fused_after_quantization(family: str, random_model: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing of DynamicQuantizeLinear's and MatMulInteger's long form is left when ONNX Runtime has loaded it."""
    model = random_model(family, **SMALL)
    for form in graph.candidates("cpu"):
        quantized = quantize_int8(built(model.checkpoint, form=form), [])
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(
            quantized.model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers={"SkipLayerNormFusion"},
        )
        operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        fused = operators["DynamicQuantizeMatMul"] + operators["MatMulIntegerToFloat"]
        assert fused == len(quantized.products)
        assert not operators.keys() & {"MatMulInteger", "SkipLayerNormalization"}
        # Queries, keys and values read one quantized activation.
        assert operators["DynamicQuantizeLinear"] == (2 if form.qkv == "three" else 1)


@pytest.mark.skipif("avx512_vnni" not in features(), reason="the order of sums was looked at with AVX-512 alone")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_batch_invariant_form_gives_a_text_the_same_bits_however_it_is_padded(
    family: str, random_model: Callable[..., Any]
) -> None:
    model = random_model(family, **SMALL)
    made = built(model.checkpoint, form=graph.for_batch_invariance(graph.default_form("cpu")))
    for length in (7, 11, 15, 16):  # 3 more than a multiple of 4 is where one row alone is added in another order
        alone = texts(1, length, "full", seed=length, pad=1, vocab=60, types=FAMILIES[family].token_types)
        wanted = run(made, alone)
        for more in (1, 9):
            wide = {name: np.pad(array, ((0, 2), (0, more))) for name, array in alone.items()}
            wide["input_ids"][:, length:] = wide["input_ids"][1:] = 1
            wide["attention_mask"][1:, 0] = 1
            np.testing.assert_array_equal(run(made, wide)[:1], wanted)
