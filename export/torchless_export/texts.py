"""The texts on which an export is judged: the user's, or the set that ships with this package."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from torchless.errors import InputError
from torchless.pipelines.inputs import read_text
from torchless.records import open_records

TextInput = str | tuple[str, str]

# Enough for a bound on the agreement (1,000 of 1,000 alike: at least 0.997), few enough for a minute of PyTorch.
_JUDGING = 1000
_CALIBRATING = 1024
_WIDENING = 64
# Fewer prove no agreement worth the name.
PROVING_TEXTS = 500
DEFAULT_SOURCE = "the set that ships with torchless"


@dataclass(frozen=True, slots=True)
class TextSet:
    """Texts and where they come from.

    Attributes:
        judging: the texts that measure a variant.
        calibrating: those that its making may look at; none of them judges.
        source: the file's name, or that it is the default set.
        labels: of the judging texts, the positions of the right ones among the model's; None: not known.
        widening: more texts that the making may look at: others than the user's, so that no range is too narrow for
            them.
    """

    judging: tuple[TextInput, ...]
    calibrating: tuple[TextInput, ...]
    source: str
    labels: tuple[int, ...] | None = None
    widening: tuple[TextInput, ...] = ()

    def chosen(self, answerable: Callable[[TextInput], bool]) -> TextSet:
        """Return the texts that the original can answer.

        Raises:
            InputError: there is none that judges, or none to look at.
        """
        kept = [i for i, text in enumerate(self.judging) if answerable(text)]
        calibrating = tuple(filter(answerable, self.calibrating))
        if not kept or not calibrating:
            raise InputError(f"{self.source}: the tokenizer gives no tokens for these texts; give others")
        return replace(
            self,
            judging=tuple(self.judging[i] for i in kept),
            calibrating=calibrating,
            labels=None if self.labels is None else tuple(self.labels[i] for i in kept),
            widening=tuple(filter(answerable, self.widening)),
        )


def load_texts(calibration: str | os.PathLike[str] | Sequence[TextInput] | None, labels: Sequence[str] = ()) -> TextSet:
    """Read `calibration`, a file as `torchless run` reads them or a sequence of texts; None: the default set.

    Duplicates are dropped, the rest is shuffled by a fixed seed and split. A file may say which label is right, by
    name or by number from 0: in a column `label`, or in the second column of a file in which that holds nothing else.

    Args:
        calibration: the texts.
        labels: the model's, where it gives each text one of several; the file's are read then.

    Raises:
        InputError: the file cannot be read, its column `label` holds what is none of `labels` or is not in every row,
            or there are fewer than two different texts.
        InputTypeError: an item is no text.
    """
    right: dict[TextInput, int] = {}
    if calibration is None:
        texts, source = default_texts(), DEFAULT_SOURCE
    elif isinstance(calibration, str | os.PathLike):
        path = os.fspath(calibration)
        texts, source = _read(path), os.path.basename(path)
        right = _read_labels(path, labels) if labels and path != "-" else {}
    else:
        texts = [item if _is_pair(item) else read_text(item, index) for index, item in enumerate(calibration)]
        source = "texts given by the caller"
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise InputError(
            f"{source}: {len(distinct)} different texts, at least 2 are needed, 500 or more to prove an agreement"
        )
    random.Random(0).shuffle(distinct)
    # Those that prove come first: 500 texts shall be enough for the word.
    spare = len(distinct) - PROVING_TEXTS
    calibrating = min(_CALIBRATING, max(1, len(distinct) // 5 if spare < 0 else min(spare, len(distinct) // 5)))
    judging = tuple(distinct[calibrating:][:_JUDGING])
    known = tuple(right[text] for text in judging) if right else None
    widening = () if calibration is None else default_texts()[:: len(default_texts()) // _WIDENING]
    known_to_judge = set(judging)
    others = tuple(text for text in widening if text not in known_to_judge)
    return TextSet(judging, tuple(distinct[:calibrating]), source, known, others)


def default_texts() -> list[TextInput]:
    """Return the texts that ship with the package: many languages, scripts, lengths and oddities; pairs as tuples."""
    data = resources.files("torchless_export").joinpath("texts", "default.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in data.splitlines()]
    return [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in rows]


def over_long(texts: Sequence[TextInput], characters: int) -> str:
    """Return one text of at least `characters` characters, made of `texts`: something to be cut."""
    words = " ".join(text if isinstance(text, str) else " ".join(text) for text in texts).strip() or "word"
    return (words + " ") * (characters // len(words) + 1)


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _read(path: str) -> list[TextInput]:
    with open_records(path) as records:
        return [r.text if r.text_pair is None else (r.text, r.text_pair) for r in records]


def _read_labels(path: str, labels: Sequence[str]) -> dict[TextInput, int]:
    """Return the right label of each text, the first said of it; nothing where the file says none."""
    for column in ("label", "2"):
        try:
            with open_records(path, columns=(column,), gaps=True) as opened:
                records = list(opened)
        except InputError:
            continue  # it has no such column: unlabelled, or labelled in the other
        found = [
            (r.text if r.text_pair is None else (r.text, r.text_pair), _label(r.columns.get(column), labels))
            for r in records
        ]
        wrong = next((r for r, (_, label) in zip(records, found, strict=True) if label is None), None)
        if wrong is None:
            return {text: label for text, label in reversed(found) if label is not None}
        if column == "label" and any(column in r.columns for r in records):
            where = f"{os.path.basename(path)}: line {wrong.line}"
            if column not in wrong.columns:
                raise InputError(f"{where}: no label, which other rows have; label every row, or none")
            raise InputError(
                f"{where}: the label {wrong.columns[column]!r} is none of the model's {len(labels)}, wanted "
                f"{labels[0]!r} or the like, or a number from 0; rename a column of other labels"
            )
    return {}


def _label(value: object, labels: Sequence[str]) -> int | None:
    if isinstance(value, str) and value in labels:
        return list(labels).index(value)
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9 else value
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(labels) else None
