"""Graphs that are none of an encoder's, or were made to harm whoever runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from attempts import RESIDENT, attempt, check_refused
from hostile import answer, classifier, seal
from torchless import probe
from torchless.bundle import Bundle
from torchless.devices import Device
from torchless.errors import BundleError

onnx = pytest.importorskip("onnx")
node = onnx.helper.make_node


def deep_tree() -> bytes:
    """A decision tree of 200,000 levels, which ONNX Runtime reads by recursion: it overflows the stack."""
    depth = 200_000
    leaves = list(range(depth, 2 * depth + 1))
    count = 2 * depth + 1
    tree = node(
        "TreeEnsembleRegressor",
        ["float"],
        ["tree"],
        domain="ai.onnx.ml",
        nodes_treeids=[0] * count,
        nodes_nodeids=list(range(count)),
        nodes_featureids=[0] * count,
        nodes_values=[float(i) for i in range(count)],
        nodes_modes=["BRANCH_LT"] * depth + ["LEAF"] * (depth + 1),
        nodes_truenodeids=[*range(depth, 2 * depth), *[0] * (depth + 1)],
        nodes_falsenodeids=[*range(1, depth), 2 * depth, *[0] * (depth + 1)],
        target_treeids=[0] * len(leaves),
        target_nodeids=leaves,
        target_ids=[0] * len(leaves),
        target_weights=[1.0] * len(leaves),
        n_targets=1,
    )
    nodes = [node("Cast", ["input_ids"], ["float"], to=1), tree, node("Concat", ["tree", "tree"], ["logits"], axis=1)]
    return classifier(nodes, domains=[("", 17), ("ai.onnx.ml", 3)])


def endless_loop() -> bytes:
    """A loop whose condition stays true, for 2**63 - 1 rounds, around an honest answer."""
    body = onnx.helper.make_graph(
        [node("Identity", ["going"], ["still"]), node("Mul", ["state", "one"], ["next"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("round", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            onnx.helper.make_tensor_value_info("still", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    constants = [
        onnx.numpy_helper.from_array(np.array(2**63 - 1, np.int64), "rounds"),
        onnx.numpy_helper.from_array(np.array(True), "yes"),
        onnx.numpy_helper.from_array(np.ones(1, np.float32), "one"),
    ]
    loop = node("Loop", ["rounds", "yes", "honest"], ["logits"], body=body)
    return classifier([*answer(logits="honest"), loop], initializers=constants)


def memory_bomb() -> bytes:
    """A file of 64 KiB that asks for a tensor of 64 TiB."""
    shape = onnx.numpy_helper.from_array(np.array([1 << 22, 1 << 22], np.int64), "shape")
    nodes = [
        node("ConstantOfShape", ["shape"], ["huge"]),
        node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        *answer(logits="honest"),
        node("Add", ["honest", "sum"], ["logits"]),
    ]
    return classifier(nodes, initializers=[shape])


def large_memory_bomb() -> bytes:
    """As `memory_bomb`, of 12 GiB, which many machines have."""
    shape = onnx.numpy_helper.from_array(np.array([3 << 30], np.int64), "shape")
    nodes = [
        node("ConstantOfShape", ["shape"], ["huge"]),
        node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        *answer(logits="honest"),
        node("Add", ["honest", "sum"], ["logits"]),
    ]
    return classifier(nodes, initializers=[shape])


def with_tensor(tensor: Any) -> bytes:
    """Return an honest graph that adds `tensor`, called v, to its weights."""
    nodes = [node("Add", ["w", "v"], ["x"]), *answer()]
    nodes[1].input[0] = "x"
    return classifier(nodes, initializers=[tensor])


def one_output(*shape: Any, kind: int = 1) -> bytes:
    nodes = answer() if kind == 1 else [*answer(logits="x"), node("Cast", ["x"], ["logits"], to=kind)]
    model = onnx.load_from_string(classifier(nodes, output=("logits", shape)))
    model.graph.output[0].type.tensor_type.elem_type = kind
    data: bytes = model.SerializeToString()
    return data


IDS = ("batch", "sequence")
# Name to the graph, and what is said of it. In a bundle they are refused by the process that opens it.
MISFITS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a custom operator": (
        lambda: classifier([node("Steal", ["input_ids"], ["logits"], domain="evil")], domains=[("", 17), ("evil", 1)]),
        "cannot load it.*(?i:evil|steal)",
    ),
    "an operator of a Python library": (
        lambda: classifier([node("PyOp", ["input_ids"], ["logits"], domain="ai.onnx.contrib")],
                           domains=[("", 17), ("ai.onnx.contrib", 1)]),
        "cannot load it",
    ),
    "a newer operator set": (lambda: classifier(domains=[("", 9999)]), "cannot load it"),
    "an input too many": (lambda: classifier(inputs={"input_ids": IDS, "attention_mask": IDS, "x": IDS}), "its inputs"),
    "an input too few": (lambda: classifier(inputs={"input_ids": IDS}), "its inputs"),
    "another input": (
        lambda: classifier(answer("ids"), inputs={"ids": IDS, "attention_mask": IDS}), "its inputs are"),
    "another output": (lambda: classifier(answer(logits="x"), output=("x", ("batch", 2))), "its outputs are"),
    "no dynamic batch": (
        lambda: classifier(inputs={"input_ids": (1, "sequence"), "attention_mask": (1, "sequence")}), "two free axes"),
    "no dynamic length": (
        lambda: classifier(inputs={"input_ids": ("batch", 16), "attention_mask": ("batch", 16)}), "two free axes"),
    "inputs of three axes": (
        lambda: classifier(inputs={"input_ids": ("a", "b", "c"), "attention_mask": ("a", "b", "c")}), "two free axes"),
    "a fixed output": (lambda: one_output(1, 2), "fixed shape"),
    "an output of another rank": (
        lambda: classifier([node("Gather", ["w", "input_ids"], ["logits"])], output=("logits", (*IDS, 2))),
        "wanted float32 of 2 axes"),
    "an output of integers": (lambda: one_output("batch", 2, kind=7), "wanted float32"),
    "another width": (
        lambda: classifier([*answer(logits="x"), node("Concat", ["x", "x"], ["logits"], axis=1)],
                           output=("logits", ("batch", 4))), "4 scores"),
    "an initializer that is not there": (lambda: classifier([node("Gather", ["x", "input_ids"], ["logits"])]), "load"),
    "a cycle": (
        lambda: classifier([node("Add", ["a", "w"], ["b"]), node("Add", ["b", "w"], ["a"]), *answer()]), "load"),
    "a tensor that lies about its size": (
        lambda: with_tensor(onnx.TensorProto(name="v", data_type=1, dims=[1 << 40, 1 << 20], raw_data=b"1234")),
        "load"),
    "a tensor of negative size": (
        lambda: with_tensor(onnx.TensorProto(name="v", data_type=1, dims=[-4], raw_data=b"1234")), "load"),
    "names that are not UTF-8": (lambda: classifier().replace(b"hostile", b"h\xff\xfe\x80ile"), ""),
    "protobuf within protobuf": (lambda: b"\x3a\xff\xff\xff\xff\x07" * 1000, "load"),
    "a memory bomb": (memory_bomb, "not enough memory|cannot load it"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISFITS)
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_a_graph_that_does_not_fit(request: Any, open_it: Any, kind: str, what: str) -> None:
    folder = request.getfixturevalue(kind)
    make, says = MISFITS[what]
    (folder / ("model.onnx" if kind == "bundle" else "onnx/model.onnx")).write_bytes(make())
    if kind == "bundle":
        seal(folder)
    outcome = open_it(folder)
    if outcome.error is None and what in ("names that are not UTF-8", "an input too few"):
        return  # the name of a graph is of no use to anybody; what nobody described may take fewer inputs
    check_refused(outcome, "InferenceError" if outcome.error == "InferenceError" else "BundleError", says)


# What would end or stop the process that opens it: tried by another one first.

DEADLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "a crash in native code": (deep_tree, "ended the process that tried it, with SIGSEGV"),
    "a loop that never ends": (endless_loop, "took over 5 s in a process of its own"),
    "a large memory bomb": (
        large_memory_bomb,
        "plain text cannot be answered: cpu has not enough memory|cannot load it",
    ),
}


@pytest.mark.parametrize("what", DEADLY)
@pytest.mark.filterwarnings("ignore:.*unverified:torchless.TorchlessWarning")
def test_a_deadly_graph_is_an_error_message(layout: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """In this very process: were it not for the probe, this test would not end."""
    make, says = DEADLY[what]
    if make is endless_loop:
        monkeypatch.setattr(probe, "SECONDS", 5.0)
    (layout / "onnx" / "model.onnx").write_bytes(make())
    with pytest.raises(BundleError, match=says) as caught:
        torchless.pipeline(model=layout, device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_probe_the_process_dies(layout: Path) -> None:
    """What the probe is for; and that `trust=True` leaves it out."""
    (layout / "onnx" / "model.onnx").write_bytes(deep_tree())
    outcome = attempt("pipeline", str(layout), {"trust": True}, ["a fine film"])
    assert outcome.status == -11


def test_a_bundle_from_elsewhere_is_tried_again_when_it_changed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest is unsigned: that of a stranger's bundle from the hub fits whatever they put into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe.probe(Bundle.open(seal(bundle), trusted=False), "fp32", Device("cpu"))
    (bundle / "model.onnx").write_bytes(deep_tree())
    with pytest.raises(BundleError, match="SIGSEGV"):
        probe.probe(Bundle.open(seal(bundle), trusted=False), "fp32", Device("cpu"))


def test_memory_of_an_honest_one(layout: Path, open_it: Any) -> None:
    outcome = open_it(layout)
    assert outcome.error is None
    assert outcome.resident < RESIDENT / 2
