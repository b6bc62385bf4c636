"""What `config.json` may ask for, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from torchless.errors import CheckpointError
from torchless_export.reference import NumPyReference

CHANGED: list[tuple[str, dict[str, Any], str]] = [
    # Architectures and options that are not implemented.
    ("bert", {"model_type": "nomic_bert"}, "model_type is 'nomic_bert', the NumPy reference knows albert, bert, "),
    ("bert", {"is_decoder": True}, "is_decoder is True, the NumPy reference knows only False; with torch and transf"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention is True, "),
    ("bert", {"chunk_size_feed_forward": 4}, "chunk_size_feed_forward is 4, the NumPy reference knows only 0;"),
    ("bert", {"pruned_heads": {"0": [1]}}, r"pruned_heads is {'0': \[1\]}, "),
    ("bert", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, "),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', .* 'absolute';"),
    ("albert", {"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query', "),
    ("electra", {"position_embedding_type": None}, "position_embedding_type is None, "),
    ("roberta", {"auto_map": {"AutoModel": "modeling.Own"}}, "auto_map is .*, .* no code that comes with a check"),
    ("bert", {"hidden_act": "xielu"}, "hidden_act is 'xielu', the NumPy reference knows only gelu, gelu_python, "),
    ("bert", {"hidden_act": None}, "hidden_act is None, the NumPy reference knows only gelu"),
    ("distilbert", {"activation": ["gelu"]}, r"activation is \['gelu'\], "),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64, .* knows only 32;"),
    ("deberta-v2", {"pos_att_type": "c2p|p2p"}, r"pos_att_type is 'c2p\|p2p', .* only 'c2p' and 'p2c', each once;"),
    ("deberta-v2", {"pos_att_type": ["c2p", "c2p"]}, r"pos_att_type is \['c2p', 'c2p'\], "),
    ("deberta-v2", {"pos_att_type": {"c2p": 1}}, "pos_att_type is {'c2p': 1}, "),
    ("deberta-v2", {"norm_rel_ebd": "rms_norm"}, "norm_rel_ebd is 'rms_norm', .* only 'none' and 'layer_norm';"),
    ("deberta-v2", {"attention_head_size": 5}, "attention_head_size is 5, .* only the hidden size divided by the"),
    ("deberta-v2", {"pooler_hidden_size": 5}, "pooler_hidden_size is 5, .* only the hidden size, 24;"),
    ("deberta-v2", {"pooler_hidden_act": "prelu"}, "pooler_hidden_act is 'prelu', "),
    ("deberta-v2", {"position_buckets": 1}, "position_buckets is 1, .* only 2 to 77, or -1;"),
    ("deberta-v2", {"max_relative_positions": 9}, "position_buckets is 16, .* only 2 to 15, or -1;"),
    ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4, .* only odd ones;"),
    ("deberta-v2", {"conv_groups": 5}, "conv_groups is 5, .* only divisors of the hidden size 24;"),
    ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling is 'max', .* only cls, mean;"),
    ("modernbert", {"num_attention_heads": 8}, "num_attention_heads is 8, .* only heads of an even size"),
    ("modernbert", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is {'rope_type': 'yarn'}, "),
    ("modernbert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, "),
    ("modernbert", {"head_dim": 4}, "head_dim is 4, "),
    # Values of the wrong type or size: not of this architecture, or not of these weights.
    ("bert", {"num_attention_heads": 7}, "num_attention_heads is 7, wanted a divisor of the hidden size 24; take that"),
    ("bert", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, wanted a whole number from 1 to 1000;"),
    ("albert", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, wanted a whole number from 1 to 1000;"),
    ("bert", {"num_hidden_layers": 0}, "num_hidden_layers is 0, wanted a whole number from 1"),
    ("bert", {"hidden_size": True}, "hidden_size is True, wanted a whole number from 1"),
    ("bert", {"hidden_size": "24"}, "hidden_size is '24', wanted a whole number from 1"),
    ("bert", {"intermediate_size": 2**40}, "intermediate_size is 1099511627776, wanted a whole number from 1 to"),
    ("bert", {"layer_norm_eps": 0}, "layer_norm_eps is 0, wanted a positive number;"),
    ("bert", {"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12', wanted a positive number;"),
    ("bert", {"vocab_size": None}, "vocab_size is None, wanted a whole number"),
    ("roberta", {"pad_token_id": None}, "pad_token_id is None, wanted a whole number from 0"),
    ("deberta-v2", {"relative_attention": 1}, "relative_attention is 1, wanted true or false;"),
    ("bert", {"intermediate_size": 41}, r"the tensor bert.encoder.layer.0.intermediate.dense.weight is \[40, 24\], "),
    ("bert", {"type_vocab_size": 1}, r"the tensor bert.embeddings.token_type_embeddings.weight is \[2, 24\], "),
    ("albert", {"num_hidden_groups": 3}, "its weights lack the tensor albert.encoder.albert_layer_groups.2."),
    ("distilbert", {"num_attention_heads": 6}, "num_attention_heads is 6 and n_heads, another name of the same, 3; k"),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(make_model: Callable[..., Any], small_configs: Mapping[str, Any]) -> Mapping[str, Path]:
    """A checkpoint of each family."""
    return {family: make_model(family).folder for family in small_configs}


@pytest.mark.parametrize(("family", "changes", "says"), CHANGED)
def test_what_is_refused(
    saved: Mapping[str, Path],
    open_task: Callable[..., Any],
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    says: str,
):
    folder = Path(shutil.copytree(saved[family], tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says) as caught:
        NumPyReference(open_task(folder, "text-classification"))
    assert str(folder) in str(caught.value)


def test_a_missing_key_without_default(saved: Mapping[str, Path], open_task: Callable[..., Any], tmp_path: Path):
    folder = Path(shutil.copytree(saved["bert"], tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: vocab_size is missing, wanted a whole number"):
        NumPyReference(open_task(folder, "text-classification"))


def test_what_changes_nothing_is_taken(saved: Mapping[str, Path], open_task: Callable[..., Any], tmp_path: Path):
    folder = Path(shutil.copytree(saved["distilbert"], tmp_path / "checkpoint"))
    harmless = {
        "is_decoder": False,
        "chunk_size_feed_forward": 0,
        "pruned_heads": {},
        "quantization_config": None,
        "position_embedding_type": "absolute",
        "auto_map": {"AutoTokenizer": ["tokenization.Own", None]},
        "num_attention_heads": 3,
        "sinusoidal_pos_embds": True,
        "an_unknown_key": 7,
    }
    config = json.loads((folder / "config.json").read_text()) | harmless
    (folder / "config.json").write_text(json.dumps(config))
    assert NumPyReference(open_task(folder, "text-classification")).name == "numpy"
