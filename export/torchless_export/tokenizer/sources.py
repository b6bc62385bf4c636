"""The tokenizer's files of a checkpoint, read once, and what both versions of transformers make of them alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from torchless import strict_json
from torchless.errors import CheckpointError, one_line
from torchless_export.checkpoint import Checkpoint
from torchless_export.tokenizer.classes import NAMED_TOKENS, TokenizerClass, class_in_4, class_in_5

OTHER_WAY = "torchless[optimum], which has transformers, can export it"

# Keys that choose another way of loading, whatever the class, unless they are false or empty.
_OTHER_LOADING = ("fast_tokenizer_files", "fix_mistral_regex", "from_slow", "gguf_file", "init_inputs")
# Keys that change no id in any class. An unknown class with others may mean anything by them.
_INERT = frozenset(
    {
        *NAMED_TOKENS, *_OTHER_LOADING, "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens",
        "auto_map", "backend", "chat_template", "clean_up_tokenization_spaces", "device_map", "errors",
        "files_loaded", "is_local", "local_files_only", "max_len", "max_length", "merges_file", "model_input_names",
        "model_max_length", "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding_side",
        "processor_class", "return_attention_mask", "return_token_type_ids", "special_tokens_map_file",
        "split_special_tokens", "stride", "tokenizer_class", "tokenizer_file", "trim_offsets", "truncation",
        "truncation_side", "truncation_strategy", "use_fast", "verbose", "vocab_file", "vocab_type",
    }
)  # fmt: skip


class LoadError(Exception):
    """A version of transformers cannot load the tokenizer; says why. Never leaves this package."""


def is_failure(error: BaseException) -> bool:
    """Tell whether this is a failure of the tokenizers library: its panics are no `Exception`s."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@dataclass(frozen=True, slots=True)
class TokenizerSources:
    """The tokenizer's files of a checkpoint.

    Attributes:
        path: the checkpoint's directory.
        text: `tokenizer.json`.
        document: the same, parsed.
        config: `tokenizer_config.json`; empty where there is none.
        special_tokens_map: `special_tokens_map.json`, or None.
        added_tokens: `added_tokens.json` (token to id), or None.
        class4, class5: the class that transformers 4 and 5 take; None: they know none of that name.
    """

    path: Path
    text: str
    document: Mapping[str, Any]
    config: Mapping[str, Any]
    special_tokens_map: Mapping[str, Any] | None
    added_tokens: Mapping[str, int] | None
    class4: TokenizerClass | None
    class5: TokenizerClass | None


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A tokenizer as one version of transformers has it after loading.

    Attributes:
        version: 4 or 5.
        backend: the tokenizers library's object, without padding and truncation.
        tokens: the named special tokens ("pad_token": "[PAD]"), those that are set.
        extra: further special tokens.
        inputs: the names of what it gives a model.
        padding_side, truncation_side: "right" or "left".
        max_length: `model_max_length` as it is given; None: nowhere.
        from_stored: whether a side or the pad token is what it is only by what tokenizer.json stores of padding and
            truncation.
    """

    version: int
    backend: tokenizers.Tokenizer
    tokens: Mapping[str, str]
    extra: tuple[str, ...]
    inputs: tuple[str, ...]
    padding_side: str
    truncation_side: str
    max_length: Any
    from_stored: bool

    @property
    def pad_id(self) -> int | None:
        """The id to pad with; None: it cannot pad."""
        return None if "pad_token" not in self.tokens else token_id(self.backend, self.tokens, "pad_token")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a class is made with: keyword arguments, and the added tokens by their ids."""

    config: dict[str, Any]
    added: dict[int, AddedToken]


