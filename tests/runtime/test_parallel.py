"""Results come in order, a bounded number ahead, and nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from torchless.parallel import Begun, ahead
from untraced import UNTRACED


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


@pytest.mark.parametrize("started", [0, 1, 2])
def test_where_no_more_threads_start_each_is_done_once(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    start, left = threading.Thread.start, started

    def refuse(thread: threading.Thread) -> None:
        nonlocal left
        if not left:
            raise RuntimeError("can't start new thread")
        left -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[tuple[int, bool]] = []
    caller = threading.current_thread()

    def work(i: int) -> int:
        done.append((i, threading.current_thread() is caller))
        return i

    assert list(ahead(work, range(12), 4)) == list(range(12))
    assert sorted(i for i, _ in done) == list(range(12))
    if not started:
        assert all(by_caller for _, by_caller in done)


def test_errors_without_threads_come_in_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    results = ahead(lambda i: 6 // (2 - i), range(9), 1)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_of_an_item_is_kept_once_it_is_done() -> None:
    class Item:
        pass

    alive: list[weakref.ref[Item]] = []

    def items() -> Iterator[Item]:
        for _ in range(50):
            item = Item()
            alive.append(weakref.ref(item))
            yield item
            del item

    assert max(sum(item() is not None for item in alive) for _ in ahead(lambda _: None, items(), 2)) <= 8


ENDING = """
import atexit, sys, threading, time
from torchless.parallel import Begun, ahead
def work():
    print(sum(ahead(lambda i: i, range(100), 3)))
def late():
    threading.main_thread().join()
    work()
"""


@pytest.mark.parametrize("last", ["threading.Thread(target=late).start()", "atexit.register(work)"])
def test_begun_while_the_interpreter_ends(last: str) -> None:
    done = run_script(ENDING + last)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("4950", "", 0)


@pytest.mark.parametrize("work", ["work()", "print(Begun(lambda: 4950).result())"])
def test_begun_while_the_modules_are_cleared(work: str) -> None:
    # Python 3.11 starts a thread even then, and waits for ever for its first step.
    last = f"class Last:\n    def __del__(self):\n        {work}\nlast = Last()"
    done = run_script(ENDING + last)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("4950", "", 0)


def test_one_that_nobody_ends_keeps_no_process_from_ending() -> None:
    done = run_script(ENDING + "results = ahead(abs, range(100), 2); print(next(results)); sys.last = results")
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("0", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_in_a_forked_process() -> None:
    assert sum(ahead(abs, range(10), 2)) == 45
    child = os.fork()
    if child == 0:
        os._exit(sum(ahead(abs, range(10), 2)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 45


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=UNTRACED, check=False
    )


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
