"""DeBERTa's attention against transformers: every way in which distances enter scores, texts of any length and mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from built_graphs import SMALL, built, check, run, texts
from torchless.errors import CheckpointError
from torchless_export import graph
from torchless_export.checkpoint import open_checkpoint
from torchless_export.graph import Form
from torchless_export.graph.distances import Distances

MASKS = ["none", "right", "left", "holes", "one"]
FORMS = sorted({*graph.candidates("cpu"), *graph.candidates("cuda"), Form(last_layer="whole")}, key=str)
PLAIN = Distances(
    terms=1, to_position=False, to_content=False, shared=False, normalized=False, span=1, buckets=0, furthest=1,
    kernel=0, groups=1,
)  # fmt: skip


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3, 5]))
    # In a norm over fewer numbers the last digit of one can decide the sign of another.
    hidden = heads * draw(st.sampled_from([size for size in (2, 4, 6, 8) if heads * size >= 8]))
    buckets = draw(st.sampled_from([-1, 0, 4, 6, 8, 16, 32, 256]))
    least = max(buckets // 2 + 3, 1)
    config = {
        "vocab_size": draw(st.integers(20, 80)),
        "hidden_size": hidden,
        "num_hidden_layers": draw(st.sampled_from([1, 2, 3])),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.sampled_from([1, 16])),
        "max_position_embeddings": least + draw(st.integers(1, 40)),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        "type_vocab_size": draw(st.sampled_from([0, 1, 2])),
        "relative_attention": draw(st.sampled_from([True, True, True, False])),
        "pos_att_type": draw(
            st.sampled_from([["c2p", "p2c"], ["p2c", "c2p"], ["c2p"], ["p2c"], [], None, "p2c|c2p", "C2P", "none"])
        ),
        "share_att_key": draw(st.booleans()),
        "position_buckets": buckets,
        "max_relative_positions": draw(st.one_of(st.just(-1), st.integers(least, 50 + least))),
        "norm_rel_ebd": draw(st.sampled_from(["layer_norm", "none", "Layer_Norm | none"])),
        "position_biased_input": draw(st.booleans()),
        "embedding_size": draw(st.sampled_from([hidden, 8])),
        "conv_kernel_size": draw(st.sampled_from([0, 0, 1, 3, 5])),
        "conv_groups": draw(st.sampled_from([1, heads])),
        "conv_act": draw(st.sampled_from(["tanh", "gelu", "sigmoid"])),
        "pooler_hidden_act": draw(st.sampled_from(["gelu", "tanh"])),
        "layer_norm_eps": draw(st.sampled_from([1e-7, 1e-3])),
    }
    table = config["max_position_embeddings"] if config["position_biased_input"] else 200
    return {
        "config": config,
        "bare": draw(st.booleans()),
        "seed": draw(st.integers(0, 9)),
        "batch": draw(st.integers(1, 3)),
        "length": draw(st.one_of(st.integers(1, min(table, 9)), st.integers(1, table))),
        "mask": draw(st.sampled_from(MASKS)),
        "form": draw(st.sampled_from(FORMS)),
    }


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_every_config_gives_the_answers_of_transformers(case: dict[str, Any], random_model: Callable[..., Any]) -> None:
    config, seed = case["config"], case["seed"]
    model = random_model("deberta-v2", bare=case["bare"], seed=seed, **config)
    types = config["type_vocab_size"] > 1
    inputs = texts(case["batch"], case["length"], case["mask"], seed=seed, pad=0, vocab=20, types=types)
    check(model, inputs, built(model.checkpoint, form=case["form"]))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 130, 511, 512, 513, 700])
def test_lengths_about_the_steps_of_deberta_v3s_buckets(
    length: int, mask: str, random_model: Callable[..., Any]
) -> None:
    config = {**SMALL, "hidden_size": 6, "num_hidden_layers": 1, "max_position_embeddings": 512}
    model = random_model("deberta-v2", bare=True, **config, position_buckets=256)
    check(model, texts(1, length, mask, seed=1, pad=0, vocab=60, types=False), built(model.checkpoint))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(half=st.integers(2, 200), more=st.integers(2, 2000))
def test_the_rows_of_bucketed_distances(half: int, more: int) -> None:
    distances = replace(PLAIN, span=2 * half, buckets=2 * half, furthest=half + more)
    distance = torch.arange(-distances.furthest, distances.furthest + 1)
    bucket = make_log_bucket_position(distance, distances.buckets, distances.furthest).long()
    wanted = torch.clamp(bucket + distances.span, 0, 2 * distances.span - 1)
    np.testing.assert_array_equal(distances.rows(), wanted.numpy())
    # Beyond the furthest, nothing changes any more.
    assert (distances.rows()[0], distances.rows()[-1]) == (0, 2 * distances.span - 1)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_convolution_behind_the_only_layer(form: Form, random_model: Callable[..., Any]) -> None:
    config = {**SMALL, "num_hidden_layers": 1}
    model = random_model("deberta-v2", **config, conv_kernel_size=3, conv_act="gelu", conv_groups=2)
    check(model, texts(3, 9, "left", seed=2, pad=0, vocab=60, types=False), built(model.checkpoint, form=form))


def test_the_rows_of_distances_are_found_once(random_model: Callable[..., Any]) -> None:
    """Nothing depends on a pair of tokens but scores: no index of pairs is made, and no product of the table."""
    nodes = built(random_model("deberta-v2", **{**SMALL, "num_hidden_layers": 5}).checkpoint).graph.node
    assert [node.op_type for node in nodes].count("Range") == 1
    assert not {"GatherElements", "GatherND", "Expand", "Where"} & {node.op_type for node in nodes}
    assert not [node for node in nodes if node.op_type == "MatMul" and "rel_embeddings" in " ".join(node.input)]


def test_a_position_table_that_is_not_read_is_no_matter(random_model: Callable[..., Any], tmp_path: Any) -> None:
    model = random_model("deberta-v2", **SMALL)
    tensors = load_file(model.checkpoint.weights[0])
    tensors["deberta.embeddings.position_embeddings.weight"] = np.ones((40, 24), dtype=np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((model.checkpoint.path / name).read_bytes())
    check(model, texts(2, 9, "right", seed=3, pad=0, vocab=60, types=False), built(open_checkpoint(tmp_path)))


def test_products_of_positions_that_overflow_are_named(random_model: Callable[..., Any], tmp_path: Any) -> None:
    checkpoint = random_model("deberta-v2", **SMALL).checkpoint
    tensors = load_file(checkpoint.weights[0])
    tensors["deberta.encoder.LayerNorm.weight"][:] = 3e38
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint.path / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"layer.0.attention.self.key_proj: .* overflow float32"):
        built(open_checkpoint(tmp_path))


@pytest.mark.parametrize("buckets", [1, 2, 3, 7])
def test_buckets_of_another_arithmetic_are_named(buckets: int, random_model: Callable[..., Any]) -> None:
    checkpoint = random_model("deberta-v2", **SMALL, position_buckets=buckets).checkpoint
    with pytest.raises(CheckpointError, match=f"position_buckets is {buckets}, wanted an even number"):
        graph.check_supported(checkpoint)


@pytest.mark.parametrize("length", [1, 7, 60])
def test_text_of_nothing_but_padding(length: int, random_model: Callable[..., Any]) -> None:
    model = random_model("deberta-v2", **SMALL)
    inputs = texts(2, length, "none", seed=4, pad=0, vocab=60, types=False)
    inputs["attention_mask"][1] = 0
    check(model, inputs, built(model.checkpoint))
    assert np.isfinite(run(built(model.checkpoint), inputs)).all()