def read_sources(checkpoint: Checkpoint) -> TokenizerSources:
    """Read the tokenizer's files of a checkpoint.

    Raises:
        CheckpointError: a file is broken, or asks for what cannot be resolved into `tokenizer.json`; names the key.
    """
    path = checkpoint.path / "tokenizer.json"
    text, document = _read(path)
    _parse(text, path)
    special_tokens_map = _read_optional(checkpoint.path / "special_tokens_map.json")
    added_tokens = _read_optional(checkpoint.path / "added_tokens.json")
    config = checkpoint.tokenizer_config
    name = config.get("tokenizer_class") or checkpoint.config.get("tokenizer_class") or None
    if name is not None and not isinstance(name, str):
        raise CheckpointError(f"{_config_path(checkpoint)}: tokenizer_class is {name!r}, wanted a class's name")
    class4, class5 = class_in_4(name, checkpoint.architecture), class_in_5(name, checkpoint.architecture)
    _check_keys(checkpoint, name, class4)
    if class4 is None and class5 is None:
        raise CheckpointError(
            f"{_config_path(checkpoint)}: names no tokenizer_class, and none is known here for the model_type "
            f"{checkpoint.architecture!r}; {OTHER_WAY}"
        )
    return TokenizerSources(
        path=checkpoint.path,
        text=text,
        document=document,
        config=config,
        special_tokens_map=special_tokens_map,
        added_tokens=added_tokens,
        class4=class4,
        class5=class5,
    )


