"""What a caller may pass: texts in the forms that transformers takes, and tokenizer arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchless.errors import InputError, InputTypeError, warn_once

if TYPE_CHECKING:  # which would import the tokenizers library
    from torchless.tokenization import TextInput, Tokenizer, Truncation


class _Default(int):
    """The value a parameter has when nobody gave one; equal to it, and told from it by identity."""

    def __reduce__(self) -> str:
        return "DEFAULT_TOP_K"  # pickled by name, since a copy would be no longer it


DEFAULT_TOP_K = _Default(1)

_KNOWN = frozenset(
    {
        "add_special_tokens",
        "max_length",
        "on_truncation",
        "pad_to_multiple_of",
        "padding",
        "return_token_type_ids",
        "truncation",
    }
)
# Arguments of transformers' pipelines and tokenizers that do not change the answer: they only add outputs, are
# about outputs that a pipeline never looks at (stride: about what truncation cut off), or about processes.
_WITHOUT_MEANING = frozenset(
    {
        "num_workers",
        "return_attention_mask",
        "return_overflowing_tokens",
        "return_special_tokens_mask",
        "return_offsets_mapping",
        "return_length",
        "stride",
        "verbose",
        "clean_up_tokenization_spaces",
    }
)
# transformers' PaddingStrategy; None: none.
_PADDING = {True: "longest", False: None, "longest": "longest", "max_length": "max_length", "do_not_pad": None}


@dataclass(frozen=True, slots=True)
class TokenizerArguments:
    """How to tokenize: transformers' call-time arguments, checked.

    Attributes:
        truncation: where texts are cut; None: nowhere.
        special_tokens: whether [CLS], [SEP] and the like are added.
        type_ids: whether the two texts of a pair have token types of their own, or all are 0; None: as the
            tokenizer gives them.
        pad_to: the least length of every row, or None.
        multiple_of: rows are padded to a multiple of this.
        on_truncation: told the position of each text that was cut, in what the caller gave.
    """

    truncation: Truncation | None = None
    special_tokens: bool = True
    type_ids: bool | None = None
    pad_to: int | None = None
    multiple_of: int = 1
    on_truncation: Callable[[int], None] | None = None

    def padded(self, longest: int) -> int:
        """Return the length to which a batch whose longest row is `longest` is padded.

        A row longer than `pad_to` is not padded by the tokenizers library, to no multiple either.
        """
        length = -(-(self.pad_to or longest) // self.multiple_of) * self.multiple_of
        return max(longest, length)


def read_tokenizer_arguments(tokenizer: Tokenizer, arguments: Mapping[str, Any]) -> TokenizerArguments:
    """Read the keyword arguments that transformers would pass to its tokenizer.

    `truncation`, `max_length`, `padding`, `pad_to_multiple_of`, `add_special_tokens` and `return_token_type_ids`
    act as they do there; those that only add outputs are ignored with a warning. `on_truncation`, a function, is
    this library's.

    Raises:
        InputError, InputTypeError: an unknown argument, or a value that it cannot take.
    """
    if not arguments:
        return _PLAIN
    for name in arguments.keys() - _KNOWN:
        if name not in _WITHOUT_MEANING:
            raise InputTypeError(f"unknown argument {name!r}, wanted one of {', '.join(sorted(_KNOWN))}")
        warn_once(f"the argument {name!r} has no meaning here and is ignored", stacklevel=5)
    max_length, strategy = arguments.get("max_length"), arguments.get("truncation")
    pad = arguments.get("padding", False)
    padding = _read_padding(tokenizer, pad)
    multiple_of = _read_multiple(arguments.get("pad_to_multiple_of"))
    # PreTrainedTokenizerBase._get_padding_truncation_strategies: max_length on its own means to cut, but not with
    # padding="do_not_pad".
    alone = strategy is None and max_length is not None and pad is False
    truncation = tokenizer.truncation(True if alone else strategy, max_length)
    if alone:
        warn_once("max_length without truncation or padding cuts longer texts; pass truncation=True", stacklevel=5)
    if truncation is not None and padding is not None and truncation.max_length % multiple_of:
        raise InputError(
            f"texts are cut at {truncation.max_length} tokens and padded to a multiple of {multiple_of}; "
            "pass a max_length that is a multiple of pad_to_multiple_of"
        )
    type_ids, told = arguments.get("return_token_type_ids"), arguments.get("on_truncation")
    if told is not None and not callable(told):
        raise InputTypeError(f"on_truncation is {told!r}, wanted a function of the position of a text that is cut")
    return TokenizerArguments(
        truncation=truncation,
        special_tokens=_read_flag("add_special_tokens", arguments.get("add_special_tokens", True)),
        type_ids=None if type_ids is None else _read_flag("return_token_type_ids", type_ids),
        pad_to=(max_length or tokenizer.spec.max_length) if padding == "max_length" else None,
        multiple_of=multiple_of if padding is not None else 1,
        on_truncation=told,
    )


def _read_padding(tokenizer: Tokenizer, given: Any) -> str | None:
    # 1 and 0 equal True and False; transformers refuses them, and a number here is a mistake.
    if not isinstance(given, bool | str) or given not in _PADDING:
        raise InputError(f"padding is {given!r}, wanted True, False, 'longest', 'max_length' or 'do_not_pad'")
    padding = _PADDING[given]
    if padding is not None and tokenizer.spec.pad_id is None:
        raise InputError(f"padding is {given!r}, and the tokenizer has no pad token; leave padding out")
    return padding


def _read_multiple(given: Any) -> int:
    if given is None:
        return 1
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputTypeError(f"pad_to_multiple_of is {given!r}, wanted a whole number from 1")
    if given < 1:
        raise InputError(f"pad_to_multiple_of is {given}, wanted a whole number from 1")
    return given


def _read_flag(name: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise InputTypeError(f"{name} is {given!r}, wanted True or False")
    return given


_PLAIN = TokenizerArguments()


def read_text(item: Any, index: int | None = None, text_pair: str | None = None) -> TextInput:
    """Return one input as a text or a (text, text_pair) tuple.

    Takes a string, `{"text": ..., "text_pair": ...}`, or transformers' old `[["text", "text_pair"]]`. An empty
    pair is none, as there. `text_pair` is the pair of an item that has no place for its own.

    Raises:
        InputTypeError: something else, or a pair from both sides.
        InputError: a list of strings, which transformers refuses too because it might be meant as a pair.
    """
    match item:
        case str():
            text = _plain(item)
            return (text, text_pair) if text_pair else text
        case {"text": str(text), **rest}:
            pair = rest.pop("text_pair", text_pair)
            if rest:
                raise InputError(f"{_which(index)} has the key {next(iter(rest))!r}, wanted text and text_pair", index)
            if text_pair is not None and "text_pair" in item:
                raise InputTypeError(f"{_which(index)} has a text_pair, and so has the call; give one", index)
            if pair is None or isinstance(pair, str):
                return (_plain(text), _plain(pair)) if pair else _plain(text)
        case [[str(text), str(pair)]] if isinstance(item, list):
            if text_pair is not None:
                raise InputTypeError(f"{_which(index)} is a pair, and the call has a text_pair; give one", index)
            return (_plain(text), _plain(pair)) if pair else _plain(text)
        case list():
            raise InputError(
                f'{_which(index)} is a list; pass {{"text": "...", "text_pair": "..."}} for a pair of texts', index
            )
    raise InputTypeError(
        f"{_which(index)} is {_describe(item)}, wanted a string or a dict of text and text_pair", index
    )


def _plain(text: str) -> str:
    """Return a text without what a subclass may think of equality and hashes: equal texts are run once."""
    return text if type(text) is str else str.__str__(text)


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


def check_count(name: str, count: Any) -> int | None:
    """Return the argument `name` if it is a whole number from 1, or None.

    Raises:
        InputError: something else.
    """
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"{name} is {count!r}, wanted a whole number from 1, or None to choose by length")
    return count


def keeps_errors(on_error: Any) -> bool:
    """Read `on_error`: whether an error is returned in the place of the answer that it prevents.

    Raises:
        InputError: neither "raise" nor "return".
    """
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}, wanted 'raise' or 'return'")
    return bool(on_error == "return")


def _which(index: int | None) -> str:
    return "the input" if index is None else f"input {index}"


def _describe(item: Any) -> str:
    if isinstance(item, dict):
        return "a dict with " + (
            ", ".join(f"{k!r}: {type(v).__name__}" for k, v in list(item.items())[:4]) or "no keys"
        )
    return type(item).__name__
