"""ModernBERT: long sequences, and its settings under the names of either major version of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.errors import CheckpointError
from torchless_export.reference import NumPyReference

GLOBAL, LOCAL = "full_attention", "sliding_attention"


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    return {"input_ids": np.random.default_rng(0).integers(3, 50, (2, 30))}


def rewritten(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(config | changes))


def test_positions_in_the_thousands(make_model: Callable[..., Any]):
    # Angles of thousands of radians: the frequencies must be rounded as the original's are.
    made = make_model("modernbert", num_hidden_layers=2, num_attention_heads=1, hidden_size=64, labels=2)
    inputs = {"input_ids": np.random.default_rng(0).integers(3, 50, (1, 2000))}
    task = "feature-extraction"
    np.testing.assert_allclose(made.found(inputs, task), made.wanted(inputs, task), rtol=0, atol=2e-5)


OLD = ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")
NEW = ("rope_parameters", "layer_types")


def test_names_of_either_version_say_the_same(make_model: Callable[..., Any], inputs: dict[str, np.ndarray]):
    made = make_model("modernbert", num_hidden_layers=4)
    wanted = made.found(inputs)
    rewritten(made.folder, OLD + NEW)  # all defaults
    np.testing.assert_array_equal(made.found(inputs), wanted)
    rewritten(made.folder, global_rope_theta=50.0, local_rope_theta=9.0, global_attn_every_n_layers=2)
    old = made.found(inputs)
    assert np.abs(old - wanted).max() > 1e-3
    theta = {GLOBAL: {"rope_theta": 50.0, "rope_type": "default"}, LOCAL: {"rope_theta": 9}}
    rewritten(made.folder, OLD, rope_parameters=theta, layer_types=[GLOBAL, LOCAL, GLOBAL, LOCAL])
    np.testing.assert_array_equal(made.found(inputs), old)
    rewritten(made.folder, global_rope_theta=50.0, local_rope_theta=9.0, global_attn_every_n_layers=2)
    np.testing.assert_array_equal(made.found(inputs), old)


def test_local_layers_without_their_own_theta_have_the_global_one(
    make_model: Callable[..., Any], inputs: dict[str, np.ndarray]
):
    made = make_model("modernbert")
    rewritten(made.folder, NEW, global_rope_theta=50.0, local_rope_theta=None)
    found = made.found(inputs)
    rewritten(made.folder, global_rope_theta=50.0, local_rope_theta=50.0)
    np.testing.assert_array_equal(found, made.found(inputs))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer_types": [GLOBAL]}, r"layer_types is \['full_attention'\], .* one for each of the 4 layers"),
        ({"layer_types": [GLOBAL, "linear_attention", LOCAL, LOCAL]}, "layer_types is .* knows only 'full_attention' "),
        (
            {"layer_types": [LOCAL] * 4, "global_attn_every_n_layers": 3},
            "layer_types is .*, .* only what global_attn_every_n_layers, 3, says too;",
        ),
        ({"rope_parameters": {"rope_theta": 5}}, "rope_parameters is {'rope_theta': 5}, "),
        ({"rope_parameters": {GLOBAL: {"rope_type": "yarn"}}}, "rope_parameters is .*'yarn'.* knows only 'rope_type'"),
        ({"rope_parameters": {GLOBAL: {"rope_theta": 5, "factor": 2}}}, "rope_parameters is .*'factor'"),
        ({"rope_parameters": {GLOBAL: {"rope_theta": -5}}}, "rope_parameters is .*-5"),
        ({"rope_parameters": {GLOBAL: {"rope_theta": True}}}, "rope_parameters is .*True"),
        ({"rope_parameters": {GLOBAL: 7}}, "rope_parameters is .*7"),
        ({"rope_parameters": {LOCAL: {"rope_theta": 5}}, "local_rope_theta": 6.0}, "rope_parameters is .*5"),
        ({"rope_theta": 5.0}, "rope_theta is 5.0 and global_rope_theta, another name of the same, "),
    ],
)
def test_settings_that_contradict_or_are_unknown(make_model: Callable[..., Any], changes: dict[str, Any], says: str):
    made = make_model("modernbert")
    rewritten(made.folder, OLD + NEW, **changes)
    with pytest.raises(CheckpointError, match=says):
        NumPyReference(made.checkpoint())
