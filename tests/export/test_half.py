"""`torchless_export.half`: which tensors become float16, what is refused, and what the emulation rounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

import onnxruntime as ort  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from torchless.errors import CheckpointError  # noqa: E402
from torchless_export.half import emulation, tensor_types, to_float16  # noqa: E402

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
EYE = np.eye(4, dtype=np.float32)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], f"{output}/{operator}", **attributes)


def model(*nodes: Any, opset: int = 20, rank: int = 3, **constants: np.ndarray) -> Any:
    """A model of `ids` int64 (batch, sequence) and `y` float32."""
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
            [helper.make_tensor_value_info("y", FLOAT, list("abcd"[:rank]))],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )


def run(made: Any, ids: Any = ((0, 1, 2, 3),)) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.array(ids, np.int64)})[0]


def types(made: Any) -> dict[str, int]:
    return {name: kind for name, kind in tensor_types(made).items() if kind in (FLOAT, HALF)}


def encoder(table: np.ndarray, weight: np.ndarray = EYE) -> Any:
    """An embedding, a product, a norm, and a head of two products."""
    return model(
        node("Gather", "table ids", "x"),
        node("MatMul", "x weight", "h"),
        node("LayerNormalization", "h ones", "n"),
        node("MatMul", "n weight", "p"),
        node("Tanh", "p", "t"),
        node("MatMul", "t head", "y"),
        table=table,
        weight=weight,
        ones=np.ones(4, np.float32),
        head=EYE,
    )


def test_all_is_float16_but_the_head_and_the_output() -> None:
    made = to_float16(encoder(EYE))
    onnx.checker.check_model(made, full_check=True)
    found = types(made)
    assert {name: found[name] for name in ("x", "h", "n", "table", "ones")} == dict.fromkeys(
        ("x", "h", "n", "table", "ones"), HALF
    )
    assert {name: found[name] for name in ("p", "t", "y", "head:float32")} == dict.fromkeys(
        ("p", "t", "y", "head:float32"), FLOAT
    )
    # A weight that both read is there in both.
    assert found["weight"] == HALF
    assert found["weight:float32"] == FLOAT
    assert [n.input[0] for n in made.graph.node if n.op_type == "Cast"] == ["n"]
    assert np.abs(run(made) - run(encoder(EYE))).max() < 1e-3


def test_an_output_of_the_encoder_itself_is_cast() -> None:
    made = to_float16(
        model(
            node("Gather", "table ids", "x"),
            node("LayerNormalization", "x ones", "y"),
            table=EYE,
            ones=np.ones(4, np.float32),
        )
    )
    onnx.checker.check_model(made, full_check=True)
    assert [n.op_type for n in made.graph.node] == ["Gather", "LayerNormalization", "Cast"]
    assert types(made)["y"] == FLOAT
    assert run(made).dtype == np.float32


@pytest.mark.parametrize(
    ("nodes", "kinds", "rank"),
    [
        # CumSum takes no float16 before opset 14: it stays, between two casts.
        (
            [node("Gather", "table ids", "x"), node("CumSum", "x axis", "c"), node("Softmax", "c", "y")],
            {"x": HALF, "c": FLOAT},
            3,
        ),
        # What is float32 for the sake of a Cast alone is not.
        ([node("Cast", "ids", "f", to=FLOAT), node("Softmax", "f", "y")], {"f": HALF}, 2),
        # Angles, and all that they come from.
        (
            [
                node("Cast", "ids", "f", to=FLOAT),
                node("Mul", "f f", "a"),
                node("Cos", "a", "c"),
                node("Mul", "c c", "h"),
                node("Softmax", "h", "y"),
            ],
            {"f": FLOAT, "a": FLOAT, "c": FLOAT, "c:float16": HALF, "h": HALF},
            2,
        ),
        (
            [node("Shape", "ids", "s"), node("ConstantOfShape", "s", "z"), node("Softmax", "z", "y")],
            {"z": HALF},
            2,
        ),
        (
            [
                node("Constant", "", "k", value=numpy_helper.from_array(EYE)),
                node("Gather", "k ids", "g"),
                node("Softmax", "g", "y"),
            ],
            {"k": HALF, "g": HALF},
            3,
        ),
    ],
)
def test_which_nodes_are_float16(nodes: list[Any], kinds: dict[str, int], rank: int) -> None:
    made = to_float16(model(*nodes, opset=13, rank=rank, table=EYE, axis=np.array(1, np.int64)))
    onnx.checker.check_model(made, full_check=True)
    found = types(made)
    assert {name: found[name] for name in kinds} == kinds
    assert run(made).dtype == run(emulation(made)).dtype == np.float32


@pytest.mark.parametrize("largest", [65504.0, -65504.0])
def test_weights_up_to_the_largest_float16(largest: float) -> None:
    made = to_float16(encoder(EYE * np.float32(largest)))
    [table] = [numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "table"]
    assert table.dtype == np.float16
    assert table[0, 0] == largest


@pytest.mark.parametrize("beyond", [65505.0, -1e30])
def test_a_weight_beyond_float16_is_refused(beyond: float) -> None:
    said = rf"^fp16: table holds {re.escape(f'{abs(beyond):g}')}, beyond float16's 65504; leave the variant out$"
    with pytest.raises(CheckpointError, match=said):
        to_float16(encoder(EYE * np.float32(beyond)))


def test_a_mask_still_masks_and_two_of_them_are_finite() -> None:
    lowest = np.finfo(np.float32).min
    made = to_float16(
        model(
            node("Gather", "values ids", "m"),
            node("Add", "m m", "twice"),
            node("Softmax", "twice", "y"),
            rank=2,
            values=np.array([lowest, 0, 1, 2], np.float32),
        )
    )
    [values] = [numpy_helper.to_array(t) for t in made.graph.initializer]
    assert np.isfinite(values + values).all()
    assert run(emulation(made), [[0, 0, 1, 1]]).tolist() == [[0, 0, 0.5, 0.5]]
    assert np.isfinite(run(emulation(made), [[0, 0, 0, 0]])).all()


def test_operators_that_are_not_known_are_refused() -> None:
    inner = helper.make_graph([], "inner", [], [])
    branch = node("If", "c", "y", then_branch=inner, else_branch=inner)
    with pytest.raises(CheckpointError, match="fp16: the graph has If, which runs a graph of its own"):
        to_float16(model(branch, c=np.array(True)))
    with pytest.raises(CheckpointError, match="fp16: the operator Nonsense is none of ONNX 20; leave the variant out"):
        to_float16(model(node("Nonsense", "ids", "y")))
    with pytest.raises(CheckpointError, match="what RandomNormalLike gives cannot be told from the graph"):
        to_float16(model(node("RandomNormalLike", "ids", "y")))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=16, max_size=16))
def test_the_emulation_rounds_as_numpy_does(numbers: list[float]) -> None:
    table = np.array(numbers, np.float32).reshape(4, 4)
    made = to_float16(
        model(node("Gather", "table ids", "x"), node("Add", "x x", "d"), node("Softmax", "d", "y"), table=table)
    )
    twice = emulation(made)
    twice.graph.output.append(helper.make_tensor_value_info("d", FLOAT, None))
    session = ort.InferenceSession(twice.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["d"], {"ids": np.arange(4).reshape(1, 4)})[0][0]
    with np.errstate(over="ignore"):
        half = table.astype(np.float16)
        want = (half + half).astype(np.float32)
    np.testing.assert_array_equal(found, want)


def test_what_overflows_on_a_gpu_overflows_in_the_emulation() -> None:
    made = to_float16(
        model(
            node("Gather", "table ids", "x"),
            node("MatMul", "x table", "p"),
            node("MatMul", "p small", "q"),
            node("Softmax", "q", "y"),
            table=EYE * 300,
            small=EYE / 300,
        )
    )
    # ONNX Runtime's CPU has no such kernels: it keeps float32 between the nodes, and would not show it.
    assert np.isfinite(run(made)).all()
    assert not np.isfinite(run(emulation(made))).all()


def test_the_emulation_of_an_encoder_is_within_the_tolerance(random_encoder: Callable[..., Any]) -> None:
    made, inputs = random_encoder()
    [want], [got] = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)
        for m in (made, emulation(to_float16(made)))
    )
    assert 0 < np.abs(want - got).max() < 0.02


@pytest.fixture
def random_encoder(make_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that builds a random checkpoint's graph for CUDA, and inputs for it."""
    from torchless_export import graph
    from torchless_export.checkpoint import open_checkpoint
    from torchless_export.weights import Weights

    def make() -> tuple[Any, dict[str, np.ndarray]]:
        checkpoint = open_checkpoint(make_checkpoint(family="bert"))
        with Weights(checkpoint) as weights:
            made = graph.build(checkpoint, weights, target="cuda")
        mask = np.array([[1] * 9, [1] * 4 + [0] * 5], np.int64)
        ids = np.random.default_rng(0).integers(5, 40, mask.shape) * mask
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return made, {value.name: feeds[value.name] for value in made.graph.input}

    return make
