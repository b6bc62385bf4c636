"""A family's tensors in a checkpoint: every name and shape is checked before the first is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph.parts import Convolution, Family, Linear, Norm, Table
from torchless_export.graph.spec import Spec
from torchless_export.weights import Float32, Weights

__all__ = ["Layout", "Tensors", "scaled"]

Part = Linear | Norm | Table | Convolution

# Names that normalizations had before transformers 2; it still renames them as it loads.
_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


class Layout:
    """Where a checkpoint has each part of its family, by name and shape alone.

    Attributes:
        prefix: before every encoder tensor here.
        classifies: the head is built.
    """

    def __init__(self, checkpoint: Checkpoint, family: Family, spec: Spec) -> None:
        """Find every tensor that the graph will need.

        Raises:
            CheckpointError: one is missing or of another shape, or the encoder has one that nothing here reads.
        """
        self._family = family
        self._spec = spec
        self._checkpoint = checkpoint
        self._there = checkpoint.tensors
        word = f"{family.embeddings.word.path}.weight"
        self.prefix = "" if word in self._there and family.prefix + word not in self._there else family.prefix
        self.classifies = checkpoint.task.name == "text-classification"
        self._check()

    def path(self, part: Part, layer: int | None = None) -> str:
        """Return a part's full path; layers that share their weights share it."""
        if layer is None:
            return f"{self.prefix}{part.path}"
        sizes = self._spec.sizes
        inner = sizes.get("inner", 1)
        number = layer // inner
        # AlbertTransformer.forward: the group that a layer takes its weights from.
        group = int(number / (sizes["layers"] / sizes.get("groups", 1)))
        place = self._family.layer.path.format(layer=layer, group=group, inner=layer % inner)
        return f"{self.prefix}{place}.{part.path}"

    def has_bias(self, part: Linear | Norm) -> bool:
        """Whether the part has a bias, which some configs say."""
        return part.bias is not None and (not part.bias or self._spec.flags[part.bias])

    def has(self, table: Table) -> bool:
        """Whether the table is there, which some configs say."""
        return not table.when or self._spec.flags[table.when]

    def head_path(self, part: Linear | Norm) -> str:
        """Return the full path of a part of the head."""
        return f"{self.prefix}{part.path[1:]}" if part.path.startswith(".") else part.path

    def _check(self) -> None:
        read = set()
        for name, shape in self._wanted():
            found = self._found(name)
            read.add(found)
            if found not in self._there:
                raise CheckpointError(
                    f"{self._checkpoint.path}: its weights lack the tensor {name}; "
                    "export a checkpoint that was fine-tuned for the task, with the config it was saved with"
                )
            if self._there[found] != shape:
                raise CheckpointError(
                    f"{self._checkpoint.path}: the tensor {found} is {list(self._there[found])}, config.json wants "
                    f"{list(shape)}; they are not of one model"
                )
        roots = tuple(self.prefix + root for root in self._family.roots)
        for name in self._there:
            if name.startswith(roots) and name not in read and not name.endswith(self._family.ignored):
                raise CheckpointError(
                    f"{self._checkpoint.path}: the tensor {name} is none that the graph builder knows for "
                    f"{self._checkpoint.architecture!r} with this config.json; export with --converter optimum"
                )

    def _wanted(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and shape of every tensor, in the order of the graph."""
        family, sizes = self._family, self._spec.sizes
        embeddings = family.embeddings
        for part in _parts(embeddings):
            absent = isinstance(part, Table) and not (sizes[part.rows] and self.has(part))
            if not absent and (part is not embeddings.projection or self.projection):
                yield from self._shapes(self.path(part), part)
        yield from self._disentangled()
        if family.relative_bias:
            yield from self._shapes(self.path(family.relative_bias), family.relative_bias)
        for layer in range(self._spec.layers):
            for part in _parts(family.layer):
                if layer or part is not family.layer.attention_norm or not family.layer.norm_first:
                    yield from self._shapes(self.path(part, layer), part)
        if family.final_norm:
            yield from self._shapes(self.path(family.final_norm), family.final_norm)
        if self.classifies:
            for part, _ in family.head.steps:
                yield from self._shapes(self.head_path(part), part)

    def _disentangled(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        parts, distances, hidden = self._family.disentangled, self._spec.distances, self._spec.sizes["hidden"]
        if not parts or not distances:
            return
        if self.has(parts.table):
            yield from self._shapes(self.path(parts.table), parts.table)
        if distances.normalized:
            yield from self._shapes(self.path(parts.norm), parts.norm)
        if not distances.shared:
            asked = ((parts.key, distances.to_position), (parts.query, distances.to_content))
            for part in (part for part, there in asked if there):
                for layer in range(self._spec.layers):
                    yield from self._shapes(self.path(part, layer), part)
        if distances.kernel:
            path, norm = self.path(parts.convolution), parts.convolution.norm
            yield f"{path}.weight", (hidden, hidden // distances.groups, distances.kernel)
            yield f"{path}.bias", (hidden,)
            yield from self._shapes(self.path(norm), norm)

    @property
    def projection(self) -> Linear | None:
        """The product from the embeddings' width to the model's, where there is one."""
        embeddings, sizes = self._family.embeddings, self._spec.sizes
        same = embeddings.projection is None or sizes["embedding"] == sizes["hidden"]
        return None if same and not embeddings.always_projected else embeddings.projection

    def _shapes(self, path: str, part: Linear | Norm | Table) -> Iterator[tuple[str, tuple[int, ...]]]:
        sizes = self._spec.sizes
        if isinstance(part, Table):
            yield f"{path}.weight", (sizes[part.rows], sizes[part.width])
            return
        wide = sizes[part.size] if isinstance(part, Norm) else sizes[part.out] * part.times
        yield f"{path}.weight", (wide,) if isinstance(part, Norm) else (wide, sizes[part.into])
        if self.has_bias(part):
            yield f"{path}.bias", (wide,)

    def _found(self, name: str) -> str:
        """Return the name under which the checkpoint has `name`, which may be an old one."""
        if name not in self._there:
            for new, old in _OLD_NAMES:
                if name.endswith(new) and name.removesuffix(new) + old in self._there:
                    return name.removesuffix(new) + old
        return name


class Tensors(Layout):
    """The tensors themselves; each is read when it is asked for, and not kept."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights, family: Family, spec: Spec) -> None:
        """As `Layout`: every name and shape is checked before the first tensor is read."""
        super().__init__(checkpoint, family, spec)
        self._weights = weights

    def matrix(self, path: str, part: Linear, index: int = 0) -> Float32:
        """Return the (in, out) matrix of the dense layer at `path`, the `index`-th where it has several."""
        return np.split(self.read(f"{path}.weight"), part.times)[index].T

    def bias(self, path: str, part: Linear | Norm, index: int = 0) -> Float32:
        """Return its (out,) bias."""
        return np.split(self.read(f"{path}.bias"), part.times if isinstance(part, Linear) else 1)[index]

    def read(self, name: str) -> Float32:
        """Return a tensor as float32.

        Raises:
            CheckpointError: it cannot be read, or holds a value that is not finite.
        """
        return self._weights.read(self._found(name))


def scaled(array: Float32, variance: int) -> Float32:
    """Return `array` by 1 / sqrt(variance), rounded once."""
    return (array * np.float64(1 / math.sqrt(variance))).astype(np.float32)


def _parts(row: Any) -> Iterator[Linear | Norm | Table]:
    for entry in dataclasses.fields(row):
        value = getattr(row, entry.name)
        if isinstance(value, Linear | Norm | Table):
            yield value
