"""Work on ONNX graphs that knows nothing of what they compute: names, pruning, and models with another graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

__all__ = ["Names", "opset_version", "pruned", "with_graph"]


def opset_version(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that `model` is written in, 0 where it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def with_graph(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return `model` with another graph; its own is not copied."""
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            result.graph.CopyFrom(graph)
        elif isinstance(value, str | int):
            setattr(result, field.name, value)
        else:
            getattr(result, field.name).extend(value)
    return result


def pruned(
    graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto]
) -> onnx.GraphProto:
    """Return `graph` with these nodes and these constants beside its own, less all that no output needs."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    result = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string)
    result.input.extend(graph.input)
    result.output.extend(graph.output)
    result.node.extend(reversed(kept))
    for tensor in (*graph.initializer, *constants):
        if tensor.name in needed:
            result.initializer.append(tensor)
    made = {name for node in kept for name in node.output}
    result.value_info.extend(value for value in graph.value_info if value.name in made)
    return result


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, those of its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= reads(inner)
            names.update(value.name for value in graph.output)
    return names


class Names:
    """The names in use, of tensors and of nodes, and new ones that are not."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._used = {v.name for v in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)}
        for node in graph.node:
            self._used |= {node.name, *node.output, *reads(node)}

    def fresh(self, base: str) -> str:
        """Return `base`, with a number behind it where it is taken, and take it."""
        name, number = base, 1
        while name in self._used:
            name, number = f"{base}_{number}", number + 1
        self._used.add(name)
        return name
