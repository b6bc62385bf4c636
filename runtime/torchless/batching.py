"""How texts are put into batches: pure functions on lengths and ids.

A batch costs the product of its rows and its longest row, so texts of like length belong
together and the measure of a batch is its padded tokens, not its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def plan_batches(
    lengths: Sequence[int], *, batch_size: int | None = None, token_budget: int = 1024, keep_order: bool = False
) -> list[list[int]]:
    """Return the batches as lists of positions in `lengths`; every position stands in exactly one.

    Args:
        lengths: tokens of each text.
        batch_size: the most texts in a batch; None: as many as the budget holds.
        token_budget: the most padded tokens in a batch (rows times the longest row). A text longer
            than the budget has a batch of its own.
        keep_order: do not sort by length. Then a batch holds exactly `batch_size` texts (1 where
            that is None), the last one what is left: what a left-padded model needs, whose answers
            depend on the padding.
    """
    if keep_order:
        step = batch_size or 1
        return [list(range(start, min(start + step, len(lengths)))) for start in range(0, len(lengths), step)]
    # Longest first: the first batch is the largest, so memory is taken once.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for position in order:
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        fits = batch and rows * lengths[batch[0]] <= token_budget and (batch_size is None or rows <= batch_size)
        if fits:
            batch.append(position)
        else:
            batches.append([position])
    return batches


def split_rows(inputs: Mapping[str, NDArray[np.int64]], token_budget: int) -> list[Mapping[str, NDArray[np.int64]]]:
    """Cut one batch, arrays (batch, sequence), into batches of at most `token_budget` tokens and of like size.

    A row is never cut, and arrays of other shapes are not either: what takes them says what is wrong with them.
    """
    shapes = {np.shape(array) for array in inputs.values()}
    rows, width = next(iter(shapes)) if len(shapes) == 1 and len(next(iter(shapes))) == 2 else (0, 0)
    most = max(1, token_budget // max(width, 1))
    if rows <= most:
        return [inputs]
    count = -(-rows // most)
    ends = [rows * i // count for i in range(count + 1)]
    return [{name: array[start:end] for name, array in inputs.items()} for start, end in itertools.pairwise(ends)]


def pad(
    rows: Sequence[Sequence[int]], fill: int, *, side: str = "right", length: int | None = None
) -> NDArray[np.int64]:
    """Return `rows` as one array (batch, sequence) int64, the places without a token holding `fill`.

    `sequence` is `length`, or the longest row. `side` says where the padding goes.
    """
    lengths = [len(row) for row in rows]
    longest = max(lengths, default=0)
    width = longest if length is None else length
    if lengths and min(lengths) == width:
        return np.array(rows, dtype=np.int64)
    if longest > width:
        raise ValueError(f"a row of {longest} is longer than {width}")
    array = np.full((len(rows), width), fill, dtype=np.int64)
    array[_places(lengths, width, side)] = np.fromiter(
        itertools.chain.from_iterable(rows), dtype=np.int64, count=sum(lengths)
    )
    return array


def mask(lengths: Sequence[int], width: int, *, side: str = "right") -> NDArray[np.int64]:
    """Return (batch, width) int64: 1 where a row of that many tokens, padded on `side`, has one, else 0."""
    if lengths and min(lengths) == width:
        ones = np.empty((len(lengths), width), dtype=np.int64)
        ones.fill(1)  # `np.ones`, less its detour through Python
        return ones
    return _places(lengths, width, side).astype(np.int64)


def _places(lengths: Sequence[int], width: int, side: str) -> NDArray[np.bool_]:
    columns = np.arange(width)
    ends = np.array(lengths, dtype=np.int64)[:, None]
    return columns < ends if side == "right" else columns >= width - ends
