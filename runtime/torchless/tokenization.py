"""From texts to token ids: the seam to the `tokenizers` library.

A `Tokenizer` never changes after it was made, so any number of threads may use one. What
`tokenizer.json` says of padding and truncation is reset: padding is done in `batching.py`, and
a text is cut only where the caller asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import tokenizers

from torchless.errors import BundleError, InputError, InputTypeError, one_line
from torchless.forking import watch
from torchless.manifest import TokenizerSpec
from torchless.truncation import CutEncoding, Encoding, Truncation, cut

__all__ = ["CutEncoding", "Encoding", "TextInput", "Tokenizer", "Truncation"]

TextInput = str | tuple[str, str]

_STRATEGIES = {
    True: "longest_first",
    False: None,
    None: None,
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    "do_not_truncate": None,
}


class Tokenizer:
    """The fast tokenizer of a bundle.

    Attributes:
        spec: the manifest's part on the tokenizer.
        vocabulary: the number of its tokens, added ones included.
    """

    def __init__(self, data: bytes, spec: TokenizerSpec, name: str = "tokenizer.json") -> None:
        """Read `tokenizer.json` from its bytes.

        Raises:
            BundleError: the tokenizers library cannot read it, or panics.
        """
        self.spec = spec
        self._library = _load(data, name)
        watch(self)
        self.vocabulary = self._library.get_vocab_size(with_added_tokens=True)
        self._most_tokens = sys.maxsize if spec.position_limit is None else spec.position_limit

    def after_fork(self) -> None:
        """Do without the library's threads, which stayed with the parent."""
        # It would do so by itself, and say so on standard error; but where a user said "true" it would wait for them.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def largest_id(self, *, thorough: bool = False) -> int:
        """Return the largest token id it can give.

        A vocabulary is numbered from 0 without holes, and so its size tells; `thorough` looks at every
        token instead (40 ms for 30,000), for a file that nobody has checked.
        """
        added = max(self._library.get_added_tokens_decoder(), default=-1)
        if thorough:
            return int(max(added, max(self._library.get_vocab(with_added_tokens=False).values(), default=-1)))
        return int(max(added, self._library.get_vocab_size(with_added_tokens=False) - 1))

    def check_fits(self, config: Mapping[str, Any], where: str, *, types: bool, thorough: bool) -> None:
        """Check that the model has a row for whatever this tokenizer gives.

        Args:
            config: the model's `config.json`.
            where: the bundle, for the message.
            types: whether the graph takes token type ids.
            thorough: as for `largest_id`.

        Raises:
            BundleError: an id beyond `vocab_size`, or a token type beyond `type_vocab_size`.
        """
        largest = max(self.largest_id(thorough=thorough), self.spec.pad_id or 0)
        for found, key, what in (
            (largest, "vocab_size", "token ids"),
            (self.spec.pad_type_id if types else 0, "type_vocab_size", "token type ids"),
        ):
            size = config.get(key)
            if isinstance(size, int) and 0 < size <= found:
                raise BundleError(
                    f"{where}: the tokenizer gives {what} up to {found}, config.json's {key} is {size}; "
                    "they are not of one model: export it again"
                )

    def encode(
        self,
        texts: Sequence[TextInput],
        *,
        truncation: Truncation | None = None,
        special_tokens: bool = True,
        offsets: bool = False,
        indices: Sequence[int] | None = None,
    ) -> list[Encoding]:
        """Tokenize texts, or (text, text_pair) tuples, without padding; see `encode_each`.

        Raises:
            InputError, InputTypeError: the first that `encode_each` returns.
        """
        found = self.encode_each(
            texts, truncation=truncation, special_tokens=special_tokens, offsets=offsets, indices=indices
        )
        for item in found:
            if isinstance(item, InputError):
                raise item
        return cast("list[Encoding]", found)

    def encode_each(
        self,
        texts: Sequence[TextInput],
        *,
        truncation: Truncation | None = None,
        special_tokens: bool = True,
        offsets: bool = False,
        indices: Sequence[int] | None = None,
    ) -> list[Encoding | InputError]:
        """Tokenize texts, or (text, text_pair) tuples, without padding; an error stands in the place of its text.

        An error is an InputTypeError where an item is not a string, or holds a lone surrogate; an InputError where a
        pair cannot be cut to the length by the strategy asked for, or a text is longer than the model's position
        table. `index` says which text it is: its place, or what stands there in `indices`. What was cut is a
        `CutEncoding`.
        """
        encode = self._library.encode_batch if offsets else self._library.encode_batch_fast
        found: list[Encoding | InputError]
        try:
            found = encode(texts, add_special_tokens=special_tokens)
        except BaseException as error:
            if not _is_of_the_library(error):
                raise
            # One item spoils the whole call, and the library does not say which; or none does alone, as where only so
            # many together were too much.
            found = [
                _encode_alone(encode, text, index, special_tokens)
                for text, index in zip(texts, indices or range(len(texts)), strict=True)
            ]
        room = min(self._most_tokens, truncation.max_length if truncation else self._most_tokens)
        for i, item in enumerate(found):
            if not isinstance(item, InputError) and not 0 < len(item) <= room:
                found[i] = self._shorten(item, truncation, indices[i] if indices else i, offsets)
        return found

    def truncation(self, strategy: Any, max_length: int | None) -> Truncation | None:
        """Read transformers' `truncation=` and `max_length=`; None: no text is cut.

        Without a `max_length` the tokenizer's own is taken; a model that has none is not truncated.

        Raises:
            InputError: an unknown strategy, or a length that leaves no room beside the special tokens.
            InputTypeError: a length that is no whole number.
        """
        # 1 and 0 equal True and False; transformers refuses them, and a number here is a length meant for max_length.
        if not isinstance(strategy, bool | str | None) or strategy not in _STRATEGIES:
            known = ", ".join(repr(key) for key in _STRATEGIES if isinstance(key, str))
            raise InputError(f"truncation is {strategy!r}, wanted True, False, {known}")
        name = _STRATEGIES[strategy]
        if max_length is not None:
            if isinstance(max_length, bool) or not isinstance(max_length, int):
                raise InputTypeError(f"max_length is {max_length!r}, wanted a whole number from 1")
            if max_length < 1:
                raise InputError(f"max_length is {max_length}, wanted a whole number from 1")
        length = max_length if max_length is not None else self.spec.max_length
        if name is None or length is None:
            return None
        special = self._library.num_special_tokens_to_add(is_pair=False)
        if length < special:
            raise InputError(f"max_length is {length}, less than the {special} special tokens of every text")
        return Truncation(length, name)

    def _shorten(
        self, encoding: Encoding, truncation: Truncation | None, index: int, offsets: bool
    ) -> Encoding | InputError:
        """Cut what is too long by `truncation`; return why it is too long still, or cannot be cut, or is nothing."""
        if not len(encoding):
            return InputError(f"text {index} has no tokens, special ones neither: there is nothing to answer", index)
        if truncation is not None and len(encoding) > truncation.max_length:
            try:
                encoding = cut(encoding, truncation, side=self.spec.truncation_side, offsets=offsets)
            except ValueError as error:
                return InputError(
                    f"text {index} cannot be cut to max_length {truncation.max_length}: {error}; give more room", index
                )
        if len(encoding) > self._most_tokens:
            return InputError(
                f"text {index} has {len(encoding)} tokens, the model's position table holds {self._most_tokens}; "
                "pass truncation=True to cut it",
                index,
            )
        return encoding


