"""How transformers 4 loads a fast tokenizer: tokenizer.json as it is, and then what the class changes of it.

Source: transformers 4.57.6, `PreTrainedTokenizerFast.__init__` and the classes in `models/*/tokenization_*_fast.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors

from torchless.errors import one_line
from torchless_export.tokenizer.classes import TokenizerClass
from torchless_export.tokenizer.sources import (
    LoadedTokenizer,
    LoadError,
    TokenizerSources,
    is_failure,
    max_length_of,
    named_tokens,
    read_arguments,
    stored_settings,
)

# Key of tokenizer_config.json to the BertNormalizer's attribute, and what counts where the key is missing.
_NORMALIZER_KEYS: Mapping[str, tuple[str, Any]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
_POST_PROCESSOR_KEYS: Mapping[str, Any] = {"add_prefix_space": False, "trim_offsets": True}


def load(sources: TokenizerSources) -> LoadedTokenizer:
    """Return the tokenizer as transformers 4 has it.

    Raises:
        LoadError: transformers 4 cannot load it.
    """
    if sources.class4 is None:
        raise LoadError("transformers 4 has no tokenizer class of that name")
    if "tokenizer_file" in sources.config:
        raise LoadError("tokenizer_file in tokenizer_config.json leads transformers 4 away from tokenizer.json")
    try:
        return _load(sources, sources.class4)
    except BaseException as error:  # a class raises whatever a wrong argument leads to
        if isinstance(error, LoadError) or not is_failure(error):
            raise
        raise LoadError(one_line(str(error) or type(error).__name__, 200)) from error


def _load(sources: TokenizerSources, kind: TokenizerClass) -> LoadedTokenizer:
    arguments = read_arguments(sources, dict(sources.config), 4)
    config = arguments.config
    backend = tokenizers.Tokenizer.from_str(sources.text)
    tokens = named_tokens(kind, config, kind.options4)
    padding_side, truncation_side, from_stored = stored_settings(backend, kind, config, tokens)
    extra = config.get("additional_special_tokens", list(kind.extra)) or []
    if not all(isinstance(token, str | AddedToken) for token in extra):
        raise LoadError("additional_special_tokens holds something that is no token")
    specific = config.get("extra_special_tokens", {})
    if not isinstance(specific, dict) or not all(isinstance(token, str | AddedToken) for token in specific.values()):
        raise LoadError("extra_special_tokens is no table of tokens, which transformers 4 wants")
    named = tokens | {key: token for key, token in specific.items() if key in tokens}
    own = {key: token for key, token in specific.items() if key not in tokens}
    special: dict[str, str | AddedToken] = {}
    for token in (*named.values(), *extra, *own.values()):
        if token:
            special.setdefault(str(token), token)
    _add_tokens(backend, arguments.added, list(special.values()))
    _set_prefix_space(backend, config.get("add_prefix_space", False))
    for change in _CHANGES.get(kind.name, ()):
        change(backend, config)
    return LoadedTokenizer(
        version=4,
        backend=backend,
        tokens={key: str(token) for key, token in (named | own).items() if token},
        extra=tuple(map(str, extra)),
        inputs=tuple(config.get("model_input_names", kind.inputs4)),
        padding_side=padding_side,
        truncation_side=truncation_side,
        max_length=max_length_of(config),
        from_stored=from_stored,
    )


def _add_tokens(
    backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken], special: list[str | AddedToken]
) -> None:
    """Add the tokens that the config lists and the special ones; those that are there take the options given."""
    tokens: list[str | AddedToken] = [token for _, token in sorted(added.items())]
    known = {token.content for token in backend.get_added_tokens_decoder().values()} | set(map(str, tokens))
    # An AddedToken counts as known only where one with the same options is in the list.
    tokens += [t for t in special if not (t in known if isinstance(t, str) else t in tokens)]
    names = set(map(str, special))
    given = []
    for token in tokens:
        is_special = str(token) in names or (isinstance(token, AddedToken) and token.special)
        if isinstance(token, str):
            token = AddedToken(token, special=is_special)
        else:
            token.special = is_special
        given.append(token)
    backend.add_tokens(given)


def _set_prefix_space(backend: tokenizers.Tokenizer, wanted: Any) -> None:
    """Let a pre-tokenizer that may put a space before the text do as the config says; unsaid, it does not."""
    if backend.pre_tokenizer is None or not isinstance(wanted, bool):
        return
    state = json.loads(backend.pre_tokenizer.__getstate__())
    if state.get("add_prefix_space", wanted) != wanted:
        state["add_prefix_space"] = wanted
        backend.pre_tokenizer = getattr(pre_tokenizers, state.pop("type"))(**state)


def _set_normalizer(*keys: str) -> Callable[[tokenizers.Tokenizer, Mapping[str, Any]], None]:
    """Return what sets a BertNormalizer, and no other, by these keys of the config."""

    def change(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        if backend.normalizer is None:
            raise LoadError("tokenizer.json has no normalizer, which the class needs in transformers 4")
        state = json.loads(backend.normalizer.__getstate__())
        wanted = {_NORMALIZER_KEYS[key][0]: config.get(key, _NORMALIZER_KEYS[key][1]) for key in keys}
        if any(state.get(attribute, value) != value for attribute, value in wanted.items()):
            backend.normalizer = getattr(normalizers, state.pop("type"))(**(state | wanted))

    return change


def _set_post_processor(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    if backend.post_processor is None:
        return
    state = json.loads(backend.post_processor.__getstate__())
    wanted = {key: config.get(key, default) for key, default in _POST_PROCESSOR_KEYS.items()}
    changed = {key: value for key, value in wanted.items() if state.get(key, value) != value}
    if changed:
        state |= changed | {key: tuple(state[key]) for key in ("sep", "cls") if key in state}
        backend.post_processor = getattr(processors, state.pop("type"))(**state)


_BERT = (_set_normalizer("do_lower_case", "strip_accents", "tokenize_chinese_chars"),)
_CHANGES: Mapping[str, tuple[Callable[[tokenizers.Tokenizer, Mapping[str, Any]], None], ...]] = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "MPNetTokenizer": (_set_normalizer("do_lower_case", "strip_accents"),),
    "RobertaTokenizer": (_set_post_processor,),
}
