"""From a checkpoint to its graph."""

from __future__ import annotations

import onnx

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph.encoder import Encoder
from torchless_export.graph.form import Form, Target, default_form
from torchless_export.graph.nodes import Graph
from torchless_export.graph.parts import Head, Norm
from torchless_export.graph.products import add_dense
from torchless_export.graph.spec import Spec, family_of, read_spec
from torchless_export.graph.tensors import Layout, Tensors
from torchless_export.weights import Weights

__all__ = ["build", "check_supported", "supports"]

_FLOAT = onnx.TensorProto.FLOAT


def check_supported(checkpoint: Checkpoint) -> None:
    """Refuse what the builder cannot build, from config.json and the names and shapes of the weights alone.

    Raises:
        CheckpointError: an architecture, a config value or a tensor that it does not know; the line names it.
    """
    family = family_of(checkpoint)
    Layout(checkpoint, family, read_spec(checkpoint, family))


def supports(checkpoint: Checkpoint) -> bool:
    """Whether `check_supported` passes."""
    try:
        check_supported(checkpoint)
    except CheckpointError:
        return False
    return True


def build(
    checkpoint: Checkpoint, weights: Weights, *, target: Target = "cpu", form: Form | None = None
) -> onnx.ModelProto:
    """Write the checkpoint's graph in float32.

    Args:
        checkpoint: whose task says what comes out.
        weights: its tensors.
        target: the device that the graph is for.
        form: how it is written; None: the form that won where `target` was measured.

    Returns:
        The model, its weights inside. Inputs, all int64 (batch, sequence): `input_ids`, `attention_mask` (1 for
        tokens, 0 for padding), and `token_type_ids` where the checkpoint's tokenizer gives them and there are several.
        Output float32: `logits` (batch, labels), or `last_hidden_state` (batch, sequence, hidden).

    Raises:
        CheckpointError: as `check_supported`, or a tensor that holds a value that is not finite.
        InputError: an unknown target.
    """
    form = form or default_form(target)
    family = family_of(checkpoint)
    spec = read_spec(checkpoint, family)
    tensors = Tensors(checkpoint, weights, family, spec)
    graph = Graph()
    encoder = Encoder(graph, tensors, family, spec, form)
    axes: tuple[str | int, ...]
    if tensors.classifies:
        axes = ("batch", spec.sizes["labels"])
        output = _add_head(graph, tensors, family.head, spec, encoder, form)
    else:
        axes = ("batch", "sequence", spec.sizes["hidden"])
        output = encoder.add(first=False, output="last_hidden_state")
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if spec.token_types else [])]
    return graph.model(inputs, output, axes)


def _add_head(graph: Graph, tensors: Tensors, head: Head, spec: Spec, encoder: Encoder, form: Form) -> str:
    """Add the encoder, as far as the head reads it, and the head; returns the logits."""
    x = _mean(graph, encoder.add(first=False)) if spec.words.get(head.reads) == "mean" else encoder.add(first=True)
    for number, (part, activation) in enumerate(head.steps, start=1):
        path = tensors.head_path(part)
        output = "logits" if number == len(head.steps) else ""
        if isinstance(part, Norm):
            x = encoder.norm(x, part, path, output)
        else:
            between = spec.words.get(activation, activation)
            x = add_dense(graph, tensors, x, part, path, form, activation=between, output=output)
    return x


def _mean(graph: Graph, x: str) -> str:
    """Return the mean of each text's tokens, (batch, hidden)."""
    weights = graph.add("Cast", "attention_mask", name="mean", to=_FLOAT)
    row = graph.add("Unsqueeze", weights, graph.ints(1), name="mean")
    total = graph.add("Squeeze", graph.add("MatMul", row, x, name="mean"), graph.ints(1), name="mean")
    return graph.add("Div", total, graph.add("ReduceSum", weights, graph.ints(1), name="mean"), name="mean")