def read_arguments(sources: TokenizerSources, config: dict[str, Any], version: int) -> Arguments:
    """Return what a class is made with, by the part of `_from_pretrained` on added and special tokens.

    special_tokens_map.json, added_tokens.json and the added tokens of tokenizer.json are looked at only where
    tokenizer_config.json has no `added_tokens_decoder`.
    """
    extra = "additional_special_tokens" if version == 4 else "extra_special_tokens"
    added: dict[int, AddedToken] = {}
    by_content: dict[str, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for index, token in config["added_tokens_decoder"].items():
            added[int(index)] = AddedToken(**token)
            by_content[token["content"]] = added[int(index)]
    else:
        for key, value in (sources.special_tokens_map or {}).items():
            config[key] = _merged(config, key, value, extra, version)
        special = {str(config[key]) for key in NAMED_TOKENS if config.get(key) is not None}
        special.update(map(str, config.get(extra) or ()))
        for content, index in (sources.added_tokens or {}).items():
            known = content in special
            added[index] = AddedToken(content, lstrip=False, rstrip=False, normalized=not known, special=known)
            if version == 5:  # 4 means to, and files it under another variable's value
                by_content[content] = added[index]
        for entry in sources.document["added_tokens"]:
            added[entry["id"]] = AddedToken(**{key: value for key, value in entry.items() if key != "id"})
            by_content[entry["content"]] = added[entry["id"]]
    config = {key: _typed(value) for key, value in config.items() if key != "added_tokens_decoder"}
    for key in NAMED_TOKENS:
        if config.get(key) is not None:
            config[key] = by_content.get(str(config[key]), config[key])
    return Arguments(config, added)


def _merged(config: Mapping[str, Any], key: str, value: Any, extra: str, version: int) -> Any:
    """Return the argument `key`, given what special_tokens_map.json says of it."""
    if isinstance(value, dict) and (version == 4 or key != extra):
        return AddedToken(**(value | {"special": True}))
    if key != extra or not isinstance(value, list):
        return value
    typed = [AddedToken(**(token | {"special": True})) if isinstance(token, dict) else token for token in value]
    return [*(config.get(extra) or ()), *typed]


def named_tokens(
    kind: TokenizerClass, config: Mapping[str, Any], options: Mapping[str, Mapping[str, bool]]
) -> dict[str, Any]:
    """Return the named special tokens, strings or `AddedToken`s: the config's, else the class's; a null stays."""
    tokens: dict[str, Any] = {key: config.get(key, kind.tokens.get(key)) for key in NAMED_TOKENS}
    for key, given in options.items():
        if isinstance(tokens.get(key), str):
            tokens[key] = AddedToken(tokens[key], **given)
    for key, token in tokens.items():
        if token is not None and not isinstance(token, str | AddedToken):
            raise LoadError(f"{key} is {type(token).__name__}, wanted a token")
    return tokens


def stored_settings(
    backend: tokenizers.Tokenizer, kind: TokenizerClass, config: Mapping[str, Any], tokens: dict[str, Any]
) -> tuple[str, str, bool]:
    """Take padding and truncation out of `backend`; return the side of each, and whether these settings made a change.

    Where the config says nothing, their sides count, and their pad token where the class has none.
    """
    padding, truncation = backend.padding, backend.truncation
    changed = padding is not None and "pad_token" not in kind.tokens and "pad_token" not in config
    if changed:
        tokens["pad_token"] = padding["pad_token"]
    sides = []
    for key, stored in (("padding_side", padding), ("truncation_side", truncation)):
        side = config.get(key, stored["direction"] if stored is not None else "right")
        if side not in ("right", "left"):
            raise LoadError(f"{key} is {side!r}, wanted 'right' or 'left'")
        changed = changed or side != config.get(key, "right")
        sides.append(side)
    backend.no_padding()
    backend.no_truncation()
    return sides[0], sides[1], changed


def token_id(backend: tokenizers.Tokenizer, tokens: Mapping[str, Any], key: str) -> int | None:
    """Return the id of a named special token, None where it is not set; the unknown token's if no vocabulary has it."""
    if tokens.get(key) is None:
        return None
    found: int | None = backend.token_to_id(str(tokens[key]))
    return backend.token_to_id(str(tokens.get("unk_token"))) if found is None else found


def max_length_of(config: Mapping[str, Any]) -> Any:
    """Return `model_max_length`, or its old name's value."""
    return config.get("model_max_length", config.get("max_len"))


def _typed(value: Any) -> Any:
    """Turn what is marked so into `AddedToken`s, at any depth."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return AddedToken(**{key: part for key, part in value.items() if key != "__type"})
        return {key: _typed(part) for key, part in value.items()}
    return [_typed(part) for part in value] if isinstance(value, list) else value


def _check_keys(checkpoint: Checkpoint, name: str | None, class4: TokenizerClass | None) -> None:
    config, where = checkpoint.tokenizer_config, _config_path(checkpoint)
    if config.get("split_special_tokens"):
        raise CheckpointError(
            f"{where}: split_special_tokens is set, which tokenizer.json cannot hold; take it out, "
            "if the model was not trained so"
        )
    for key in _OTHER_LOADING:
        if config.get(key):
            raise CheckpointError(f"{where}: {key} is {_shown(config[key])}, which is not resolved here; {OTHER_WAY}")
    if class4 is not None or name is None or name.startswith("TokenizersBackend"):
        return
    if config.get("auto_map"):
        raise CheckpointError(f"{where}: {name} is code that comes with the checkpoint (auto_map), which is never run")
    for key in sorted(config.keys() - _INERT):
        raise CheckpointError(
            f"{where}: {key} is {_shown(config[key])}, and what {name} makes of it is not known here; {OTHER_WAY}"
        )


def _config_path(checkpoint: Checkpoint) -> Path:
    return checkpoint.path / "tokenizer_config.json"


def _shown(value: Any) -> str:
    return one_line(repr(value), 60)


def _read_optional(path: Path) -> dict[str, Any] | None:
    return _read(path)[1] if path.is_file() else None


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        data = path.read_bytes()
        document = strict_json.loads(data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except strict_json.JSONError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}; fetch or copy it again") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a JSON object; fetch or copy it again")
    return data.decode("utf-8"), document


def _parse(text: str, path: Path) -> None:
    try:
        tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        if not is_failure(error):
            raise
        raise CheckpointError(
            f"{path}: the tokenizers library {tokenizers.__version__} cannot read it: {one_line(str(error), 200)}"
        ) from None
