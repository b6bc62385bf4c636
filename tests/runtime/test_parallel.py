"""Results come in order, a bounded number ahead, and nothing is left running."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator

import pytest

from torchless.parallel import Begun, ahead


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_results_are_in_order(workers: int, count: int) -> None:
    assert list(ahead(lambda i: i * i, range(count), workers)) == [i * i for i in range(count)]


def test_it_is_done_on_threads_and_they_end() -> None:
    names = set(ahead(lambda _: threading.current_thread().name, range(8), 2))
    assert all(name.startswith("torchless") for name in names)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("torchless")]


def test_as_many_at_once_as_there_are_workers() -> None:
    together = threading.Barrier(3, timeout=30)
    assert len(list(ahead(lambda _: together.wait(), range(3), 3))) == 3


def test_no_further_ahead_than_twice_the_workers() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for i in range(100):
            read += 1
            yield i

    results = ahead(lambda i: i, items(), 2)
    next(results)
    assert read == 5
    results.close()


def test_an_error_comes_in_its_turn_and_ends_it() -> None:
    done: list[int] = []

    def work(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        done.append(i)
        return i

    results = ahead(work, range(100), 1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 8  # what waited is not begun


def test_closing_waits_for_what_is_under_way() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(i: int) -> int:
        if i:
            begun.set()
            go_on.wait(30)
        ended.append(i)
        return i

    results = ahead(work, range(9), 1)
    assert next(results) == 0
    assert begun.wait(30)
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert ended == [0, 1]


def test_without_threads_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", refuse)
    names = list(ahead(lambda _: threading.current_thread().name, range(9), 2))
    assert names == [threading.current_thread().name] * 9


class TestBegun:
    def test_it_is_under_way_before_it_is_asked_for(self) -> None:
        done = threading.Event()
        begun = Begun(lambda: done.set() or threading.current_thread().name)
        assert done.wait(30)
        assert begun.result() == begun.result() == "torchless-begun"

    def test_an_error_is_raised_where_the_result_is_asked_for(self) -> None:
        begun = Begun(lambda: 1 // 0)
        begun.wait()
        with pytest.raises(ZeroDivisionError):
            begun.result()

    def test_without_threads_it_is_done_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        begun = Begun(lambda: threading.current_thread())
        begun.wait()
        assert begun.result() is threading.current_thread()
