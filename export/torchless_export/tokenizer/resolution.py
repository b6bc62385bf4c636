"""`resolve`: one tokenizer.json that alone gives the ids that transformers gives with all the checkpoint's files.

transformers reads tokenizer.json together with tokenizer_config.json, special_tokens_map.json and added_tokens.json,
and its versions do so differently. 4 (`transformers4.py`) takes tokenizer.json and lets the class change parts of it
by the config: the BERT family's normalizer by `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`, a
byte-level pre-tokenizer by `add_prefix_space`, and in every class the added and special tokens. 5
(`transformers5.py`) keeps the vocabulary alone and builds the rest anew from the class and the config. What holds:

- What both make of the files is taken, also where it is not what tokenizer.json says: a config's `do_lower_case` wins.
  For BERT, DistilBERT, ELECTRA, MPNet, RoBERTa, XLM-R and CamemBERT as they are published that is all there is.
- Where they differ, the version that saved the checkpoint counts (`transformers_version` in config.json; 4, where it
  is not said), if what it has is what tokenizer.json says. A `TorchlessWarning` then names what the other version
  would change, if that changes the ids of any of the texts that ship with torchless. Known to do so in 5: DeBERTa-v2
  (no SentencePiece normalizer; `do_lower_case` and `split_by_punct`, which 4 leaves to tokenizer.json), DeBERTa (two
  separators in a pair), ALBERT's `do_lower_case` and `keep_accents`, `add_prefix_space` of XLM-R and CamemBERT,
  MPNet's `tokenize_chinese_chars`, a `cls_token`, `sep_token` or `unk_token` that is not tokenizer.json's, and every
  normalizer, pre-tokenizer, model option or added token of a checkpoint's own.
- Where that version has something else than tokenizer.json and the other version does not follow, the files
  contradict each other, and nothing says with which of them the model was trained. If ids differ by it, refused in a
  line that names the part. Known: `add_prefix_space` of the generic class, which 4 obeys (unsaid, it is false).
- Where one version cannot load the files, the other's result is taken: for 4, the class `TokenizersBackend`, a list
  of `extra_special_tokens` and a `tokenizer_file`; for 5, a vocabulary of another kind than the class's. If neither
  can, refused. A class of a name that is not in `classes.py` has tokenizer.json as it is, as in 5, unless its config
  holds keys that might mean something.
- Ids aside, 5 gives no `token_type_ids` with ALBERT's and the generic class, and gives them with DistilBERT's where
  the checkpoint names no class. `inputs` says what holds.

tokenizer_config.json and special_tokens_map.json are copied where both versions read them to the same tokenizer.
Otherwise they are written for the generic class, which takes tokenizer.json as it is in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from torchless.errors import CheckpointError, warn_once
from torchless_export.checkpoint import Checkpoint
from torchless_export.texts import TextInput, default_texts
from torchless_export.tokenizer import transformers4, transformers5
from torchless_export.tokenizer.classes import GENERIC, NAMED_TOKENS
from torchless_export.tokenizer.sources import (
    OTHER_WAY,
    LoadedTokenizer,
    LoadError,
    TokenizerSources,
    is_failure,
    read_sources,
)

_Load = Callable[[TokenizerSources], LoadedTokenizer]
_CONFIG, _MAP = "tokenizer_config.json", "special_tokens_map.json"
# So many differences are named in a message.
_LISTED = 4
# Parts that no id depends on.
_WITHOUT_EFFECT = frozenset({"trim_offsets", "special"})


@dataclass(frozen=True, slots=True)
class ResolvedTokenizer:
    """A checkpoint's tokenizer, ready to be written into a bundle.

    Attributes:
        tokenizer_json: all that decides ids; its `padding` and `truncation` are null.
        files: tokenizer_config.json and special_tokens_map.json, with which AutoTokenizer of transformers 4 and 5
            loads `tokenizer_json` to the same ids.
        config: tokenizer_config.json with what transformers adds to it written out: pad token, sides, maximum length;
            for `torchless.hub_layout.read_tokenizer_spec`.
        inputs: what the tokenizer gives a model, of "input_ids", "token_type_ids", "attention_mask".
        notes: what the other version of transformers would change and by how much, in words; it was warned of.
    """

    tokenizer_json: str
    files: Mapping[str, bytes]
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    notes: tuple[str, ...]


def resolve(checkpoint: Checkpoint) -> ResolvedTokenizer:
    """Resolve a checkpoint's tokenizer files into one tokenizer.json; see above for what is taken of them.

    Raises:
        CheckpointError: a file is broken; it asks for something that is not known here or that versions of
            transformers understand differently; or the tokenizer gives ids that the model does not have.
    """
    sources = read_sources(checkpoint)
    first, second = (_attempt(load, sources) for load in _versions(checkpoint))
    chosen = _choose(sources, first, second)
    _check_vocabulary(checkpoint, chosen)
    notes: tuple[str, ...] = ()
    alike = False
    if isinstance(first, LoadedTokenizer) and isinstance(second, LoadedTokenizer):
        parts = _parts(first), _parts(second)
        notes = _judge(sources, first, second, *parts)
        alike = parts[0] == parts[1] and _manner(first) == _manner(second)
    for note in notes:
        warn_once(note)
    copied = alike and not chosen.from_stored and (sources.path / _CONFIG).is_file()
    return ResolvedTokenizer(
        tokenizer_json=chosen.backend.to_str(),
        files=_copied(sources, chosen) if copied else _written(sources, chosen),
        config={
            **sources.config,
            **{key: chosen.tokens.get(key) for key in NAMED_TOKENS},
            "padding_side": chosen.padding_side,
            "truncation_side": chosen.truncation_side,
            "model_max_length": chosen.max_length,
            "pad_token_type_id": 0,  # transformers saves the key, and pads with 0 whatever it says
        },
        inputs=chosen.inputs,
        notes=notes,
    )


def load_tokenizer(checkpoint: Checkpoint) -> LoadedTokenizer:
    """Return the checkpoint's tokenizer as the version of transformers loads it that `resolve` takes.

    Raises:
        CheckpointError: neither version can load it.
    """
    sources = read_sources(checkpoint)
    first, second = _versions(checkpoint)
    loaded = _attempt(first, sources)
    return loaded if isinstance(loaded, LoadedTokenizer) else _choose(sources, loaded, _attempt(second, sources))


def _versions(checkpoint: Checkpoint) -> tuple[_Load, _Load]:
    """Return what loads a tokenizer as the version does that saved the checkpoint, and as the other does."""
    major = str(checkpoint.config.get("transformers_version", "4")).partition(".")[0]
    saved_by_5 = major.isascii() and major.isdigit() and int(major) >= 5
    return (transformers5.load, transformers4.load) if saved_by_5 else (transformers4.load, transformers5.load)


def _attempt(load: _Load, sources: TokenizerSources) -> LoadedTokenizer | LoadError:
    try:
        return load(sources)
    except LoadError as error:
        return error


def _choose(
    sources: TokenizerSources, first: LoadedTokenizer | LoadError, second: LoadedTokenizer | LoadError
) -> LoadedTokenizer:
    for loaded in (first, second):
        if isinstance(loaded, LoadedTokenizer):
            return loaded
    raise CheckpointError(
        f"{sources.path / _CONFIG}: no version of transformers can load the tokenizer: {first}; or {second}; "
        "correct its files"
    )


def _check_vocabulary(checkpoint: Checkpoint, chosen: LoadedTokenizer) -> None:
    size = checkpoint.config.get("vocab_size")
    token, largest = max(chosen.backend.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if isinstance(size, int) and largest >= size:
        raise CheckpointError(
            f"{checkpoint.path}: its tokenizer gives the id {largest} ({token!r}), config.json's vocab_size is {size}; "
            "use the tokenizer that the model was trained with, or resize the model's embeddings to it"
        )


def _judge(
    sources: TokenizerSources,
    chosen: LoadedTokenizer,
    other: LoadedTokenizer,
    parts: Mapping[str, Any],
    other_parts: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return what to warn of, nothing where both versions give the same ids.

    Raises:
        CheckpointError: they do not, and what is chosen is not what tokenizer.json says.
    """
    differing = sorted(key for key in parts.keys() | other_parts.keys() if parts.get(key) != other_parts.get(key))
    changed, total = _texts_that_differ(chosen, other) if differing else (0, 0)
    if not changed:
        return ()
    published = _parts_of(json.loads(tokenizers.Tokenizer.from_str(sources.text).to_str()))
    contradicted = [key for key in differing if parts.get(key) != published.get(key)]
    if contradicted:
        raise CheckpointError(
            f"{sources.path / _CONFIG}: contradicts tokenizer.json: transformers {chosen.version} changes "
            f"{_named(contradicted, published, parts)} by it, and {other.version} does not do the same; "
            f"make the two files agree; or {OTHER_WAY}"
        )
    return (
        f"{sources.path / 'tokenizer.json'}: kept as it is, like transformers {chosen.version} does; "
        f"{other.version} would change {_named(differing, parts, other_parts)}, "
        f"and give other ids for {changed} of {total} texts",
    )


