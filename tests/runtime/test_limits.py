"""How long a text may be: checked against transformers' own models where they are installed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.limits import max_length, position_limit

# What the families share; transformers' class for each fills in the rest.
SMALL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 12,
    "pad_token_id": 1,
}
EXTRA = {
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "albert": {"embedding_size": 4},
    "luke": {"entity_vocab_size": 5, "entity_emb_size": 4},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "longformer": {"attention_window": 4},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "n_positions": 12},
    "deberta-v2 unbiased": {"position_biased_input": False, "relative_attention": True, "max_relative_positions": 12},
}
LIMITS = {
    "bert": 12,
    "distilbert": 12,
    "albert": 12,
    "electra": 12,
    "deberta-v2": 12,
    "deberta-v2 unbiased": None,
    "roberta": 10,
    "xlm-roberta": 10,
    "camembert": 10,
    "mpnet": 10,
    "ibert": 10,
    "data2vec-text": 10,
    "roberta-prelayernorm": 10,
    "xlm-roberta-xl": 10,
    "xmod": 10,
    "longformer": 10,
    "luke": 10,
    "esm": 10,
    "modernbert": None,
    "t5": None,
}


def config_of(family: str) -> dict[str, object]:
    return {"model_type": family.split()[0]} | SMALL | EXTRA.get(family, {})


@pytest.mark.parametrize("family", LIMITS)
def test_position_limit(family):
    assert position_limit(config_of(family)) == LIMITS[family]


@pytest.mark.parametrize("family", LIMITS)
def test_transformers_runs_up_to_the_limit_and_no_further(family):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.AutoConfig.for_model(**config_of(family))
    model = transformers.AutoModel.from_config(config).eval()
    encoder = model.get_encoder() if family == "t5" else model

    def run(tokens: int) -> None:
        with torch.no_grad():
            encoder(torch.full((1, tokens), 5), attention_mask=torch.ones(1, tokens, dtype=torch.int64))

    limit = LIMITS[family]
    run(limit or 40)
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            run(limit + 1)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, None),
        ({"max_position_embeddings": 7}, 7),
        ({"model_type": "gpt2", "n_positions": 9}, 9),
        ({"model_type": "deberta-v2", "max_position_embeddings": -1}, None),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 1}, 1),
        ({"model_type": ["bert"], "max_position_embeddings": 5}, 5),
        ({"model_type": "bert", "max_position_embeddings": "512"}, None),
    ],
)
def test_position_limit_of_odd_configs(config, limit):
    assert position_limit(config) == limit


@pytest.mark.parametrize(
    ("given_length", "limit", "length"),
    [
        (512, None, 512),
        (512, 128, 128),
        (128, 512, 128),
        (int(1e30), 512, 512),
        (1e30, None, None),
        (None, None, None),
        (None, 64, 64),
        (0, 64, 64),
        (0.5, None, None),
        (-1, None, None),
        ("512", 64, 64),
        (float("nan"), 64, 64),
    ],
)
def test_max_length(given_length, limit, length):
    assert max_length({"model_max_length": given_length}, limit) == length


VALUES = st.none() | st.integers(-5, 40) | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
KEYS = ["model_type", "max_position_embeddings", "n_positions", "max_sequence_length", "pad_token_id"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES | st.sampled_from(["roberta", "t5", "mpnet"])), VALUES)
def test_any_config_gives_a_length_from_1_or_none(config, given_length):
    limit = position_limit(config)
    for length in (limit, max_length({"model_max_length": given_length}, limit)):
        assert length is None or length >= 1
