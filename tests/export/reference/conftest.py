"""Fixtures for the tests of the NumPy reference: random models of any family, and what PyTorch says of them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless_export.checkpoint import Checkpoint, open_checkpoint
from torchless_export.reference import NumPyReference

_COMMON = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
# Small, and with what makes the family different.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "albert": _COMMON | {"embedding_size": 10, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    "bert": _COMMON,
    "camembert": _COMMON,
    "deberta-v2": _COMMON
    | {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "position_buckets": 16,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
    "distilbert": {
        "vocab_size": 50,
        "dim": 24,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": 40,
    },
    "electra": _COMMON | {"embedding_size": 10},
    "modernbert": _COMMON
    | {
        "num_hidden_layers": 4,
        "local_attention": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
    },
    "mpnet": _COMMON,
    "roberta": _COMMON,
    "xlm-roberta": _COMMON | {"type_vocab_size": 1},
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A random model, in memory and saved.

    Attributes:
        folder: where it was saved.
        model: PyTorch's.
        headed: whether it has a classification head.
    """

    folder: Path
    model: Any
    headed: bool

    def checkpoint(self, task: str = "text-classification") -> Checkpoint:
        """Open what was saved, for a task by its name."""
        return open_for(self.folder, task)

    def found(self, inputs: Mapping[str, np.ndarray], task: str = "text-classification") -> np.ndarray:
        """Return what the NumPy reference gives."""
        return NumPyReference(self.checkpoint(task)).forward(inputs)

    def wanted(self, inputs: Mapping[str, np.ndarray], task: str = "text-classification") -> np.ndarray:
        """Return what PyTorch gives."""
        import torch

        bare = task == "feature-extraction"
        model = getattr(self.model, self.model.base_model_prefix) if bare and self.headed else self.model
        with torch.no_grad():
            output = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return (output.last_hidden_state if bare else output.logits).numpy()


def open_for(folder: Path, task: str) -> Checkpoint:
    """Open a checkpoint for a task that may not be in the table of tasks."""
    checkpoint = open_checkpoint(folder, task="text-classification")
    return dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, name=task))


@pytest.fixture(scope="session")
def small_configs() -> Mapping[str, Mapping[str, Any]]:
    """A small config of each family."""
    return CONFIGS


@pytest.fixture(scope="session")
def open_task() -> Callable[[Path, str], Checkpoint]:
    """Return `open_for`."""
    return open_for


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """Return a function that makes and saves a model: `make_model("bert", labels=3, num_hidden_layers=1)`.

    `headed`: with a classification head; `dtype`: of the saved weights; `shards`: the size of each file;
    `scale`: what random matrices are multiplied by, so that scores are far from equal.
    """

    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")

    def make(
        family: str,
        *,
        headed: bool = True,
        labels: int = 3,
        seed: int = 0,
        scale: float = 10.0,
        dtype: Any = None,
        shards: str | None = None,
        **config: Any,
    ) -> Made:
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(seed)
        auto = transformers.AutoModelForSequenceClassification if headed else transformers.AutoModel
        given = transformers.AutoConfig.for_model(family, num_labels=labels, **{**CONFIGS[family], **config})
        model = auto.from_config(given, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
                else:  # weights of ones and biases of zeros would hide that they are mixed up
                    parameter.add_(0.3 * torch.randn_like(parameter))
                if dtype is not None:
                    parameter.copy_(parameter.to(dtype))
        saved = model if dtype is None else copy.deepcopy(model).to(dtype)  # its buffers too, so not the model's own
        saved.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
        (folder / "tokenizer.json").write_text(json.dumps({}))
        return Made(folder, model, headed)

    return make
