"""Which of the two that work side by side, the tokenizer and the device, the other waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["Waits"]

Item = TypeVar("Item")


class Waits:
    """The seconds that callers have waited, by what for, since the beginning.

    Added up without a lock: many threads at once may lose some of them, and the larger stays the larger.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Note that somebody has waited for `what`."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def watch(self, what: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`, and note how long each was waited for; a generator is closed with this one."""
        iterator = iter(items)
        try:
            while True:
                start = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.add(what, time.perf_counter() - start)
                yield item
        finally:
            if isinstance(iterator, Iterator) and hasattr(iterator, "close"):
                iterator.close()

    @property
    def limit(self) -> str | None:
        """What was waited for longest; None: nothing was waited for."""
        return max(self.seconds, key=lambda what: self.seconds[what], default=None)