def _named(differing: Sequence[str], parts: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Name what differs: an attribute with both its values, or a whole part where it is of another shape."""
    names: dict[str, list[str]] = {}
    for key in differing:
        path = key.split(".")
        names.setdefault(" ".join(path[:2]) if path[0] == "added_tokens" else path[0], []).append(key)
    shown = [
        f"{keys[0]} from {_shown(parts, keys[0])} to {_shown(other, keys[0])}"
        if len(keys) == 1 and keys[0] in parts and keys[0] in other
        else f"the {name}"
        for name, keys in names.items()
    ]
    more = [f"{len(shown) - _LISTED} more"] if len(shown) > _LISTED else []
    return ", ".join([*shown[:_LISTED], *more])


def _texts_that_differ(chosen: LoadedTokenizer, other: LoadedTokenizer) -> tuple[int, int]:
    """Return how many texts get other ids, and of how many: the default ones, and some with special tokens in them."""
    names = {
        token.content for loaded in (chosen, other) for token in loaded.backend.get_added_tokens_decoder().values()
    }
    texts = [*default_texts(), *(f"a {form}b{form} c" for name in sorted(names) for form in (name, name.lower()))]
    types = "token_type_ids" in chosen.inputs and "token_type_ids" in other.inputs
    return sum(_encode(chosen, text, types) != _encode(other, text, types) for text in texts), len(texts)


def _encode(loaded: LoadedTokenizer, text: TextInput, types: bool) -> Any:
    try:
        encoding = loaded.backend.encode_batch([text])[0]
    except BaseException as error:  # there may be no id for a word, in both
        if not is_failure(error):
            raise
        return str(error)
    return (encoding.ids, encoding.type_ids) if types else encoding.ids


def _parts(loaded: LoadedTokenizer) -> dict[str, Any]:
    return _parts_of(json.loads(loaded.backend.to_str()))


def _parts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a tokenizer.json that decides ids but the vocabulary, flat: "normalizer.lowercase" to True."""
    model = {key: value for key, value in document["model"].items() if key not in ("vocab", "merges")}
    processor = document["post_processor"]
    if processor is not None and processor["type"] == "TemplateProcessing" and not processor["special_tokens"]:
        processor = None  # a template that adds nothing is what transformers 5 has for none
    if processor is not None:
        processor = {key: value for key, value in processor.items() if key != "add_prefix_space"}
    whole = {
        "normalizer": document["normalizer"],
        "pre_tokenizer": document["pre_tokenizer"],
        "post_processor": processor,
        "model": model,
        "added_tokens": {token["content"]: token for token in document["added_tokens"]},
    }
    return dict(_flat(whole, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = [item for item in value.items() if item[0] not in _WITHOUT_EFFECT]
    elif isinstance(value, list):
        items = list(enumerate(value))
    if not items:
        yield path, value
    for key, part in items:
        yield from _flat(part, f"{path}.{key}" if path else str(key))


def _shown(parts: Mapping[str, Any], key: str) -> str:
    text = json.dumps(parts[key], ensure_ascii=False) if key in parts else "nothing"
    return text if len(text) <= 40 else text[:39] + "…"


def _manner(loaded: LoadedTokenizer) -> tuple[Any, ...]:
    pad = loaded.tokens.get("pad_token")
    return {*loaded.inputs}, pad, loaded.pad_id, loaded.padding_side, loaded.truncation_side, loaded.max_length


def _copied(sources: TokenizerSources, chosen: LoadedTokenizer) -> dict[str, bytes]:
    files = {_CONFIG: (sources.path / _CONFIG).read_bytes()}
    if sources.special_tokens_map is not None:
        return files | {_MAP: (sources.path / _MAP).read_bytes()}
    return files | {_MAP: _json(_special_tokens_map(chosen))}


def _written(sources: TokenizerSources, chosen: LoadedTokenizer) -> dict[str, bytes]:
    """Return the files for the generic class: everything said, nothing left to a class's defaults."""
    special = _special_tokens_map(chosen)
    config: dict[str, Any] = {
        "added_tokens_decoder": {
            str(index): token.__getstate__()
            for index, token in sorted(chosen.backend.get_added_tokens_decoder().items())
        },
        "clean_up_tokenization_spaces": bool(sources.config.get("clean_up_tokenization_spaces", False)),
        "model_input_names": list(chosen.inputs),
        "padding_side": chosen.padding_side,
        "tokenizer_class": GENERIC.name,
        "truncation_side": chosen.truncation_side,
        **special,
    }
    if chosen.max_length is not None:
        config["model_max_length"] = chosen.max_length
    pre_tokenizer = chosen.backend.pre_tokenizer
    state = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer is not None else {}
    if "add_prefix_space" in state:  # unsaid, transformers 4 takes it for false
        config["add_prefix_space"] = state["add_prefix_space"]
    return {_CONFIG: _json(config), _MAP: _json(special)}


def _special_tokens_map(chosen: LoadedTokenizer) -> dict[str, Any]:
    named = {key: chosen.tokens[key] for key in NAMED_TOKENS if key in chosen.tokens}
    extra = list(dict.fromkeys((*chosen.extra, *(t for key, t in chosen.tokens.items() if key not in NAMED_TOKENS))))
    return named | ({"additional_special_tokens": extra} if extra else {})


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
