"""What a forked process mends before it goes on: locks that no thread of its own holds, sessions without threads."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Mended(Protocol):
    """Something that does not survive a fork as it is."""

    def after_fork(self) -> None:
        """Called in the new process, before anything else runs there."""
        ...


_watched: weakref.WeakSet[Mended] = weakref.WeakSet()


def watch(owner: Mended) -> None:
    """Call `owner.after_fork()` in every process that is forked from this one while `owner` lives."""
    _watched.add(owner)


def _mend() -> None:
    for owner in list(_watched):
        owner.after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_mend)
