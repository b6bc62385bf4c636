"""`torchless.forking`: who is told in a forked process."""

from __future__ import annotations

import gc
import os

import pytest

from torchless import forking

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Counter:
    def __init__(self) -> None:
        self.forks = 0
        forking.watch(self)

    def after_fork(self) -> None:
        self.forks += 1


def in_child(read: object) -> int:
    """Return what `read()`, 0 to 255, gives in a forked process."""
    child = os.fork()
    if child == 0:
        os._exit(read())  # type: ignore[operator]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_only_the_living_are_told_and_only_in_the_child() -> None:
    counter, dead = Counter(), Counter()
    forks = forking._watched
    assert {counter, dead} <= set(forks)
    del dead
    gc.collect()
    assert in_child(lambda: counter.forks) == 1
    assert in_child(lambda: in_child(lambda: counter.forks)) == 2  # a grandchild's is its second
    assert counter.forks == 0
    assert sum(isinstance(owner, Counter) for owner in forks) == 1
