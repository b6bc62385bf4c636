"""Random checkpoints of any family and size, and the answers that transformers gives for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")
pytest.importorskip("torch")

import torch
import transformers

from torchless_export.checkpoint import Checkpoint, open_checkpoint

Arrays = dict[str, NDArray[Any]]

# The names that differ from those most configs use.
_KEYS = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
    "modernbert": {"hidden_act": "hidden_activation"},
}
# What its checkpoints have, and its config class does not.
_DEFAULTS = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
}
# Without these, configs point at tokens beyond a small vocabulary.
_ALWAYS = {
    "modernbert": dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
}


class Model:
    """A random model of transformers, and the checkpoint that it was saved as."""

    def __init__(self, checkpoint: Checkpoint, module: Any) -> None:
        self.checkpoint = checkpoint
        self.module = module

    def answers(self, inputs: Arrays) -> NDArray[np.float32]:
        """Return the logits, or the last hidden state, that transformers gives."""
        with torch.inference_mode():
            given = self.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return (given.logits if "logits" in given else given.last_hidden_state).numpy()


@pytest.fixture(scope="session")
def random_model(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Return a function that makes one: `random_model("bert", labels=3, bare=False, seed=0, **config)`."""

    def make(
        family: str, *, labels: int = 2, bare: bool = False, seed: int = 0, dtype: str = "float32", **config: Any
    ) -> Model:
        keys = _KEYS.get(family, {})
        given = (
            _DEFAULTS.get(family, {})
            | {keys.get(key, key): value for key, value in config.items()}
            | {"num_labels": labels}
            | _ALWAYS.get(family, {})
        )
        built = transformers.AutoConfig.for_model(family, **given)
        kind = transformers.AutoModel if bare else transformers.AutoModelForSequenceClassification
        torch.manual_seed(seed)
        module = kind.from_config(built).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                # Every bias and every norm's scale counts, and attention is far from even.
                spread = 0.3 if parameter.ndim == 1 else 1.5 / parameter.shape[-1] ** 0.5
                parameter.normal_(0, spread)
                if parameter.ndim == 1 and name.endswith("weight"):
                    parameter.add_(1.0)
        folder = tmp_path_factory.mktemp(family)
        module.to(getattr(torch, dtype)).save_pretrained(folder)
        module.float()
        shutil.copyfile(sample_checkpoint / "tokenizer.json", folder / "tokenizer.json")
        if bare:
            config_file = folder / "config.json"
            config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"architectures": None}))
        checkpoint = open_checkpoint(folder)
        return Model(as_features(checkpoint) if bare else checkpoint, module)

    return make


def as_features(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint, to be exported for its last hidden state."""
    task = replace(
        checkpoint.task, name="feature-extraction", output="last_hidden_state", axes=("batch", "sequence", "hidden")
    )
    return replace(checkpoint, task=task)
