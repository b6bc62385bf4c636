"""What a checkpoint's config asks for, checked: sizes, activation, and nothing that the builder does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph.activation import ACTIVATIONS
from torchless_export.graph.distances import Distances, read_distances
from torchless_export.graph.families import FAMILIES
from torchless_export.graph.parts import Family, Setting
from torchless_export.graph.rotary import read_rotary

__all__ = ["TASKS", "Spec", "family_of", "read_spec"]

TASKS = ("text-classification", "feature-extraction")

# More than any encoder has; weights shared between layers put no other bound on the graph's size.
_MOST_LAYERS = 512
_MOST = 1 << 31
# The tokenizers of transformers that give no token type ids (`model_input_names` of their classes, 4.57 and 5.x);
# the base class gives them.
_WITHOUT_TOKEN_TYPES = ("Camembert", "DistilBert", "MPNet", "ModernBert", "Roberta", "XLMRoberta")


@dataclass(frozen=True, slots=True)
class Spec:
    """The config, as far as the graph depends on it.

    Attributes:
        sizes: name -> size, as the family's parts name them; "labels" among them.
        words: name -> an activation, one of `ACTIVATIONS`, or another choice; "activation" is the feed-forward's.
        flags: name -> whether.
        eps: of the normalizations.
        local: of each layer, whether a token sees only those within half a window; empty for none.
        thetas: the bases of rotary positions in layers that see all tokens, and in those that do not.
        pad: the id that positions are counted from, where they are.
        token_types: token type ids are an input; otherwise every token is of type 0.
        distances: of a family with disentangled attention.
    """

    sizes: Mapping[str, int]
    words: Mapping[str, str]
    flags: Mapping[str, bool]
    eps: float
    pad: int
    token_types: bool
    local: tuple[bool, ...] = ()
    thetas: tuple[float, float] = (0.0, 0.0)
    distances: Distances | None = None

    @property
    def layers(self) -> int:
        """How many layers run, one after the other."""
        return self.sizes["layers"] * self.sizes.get("inner", 1)

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.sizes["hidden"] // self.sizes["heads"]

    @property
    def score_variance(self) -> int:
        """How many products of two numbers a score sums: it is divided by the root."""
        return self.head_size * (self.distances.terms if self.distances else 1)


def family_of(checkpoint: Checkpoint) -> Family:
    """Return the checkpoint's family.

    Raises:
        CheckpointError: an architecture or a task that the builder does not know.
    """
    where = checkpoint.path / "config.json"
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise CheckpointError(
            f"{where}: model_type {checkpoint.architecture!r} is none that the graph builder knows "
            f"({', '.join(sorted(FAMILIES))}); export with --converter optimum"
        )
    if checkpoint.task.name not in TASKS:
        raise CheckpointError(f"{where}: the graph builder knows no head for {checkpoint.task.name}")
    return family


def read_spec(checkpoint: Checkpoint, family: Family) -> Spec:
    """Return what config.json asks for.

    Raises:
        CheckpointError: a value of the wrong kind, or one under which the arithmetic is not the one built here; the
            line names the key.
    """
    config = _Config(checkpoint)
    for key, allowed in family.fixed.items():
        config.check_fixed(key, allowed)
    sizes: dict[str, int] = {}
    words: dict[str, str] = {}
    flags: dict[str, bool] = {}
    for name, setting in family.settings.items():
        if isinstance(setting.default, bool):
            flags[name] = config.flag(setting)
        elif isinstance(setting.default, str):
            words[name] = config.word(setting)
        elif isinstance(setting.default, int) and name != "pad":
            sizes[name] = config.size(setting, sizes.get(setting.same_as))
    sizes["labels"] = len(checkpoint.labels)
    count = 1
    for name in ("layers", "inner"):
        count *= sizes.get(name, 1)
        if count > _MOST_LAYERS:
            config.refuse(family.settings[name].keys[0], sizes[name], f"at most {_MOST_LAYERS} layers in all")
    if sizes["hidden"] % sizes["heads"]:
        key = family.settings["heads"].keys[0]
        config.refuse(key, sizes["heads"], f"a divisor of {family.settings['hidden'].keys[0]}, {sizes['hidden']}")
    if sizes.get("groups", 1) > sizes["layers"]:
        config.refuse("num_hidden_groups", sizes["groups"], f"at most the number of layers, {sizes['layers']}")
    counted = family.embeddings.count_from_pad
    rotary = read_rotary(checkpoint, sizes) if family.rotary else None
    distances = read_distances(checkpoint, sizes, flags["relative"]) if family.disentangled else None
    if distances:
        sizes["distances"] = 2 * distances.span
    return Spec(
        sizes=sizes,
        words=words,
        flags=flags,
        eps=config.number(family.settings["eps"]),
        pad=config.token(family.settings["pad"], sizes["positions"]) if counted else 0,
        token_types=sizes.get("types", 0) > 1 and _gives_token_types(checkpoint, family),
        local=rotary.local if rotary else (),
        thetas=rotary.thetas if rotary else (0.0, 0.0),
        distances=distances,
    )


class _Config:
    """config.json, asked for values of one kind."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._values = checkpoint.config
        self._where = checkpoint.path / "config.json"

    def refuse(self, key: str, found: Any, wanted: str) -> None:
        raise CheckpointError(f"{self._where}: {key} is {found!r:.80}, wanted {wanted}")

    def check_fixed(self, key: str, allowed: tuple[Any, ...]) -> None:
        if key in self._values and self._values[key] not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            self.refuse(key, self._values[key], f"{wanted}: the graph builder knows no other; use --converter optimum")

    def size(self, setting: Setting, default: int | None = None) -> int:
        key, value = self._find(setting if default is None else replace(setting, default=default))
        if not _is_integer(value) or not 0 < value < _MOST:
            # A table of token types may be empty, or absent.
            if key == "type_vocab_size" and value == 0 and _is_integer(value):
                return 0
            self.refuse(key, value, "a whole number, 1 or more")
        return int(value)

    def token(self, setting: Setting, positions: int) -> int:
        key, value = self._find(setting)
        if not _is_integer(value) or not 0 <= value < positions:
            self.refuse(key, value, f"a token's id below the number of positions, {positions}")
        return int(value)

    def number(self, setting: Setting) -> float:
        key, value = self._find(setting)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            self.refuse(key, value, "a number between 0 and 1")
        return float(value)

    def word(self, setting: Setting) -> str:
        key, value = self._find(setting)
        choices = setting.choices or tuple(sorted(ACTIVATIONS))
        if not isinstance(value, str) or value not in choices:
            self.refuse(key, value, f"one of {', '.join(choices)}")
        return str(value)

    def flag(self, setting: Setting) -> bool:
        key, value = self._find(setting)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return bool(value)

    def _find(self, setting: Setting) -> tuple[str, Any]:
        """Return the key that is there and its value; two that differ are refused."""
        found = [(key, self._values[key]) for key in setting.keys if key in self._values]
        for key, value in found[1:]:
            if value != found[0][1]:
                self.refuse(key, value, f"the same as {found[0][0]}, {found[0][1]!r}")
        return found[0] if found else (setting.keys[0] if setting.keys else "", setting.default)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _gives_token_types(checkpoint: Checkpoint, family: Family) -> bool:
    """Whether the checkpoint's tokenizer, opened by transformers, gives token type ids."""
    named = checkpoint.tokenizer_config.get("model_input_names")
    if isinstance(named, list):
        return "token_type_ids" in named
    kind = checkpoint.tokenizer_config.get("tokenizer_class") or checkpoint.config.get("tokenizer_class")
    if not isinstance(kind, str):
        return family.token_types
    return not kind.startswith(_WITHOUT_TOKEN_TYPES)
