"""What a caller may pass: texts in the forms that transformers takes, and tokenizer arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torchless.errors import InputError, InputTypeError, warn_once
from torchless.tokenization import TextInput, Tokenizer, Truncation


class _Default(int):
    """The value a parameter has when nobody gave one; equal to it, and told from it by identity."""

    def __reduce__(self) -> str:
        return "DEFAULT_TOP_K"  # pickled by name, since a copy would be no longer it


DEFAULT_TOP_K = _Default(1)

# Arguments of transformers' tokenizers that do not change the ids, or only add outputs.
_WITHOUT_MEANING = frozenset(
    {
        "return_tensors",
        "return_token_type_ids",
        "return_attention_mask",
        "return_overflowing_tokens",
        "return_special_tokens_mask",
        "return_offsets_mapping",
        "return_length",
        "stride",
        "verbose",
        "clean_up_tokenization_spaces",
        "is_split_into_words",
    }
)


@dataclass(frozen=True, slots=True)
class TokenizerArguments:
    """How to tokenize: transformers' call-time arguments, checked.

    Attributes:
        truncation: where texts are cut; None: nowhere.
        special_tokens: whether [CLS], [SEP] and the like are added.
        pad_to: the least length of every row, or None.
        multiple_of: rows are padded to a multiple of this.
        on_truncation: told the position of each text that was cut, in what the caller gave.
    """

    truncation: Truncation | None = None
    special_tokens: bool = True
    pad_to: int | None = None
    multiple_of: int = 1
    on_truncation: Callable[[int], None] | None = None

    def padded(self, longest: int) -> int:
        """Return the length to which a batch whose longest row is `longest` is padded."""
        length = max(longest, self.pad_to or 0)
        return -(-length // self.multiple_of) * self.multiple_of


def read_tokenizer_arguments(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> TokenizerArguments:
    """Read the keyword arguments that transformers would pass to its tokenizer.

    `truncation`, `max_length`, `padding`, `pad_to_multiple_of` and `add_special_tokens` act as they do
    there; those that only add outputs are ignored with a warning. `on_truncation`, a function, is this library's.

    Raises:
        InputError, InputTypeError: an unknown argument, or a value that it cannot take.
    """
    if not arguments:
        return _PLAIN
    known = {"truncation", "max_length", "padding", "pad_to_multiple_of", "add_special_tokens", "on_truncation"}
    for name in arguments.keys() - known:
        if name not in _WITHOUT_MEANING:
            raise InputTypeError(f"unknown argument {name!r}, wanted one of {', '.join(sorted(known))}")
        warn_once(f"the argument {name!r} has no meaning here and is ignored", stacklevel=5)
    max_length = arguments.get("max_length")
    padding = getattr(arguments.get("padding"), "value", arguments.get("padding"))
    if padding not in (None, True, False, "longest", "do_not_pad", "max_length"):
        raise InputError(f"padding is {padding!r}, wanted True, False, 'longest', 'max_length' or 'do_not_pad'")
    multiple_of = arguments.get("pad_to_multiple_of") or 1
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise InputError(f"pad_to_multiple_of is {multiple_of!r}, wanted a whole number from 1")
    strategy = arguments.get("truncation")
    # PreTrainedTokenizerBase._get_padding_truncation_strategies: max_length on its own means to cut.
    alone = strategy is None and max_length is not None and padding in (None, False)
    truncation = tokenizer.truncation(True if alone else strategy, max_length)
    if alone:
        warn_once("max_length without truncation or padding cuts longer texts; pass truncation=True", stacklevel=5)
    return TokenizerArguments(
        truncation=truncation,
        special_tokens=bool(arguments.get("add_special_tokens", True)),
        pad_to=(max_length or tokenizer.spec.max_length) if padding == "max_length" else None,
        multiple_of=multiple_of,
        on_truncation=arguments.get("on_truncation"),
    )


_PLAIN = TokenizerArguments()


def read_text(item: Any, index: int | None = None) -> TextInput:
    """Return one input as a text or a (text, text_pair) tuple.

    Takes a string, `{"text": ..., "text_pair": ...}`, or transformers' old `[["text", "text_pair"]]`.

    Raises:
        InputTypeError: something else.
        InputError: a list of strings, which transformers refuses too because it might be meant as a pair.
    """
    match item:
        case str():
            return item
        case {"text": str(text), **rest}:
            pair = rest.pop("text_pair", None)
            if rest:
                raise InputError(f"{_which(index)} has the key {next(iter(rest))!r}, wanted text and text_pair", index)
            if pair is None:
                return text
            if isinstance(pair, str):
                return text, pair
        case [[str(text), str(pair)]] if isinstance(item, list):
            return text, pair
        case list():
            raise InputError(
                f'{_which(index)} is a list; pass {{"text": "...", "text_pair": "..."}} for a pair of texts', index
            )
    raise InputTypeError(
        f"{_which(index)} is {_describe(item)}, wanted a string or a dict of text and text_pair", index
    )


def read_texts(texts: Any) -> list[TextInput]:
    """Return the texts given to one step alone: one or several of strings, (text, text_pair) tuples and dicts.

    Raises:
        InputTypeError: neither a text nor a sequence; the items are looked at by the tokenizer.
        InputError: as `read_text`, for dicts and lists.
    """
    if isinstance(texts, str | tuple | dict):
        texts = [texts]
    elif not isinstance(texts, Iterable):
        raise InputTypeError(f"the input is {_describe(texts)}, wanted a string, a dict, a pair or a list of them")
    return [read_text(item, i) if isinstance(item, dict | list) else item for i, item in enumerate(texts)]


def _which(index: int | None) -> str:
    return "the input" if index is None else f"input {index}"


def _describe(item: Any) -> str:
    if isinstance(item, dict):
        return "a dict with " + (
            ", ".join(f"{k!r}: {type(v).__name__}" for k, v in list(item.items())[:4]) or "no keys"
        )
    return type(item).__name__
