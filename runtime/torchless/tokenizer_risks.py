"""What a stranger's `tokenizer.json` may hold only where somebody says `trust=True`.

The tokenizers library does what the file says, in native code that nothing interrupts: a regular expression that
backtracks, a replacement that makes a text a million times as long. What the tokenizers of published models are made
of stays far under the bounds here, which are walls, not sizes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

__all__ = ["find_risk"]

# Patterns that transformers' own converters write into tokenizer.json.
_KNOWN_PATTERNS = frozenset({" {2,}", "\\s+", " ", "^\\s+", "\\s+$", "``|''"})
# The longest replacement in the maps that SentencePiece ships has 18 characters, 33 bytes.
_MAX_GROWTH = 100
# Of all published tokenizers seen, none has 20.
_MAX_PARTS = 100
_MAX_SPECIAL = 100
# WordPiece tries every piece of a word, so that the time goes with the square of its length; the default is 100.
_MAX_WORD = 1000


def find_risk(tokenizer: dict[str, Any]) -> str | None:
    """Return what in `tokenizer.json` a stranger could have made to run without end or to fill memory; None: nothing.

    Looked at are regular expressions other than those that transformers writes, how many times longer the normalizers
    can make a text, how many parts they have, maps that say they are larger than they are, how many special tokens a
    text gets, whether a template repeats it, and the longest word that is cut into pieces.
    """
    parts = []
    for part in _parts([tokenizer.get(key) for key in ("normalizer", "pre_tokenizer")]):
        parts.append(part)
        if len(parts) > _MAX_PARTS:
            return f"its normalizers have over {_MAX_PARTS} parts, each of which runs on every text"
    for part in parts:
        pattern = part.get("Regex")
        if isinstance(pattern, str) and pattern not in _KNOWN_PATTERNS:
            return f"holds the regular expression {pattern[:80]!r}, which a stranger can make run without end"
    growth = 1.0
    for part in parts:
        if part.get("type") == "Precompiled" and _lies(part.get("precompiled_charsmap")):
            return "its precompiled_charsmap says that it is larger than it is, and memory is taken for what it says"
        growth *= _growth(part)
        if growth > _MAX_GROWTH:
            return f"its normalizers can make a text over {_MAX_GROWTH} times as long"
    if _repeats_text(tokenizer.get("post_processor")):
        return "its template repeats a text, which no published model wants, and which can fill memory"
    if _special_tokens(tokenizer.get("post_processor")) > _MAX_SPECIAL:
        return f"it puts over {_MAX_SPECIAL} special tokens around a text"
    model = tokenizer.get("model")
    longest = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if isinstance(longest, int) and longest > _MAX_WORD:
        return f"it cuts words of up to {longest} characters into pieces, in a time that goes with their square"
    return None


def _parts(pending: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield every object in `pending`, however deep."""
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def _growth(part: dict[str, Any]) -> float:
    """Return how many times longer this part of a normalizer can make a text."""
    kind, content = part.get("type"), part.get("content")
    if kind == "Replace" and isinstance(content, str):
        pattern = part.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(replaced, str) and replaced:
            return max(1.0, len(content) / len(replaced))
        return 1.0 + len(content)  # of every character, or of what is between two
    if kind == "ByteLevel":
        return 2.0  # each byte becomes a character of up to two of them
    if kind == "Prepend" and isinstance(part.get("prepend"), str):
        return max(1.0, float(len(part["prepend"])))
    if kind == "Precompiled" and isinstance(part.get("precompiled_charsmap"), str):
        return _longest_replacement(part["precompiled_charsmap"])
    return 1.0


def _longest_replacement(charsmap: str) -> float:
    """Return the length of the longest text that a SentencePiece map can put in a character's place.

    Layout: the size of a trie, little-endian in 4 bytes; the trie; the texts, each ended by NUL
    (sentencepiece, `normalizer.cc`, `Normalizer::DecodePrecompiledCharsMap`).
    """
    try:
        data = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError):
        return 1.0  # the library refuses it
    texts = data[_trie_end(data) :].split(b"\0")
    return float(max(1, *(len(text.decode("utf-8", "replace")) for text in texts)))


def _lies(charsmap: Any) -> bool:
    try:
        data = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return False  # as above
    return _trie_end(data) > len(data)


def _trie_end(data: bytes) -> int:
    return 4 + int.from_bytes(data[:4], "little")


def _special_tokens(post_processor: Any) -> int:
    """Return how many tokens it can put around a text, at most: those it names, each of so many ids."""
    count = 0
    for part in _parts([post_processor]):
        ids = part.get("ids")
        count += len(ids) if isinstance(ids, list) else "SpecialToken" in part
    return count


def _repeats_text(post_processor: Any) -> bool:
    """Tell whether a template holds the same text twice; templates one after another would multiply it."""
    for part in _parts([post_processor]):
        for pieces in part.values():
            found = (
                [piece.get("Sequence") for piece in pieces if isinstance(piece, dict)]
                if isinstance(pieces, list)
                else []
            )
            texts = [str(text.get("id")) for text in found if isinstance(text, dict)]
            if len(set(texts)) < len(texts):
                return True
    return False
