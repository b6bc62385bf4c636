"""What the builder does not know, and what is broken: one line that names the key or the tensor, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from torchless.errors import CheckpointError, InputError
from torchless_export import graph
from torchless_export.checkpoint import Checkpoint, open_checkpoint
from torchless_export.weights import Weights

SMALL = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def checkpoint_of(random_model: Callable[..., Any]) -> Callable[[str], Checkpoint]:
    """Return a function that gives a small checkpoint of a family, made once."""
    made: dict[str, Checkpoint] = {}

    def of(family: str) -> Checkpoint:
        if family not in made:
            made[family] = random_model(family, **SMALL).checkpoint
        return made[family]

    return of


def build(checkpoint: Checkpoint) -> None:
    with Weights(checkpoint) as weights:
        graph.build(checkpoint, weights)


def refusal(checkpoint: Checkpoint) -> str:
    """Return the line with which both the check and the builder refuse, within a second."""
    start = time.monotonic()
    with pytest.raises(CheckpointError) as checked:
        graph.check_supported(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        build(checkpoint)
    assert time.monotonic() - start < 5
    assert not graph.supports(checkpoint)
    assert str(checked.value) == str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("bert", "model_type", "perceptron-9000"),
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "is_decoder", True),
        ("bert", "add_cross_attention", True),
        ("bert", "chunk_size_feed_forward", 4),
        ("bert", "pruned_heads", {"0": [1]}),
        ("bert", "quantization_config", {"bits": 4}),
        ("bert", "hidden_act", "snake"),
        ("bert", "hidden_act", ["gelu"]),
        ("bert", "hidden_size", 10**9),
        ("bert", "hidden_size", "768"),
        ("bert", "hidden_size", 12.0),
        ("bert", "hidden_size", True),
        ("bert", "hidden_size", 0),
        ("bert", "hidden_size", -12),
        ("bert", "hidden_size", 10**30),
        ("bert", "hidden_size", None),
        ("bert", "num_attention_heads", 0),
        ("bert", "num_attention_heads", 5),
        ("bert", "num_hidden_layers", 10**6),
        ("bert", "num_hidden_layers", 10**30),
        ("bert", "layer_norm_eps", "tiny"),
        ("bert", "layer_norm_eps", -1.0),
        ("bert", "layer_norm_eps", float("nan")),
        ("bert", "type_vocab_size", -2),
        ("roberta", "pad_token_id", None),
        ("roberta", "pad_token_id", 20),
        ("roberta", "pad_token_id", -1),
        ("albert", "num_hidden_layers", 10**6),
        ("albert", "inner_group_num", 10**6),
        ("albert", "num_hidden_groups", 9),
        ("modernbert", "rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_type": "yarn", "rope_theta": 10.0}}),
        ("modernbert", "rope_parameters", [1]),
        ("modernbert", "layer_types", ["full_attention"]),
        ("modernbert", "layer_types", ["full_attention", "chunked_attention"]),
        ("modernbert", "num_attention_heads", 4),
        ("modernbert", "norm_bias", "yes"),
        ("modernbert", "classifier_pooling", "max"),
        ("modernbert", "local_attention", 0),
        ("deberta-v2", "pos_att_type", ["c2p", "p2p"]),
        ("deberta-v2", "pos_att_type", ["C2P"]),
        ("deberta-v2", "pos_att_type", {"c2p": True}),
        ("deberta-v2", "pos_att_type", [["c2p"]]),
        ("deberta-v2", "norm_rel_ebd", "batch_norm"),
        ("deberta-v2", "norm_rel_ebd", 1),
        ("deberta-v2", "relative_attention", "yes"),
        ("deberta-v2", "share_att_key", 1),
        ("deberta-v2", "position_biased_input", None),
        ("deberta-v2", "position_buckets", None),
        ("deberta-v2", "position_buckets", 7),
        ("deberta-v2", "position_buckets", 2),
        ("deberta-v2", "position_buckets", 10**30),
        ("deberta-v2", "max_relative_positions", 5),
        ("deberta-v2", "max_relative_positions", 10**9),
        ("deberta-v2", "max_relative_positions", 10**30),
        ("deberta-v2", "max_relative_positions", 4.5),
        ("deberta-v2", "conv_kernel_size", 4),
        ("deberta-v2", "conv_kernel_size", "3"),
        ("deberta-v2", "conv_act", "snake"),
        ("deberta-v2", "pooler_hidden_act", None),
        ("deberta-v2", "pooler_hidden_size", 24),
        ("deberta-v2", "attention_head_size", 64),
        ("deberta-v2", "embedding_size", None),
        ("deberta-v2", "embedding_size", 0),
        ("distilbert", "hidden_size", 13),
        ("distilbert", "n_layers", 0),
    ],
)
def test_a_config_value_is_refused_by_its_key(
    family: str, key: str, value: Any, checkpoint_of: Callable[[str], Checkpoint]
) -> None:
    checkpoint = checkpoint_of(family)
    says = refusal(replace(checkpoint, config={**checkpoint.config, key: value}))
    assert "config.json" in says
    assert key in says or "the tensor" in says or "rotary" in says


@pytest.mark.parametrize(
    ("family", "key", "value", "tensor"),
    [
        ("bert", "intermediate_size", 10**9, "intermediate.dense.weight"),
        ("bert", "vocab_size", 31, "word_embeddings"),
        ("bert", "max_position_embeddings", 10**9, "position_embeddings"),
        ("bert", "type_vocab_size", 3, "token_type_embeddings"),
        ("bert", "num_hidden_layers", 1, "encoder.layer.1."),
        ("bert", "num_hidden_layers", 3, "encoder.layer.2."),
        ("mpnet", "relative_attention_num_buckets", 64, "relative_attention_bias"),
        ("deberta-v2", "position_buckets", 10, "rel_embeddings"),
        ("deberta-v2", "position_buckets", -1, "rel_embeddings"),
        ("deberta-v2", "conv_kernel_size", 10**9 + 1, "encoder.conv.conv.weight"),
        ("deberta-v2", "type_vocab_size", 2, "token_type_embeddings"),
        ("deberta-v2", "share_att_key", False, "pos_key_proj"),
        ("deberta-v2", "position_biased_input", True, "position_embeddings"),
        ("deberta-v2", "norm_rel_ebd", "none", "encoder.LayerNorm"),
        ("deberta-v2", "relative_attention", False, "rel_embeddings"),
        ("deberta-v2", "embedding_size", 64, "word_embeddings"),
        ("electra", "embedding_size", 64, "word_embeddings"),
        ("albert", "num_hidden_groups", 2, "albert_layer_groups.1."),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_by_the_tensor(
    family: str, key: str, value: Any, tensor: str, checkpoint_of: Callable[[str], Checkpoint]
) -> None:
    checkpoint = checkpoint_of(family)
    assert tensor in refusal(replace(checkpoint, config={**checkpoint.config, key: value}))


def changed(checkpoint: Checkpoint, tmp_path: Any, change: Callable[[dict[str, Any]], None]) -> Checkpoint:
    """Return a copy of the checkpoint whose tensors were changed."""
    tensors = load_file(checkpoint.weights[0])
    change(tensors)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((checkpoint.path / name).read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    return open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["bert.pooler.dense.weight", "classifier.bias", "bert.encoder.layer.1.output.dense.bias"]
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Any, checkpoint_of: Callable[[str], Checkpoint]) -> None:
    assert name in refusal(changed(checkpoint_of("bert"), tmp_path, lambda tensors: tensors.pop(name)))


def test_a_tensor_that_nothing_reads_is_named(tmp_path: Any, checkpoint_of: Callable[[str], Checkpoint]) -> None:
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    extra = {name: np.zeros((39, 4), dtype=np.float32)}
    assert name in refusal(changed(checkpoint_of("bert"), tmp_path, lambda tensors: tensors.update(extra)))


def test_buffers_and_other_heads_are_no_matter(tmp_path: Any, checkpoint_of: Callable[[str], Checkpoint]) -> None:
    extra = {
        "bert.embeddings.position_ids": np.zeros((1, 20), dtype=np.int64),
        "cls.predictions.bias": np.zeros(30, dtype=np.float32),
    }
    build(changed(checkpoint_of("bert"), tmp_path, lambda tensors: tensors.update(extra)))


def test_a_value_that_is_not_finite_is_named(tmp_path: Any, checkpoint_of: Callable[[str], Checkpoint]) -> None:
    name = "bert.encoder.layer.1.attention.self.key.weight"

    def spoil(tensors: dict[str, Any]) -> None:
        tensors[name][3, 2] = np.nan

    checkpoint = changed(checkpoint_of("bert"), tmp_path, spoil)
    with pytest.raises(CheckpointError, match=rf"{name} holds nan at \[3, 2\]"):
        build(checkpoint)


def test_a_target_or_task_that_is_unknown(checkpoint_of: Callable[[str], Checkpoint]) -> None:
    checkpoint = checkpoint_of("bert")
    with Weights(checkpoint) as weights, pytest.raises(InputError, match="target is 'tpu', wanted one of cpu, cuda"):
        graph.build(checkpoint, weights, target="tpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="target is 'tpu'"):
        graph.candidates("tpu")  # type: ignore[arg-type]
    task = replace(checkpoint.task, name="question-answering")
    assert "question-answering" in refusal(replace(checkpoint, task=task))
