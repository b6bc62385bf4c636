"""Everything that torchless raises or warns with.

    TorchlessError(Exception)
      BundleError(ValueError)         a file of the bundle is missing, changed, malformed, too large or does not fit
        BundleVersionError              made by a newer torchless
      CheckpointError(ValueError)     what should be exported cannot be: files, weights, config, architecture
      ParityError                     a variant does not keep the promised tolerance; carries the report
      InputError(ValueError)          the text or argument given cannot be processed; names the item's index
        InputTypeError(TypeError)       a type that the tokenizer refuses too (None, a lone surrogate, ...)
        UnknownFunctionError(KeyError)  function_to_apply is none of the known ones
      ProviderError(RuntimeError)     the device asked for does not work here; names the cause
      InferenceError(RuntimeError)    ONNX Runtime failed, or a logit is not finite

    TorchlessWarning(UserWarning)     something was ignored or is not what was asked for; given once each

Every message is one line: what, where, what was found, what was wanted, what to do.
"""

from __future__ import annotations

import warnings
from typing import Any

__all__ = [
    "BundleError",
    "BundleVersionError",
    "CheckpointError",
    "InferenceError",
    "InputError",
    "InputTypeError",
    "ParityError",
    "ProviderError",
    "TorchlessError",
    "TorchlessWarning",
    "UnknownFunctionError",
]


class TorchlessError(Exception):
    """Base of every error that torchless raises on purpose. `str(error)` is one line."""

    def __str__(self) -> str:
        # KeyError's own __str__ would quote the message; control characters would break the line.
        return one_line(" ".join(str(part) for part in self.args))


class BundleError(TorchlessError, ValueError):
    """A file of the bundle is missing, changed, malformed, too large, or does not fit the others."""


class BundleVersionError(BundleError):
    """The bundle was made by a newer torchless."""


class CheckpointError(TorchlessError, ValueError):
    """What should be exported cannot be: its files, weights, config or architecture."""


class ParityError(TorchlessError):
    """A variant does not keep the promised tolerance.

    Attributes:
        report: the `torchless_export.ExportReport` of everything that was measured, or None.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[ParityError], tuple[Any, ...]]:
        return type(self), (self.args[0], self.report)


class InputError(TorchlessError, ValueError):
    """The text or argument given cannot be processed.

    Attributes:
        index: the position of the offending item in what was given, or None where it was a single one.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type[InputError], tuple[Any, ...]]:
        return type(self), (self.args[0], self.index)


class InputTypeError(InputError, TypeError):
    """A value of a type that the tokenizer refuses too: None, a number, a lone surrogate."""


class UnknownFunctionError(InputError, KeyError):
    """`function_to_apply` is none of the known ones."""


class ProviderError(TorchlessError, RuntimeError):
    """The device asked for does not work here; the message names the cause."""


class InferenceError(TorchlessError, RuntimeError):
    """ONNX Runtime failed, or a logit is not finite."""


class TorchlessWarning(UserWarning):
    """Something was ignored, or is not what was asked for."""


def one_line(text: str, limit: int = 1000) -> str:
    """Return `text` on one line of at most `limit` characters, with control characters escaped.

    Messages quote file contents and the messages of native libraries: neither may break a line
    of a log or reach a terminal as an escape sequence.
    """
    line = "".join(c if c.isprintable() else " " if c in "\n\r\t" else repr(c)[1:-1] for c in text)
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_given: set[str] = set()


def warn_once(message: str, stacklevel: int = 3) -> None:
    """Give `message` as a `TorchlessWarning`, once in the life of the process."""
    line = one_line(message)
    if line not in _given:
        _given.add(line)
        warnings.warn(line, TorchlessWarning, stacklevel=stacklevel)
