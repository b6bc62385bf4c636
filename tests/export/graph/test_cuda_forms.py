"""The forms that are for CUDA, run by what a CPU has: ONNX Runtime's CPU kernels, or their operators in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from built_graphs import SMALL, Arrays, built, check, run, texts
from packed_operators import OPERATORS
from torchless_export import graph
from torchless_export.graph import Form
from torchless_export.graph.families import FAMILIES

LENGTHS = Form(qkv="one", attention="lengths", gelu="bias", norm="skip")
PACKED = Form(qkv="one", attention="packed", gelu="bias", norm="skip")
# Scores with a bias of their own, or none that one node can hold.
OTHERWISE = {"deberta-v2": "MatMul", "modernbert": "MultiHeadAttention", "mpnet": "MultiHeadAttention"}
PLAIN = sorted(FAMILIES.keys() - OTHERWISE)


def operators(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


@st.composite
def batches(draw: st.DrawFn, families: list[str]) -> dict[str, Any]:
    return {
        "family": draw(st.sampled_from(families)),
        "bare": draw(st.booleans()),
        "batch": draw(st.integers(1, 5)),
        "length": draw(st.integers(1, 17)),
        "mask": draw(st.sampled_from(["right", "none"])),
        "seed": draw(st.integers(0, 9)),
        "form": {
            "qkv": draw(st.sampled_from(["three", "one"])),
            "last_layer": draw(st.sampled_from(["read", "whole"])),
        },
    }


def inputs_of(case: dict[str, Any]) -> Arrays:
    return texts(
        case["batch"], case["length"], case["mask"], seed=case["seed"], pad=1, vocab=60,
        types=FAMILIES[case["family"]].token_types,
    )  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=batches(sorted(FAMILIES)))
def test_texts_lengths_do_for_a_mask(case: dict[str, Any], random_model: Callable[..., Any]) -> None:
    model = random_model(case["family"], bare=case["bare"], **SMALL)
    form = Form(attention="lengths", gelu="bias", norm="skip", **case["form"])
    check(model, inputs_of(case), built(model.checkpoint, form=form))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=batches(PLAIN))
def test_without_padding_the_answers_are_the_same(case: dict[str, Any], random_model: Callable[..., Any]) -> None:
    model = random_model(case["family"], bare=case["bare"], **SMALL)
    made = built(model.checkpoint, form=Form(attention="packed", gelu="bias", norm="skip", **case["form"]))
    inputs = inputs_of(case)
    names = {i.name for i in made.graph.input}
    [got] = ReferenceEvaluator(made, new_ops=OPERATORS).run(None, {name: inputs[name] for name in names})
    want = model.answers({name: inputs[name] for name in names})
    # What stands in the rows of padding is nobody's business.
    tokens = inputs["attention_mask"] > 0 if case["bare"] else slice(None)
    assert got.shape == want.shape
    np.testing.assert_allclose(got[tokens], want[tokens], rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("family", PLAIN)
def test_which_nodes_attend(family: str, random_model: Callable[..., Any]) -> None:
    checkpoint = random_model(family, **SMALL).checkpoint
    assert "PackedMultiHeadAttention" in operators(built(checkpoint, form=PACKED))
    assert "MultiHeadAttention" in operators(built(checkpoint, form=LENGTHS))
    attends = [n for n in built(checkpoint, form=LENGTHS).graph.node if n.op_type == "MultiHeadAttention"]
    # query, key, value, bias, key_padding_mask: and no bias of the scores.
    assert all(len(node.input) == 5 and node.input[4] for node in attends)


@pytest.mark.parametrize("family", sorted(OTHERWISE))
@pytest.mark.parametrize("form", [LENGTHS, PACKED], ids=["lengths", "packed"])
def test_other_biases_are_written_out(family: str, form: Form, random_model: Callable[..., Any]) -> None:
    config = SMALL | ({"hidden_size": 24, "num_attention_heads": 3} if family == "modernbert" else {})
    model = random_model(family, **config)
    made = built(model.checkpoint, form=form)
    assert OTHERWISE[family] in operators(made)
    assert not operators(made) & {"PackedMultiHeadAttention", "RemovePadding", "RestorePadding"}
    check(model, texts(3, 16, "right", seed=5, pad=1, vocab=60, types=FAMILIES[family].token_types), made)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_text_of_nothing_but_padding_is_finite(family: str, random_model: Callable[..., Any]) -> None:
    model = random_model(family, **SMALL)
    inputs = texts(2, 5, "none", seed=3, pad=1, vocab=60, types=True)
    inputs["attention_mask"][1] = 0
    for form in graph.candidates("cuda"):
        if form.attention != "packed":
            assert np.isfinite(run(built(model.checkpoint, form=form), inputs)).all()
    made = built(model.checkpoint, form=PACKED)
    names = {i.name for i in made.graph.input}
    [got] = ReferenceEvaluator(made, new_ops=OPERATORS).run(None, {name: inputs[name] for name in names})
    assert np.isfinite(got).all()