def tokenizers_version() -> str:
    """Return the tokenizers library's version."""
    return str(tokenizers.__version__)


def _load(data: bytes, name: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:
        raise BundleError(f"{name}: the tokenizers library cannot read it: {one_line(str(error), 200)}") from error
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise BundleError(f"{name}: the tokenizers library panics on it: {one_line(str(error), 200)}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _is_panic(error: BaseException) -> bool:
    """Whether the library's Rust code panicked: a BaseException of pyo3's, in a module that cannot be imported."""
    return type(error).__name__ == "PanicException"


def _is_of_the_library(error: BaseException) -> bool:
    """Whether the library may have raised it: the handler of a signal may come at any time, with whatever it raises."""
    return type(error) is Exception or isinstance(error, TypeError | ValueError | MemoryError) or _is_panic(error)


def _encode_alone(encode: Callable[..., list[Encoding]], text: Any, index: int, special_tokens: bool) -> Any:
    """Return the encoding of `text`, or the InputError that says why there is none."""
    try:
        _check_text(text, index)
        return encode([text], add_special_tokens=special_tokens)[0]
    except InputError as error:
        return error
    except BaseException as error:
        if not _is_of_the_library(error):
            raise
        what = ": the tokenizer panics" if _is_panic(error) else " cannot be tokenized"
        problem = InputError(f"text {index}{what}: {one_line(str(error), 200)}", index)
        problem.__cause__ = error
        return problem


def _check_text(text: Any, index: int) -> None:
    for part in text if isinstance(text, tuple) else (text,):
        if not isinstance(part, str):
            raise InputTypeError(f"text {index} is {type(part).__name__}, wanted a string", index)
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputTypeError(
                f"text {index} holds a lone surrogate at character {error.start}; decode the input as UTF-8", index
            ) from None
