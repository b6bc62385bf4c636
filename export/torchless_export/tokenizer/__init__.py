"""A checkpoint's tokenizer without transformers: its files resolved into one, and what judges the result."""

from __future__ import annotations

from torchless_export.tokenizer.reference import TokenizersReference
from torchless_export.tokenizer.resolution import ResolvedTokenizer, resolve

__all__ = ["ResolvedTokenizer", "TokenizersReference", "resolve"]
